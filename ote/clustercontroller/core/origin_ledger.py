"""The origin's book: which dispatches there are, their numbers, how targets end, and what is still kept of old ones.

What lives here: every write of the origin. What does not: sending (`origin`). The one idea is how little is written:
one row when a dispatch is accepted, with all its targets; the same again when its one target ends, one small row for
each that ends of several. The command goes when all have ended, from memory and from what is written then. Numbers used
for a cluster are read back from those rows, and written for themselves only when the rows that show them are removed.

Reads are never written. What they brought is kept for a while, within a budget.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.origin_state import Chain, OriginDispatch, OriginTarget, loaded_dispatch
from ote.clustercontroller.core.records import DispatchRow, Self, Sequence, TargetRow
from ote.clustercontroller.core.states import EXPIRED, FINAL, OUTCOME_UNKNOWN, QUEUED, SENT, UNREACHABLE
from ote.clustercontroller.core.timers import Timers

NO_ANSWER = "NO_ANSWER"
GRACE = 10.0
"""Seconds that a change which was sent may take to arrive, however short its time to live."""
_KEEP_READS = 1_000
_KEEP_READ_BYTES = 64 * 1024 * 1024
_KEEP_READS_FOR = 600.0
BODY_LIMIT = 64 * 1024
"""Bytes that a target may say of how far it is, and of how it ended."""


class Ledger:
    """Dispatches in order of acceptance, chains by uid of the cluster."""

    def __init__(self, ctx: Context, own: Self, timers: Timers) -> None:
        self._ctx = ctx
        self._own = own
        self._timers = timers
        self.dispatches: dict[str, OriginDispatch] = {}
        self.unsettled_dispatches: dict[str, OriginDispatch] = {}
        """Those that are not settled, oldest first."""
        self.chains: dict[str, Chain] = {}
        self.reads: dict[str, dict[OriginTarget, None]] = {}
        """Open targets of reads by uid."""
        self.unsettled = 0
        """Targets that are not final."""
        self._number = 0
        self._above: dict[str, int] = {}
        """By how much the incarnation for a cluster is above this origin's own, where it is."""
        self._last: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self._done: deque[tuple[float, str]] = deque()
        self._read: deque[tuple[float, str, int]] = deque()
        self._read_bytes = 0
        self._prune_at = 0.0

    # --- memory ---------------------------------------------------------------------------------------------------

    def load(self, tables: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what was on disk; nothing is sent by it."""
        for uid, sequence in tables.get("sequences", {}).items():
            if sequence.above:
                self._above[uid] = sequence.above
            if sequence.incarnation == self.incarnation(uid):
                self._last[uid] = self._written[uid] = sequence.last
        newer: dict[str, dict[str, TargetRow]] = {}
        for key, row in tables.get("targets", {}).items():
            newer.setdefault(key.partition("/")[0], {})[row.uid] = row
        rows: list[DispatchRow] = sorted(tables.get("dispatches", {}).values(), key=lambda row: row.number)
        now = self._ctx.now
        for row in rows:
            self.add(loaded_dispatch(row, newer.get(row.key, {}), now, GRACE, NO_ANSWER))

    def new_number(self) -> int:
        """The next dispatch's place in the order of acceptance."""
        return self._number + 1

    def add(self, dispatch: OriginDispatch) -> None:
        """Take in a dispatch whose targets are as they shall be; those that were sent have their numbers."""
        row = dispatch.row
        self._number = max(self._number, row.number)
        self.dispatches[row.id] = dispatch
        self.unsettled += dispatch.unsettled
        if dispatch.unsettled:
            self.unsettled_dispatches[row.id] = dispatch
        for target in dispatch.targets.values():
            if dispatch.change:
                self._count(target.row)
            if target.is_open:
                self._index(target)
        if not dispatch.open:
            self._finished(dispatch, dispatch.begun)

    def count(self, dispatch: OriginDispatch) -> None:
        """Count one that was accepted just now."""
        ctx, targets = self._ctx, len(dispatch.targets)
        ctx.count("ote_dispatch_accepted_total")
        ctx.count("ote_dispatch_targets_total", value=targets)
        if dispatch.unsettled < targets:
            ctx.count("ote_dispatch_settled_total", UNREACHABLE, value=targets - dispatch.unsettled)

    def incarnation(self, uid: str) -> int:
        """The memory in which the numbers for a cluster count."""
        return self._own.incarnation + self._above.get(uid, 0)

    def last(self, uid: str) -> int:
        """The highest number used for a cluster by its incarnation."""
        return self._last.get(uid, 0)

    def forget_cluster(self, uid: str) -> None:
        """Drop the numbers used for a cluster that is a member no more."""
        self._last.pop(uid, None)
        self._above.pop(uid, None)
        self._written.pop(uid, None)
        self._ctx.remove("sequences", uid)

    def new_incarnation(self) -> None:
        """Count from 1 again with every cluster: some of what this origin did was forgotten by it."""
        self._own.incarnation += 1
        self._last.clear()
        self._written.clear()
        self._ctx.put_self(self._own)
        self._ctx.log("warning", "dispatches sent before are not known here", incarnation=self._own.incarnation)

    def new_incarnation_for(self, uid: str, incarnation: int) -> None:
        """Count from 1 again with one cluster, which alone has said that it knows of more: it may lie."""
        self._above[uid] = incarnation - self._own.incarnation
        self._last[uid] = 0
        self._write_sequence(uid)
        self._ctx.log("warning", "a target knows of more than was sent from here", target=uid, incarnation=incarnation)

    def _write_sequence(self, uid: str) -> None:
        last = self._written[uid] = self._last[uid]
        self._ctx.put("sequences", uid, Sequence(self.incarnation(uid), last, self._above.get(uid, 0)))

    def _count(self, row: TargetRow) -> None:
        if row.incarnation == self.incarnation(row.uid) and row.seq > self._last.get(row.uid, 0):
            self._last[row.uid] = row.seq

    def _index(self, target: OriginTarget) -> None:
        row = target.row
        if not target.dispatch.change:
            self.reads.setdefault(row.uid, {})[target] = None
        elif row.maybe_sent:
            self.chain(row.uid).sent[target] = None
        else:
            self.chain(row.uid).unsent.append(target)

    # --- numbers --------------------------------------------------------------------------------------------------

    def chain(self, uid: str) -> Chain:
        """The chain of changes to a cluster."""
        chain = self.chains.get(uid)
        if chain is None:
            chain = self.chains[uid] = Chain(uid)
        return chain

    def after_ended(self, target: OriginTarget) -> bool:
        """Whether the change that this one comes after is not sent any more."""
        row = target.row
        chain = self.chains.get(row.uid)
        return row.after > 0 and (chain is None or not chain.has(row.incarnation, row.after))

    def mark_sent(self, target: OriginTarget, journal_id: str) -> None:
        """Give a change its number and place: from here on it may have been sent. Its chain is told by the caller.

        A number that was taken back is used again, unless the incarnation has changed meanwhile.
        """
        row = target.row
        incarnation = self.incarnation(row.uid)
        if not row.seq or row.incarnation != incarnation:
            row.incarnation = incarnation
            row.seq = self._last[row.uid] = self._last.get(row.uid, 0) + 1
        row.after = self.chain(row.uid).after(row.incarnation, journal_id)
        row.journal_id = journal_id
        row.maybe_sent = True
        row.state = SENT
        row.reason = row.message = ""
        row.since = self.wall(target.dispatch)

    def next_unsent(self, chain: Chain, journal_id: str) -> Iterator[OriginTarget]:
        """Each change that waits, now marked as sent and written so."""
        while chain.waiting():
            target = chain.unsent.popleft()
            self.mark_sent(target, journal_id)
            chain.sent[target] = None
            self.store(target)
            self.changed(target)
            yield target

    def queued(self, target: OriginTarget, reason: str, message: str) -> None:
        """A change that was taken back waits to be sent again.

        That is written: the one that it came after may end unsent now, and after a restart it would wait for that.
        """
        row = target.row
        row.state, row.reason, row.message = QUEUED, reason, message
        row.since = self.wall(target.dispatch)
        self.store(target)
        self.changed(target)

    # --- changes --------------------------------------------------------------------------------------------------

    def wall(self, dispatch: OriginDispatch) -> float:
        """Now, on the wall clock of the acceptance. To be shown only."""
        return dispatch.row.created + self._ctx.now - dispatch.begun

    def store_dispatch(self, dispatch: OriginDispatch) -> None:
        """Write the dispatch itself. What several targets have said is in rows of their own: together it could be more
        than a row may hold."""
        row = dispatch.row
        if len(row.targets) > 1 and any(target.body for target in row.targets):
            row = replace(row, targets=[replace(target, body=b"") for target in row.targets])
        self._ctx.put("dispatches", row.key, row)

    def store(self, target: OriginTarget) -> None:
        """Write a target's row."""
        dispatch = target.dispatch.row
        if len(dispatch.targets) == 1:
            self.store_dispatch(target.dispatch)
        else:
            self._ctx.put("targets", f"{dispatch.key}/{target.row.uid}", target.row)

    def changed(self, target: OriginTarget) -> None:
        """Tell watchers."""
        dispatch = target.dispatch
        self._ctx.emit(fx.TargetChanged(dispatch.row.id, target.row.uid, not dispatch.unsettled))

    def end(self, target: OriginTarget, state: str, reason: str = "", message: str = "", body: bytes = b"") -> None:
        """Settle a target, or replace OUTCOME_UNKNOWN by the truth."""
        dispatch, row = target.dispatch, target.row
        if len(body) > BODY_LIMIT:
            body, reason, message = b"", "RESULT_TOO_LARGE", "the result is too large to be kept"
        first = row.state not in FINAL
        row.state, row.reason, row.message, row.body = state, reason, message, body
        row.since = self.wall(dispatch)
        if first:
            latency = self._ctx.now - dispatch.begun
            row.latency_ms = round(latency * 1000)
            self._ctx.count("ote_dispatch_settled_total", state)
            self._ctx.count("ote_dispatch_latency_seconds", value=latency)
            self.unsettled -= 1
            dispatch.unsettled -= 1
            if not dispatch.unsettled:
                del self.unsettled_dispatches[dispatch.row.id]
        if dispatch.change:
            self.store(target)
        self.changed(target)
        if not (state == OUTCOME_UNKNOWN and reason == NO_ANSWER):
            self.close(target)

    def end_unsent(self, target: OriginTarget) -> None:
        """Settle a target to which nothing was sent before its time was over."""
        if target.dispatch.row.ttl > 0:
            self.end(target, EXPIRED, EXPIRED, "its time was over before the cluster was reachable")
        else:
            self.end(target, UNREACHABLE, "OFFLINE", "the cluster is not reachable")

    def close(self, target: OriginTarget) -> None:
        """Expect nothing more of a final target; nothing later comes after it."""
        dispatch, uid = target.dispatch, target.row.uid
        if dispatch.open.pop(uid, None) is None:
            return
        if dispatch.change:
            self.chain(uid).sent.pop(target, None)
            self.drop_empty(uid)
        else:
            reads = self.reads[uid]
            del reads[target]
            if not reads:
                del self.reads[uid]
        if not dispatch.open:
            self._finished(dispatch, self._ctx.now)

    def drop_empty(self, uid: str) -> None:
        """Forget a chain without changes."""
        chain = self.chains.get(uid)
        if chain is not None and not chain.sent and not chain.waiting():
            del self.chains[uid]

    # --- old ones -------------------------------------------------------------------------------------------------

    def _finished(self, dispatch: OriginDispatch, at: float) -> None:
        dispatch.row.inline = None
        if dispatch.change:
            self._done.append((at, dispatch.row.id))
        else:
            size = sum(len(target.row.body) for target in dispatch.targets.values())
            self._read.append((at, dispatch.row.id, size))
            self._read_bytes += size
        self._prune()

    def _prune(self) -> None:
        settings, now = self._ctx.settings, self._ctx.now
        done, read = self._done, self._read
        while done and (len(done) > settings.keep_dispatches or done[0][0] + settings.keep_settled_for <= now):
            self._remove(done.popleft()[1])
        while read and (
            len(read) > _KEEP_READS
            or (self._read_bytes > _KEEP_READ_BYTES and len(read) > 1)
            or read[0][0] + _KEEP_READS_FOR <= now
        ):
            _, dispatch_id, size = read.popleft()
            self._read_bytes -= size
            _free(self.dispatches.pop(dispatch_id))
        due = [done[0][0] + settings.keep_settled_for] if done else []
        due += [read[0][0] + _KEEP_READS_FOR] if read else []
        if due and not now < self._prune_at <= min(due):
            self._prune_at = min(due)
            self._timers.at(self._prune_at, self._prune)

    def _remove(self, dispatch_id: str) -> None:
        ctx = self._ctx
        dispatch = self.dispatches.pop(dispatch_id)
        for uid, target in dispatch.targets.items():
            row = target.row
            if row.incarnation == self.incarnation(uid) and row.seq > self._written.get(uid, 0) and uid in self._last:
                self._write_sequence(uid)
            if len(dispatch.targets) > 1:
                ctx.remove("targets", f"{dispatch.row.key}/{uid}")
        ctx.remove("dispatches", dispatch.row.key)
        _free(dispatch)


def _free(dispatch: OriginDispatch) -> None:
    """Targets point back, and a timer may hold it for long: so all of it is freed at once. Who watches it has the old
    targets."""
    dispatch.targets = {}
    dispatch.row.targets = []
