"""Clocks. The one idea: durations are measured by a clock that also counts while the machine is suspended, because a
parent goes on waiting meanwhile; wall time is for people only."""

from __future__ import annotations

import time
from typing import Protocol

_SOURCE = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> float:
        """Seconds since some fixed moment, never backwards: the only time to compare."""
        ...

    def wall(self) -> float:
        """Seconds since 1970, as the machine believes: to be shown, never compared."""
        ...


class MonotonicClock:
    """The machine's clocks; `now` counts suspended time where the system can tell (Linux)."""

    def now(self) -> float:
        """Seconds since boot."""
        return time.clock_gettime(_SOURCE)

    def wall(self) -> float:
        """Seconds since 1970."""
        return time.time()
