"""A heap of things to do later, for the parts of the core that have many.

Nothing is ever taken out before its time: what is called looks whether it still has something to do. `delay` is the one
back-off that both ends of a dispatch use.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from ote.clustercontroller.core.context import Context


class Timers:
    """Calls `call(*args)` at a time of `ctx.now`'s clock."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def at(self, when: float, call: Callable[..., None], *args: Any) -> None:
        """Call at `when`, which must lie after now."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, call, args))

    def next(self) -> float | None:
        """When the earliest is due; None without any."""
        return self._heap[0][0] if self._heap else None

    def run(self) -> None:
        """Call all that is due, earliest first."""
        heap, now = self._heap, self._ctx.now
        while heap and heap[0][0] <= now:
            _, _, call, args = heapq.heappop(heap)
            call(*args)


def delay(ctx: Context, tries: int) -> float:
    """Seconds until the next of several sendings: doubled from `resend_base` to `resend_cap`, and up to a quarter
    less."""
    settings = ctx.settings
    whole = min(settings.resend_cap, settings.resend_base * 2.0 ** min(tries, 16))
    return whole * (1.0 - 0.25 * ctx.rng.random())
