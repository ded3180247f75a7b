"""How a controller is tied to the root: the beat, its standing, and the condition under which a parent may be taken.

The one idea (rule 9; Babel's feasibility condition): a controller that has ever told its standing takes a parent, or
news from its parent, only if that is better than the best standing it ever told. So along every live link the
parent's best is better than the child's, and no ring can close at any instant.

Invariants: what has been told never gets worse, hence `standing` is the best as soon as `told`; what has not been told
to anybody may get worse freely. A root's beat only grows, also over restarts: numbers are reserved on disk ahead.
Not here: links, candidates, timers of the child's side (`parents`), telling children (`children`).
"""

from __future__ import annotations

from ote.clustercontroller.core import records
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.messages import Standing

RESERVE = 1024
"""Beats that a root reserves on disk at a time."""

LIMIT = 2**62
"""No beat, epoch, incarnation or number beyond this is believed: nobody may push a counter to where it cannot grow."""

_DEEPEST = 2**16

NEVER = float("inf")
NONE = Standing(0, 0)
"""Nothing was ever heard of a root."""


def believable(standing: Standing) -> bool:
    """Whether somebody may stand so: what is taken over is told on, and has to fit there."""
    return standing.beat <= 2 * LIMIT and standing.depth <= _DEEPEST


class Tie:
    """The standing of a controller that has, or looks for, a parent.

    `row.had_children` at the start says that an earlier process may have told a standing that is not known any more:
    until the first parent is taken, a candidate's beat must have been seen to advance.
    """

    def __init__(self, row: records.Self) -> None:
        self.standing = NONE
        self.told = row.had_children
        self.forgotten = row.had_children

    @property
    def best(self) -> Standing | None:
        """The best standing ever told, None when there is none or it is not known."""
        return self.standing if self.told and not self.forgotten else None

    def feasible(self, parent: Standing, advanced: bool) -> bool:
        """Whether a parent of this standing may be taken. `advanced`: this process has seen its beat grow."""
        if self.forgotten:
            return advanced
        return not self.told or parent.better(self.standing)

    def take(self, parent: Standing) -> None:
        """Stand under a parent of this standing."""
        self.standing = Standing(parent.beat, parent.depth + 1)
        self.forgotten = False


class CutOff:
    """Whether the beat still comes, and since when it does not (rule 10; F2.3). Used while there is a parent."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self.beat_at = -NEVER
        """When the beat was last seen to grow; for a parent that was taken cut off, as if it had stopped just then."""
        self.dead_after = ctx.settings.dead_after
        self.noticed = False
        self.leaving = False
        """It has lasted so long that a connected candidate is looked for."""

    @property
    def connected(self) -> bool:
        return self._ctx.now < self.beat_at + self.dead_after

    @property
    def due(self) -> float:
        """When `step` has something to do."""
        if not self.noticed:
            return self.beat_at + self.dead_after
        after = self._ctx.settings.leave_cut_off_after
        if self.leaving or after is None:
            return NEVER
        return self.beat_at + self.dead_after + after

    def attached(self, connected: bool, dead_after: float) -> None:
        self.dead_after = dead_after
        self.beat_at = self._ctx.now if connected else self._ctx.now - dead_after
        self.noticed = not connected
        self.leaving = False

    def beaten(self) -> bool:
        """The beat grew; whether that ended a cut."""
        ended, self.noticed = self.noticed, False
        self.beat_at = self._ctx.now
        self.leaving = False
        return ended

    def step(self) -> None:
        """First notice, then leave."""
        self.leaving = self.noticed
        self.noticed = True


class Upward:
    """A standing that a child has heard and this controller has not (a restored root): to be said to the parent.

    Normally the beat gets there by itself within moments; `at` is when to say hello again if it does not.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._heard: Standing | None = None
        self.at = NEVER

    def hear(self, best: Standing) -> None:
        if self._heard is None or best.better(self._heard):
            self._heard = best
        if self.at == NEVER:
            self.at = self._ctx.now + 2 * self._ctx.settings.dead_after

    def stands(self, standing: Standing) -> None:
        """The own standing is this now."""
        if self._heard is not None and standing.better(self._heard):
            self._heard = None
            self.at = NEVER

    def best(self, own: Standing | None) -> Standing | None:
        """What to say in a hello."""
        if self._heard is None or (own is not None and own.better(self._heard)):
            return own
        return self._heard


class RootBeat:
    """The beat of a root: grows by one each heartbeat interval, and above whatever a child has heard before."""

    def __init__(self, ctx: Context, row: records.Self) -> None:
        self._ctx = ctx
        self._row = row
        self.standing = Standing(row.beat, 0)
        self.due = NEVER

    def start(self) -> None:
        self._grow_to(self.standing.beat + 1)

    def tick(self) -> bool:
        """Grow if it is time; whether it was."""
        if self._ctx.now < self.due:
            return False
        self._grow_to(self.standing.beat + 1)
        return True

    def above(self, best: Standing) -> bool:
        """Go above a standing that somebody has heard; whether that was needed."""
        if self.standing.better(best):
            return False
        self._grow_to(best.beat + 1)
        return True

    def _grow_to(self, beat: int) -> None:
        self.standing = Standing(beat, 0)
        self.due = self._ctx.now + self._ctx.settings.heartbeat
        if beat + RESERVE // 2 > self._row.beat:
            self._row.beat = beat + RESERVE
            self._ctx.put_self(self._row)
            self._ctx.barrier()
