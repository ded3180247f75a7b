"""Which children were seen to run twice with one identity: those above are to know for a while.

Not here: how it shows (`children`, `welcoming`), and what the two are told. A clone whose machine merely started again
looks the same when its old connection had not ended yet, so this is told as seen and not as known.
"""

from __future__ import annotations

from collections.abc import Callable

from ote.clustercontroller.core.context import Context

LATELY = 3600.0
"""Seconds for which it is told."""
MOST_CLONES = 8
"""Names that are told at once, the latest."""


class Clones:
    """`tell` takes the names into the own record."""

    def __init__(self, ctx: Context, tell: Callable[[tuple[str, ...]], None]) -> None:
        self._ctx = ctx
        self._tell = tell
        self._until: dict[str, float] = {}
        """By name, earliest first."""

    def seen(self, name: str) -> None:
        """Two processes have run as this child."""
        self._until.pop(name, None)
        self._until[name] = self._ctx.now + LATELY
        if len(self._until) > MOST_CLONES:
            del self._until[next(iter(self._until))]
        self._tell(tuple(self._until))

    def next_wake(self) -> float | None:
        """When `wake` is wanted, None for never."""
        return next(iter(self._until.values()), None)

    def wake(self) -> None:
        """Forget what was long ago."""
        self._until = {name: until for name, until in self._until.items() if until > self._ctx.now}
        self._tell(tuple(self._until))
