"""Things to do later, for the parts of the core that have many.

A heap for what is due at any time, and lines for what is due a fixed time after it began: nearly all of that is over by
then, and what is over when it comes to the front of its line is dropped without waking anybody. `delay` is the one
back-off that both ends of a dispatch use.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ote.clustercontroller.core.context import Context

_JITTER = 0.25
T = TypeVar("T")


class Line(Generic[T]):
    """Calls `call(thing)` `after` seconds after it was put in, unless it is `over` by then."""

    def __init__(self, ctx: Context, after: float, over: Callable[[T], bool], call: Callable[[T], None]) -> None:
        self._ctx = ctx
        self._after = after
        self._over = over
        self._call = call
        self._waiting: deque[tuple[float, T]] = deque()

    def put(self, thing: T) -> None:
        self._waiting.append((self._ctx.now + self._after, thing))

    def next(self) -> float | None:
        """When the first is due; None without any."""
        waiting, over = self._waiting, self._over
        while waiting and over(waiting[0][1]):
            waiting.popleft()
        return waiting[0][0] if waiting else None

    def run(self) -> None:
        """Call for all that are due."""
        while (due := self.next()) is not None and due <= self._ctx.now:
            self._call(self._waiting.popleft()[1])


class Timers:
    """Calls `call(*args)` at a time of `ctx.now`'s clock."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._lines: list[Line[Any]] = []

    def line(self, after: float, over: Callable[[T], bool], call: Callable[[T], None]) -> Line[T]:
        """A line that is run with these timers."""
        line = Line(self._ctx, after, over, call)
        self._lines.append(line)
        return line

    def at(self, when: float, call: Callable[..., None], *args: Any) -> None:
        """Call at `when`, which must lie after now."""
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, call, args))

    def next(self) -> float | None:
        """When the earliest is due; None without any."""
        first = self._heap[0][0] if self._heap else None
        for line in self._lines:
            due = line.next()
            if due is not None and (first is None or due < first):
                first = due
        return first

    def run(self) -> None:
        """Call all that is due: line by line, then of the heap, earliest first."""
        for line in self._lines:
            line.run()
        heap, now = self._heap, self._ctx.now
        while heap and heap[0][0] <= now:
            _, _, call, args = heapq.heappop(heap)
            call(*args)


def delay(ctx: Context, tries: int) -> float:
    """Seconds until the next of several sendings: doubled from `resend_base` to `resend_cap`, and up to a quarter
    less."""
    settings = ctx.settings
    whole = min(settings.resend_cap, settings.resend_base * 2.0 ** min(tries, 16))
    return whole * (1.0 - _JITTER * ctx.rng.random())


def least_delay(ctx: Context) -> float:
    """The least that `delay` gives for a first sending."""
    return min(ctx.settings.resend_cap, ctx.settings.resend_base) * (1.0 - _JITTER)
