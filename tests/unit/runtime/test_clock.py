"""The clock to compare by, and the clock to show."""

from __future__ import annotations

import time

from ote.runtime.clock import Clock, MonotonicClock


def test_now_never_goes_backwards_and_counts_suspended_time() -> None:
    clock: Clock = MonotonicClock()
    monotonic, wall = time.monotonic(), time.time()
    moments = [clock.now() for _ in range(100)]
    assert moments == sorted(moments)
    assert clock.now() >= monotonic - 1.0
    assert wall - 1.0 <= clock.wall() <= time.time() + 1.0
