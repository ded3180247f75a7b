"""Results that their origins have not acknowledged: told again and again, and dropped when the origin is away too long.

What lives here: when a result is told again. What does not: what is said (`target`) and what is kept on disk
(`target_state`).
"""

from __future__ import annotations

from collections.abc import Callable

from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.target_state import Change
from ote.clustercontroller.core.timers import Timers, delay, least_delay


class Results:
    """`tell(change)` says how it ended; `dropped(change)` is called when nobody is told any more."""

    def __init__(
        self, ctx: Context, timers: Timers, tell: Callable[[Change], None], dropped: Callable[[Change], None]
    ) -> None:
        self._ctx = ctx
        self._timers = timers
        self._tell = tell
        self._dropped = dropped
        self._unacked: dict[Change, None] = {}
        self._first_time = timers.line(
            least_delay(ctx), lambda change: change not in self._unacked, self._not_acknowledged
        )

    def __contains__(self, change: Change) -> bool:
        return change in self._unacked

    def announce(self, change: Change) -> None:
        """Tell a result until it is acknowledged."""
        self._unacked[change] = None
        change.tries = 0
        self._tell(change)
        self._first_time.put(change)

    def over(self, change: Change) -> None:
        """Its origin has it, or is gone."""
        self._unacked.pop(change, None)

    def path_changed(self) -> None:
        """There is a new way up: tell all."""
        for change in self._unacked:
            self._tell(change)
        if self._unacked:
            self._ctx.count("ote_dispatch_resends_total", "result", value=len(self._unacked))

    def _not_acknowledged(self, change: Change) -> None:
        """The least time is over after which a result is told again."""
        self._timers.at(self._ctx.now + delay(self._ctx, 0) - least_delay(self._ctx), self._resend, change)

    def _resend(self, change: Change) -> None:
        if change not in self._unacked:
            return
        if self._ctx.now - change.settled_at >= self._ctx.settings.drop_results_after:
            self._ctx.log("warning", "result dropped, its origin was not seen for too long", key=change.key)
            self.over(change)
            self._dropped(change)
            return
        self._tell(change)
        self._ctx.count("ote_dispatch_resends_total", "result")
        change.tries += 1
        self._timers.at(self._ctx.now + delay(self._ctx, change.tries), self._resend, change)
