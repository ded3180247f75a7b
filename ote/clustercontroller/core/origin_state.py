"""What an origin remembers: dispatches, their targets, and for each cluster the chain of changes to it.

What lives here: the bookkeeping that has no choice in it. What does not: when something is sent and how it ends
(`origin`). The one idea: in a chain, changes that may have been sent come before those that were not. A change is only
ever sent when all earlier ones have been, and is only ever counted as not sent again from the end of the chain. So the
`after` that went out with a change names one that the cluster has, or will be told about until it is settled.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

from ote.clustercontroller.core.records import DispatchRow, TargetRow
from ote.clustercontroller.core.states import CHANGES, FINAL, OUTCOME_UNKNOWN

MOVING = 2.0
"""Seconds for which a cluster that counts as online, and to which there is no way, is waited for whatever the time to
live: it is between two parents."""
NOT_TAKEN_BACK = 1
"""Bit of `OriginTarget.attempts`: an attempt that no NO_ROUTE or BUSY can name any more."""


@dataclass(slots=True, eq=False)
class OriginDispatch:
    """A dispatch of this origin. `targets` has those of `row.targets` by uid."""

    row: DispatchRow
    change: bool
    begun: float
    """When it was accepted, on the present clock."""
    expiry: float
    """End of its time to live, or to move without one: what was not sent ends."""
    deadline: float
    """End of the time in which it must have been received."""
    targets: dict[str, OriginTarget] = field(default_factory=dict)
    open: dict[str, OriginTarget] = field(default_factory=dict)
    """Targets about which the origin still does or expects something: not final, or waiting for the truth."""
    unsettled: int = 0
    due: float = 0.0
    """Time of the one timer that counts."""
    tries: int = 0
    ended: bool = False
    """It was cancelled, or its time is over: what may have been sent is revoked now, not sent again."""

    @property
    def settled(self) -> bool:
        """All targets are final."""
        return not self.unsettled

    def take(self, row: TargetRow, heard: float) -> OriginTarget:
        """Take in a target."""
        self.row.targets.append(row)
        target = self.targets[row.uid] = OriginTarget(row, self, heard=heard)
        return target


@dataclass(slots=True, eq=False)
class OriginTarget:
    """One target. `row.body` is the Result of a final one, the last Progress of one that runs."""

    row: TargetRow
    dispatch: OriginDispatch
    attempts: int = 0
    """Bit n: attempt n may have arrived."""
    heard: float = 0.0
    """When the target last said something, or the dispatch was accepted or loaded."""

    @property
    def is_open(self) -> bool:
        return self.row.uid in self.dispatch.open


@dataclass(slots=True, eq=False)
class Chain:
    """Changes to one cluster in the order of acceptance: those that may have been sent, then those that were not."""

    uid: str
    sent: dict[OriginTarget, None] = field(default_factory=dict)
    unsent: deque[OriginTarget] = field(default_factory=deque)
    instance: str = ""
    """The cluster's process as of the last sending to it."""
    retry_at: float = 0.0
    tries: int = 0

    def waiting(self) -> bool:
        """Whether a change waits to be sent; those that ended meanwhile are dropped."""
        unsent = self.unsent
        while unsent and not unsent[0].is_open:
            unsent.popleft()
        return bool(unsent)

    def after(self, incarnation: int, journal_id: str) -> int:
        """The latest change that may still take effect in this journal; 0 for none."""
        for target in reversed(self.sent):
            row = target.row
            if row.incarnation == incarnation and row.journal_id == journal_id:
                return row.seq
        return 0

    def has(self, incarnation: int, seq: int) -> bool:
        """Whether this change may still be sent."""
        return any(target.row.seq == seq and target.row.incarnation == incarnation for target in self.sent)

    def take_back(self) -> list[OriginTarget]:
        """Count as not sent what no attempt can have brought to the cluster, from the end; returns them, last first."""
        back: list[OriginTarget] = []
        while self.sent:
            target = next(reversed(self.sent))
            if target.attempts:
                break
            del self.sent[target]
            target.row.maybe_sent = False
            self.unsent.appendleft(target)
            back.append(target)
        return back


def fresh_dispatch(row: DispatchRow, begun: float, grace: float) -> OriginDispatch:
    """A dispatch without targets. A time to live shorter than `grace` seconds still leaves that much to what was
    sent."""
    change = row.command in CHANGES
    expiry = begun + (row.ttl if row.ttl > 0 else MOVING)
    dispatch = OriginDispatch(row, change, begun, expiry, begun + max(row.ttl, grace))
    dispatch.ended = row.cancelled
    return dispatch


def loaded_dispatch(
    row: DispatchRow, newer: dict[str, TargetRow], now: float, grace: float, no_answer: str
) -> OriginDispatch:
    """A dispatch from disk with its targets as last written.

    The clock may have begun again with the machine: then at least as much time has passed as it shows, and no more is
    assumed. So a restart may lengthen a time to live, and never shortens it.
    """
    passed = now - row.accepted if now >= row.accepted else now
    dispatch = fresh_dispatch(replace(row, targets=[], accepted=now - passed), now - passed, grace)
    for old in row.targets:
        target = dispatch.take(replace(newer.get(old.uid, old)), now)
        state = target.row
        if state.maybe_sent:
            target.attempts = NOT_TAKEN_BACK
        if state.state not in FINAL:
            dispatch.unsettled += 1
        elif state.state != OUTCOME_UNKNOWN or state.reason != no_answer:
            continue
        dispatch.open[old.uid] = target
    return dispatch
