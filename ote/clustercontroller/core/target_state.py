"""What a target remembers of changes: the journal, and for each origin how far its chain has come.

What lives here: order and at most once, and every write of the target. What does not: the shim (`target_shim`) and what
is said to origins (`target`). The one idea: a lane lets a change out when `passed` has reached its `after`, and
`passed` only grows; a change at or below it that is not in the journal never runs.

What has settled before its turn (it was revoked) keeps its row until its turn has come, however early it is
acknowledged: otherwise an old copy of it would look new.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.beat import LIMIT
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.records import Floor, JournalRow, Self
from ote.clustercontroller.core.states import CANCELLED, OUTCOME_UNKNOWN
from ote.clustercontroller.core.target_shim import Refusal

HELD, READY, RUNNING, OBSERVED, SETTLED = range(5)
"""Phases of a change: before its turn (or without its payload), in the queue, running, its effect done, ended."""
_NUMBERS_AHEAD = 1024
_BEGUN_AHEAD = 256


@dataclass(slots=True, eq=False)
class Change:
    """A change at this target, from its delivery until its result is acknowledged and its turn is over."""

    key: str
    row: JournalRow
    lane: Lane
    phase: int = HELD
    turn: bool = False
    """`passed` has reached its `after`."""
    here: bool = True
    """Its payload is on disk."""
    stored: bool = False
    stored_started: bool = False
    earlier_life: bool = False
    """An earlier process may have handed it to the shim."""
    ending: str = ""
    """CANCELLED or EXPIRED: it is handed to the shim as cancelled, and ends so unless it took effect before."""
    acked: bool = False
    refusal: Refusal | None = None
    """Why it is not even tried, when that is known before its turn."""
    lost: bool = False
    in_shim: bool = False
    handed_before: bool = False
    """The shim may have been given it before it was handed over last."""
    tries: int = 0
    absent: int = 0
    """How often its payload was found to be nowhere."""
    fetch_at: float = 0.0
    """When its payload is asked for again; 0 while it is asked for."""
    settled_at: float = 0.0
    told: bytes | None = None
    told_at: float = float("-inf")
    progress: bytes = b""


@dataclass(slots=True, eq=False)
class Lane:
    """Changes of one origin."""

    origin_uid: str
    incarnation: int = 0
    passed: int = 0
    """The floor: all changes up to this one have had their turn."""
    highest: int = 0
    begun: int = 0
    earlier: int = 0
    """Changes up to this one may have been begun by an earlier process."""
    written: int = 0
    held: list[tuple[int, int, int, Change]] = field(default_factory=list)

    def may_have_begun(self, seq: int) -> bool:
        """Whether an earlier process may have begun a change that this one does not know."""
        return seq <= self.earlier


class Journal:
    """All changes by key, all lanes by the origin's uid, and the queue of those whose turn it is.

    `settled(change)` is called for each that has ended.
    """

    def __init__(self, ctx: Context, own: Self, settled: Callable[[Change], None]) -> None:
        self._ctx = ctx
        self._own = own
        self._settled = settled
        self._number = 0
        self._count = 0
        self.changes: dict[str, Change] = {}
        self.lanes: dict[str, Lane] = {}
        self.ready: deque[Change] = deque()
        self.current: Change | None = None
        """The change that runs; the next one waits for its effect."""
        self._volatile = False
        self.forgotten: deque[str] = deque(maxlen=10_000)
        """Keys that the shim may forget."""

    # --- coming in ------------------------------------------------------------------------------------------------

    def lane(self, origin_uid: str) -> Lane:
        """The lane of an origin."""
        lane = self.lanes.get(origin_uid)
        if lane is None:
            lane = self.lanes[origin_uid] = Lane(origin_uid)
        return lane

    def objection(self, item: m.Deliver | m.Revoke, aim: m.DeliveryTarget) -> str:
        """Why a change that is not in the journal is not taken: a kind of report, or nothing."""
        if aim.journal_id and aim.journal_id != self._own.journal_id:
            return m.JOURNAL_CHANGED
        lane = self.lane(item.origin_uid)
        if max(item.incarnation, aim.seq) > LIMIT:
            return m.FORGOTTEN
        if item.incarnation > lane.incarnation:
            self._restart(lane, item.incarnation)
        if item.incarnation < lane.incarnation or aim.seq <= lane.passed:
            return m.FORGOTTEN
        if aim.known or self.has_gap(lane, aim):
            return m.JOURNAL_CHANGED
        limit = self._ctx.settings.hold_limit
        if aim.after > lane.passed and len(lane.held) >= limit and aim.seq > lane.passed + limit:
            return m.BUSY  # What fills a gap near the floor is taken, or those held would wait for it for long.
        return ""

    def has_gap(self, lane: Lane, aim: m.DeliveryTarget) -> bool:
        """Whether a change waits for one that will never come, for it has ended: then what was here once is lost."""
        if not aim.after_ended or aim.after <= lane.passed:
            return False
        incarnation = lane.incarnation
        return not any(
            change.lane is lane and change.row.seq == aim.after and change.row.incarnation == incarnation
            for change in self.changes.values()
        )

    def take(self, change: Change) -> None:
        """Take in a change that is not in the journal."""
        row, lane = change.row, change.lane
        self.changes[change.key] = change
        lane.highest = max(lane.highest, row.seq)
        if row.after <= lane.passed:
            self._turn(change)
            self._release(lane)
        else:
            self._hold(change)

    def _hold(self, change: Change) -> None:
        self._count += 1
        heapq.heappush(change.lane.held, (change.row.after, change.row.seq, self._count, change))

    def _release(self, lane: Lane) -> None:
        held = lane.held
        while held and held[0][0] <= lane.passed:
            self._turn(heapq.heappop(held)[3])

    def _turn(self, change: Change) -> None:
        """Its predecessor has had its effect. What `passed` lets out then is the caller's to release."""
        change.turn = True
        if change.phase == SETTLED:
            self._pass(change)
        elif change.here:
            self.enqueue(change)

    def enqueue(self, change: Change) -> None:
        """Put a change into the queue: its turn has come and its payload is here."""
        change.phase = READY
        self.ready.append(change)

    def overtaken(self, change: Change) -> bool:
        """Whether a later change of its origin has had its turn: then it may not take effect any more."""
        row, lane = change.row, change.lane
        return row.incarnation == lane.incarnation and row.seq <= lane.passed and not row.started

    def _restart(self, lane: Lane, incarnation: int) -> None:
        """The origin has lost its memory and counts from 1 again; what waits for its earlier changes waits in vain."""
        held, lane.held = lane.held, []
        lane.incarnation, lane.passed, lane.highest = incarnation, 0, 0
        lane.begun = lane.earlier = lane.written = 0
        for _, _, _, change in held:
            change.turn = True
            if change.phase != SETTLED:
                self.settle(change, OUTCOME_UNKNOWN if change.earlier_life else CANCELLED)
            elif change.acked:
                self._drop(change)

    # --- going on -------------------------------------------------------------------------------------------------

    def begin(self, change: Change) -> bool:
        """Number a change that is to run now. Returns whether something was written that must be on disk first.

        That is also an earlier change's end without the shim: lost, it could still run, and that after this one. What
        an earlier process began never waits: the shim that remembers it could be another one by then.
        """
        row, lane = change.row, change.lane
        if not row.number:
            self._number += 1
            row.number = self._number
            if row.number > self._own.journal_number:
                self._own.journal_number = row.number + _NUMBERS_AHEAD
                self._ctx.put_self(self._own)
        change.phase = RUNNING
        self.current = change
        if row.started:
            return False
        row.started = True
        wait, self._volatile = self._volatile, False
        if row.incarnation == lane.incarnation and row.seq > lane.begun:
            lane.begun = row.seq + _BEGUN_AHEAD
            self._write_floor(lane)
            wait = True
        return wait

    def step_back(self, change: Change) -> None:
        """It did not begin after all, and others may before it."""
        change.phase = HELD
        change.row.number, change.row.started = 0, False
        change.stored_started = False
        self.current = None

    def effect_done(self, change: Change) -> None:
        """The next change may start; this one is on disk, so that it is not forgotten when the floor passes it."""
        change.phase = OBSERVED
        if not change.stored_started:
            self.store(change)
        self._passed(change)

    def settle(self, change: Change, state: str, body: bytes = b"", output_bytes: int = 0) -> None:
        """End a change, on disk."""
        row = change.row
        row.state, row.body, row.output_bytes = state, body, output_bytes
        row.inline = None
        if row.payload is not None:
            row.payload = None
            self._ctx.emit(fx.DropPayload(change.key))
        change.phase = SETTLED
        change.settled_at = self._ctx.now
        if not change.in_shim:
            self._volatile = True
        self.store(change)
        self._settled(change)
        if change.turn:
            self._passed(change)

    def _passed(self, change: Change) -> None:
        if self.current is change:
            self.current = None
        self._pass(change)
        self._release(change.lane)

    def _pass(self, change: Change) -> None:
        row, lane = change.row, change.lane
        if row.incarnation == lane.incarnation:
            lane.passed = max(lane.passed, row.seq)
        if change.acked and change.phase == SETTLED:
            self._drop(change)

    def store(self, change: Change) -> None:
        """Write a change's row."""
        change.stored = True
        change.stored_started = change.row.started
        self._ctx.put("journal", change.key, change.row)

    # --- forgetting -----------------------------------------------------------------------------------------------

    def acknowledge(self, changes: Iterable[Change]) -> None:
        """The origin holds these results. A row goes once its turn is over; the floor stays for ever."""
        for change in changes:
            if not change.acked:
                change.acked = True
                if change.phase == SETTLED and change.turn:
                    self._drop(change)

    def _drop(self, change: Change) -> None:
        row, lane = change.row, change.lane
        del self.changes[change.key]
        if row.incarnation == lane.incarnation and row.seq > lane.written:
            self._write_floor(lane)
        self._ctx.remove("journal", change.key)
        if change.in_shim:
            self.forgotten.append(change.key)

    def _write_floor(self, lane: Lane) -> None:
        lane.written = lane.passed
        self._ctx.put("floors", lane.origin_uid, Floor(lane.incarnation, lane.passed, lane.highest, lane.begun))

    def lose_memory(self) -> None:
        """A journal of a new name: what is in this one and does not run now may have run in a later state of the
        disk."""
        self._own.journal_id = self._ctx.new_id()
        self._ctx.put_self(self._own)
        for change in list(self.changes.values()):
            if change.phase in (HELD, READY):
                self.settle(change, OUTCOME_UNKNOWN)

    # --- from disk ------------------------------------------------------------------------------------------------

    def give_up(self) -> None:
        """End all that was loaded from a disk that was set back: the shim may have done it, and forgotten it since."""
        for change in list(self.changes.values()):
            if change.phase != SETTLED:
                self.settle(change, OUTCOME_UNKNOWN)

    def load(self, tables: Mapping[str, Mapping[str, Any]]) -> list[Change]:
        """Take over what was on disk. Returns the changes whose effect is done already, to be asked for again."""
        self._number = self._own.journal_number
        for uid, floor in tables.get("floors", {}).items():
            self.lanes[uid] = Lane(
                uid, floor.incarnation, floor.floor, floor.highest, floor.begun, floor.begun, floor.floor
            )
        rows: Mapping[str, JournalRow] = tables.get("journal", {})
        for row in rows.values():
            if row.incarnation > self.lane(row.origin_uid).incarnation:
                self.lanes[row.origin_uid] = Lane(row.origin_uid, row.incarnation)
        loaded = [self._loaded(key, replace(row)) for key, row in rows.items()]
        for lane in self.lanes.values():
            self._release(lane)
        self.ready = deque(sorted(self.ready, key=lambda change: (not change.row.started, change.row.number)))
        return [change for change in loaded if change.phase == OBSERVED]

    def _loaded(self, key: str, row: JournalRow) -> Change:
        lane = self.lanes[row.origin_uid]
        change = Change(key, row, lane, stored=True, stored_started=row.started, earlier_life=True)
        change.here = row.payload is None
        change.settled_at = self._ctx.now
        self.changes[key] = change
        if row.incarnation == lane.incarnation:
            lane.highest = max(lane.highest, row.seq)
            lane.begun = lane.earlier = max(lane.begun, row.seq)
        if row.state:
            change.phase = SETTLED
        if row.incarnation == lane.incarnation and row.seq > lane.passed:
            self._hold(change)
            return change
        change.turn = True
        if not row.state:
            self._loaded_past(change)
        return change

    def _loaded_past(self, change: Change) -> None:
        """Not settled, and the floor has passed it: its effect is done, or it was to have none any more."""
        if change.row.started:
            change.phase = OBSERVED
            return
        change.ending = CANCELLED
        if change.here:
            self.enqueue(change)
