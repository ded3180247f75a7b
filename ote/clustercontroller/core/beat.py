"""How a controller is tied to the root: the beat, its standing, and the condition under which a parent may be taken.

The one idea (rule 9; Babel's feasibility condition): a controller that has ever told its standing takes a parent, or
news from its parent, only if that is better than the best standing it ever told. So along every live link the
parent's best is better than the child's, and no ring can close at any instant.

Invariants: what has been told never gets worse, hence `standing` is the best as soon as `told`; what has not been told
to anybody may get worse freely. A root's beat only grows, also over restarts: numbers are reserved on disk ahead.
Not here: links, candidates, timers of the child's side (`parents`), telling children (`children`).
"""

from __future__ import annotations

from dataclasses import replace

from ote.clustercontroller.core import records
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.messages import Standing

RESERVE = 1024
"""Beats that a root reserves on disk at a time."""

LIMIT = 2**62
"""No beat or epoch beyond this is believed: nobody may push a counter to where it cannot grow."""


def save(ctx: Context, row: records.Self) -> None:
    """Puts the row as it is now; the caller adds a barrier where something waits for it."""
    ctx.put("self", "self", replace(row))


class Tie:
    """The standing of a controller that has, or looks for, a parent.

    `row.had_children` at the start says that an earlier process may have told a standing that is not known any more:
    until the first parent is taken, a candidate's beat must have been seen to advance.
    """

    def __init__(self, ctx: Context, row: records.Self) -> None:
        self._ctx = ctx
        self.standing = Standing(0, 0)
        self.told = row.had_children
        self.forgotten = row.had_children
        self.beat_at = float("-inf")
        """When the beat was last seen to grow."""

    @property
    def best(self) -> Standing | None:
        """The best standing ever told, None when there is none or it is not known."""
        return self.standing if self.told and not self.forgotten else None

    def feasible(self, parent: Standing, advanced: bool) -> bool:
        """Whether a parent of this standing may be taken. `advanced`: this process has seen its beat grow."""
        if self.forgotten:
            return advanced
        return not self.told or parent.better(self.standing)

    def take(self, parent: Standing, fresh: bool) -> None:
        """Stand under a parent of this standing. `fresh`: the beat is known to be a new one."""
        self.standing = Standing(parent.beat, parent.depth + 1)
        self.forgotten = False
        if fresh:
            self.beat_at = self._ctx.now


class RootBeat:
    """The beat of a root: grows by one each heartbeat interval, and above whatever a child has heard before."""

    def __init__(self, ctx: Context, row: records.Self) -> None:
        self._ctx = ctx
        self._row = row
        self.beat = row.beat
        self.due = float("inf")

    def start(self) -> None:
        self._grow_to(self.beat + 1)

    def tick(self) -> bool:
        """Grow if it is time; whether it was."""
        if self._ctx.now < self.due:
            return False
        self._grow_to(self.beat + 1)
        return True

    def above(self, best: Standing) -> bool:
        """Go above a standing that somebody has heard; whether that was needed."""
        if best.beat < self.beat or best.beat > LIMIT:
            return False
        self._grow_to(best.beat + 1)
        return True

    def _grow_to(self, beat: int) -> None:
        self.beat = beat
        self.due = self._ctx.now + self._ctx.settings.heartbeat
        if beat + RESERVE // 2 > self._row.beat:
            self._row.beat = beat + RESERVE
            save(self._ctx, self._row)
            self._ctx.barrier()
