"""Commands that are to take effect here, from their delivery until their origins hold the results.

What lives here: what is said to origins, and the way of a change through journal and shim. The journal itself is
`target_state`, the shim as it is known `target_shim`, reads `target_reads`, payloads that are waited for
`target_payloads`, results that are not acknowledged `target_results`. What an origin does is `origin`'s.

Events: `deliver`, `revoke`, `ack` (from origins); `shim_up`, `shim_down`, `progress`, `result`, `lost` (the shim, and
this controller for its own commands); `payload_ready`, `payload_failed`, `payload_lost`; `path_changed` (it is
attached anew);
`origin_gone`; `memory_lost`; `wake` (time); `flush` at the end of each event, which does what must wait for the disk.
Effects: Put and Remove of journal, floors and self; Barrier; Execute, ExecuteHere, FinishHere, CancelExecution;
FetchPayload, DropPayload; Log; and through `route` reports.

Invariants:
* Changes of one origin begin in the order of their chain, each after the effect of the one before; all changes here
  begin one at a time, in the order of their journal numbers.
* A change at or below its origin's floor that is not in the journal never runs, and the floor never goes back.
* What cannot be repeated is on disk before it is handed to the shim; for everything else a mark is, ahead of many, so
  that what an earlier process may have begun is never called cancelled without asking the shim.
* A result, and that a change was received, is said only when it is on disk; a result is said until it is acknowledged.
* A quick change costs one write and one wait for the disk: its result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.events import (
    PayloadFailed,
    PayloadLost,
    PayloadReady,
    ShimDown,
    ShimLost,
    ShimProgress,
    ShimResult,
    ShimUp,
)
from ote.clustercontroller.core.records import JournalRow, Self
from ote.clustercontroller.core.states import (
    CANCELLED,
    CHANGES,
    CONTROLLER_COMMANDS,
    EXPIRED,
    FAILED,
    NOOP,
    OUTCOME_UNKNOWN,
    SUCCEEDED,
)
from ote.clustercontroller.core.target_payloads import Fetching
from ote.clustercontroller.core.target_reads import Reads
from ote.clustercontroller.core.target_results import Results
from ote.clustercontroller.core.target_shim import Hands, Refusal
from ote.clustercontroller.core.target_state import HELD, OBSERVED, READY, RUNNING, SETTLED, Change, Journal
from ote.clustercontroller.core.timers import Timers

_BUSY_MS = 500
_PROGRESS_INTERVAL = 0.25
_AGAIN_AFTER = 1.0
"""Seconds after which a lost call is made again while the shim seems to be there."""
_FORGET_AT_ONCE = 256
_REMEMBERED = 256
"""Acknowledged changes that a shim is left to remember: of a disk set back within one attachment it alone can know."""
_ENDINGS_KEPT = 10_000


class Route(Protocol):
    """The way to the origins; to this controller itself, too."""

    def report(self, report: m.Report) -> None: ...


class Target:
    """The other end of a dispatch. `own` is shared with whoever writes it; journal id and number are changed here."""

    def __init__(
        self,
        ctx: Context,
        route: Route,
        own: Self,
        allowed: frozenset[str] | None = None,
        *,
        has_shim: bool = True,
    ) -> None:
        self._ctx = ctx
        self._route = route
        self._own = own
        self._timers = Timers(ctx)
        self._not_soon = self._timers.line(
            ctx.settings.received_after, lambda change: change.phase == SETTLED or change.stored, self._is_late
        )
        self._results = Results(ctx, self._timers, self._tell, lambda change: self._journal.acknowledge([change]))
        self._hands = Hands(ctx, allowed, has_shim)
        self._reads = Reads(ctx, self._hands, route.report)
        self._journal = Journal(ctx, own, self._settled)
        self._tables: Mapping[str, Mapping[str, Any]] | None = None
        self._set_back = self._doubtful = False
        self._late: list[m.Report | fx.Execute | fx.ExecuteHere] = []
        self._fetching = Fetching(ctx, self._timers, self._want, self._give_up_payload)
        self._executing: dict[str, Change] = {}
        self._endings: dict[str, str] = {}
        self.on_journal_changed: Callable[[], None] = lambda: None
        """Called when the journal has got another id, which the facts must tell."""

    # --- what the shell reads -------------------------------------------------------------------------------------

    @property
    def unsettled(self) -> int:
        """Changes that have not ended."""
        return sum(change.phase != SETTLED for change in self._journal.changes.values())

    # --- time -----------------------------------------------------------------------------------------------------

    def load(self, tables: Mapping[str, Mapping[str, Any]], *, set_back: bool = False, doubtful: bool = False) -> None:
        """Take over what was on disk, at the first wake: only then it is known what time it is.

        `set_back`: the disk is known to be an old one. `doubtful`: it may be, and the first parent will tell: until
        then, or for `island_after` without any, nothing is handed to the shim that an earlier process may have begun.
        """
        self._tables, self._set_back, self._doubtful = tables, set_back, doubtful

    def next_wake(self) -> float | None:
        """When `wake` is to be called, on the core's clock; None for not at all."""
        return 0.0 if self._tables is not None else self._timers.next()

    def wake(self) -> None:
        """Do all that is due."""
        if self._tables is not None:
            tables, self._tables = self._tables, None
            self._load(tables)
        self._timers.run()

    def _load(self, tables: Mapping[str, Mapping[str, Any]]) -> None:
        for change in self._journal.load(tables):
            change.lost = change.in_shim = True
            if change.here:
                self._executing[change.key] = change
        if self._set_back:
            self._journal.give_up()
        if self._doubtful:
            self._timers.at(self._ctx.now + self._ctx.settings.island_after, self._believe)
        for change in self._journal.changes.values():
            if change.phase == SETTLED:
                if change not in self._results:
                    self._results.announce(change)
            elif not change.here:
                self._fetching.fetch(change)
        self._run()

    def flush(self) -> None:
        """Do what must wait until everything written before is on disk."""
        if not self._late:
            return
        late, self._late = self._late, []
        self._ctx.barrier()
        for item in late:
            if isinstance(item, m.Report):
                self._route.report(item)
            else:
                self._ctx.emit(item)

    # --- from origins ---------------------------------------------------------------------------------------------

    def deliver(self, deliver: m.Deliver, aim: m.DeliveryTarget) -> None:
        """A command for this cluster, perhaps not for the first time."""
        key = f"{deliver.origin_uid}/{deliver.dispatch_id}"
        if not deliver.change and deliver.command not in CHANGES:
            self._reads.deliver(key, deliver, aim)
            return
        change = self._journal.changes.get(key)
        if change is not None:
            self._check_gap(change, aim)
            self._again(change)
        elif not self._objects(deliver, aim):
            self._take(key, deliver, aim)

    def _take(self, key: str, deliver: m.Deliver, aim: m.DeliveryTarget) -> None:
        lane = self._journal.lane(deliver.origin_uid)
        row = JournalRow(
            origin_uid=deliver.origin_uid,
            origin_name=deliver.origin_name,
            incarnation=deliver.incarnation,
            dispatch_id=deliver.dispatch_id,
            seq=aim.seq,
            after=aim.after,
            number=0,
            command=deliver.command,
            inline=deliver.inline,
            payload=deliver.payload,
            timeout_ms=deliver.timeout_ms,
        )
        change = Change(key, row, lane, earlier_life=lane.may_have_begun(aim.seq))
        change.ending = self._endings.pop(key, "")
        if row.payload is not None:
            change.refusal = self._hands.refusal(row.command, row.inline, row.payload)
            if change.refusal is None:
                change.here = False
                self._fetching.fetch(change)
        self._journal.take(change)
        self._not_soon.put(change)
        self._run()

    def revoke(self, revoke: m.Revoke, aim: m.DeliveryTarget) -> None:
        """A command is to end: what has not begun does, what runs is asked to stop unless it only expired."""
        key = f"{revoke.origin_uid}/{revoke.dispatch_id}"
        if not aim.seq:
            self._reads.revoke(key)
            return
        change = self._journal.changes.get(key)
        ending = EXPIRED if revoke.expired else CANCELLED
        if change is not None:
            self._check_gap(change, aim)
        if change is None:
            if not self._objects(revoke, aim):
                self._revoke_unknown(key, revoke, aim, ending)
        elif change.phase in (HELD, READY):
            if change.earlier_life:
                change.ending = ending
                self._received(change)
            else:
                self._journal.settle(change, ending)
        else:
            if not revoke.expired and change.in_shim and not change.ending and change.phase != SETTLED:
                change.ending = ending
                self._ctx.emit(fx.CancelExecution(key))
            self._again(change)
        self._run()

    def _revoke_unknown(self, key: str, revoke: m.Revoke, aim: m.DeliveryTarget, ending: str) -> None:
        """Settle it, or ask the origin for the command if only the shim can tell whether an earlier process ran it."""
        lane = self._journal.lane(revoke.origin_uid)
        if lane.may_have_begun(aim.seq):
            while len(self._endings) >= _ENDINGS_KEPT:
                del self._endings[next(iter(self._endings))]
            self._endings[key] = ending
            self._say(revoke, m.BUSY)
            return
        row = JournalRow(
            origin_uid=revoke.origin_uid,
            origin_name="",
            incarnation=revoke.incarnation,
            dispatch_id=revoke.dispatch_id,
            seq=aim.seq,
            after=aim.after,
            number=0,
            command="",
            inline=None,
            payload=None,
            timeout_ms=0,
        )
        change = Change(key, row, lane, phase=SETTLED)
        self._journal.take(change)
        self._journal.settle(change, ending)

    def ack(self, ack: m.Ack) -> None:
        """An origin holds these results."""
        changes = self._journal.changes
        settled = [
            change
            for dispatch_id in ack.dispatch_ids
            if (change := changes.get(f"{ack.origin_uid}/{dispatch_id}")) is not None and change.phase == SETTLED
        ]
        for change in settled:
            self._results.over(change)
        self._journal.acknowledge(settled)

    def origin_gone(self, uid: str) -> None:
        """An origin is a member no more: nobody waits for its results, and what has not begun never will."""
        gone = [change for change in self._journal.changes.values() if change.row.origin_uid == uid]
        for change in gone:
            self._results.over(change)
        self._journal.acknowledge(gone)
        for change in gone:
            if change.phase in (HELD, READY):
                self._journal.settle(change, OUTCOME_UNKNOWN if change.earlier_life else CANCELLED)
        self._run()

    def _objects(self, item: m.Deliver | m.Revoke, aim: m.DeliveryTarget) -> bool:
        """Say why a change that is not in the journal is not taken, if so."""
        kind = self._journal.objection(item, aim)
        if not kind:
            return False
        if kind == m.JOURNAL_CHANGED and aim.journal_id in ("", self._own.journal_id):
            self._was_set_back(item.origin_uid)
        self._say(item, kind, attempt=aim.attempt, retry_after_ms=_BUSY_MS if kind == m.BUSY else 0)
        return True

    def _check_gap(self, change: Change, aim: m.DeliveryTarget) -> None:
        """Of a change that waits in the journal: whether what it waits for was here and is lost."""
        lane = change.lane
        if change.phase == HELD and change.row.incarnation == lane.incarnation and self._journal.has_gap(lane, aim):
            self._was_set_back(lane.origin_uid)

    def _was_set_back(self, origin: str) -> None:
        self._ctx.log("warning", "the journal was set back", origin=origin)
        self.memory_lost()
        self.on_journal_changed()

    # --- to origins -----------------------------------------------------------------------------------------------

    def _say(self, item: m.Deliver | m.Revoke, kind: str, *, attempt: int = 0, retry_after_ms: int = 0) -> None:
        """Answer for a change that is not in the journal."""
        lane = self._journal.lane(item.origin_uid)
        self._late.append(
            m.Report(
                item.origin_uid,
                max(item.incarnation, lane.incarnation),
                item.dispatch_id,
                self._ctx.uid,
                kind,
                attempt=attempt,
                journal_id=self._own.journal_id,
                highest_seq=lane.highest,
                retry_after_ms=retry_after_ms,
            )
        )

    def _report(self, change: Change, kind: str, body: bytes = b"") -> m.Report:
        row, lane = change.row, change.lane
        return m.Report(
            row.origin_uid,
            row.incarnation,
            row.dispatch_id,
            self._ctx.uid,
            kind,
            journal_id=self._own.journal_id,
            journal_number=row.number,
            highest_seq=lane.highest if row.incarnation == lane.incarnation else 0,
            state=row.state,
            body=body,
            output_bytes=row.output_bytes,
        )

    def _again(self, change: Change) -> None:
        """An origin has asked again: tell the result, or that it was received."""
        if change.phase == SETTLED:
            self._tell(change)
        elif change.here:
            self._received(change)
        else:
            self._fetching.delivered(change)

    def _is_late(self, change: Change) -> None:
        if change.here:
            self._received(change)

    def _received(self, change: Change) -> None:
        """Say that a change is here to be settled, and whether it runs."""
        if not change.stored:
            self._journal.store(change)
        self._late.append(self._report(change, m.RECEIVED))
        if change.phase in (RUNNING, OBSERVED):
            self._late.append(self._report(change, m.PROGRESS, change.progress))

    def _settled(self, change: Change) -> None:
        """A change has ended."""
        self._executing.pop(change.key, None)
        self._fetching.over(change.key)
        if not change.acked:
            self._results.announce(change)

    def _tell(self, change: Change) -> None:
        self._late.append(self._report(change, m.RESULT, change.row.body))

    def _believe(self) -> None:
        """The disk is as new as it looks, as far as anybody can tell."""
        if not self._doubtful:
            return
        self._doubtful = False
        if self._hands.up:
            self._resume_all()
        self._run()

    def path_changed(self) -> None:
        """There is a new way up: tell all results that were not acknowledged, and fetch on."""
        self._believe()
        self._results.path_changed()
        self._fetching.path_changed()

    # --- the journal's way through the shim -----------------------------------------------------------------------

    def _run(self) -> None:
        """Begin what can begin."""
        journal = self._journal
        while journal.current is None and journal.ready:
            change = journal.ready[0]
            if change.phase != READY:
                journal.ready.popleft()
            elif not self._begin(change):
                return

    def _begin(self, change: Change) -> bool:
        """Begin the first of the queue; False while the shim, or the first parent, is awaited."""
        row, hands, journal = change.row, self._hands, self._journal
        if self._doubtful and change.earlier_life:
            return False
        here = row.command in CONTROLLER_COMMANDS
        refusal = change.refusal or hands.refusal(row.command, row.inline, row.payload)
        if refusal is None and not here and not hands.up:
            return False
        journal.ready.popleft()
        unsure = not here and (row.started or (change.earlier_life and change.refusal is not None))
        if journal.overtaken(change) and not change.earlier_life:
            journal.settle(change, CANCELLED)
        elif refusal is None and row.started and not here and not hands.remembers(row.command, row.shim_instance):
            journal.settle(change, OUTCOME_UNKNOWN)
        else:
            if journal.overtaken(change):
                change.ending = change.ending or CANCELLED
            wait = journal.begin(change)
            if refusal is not None:
                hands.refuse(change.key, refusal, OUTCOME_UNKNOWN if unsure else FAILED)
            elif row.command == NOOP:
                journal.settle(change, SUCCEEDED)
            elif here:
                self._hand(fx.ExecuteHere(change.key, row.command, row.inline or b""), wait)
            else:
                self._execute(change, wait)
        return True

    def _execute(self, change: Change, wait: bool) -> None:
        """Hand a change to the shim; not before it is on disk, if it cannot be repeated."""
        row, hands = change.row, self._hands
        row.shim_instance = hands.instance
        if not change.stored_started and not hands.repeatable(row.command):
            self._journal.store(change)
            wait = True
        change.handed_before = change.in_shim or change.earlier_life
        change.in_shim, change.lost = True, False
        self._executing[change.key] = change
        if change.ending:
            self._ctx.emit(fx.CancelExecution(change.key))
        forgotten = self._journal.forgotten
        forget = [forgotten.popleft() for _ in range(min(_FORGET_AT_ONCE, len(forgotten) - _REMEMBERED))]
        execute = fx.Execute(change.key, row.command, True, row.inline, row.payload, row.timeout_ms, forget)
        self._hand(execute, wait)

    def _hand(self, effect: fx.Execute | fx.ExecuteHere, wait: bool) -> None:
        if wait:
            self._late.append(effect)
        else:
            self._ctx.emit(effect)

    def shim_up(self, event: ShimUp) -> None:
        """The shim is there: what was lost is taken up again, what waits begins."""
        self._hands.shim, self._hands.up = event, True
        if not self._doubtful:
            self._resume_all()
        self._run()

    def shim_down(self, event: ShimDown) -> None:
        """The shim is not there. Calls that broke are told one by one by `lost`."""
        self._hands.up = False

    def progress(self, event: ShimProgress) -> None:
        """How far a command is."""
        change = self._journal.changes.get(event.key)
        if change is None or change.phase not in (RUNNING, OBSERVED):
            return
        change.progress = event.body
        if event.effect_done and change.phase == RUNNING:
            self._journal.effect_done(change)
        if change.told != event.body:
            wait = change.told_at + _PROGRESS_INTERVAL - self._ctx.now
            if wait <= 0:
                self._tell_progress(change)
            else:
                self._timers.at(self._ctx.now + wait, self._tell_progress, change)
        self._run()

    def _tell_progress(self, change: Change) -> None:
        if change.phase != SETTLED and change.told != change.progress:
            change.told, change.told_at = change.progress, self._ctx.now
            self._route.report(self._report(change, m.PROGRESS, change.progress))

    def result(self, event: ShimResult) -> None:
        """A command has ended."""
        if self._reads.result(event.key, event.state, event.body, event.output_bytes):
            return
        change = self._journal.changes.get(event.key)
        if change is not None and change.phase in (RUNNING, OBSERVED):
            state = change.ending if event.state == CANCELLED and change.ending else event.state
            self._journal.settle(change, state, event.body, event.output_bytes)
            self._run()

    def lost(self, event: ShimLost) -> None:
        """The call of a command broke; nothing is known of its end."""
        if self._reads.lost(event.key):
            return
        change = self._executing.get(event.key)
        if change is not None:
            change.lost = True
            if self._hands.up:
                self._timers.at(self._ctx.now + _AGAIN_AFTER, self._resume_lost, change)

    def _resume_lost(self, change: Change) -> None:
        if change.lost and change.key in self._executing and self._hands.up:
            self._resume(change)
            self._run()

    def _resume_all(self) -> None:
        for change in list(self._executing.values()):
            if change.lost:
                self._resume(change)

    def _resume(self, change: Change) -> None:
        """Attach to a command whose call was lost, if the shim may be asked for it twice."""
        if self._hands.remembers(change.row.command, change.row.shim_instance):
            self._execute(change, wait=False)
        else:
            self._journal.settle(change, OUTCOME_UNKNOWN)

    # --- payloads and memory --------------------------------------------------------------------------------------

    def payload_ready(self, event: PayloadReady) -> None:
        """A payload is on disk: its change was received, and may begin in its turn, or be handed over once more."""
        change = self._fetching.over(event.key)
        if change is not None:
            self._received(change)
            self._go_on(change)

    def payload_failed(self, event: PayloadFailed) -> None:
        """A payload did not come: it is fetched again later, or its change ends."""
        self._fetching.failed(event)

    def payload_lost(self, event: PayloadLost) -> None:
        """A change could not be handed to the shim, for its payload is not on disk any more."""
        change = self._executing.pop(event.key, None)
        if change is None:
            return
        self._ctx.log("warning", "a payload is lost, it is fetched again", key=event.key, reason=event.reason)
        change.here, change.lost = False, True
        if not change.handed_before:
            change.in_shim = False
            self._journal.step_back(change)
        if change.ending and not change.handed_before:
            self._journal.settle(change, change.ending)
        else:
            self._fetching.lost(change, event.reason)
        self._run()

    def _go_on(self, change: Change) -> None:
        """What it waited for is here, or waited for no more."""
        change.here = True
        if change.phase in (RUNNING, OBSERVED):
            self._executing[change.key] = change
            if self._hands.up and not self._doubtful:
                self._resume(change)
        elif change.turn:
            self._journal.enqueue(change)
        self._run()

    def _want(self, change: Change) -> None:
        """Ask the origin for the command itself."""
        self._late.append(self._report(change, m.BUSY))

    def _give_up_payload(self, change: Change, reason: str) -> None:
        """Nobody has it: the change fails in its turn, unless the shim may have been given it before."""
        self._fetching.over(change.key)
        refusal = Refusal("PAYLOAD_UNAVAILABLE", reason)
        if change.phase in (RUNNING, OBSERVED):
            self._hands.refuse(change.key, refusal, OUTCOME_UNKNOWN)
        else:
            change.refusal = refusal
            self._go_on(change)

    def memory_lost(self) -> None:
        """The disk was set back: the journal gets a new name, and what waits in it may have run already."""
        self._journal.lose_memory()
        if self._doubtful:
            self._journal.give_up()
        self._run()
