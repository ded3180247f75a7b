"""Dispatches that were accepted here, from the caller's submit to their last target's end.

What lives here: what is sent, sent again, revoked, and what an answer means. What is remembered is `origin_ledger`'s
and `origin_state`'s, what leaves `origin_sending`'s. What a target does is `target`'s; what a hop does is `router`'s.

Events: `submit`, `cancel` (callers); `report` (what targets and hops say); `paths_changed`, `gone` (the registry);
`wake` (time).
Effects: Put and Remove of dispatches, targets, sequences and self; Barrier; Answer; TargetChanged; Log; and through
`route` deliveries, revocations and acknowledgements.

Invariants:
* What is sent is on disk first, and so is that it was sent (`maybe_sent`, number, `after`, journal). While a change was
  not sent the origin alone ends it; afterwards only its target does, or the loss of a disk.
* To one cluster, in one journal, a change is sent only after all earlier ones; `after` never changes while it may be
  there.
* A result is acknowledged after it is on disk, and again each time it comes; nobody waits for that, so those of some
  tenths of a second go together. A final state changes never, but OUTCOME_UNKNOWN once, into the truth.
* A timer per dispatch, and one per cluster that has turned something away. No event looks at everything.

`Route.deliver` may call `report` before it returns (NO_ROUTE): all state is as it shall be before it is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.beat import LIMIT
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.events import CancelDispatch, Submit, SubmitTarget
from ote.clustercontroller.core.origin_ledger import BODY_LIMIT, GRACE, NO_ANSWER, Ledger
from ote.clustercontroller.core.origin_ports import Clusters, KnownCluster, Route
from ote.clustercontroller.core.origin_sending import Outgoing, Sending
from ote.clustercontroller.core.origin_state import (
    MOVING,
    NOT_TAKEN_BACK,
    Chain,
    OriginDispatch,
    OriginTarget,
    fresh_dispatch,
)
from ote.clustercontroller.core.records import DispatchRow, Self, TargetRow
from ote.clustercontroller.core.states import (
    CANCELLED,
    EXPIRED,
    FAILED,
    FINAL,
    OUTCOME_UNKNOWN,
    PENDING,
    QUEUED,
    RUNNING,
    SENT,
    SUCCEEDED,
    UNREACHABLE,
)
from ote.clustercontroller.core.timers import Timers, delay, least_delay
from ote.model.errors import AlreadyExists, NotFound, ResourceExhausted

_READ_SILENCE = 60.0
"""Seconds of silence after which a read is given up."""
_READ_DELAY_CAP = 10.0
_LONGEST_ID = 64
_LONGEST_WAIT = 60.0
"""Seconds for which a peer's BUSY is believed at the most."""
_ENDS = frozenset({SUCCEEDED, FAILED, CANCELLED, EXPIRED, OUTCOME_UNKNOWN})
"""States in which a target may say that it has ended."""


class Origin:
    """The one end of a dispatch. `own` is shared with the parts that write it; of it only the incarnation is changed,
    by the ledger."""

    def __init__(self, ctx: Context, clusters: Clusters, route: Route, own: Self) -> None:
        self._ctx = ctx
        self._clusters = clusters
        self._timers = Timers(ctx)
        self._first_time = self._timers.line(least_delay(ctx), lambda dispatch: not dispatch.open, self._not_answered)
        self._ledger = Ledger(ctx, own, self._timers)
        self._sending = Sending(ctx, route, self._timers, self._ledger.after_ended)
        self._back: dict[tuple[OriginDispatch, float], dict[OriginTarget, None]] = {}
        """Targets of reads that were turned back, by when they are asked again: they alone."""
        self._tables: Mapping[str, Mapping[str, Any]] | None = None
        self._kinds = {
            m.RECEIVED: self._received,
            m.PROGRESS: self._progress,
            m.RESULT: self._result,
            m.NO_ROUTE: self._turned_back,
            m.BUSY: self._turned_back,
            m.JOURNAL_CHANGED: self._lost,
            m.FORGOTTEN: self._lost,
        }

    # --- what the shell reads -------------------------------------------------------------------------------------

    def dispatch(self, dispatch_id: str) -> OriginDispatch | None:
        """A dispatch that is kept here, to be read only."""
        return self._ledger.dispatches.get(dispatch_id)

    def newest(self) -> Iterator[OriginDispatch]:
        """All that are kept, the latest accepted first."""
        return reversed(self._ledger.dispatches.values())

    @property
    def unsettled(self) -> int:
        """Targets that are not final."""
        return self._ledger.unsettled

    @property
    def oldest_unsettled(self) -> OriginDispatch | None:
        """The earliest accepted dispatch that is not settled."""
        return next(iter(self._ledger.unsettled_dispatches.values()), None)

    # --- time -----------------------------------------------------------------------------------------------------

    def load(self, tables: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what was on disk, at the first wake: only then it is known what time it is."""
        self._tables = tables

    def next_wake(self) -> float | None:
        """When `wake` is to be called, on the core's clock; None for not at all."""
        return 0.0 if self._tables is not None else self._timers.next()

    def wake(self) -> None:
        """Do all that is due."""
        if self._tables is not None:
            tables, self._tables = self._tables, None
            self._ledger.load(tables)
            for dispatch in list(self._ledger.dispatches.values()):
                self._schedule(dispatch)
        self._timers.run()

    def _expect(self, dispatch: OriginDispatch, sent: int) -> None:
        """Set the first timer of a dispatch of which so many targets were sent."""
        if sent == len(dispatch.open) and least_delay(self._ctx) <= GRACE:
            self._first_time.put(dispatch)
        else:
            self._schedule(dispatch)

    def _not_answered(self, dispatch: OriginDispatch) -> None:
        """The least time is over after which something is sent again."""
        if not dispatch.due:
            self._schedule(dispatch, self._ctx.now + delay(self._ctx, 0) - least_delay(self._ctx))

    def _schedule(self, dispatch: OriginDispatch, at_most: float | None = None) -> None:
        """Set the dispatch's timer: to the next sending if something was sent, else to the end of its time. One that is
        soon enough stays: to look at all targets for each of them takes seconds where there are many."""
        now = self._ctx.now
        if not dispatch.open or (at_most is not None and now < dispatch.due <= at_most):
            return
        due = None if dispatch.ended else dispatch.deadline
        if due is not None and not all(target.row.maybe_sent for target in dispatch.open.values()):
            due = dispatch.expiry
        if any(target.row.maybe_sent for target in dispatch.open.values()):
            again = delay(self._ctx, dispatch.tries)
            if not dispatch.change:
                again = min(again, _READ_DELAY_CAP)
            due = now + again if due is None else min(due, now + again)
        unknown_at = dispatch.deadline + self._ctx.settings.unknown_after
        due = unknown_at if due is None or now < unknown_at < due else due
        if at_most is not None:
            due = min(due, at_most)
        dispatch.due = max(due, now)
        self._timers.at(dispatch.due, self._dispatch_due, dispatch, dispatch.due)

    def _dispatch_due(self, dispatch: OriginDispatch, due: float) -> None:
        if dispatch.due != due or not dispatch.open:
            return
        now = self._ctx.now
        if now >= dispatch.deadline and not dispatch.ended:
            dispatch.ended, dispatch.tries = True, 0
        outgoing: Outgoing = {}
        revoked: Outgoing = {}
        for target in list(dispatch.open.values()):
            if not dispatch.change:
                self._read_due(target, outgoing)
            elif not target.row.maybe_sent:
                if now >= dispatch.expiry:
                    self._ledger.end_unsent(target)
            elif dispatch.ended:
                self._overdue(target)
                if target.is_open and self._reachable(target.row.uid):
                    revoked.setdefault(dispatch, []).append(target)
            elif not target.row.received and self._reachable(target.row.uid):
                outgoing.setdefault(dispatch, []).append(target)
        dispatch.tries += 1
        self._schedule(dispatch)
        self._sending.send(outgoing, revoked)

    def _read_due(self, target: OriginTarget, outgoing: Outgoing) -> None:
        if self._ctx.now - target.heard >= _READ_SILENCE:
            self._ledger.end(target, UNREACHABLE, NO_ANSWER, "the cluster has not answered")
        elif self._reachable(target.row.uid):
            outgoing.setdefault(target.dispatch, []).append(target)

    def _moves(self, target: OriginTarget) -> bool:
        """Whether a cluster to which there is no way may just be between two parents."""
        return self._ctx.now < target.dispatch.begun + MOVING and self._clusters.is_up(target.row.uid)

    def _overdue(self, target: OriginTarget) -> None:
        """What may have been sent and has not been heard of for long after its time: unknown, and then given up."""
        settings = self._ctx.settings
        silent = self._ctx.now - max(target.dispatch.deadline, target.heard)
        if target.row.state not in FINAL:
            if silent >= settings.unknown_after:
                self._ledger.end(target, OUTCOME_UNKNOWN, NO_ANSWER, "it may have taken effect; the cluster is silent")
        elif silent >= settings.unknown_after + settings.keep_settled_for:
            self._ledger.close(target)

    # --- callers --------------------------------------------------------------------------------------------------

    def submit(self, event: Submit) -> None:
        """Accept a dispatch, or attach to the one of the same id and content."""
        ctx, ledger = self._ctx, self._ledger
        known = ledger.dispatches.get(event.dispatch_id)
        if known is not None:
            if known.row.digest != event.digest:
                message = f"dispatch {event.dispatch_id} exists with other content; take a new id"
                ctx.emit(fx.Answer(event.request, error=AlreadyExists("DISPATCH_EXISTS", message)))
                return
            ctx.barrier()
            ctx.emit(fx.Answer(event.request, event.dispatch_id))
            return
        if ledger.unsettled + len(event.targets) > ctx.settings.max_unsettled:
            message = f"{ledger.unsettled} targets are not settled here; try again when there are fewer"
            error = ResourceExhausted("TOO_MANY_DISPATCHES", message, retry_after=1.0)
            ctx.emit(fx.Answer(event.request, error=error))
            return
        dispatch = self._accept(event)
        if dispatch.change:
            ledger.store_dispatch(dispatch)
        ledger.add(dispatch)
        ledger.count(dispatch)
        if dispatch.change:
            ctx.barrier()
        ctx.emit(fx.Answer(event.request, event.dispatch_id))
        sent = [target for target in dispatch.open.values() if target.row.maybe_sent]
        self._expect(dispatch, len(sent))
        self._sending.deliver(dispatch, sent)

    def _accept(self, event: Submit) -> OriginDispatch:
        now = self._ctx.now
        row = DispatchRow(
            id=event.dispatch_id,
            digest=event.digest,
            command=event.command,
            inline=event.inline,
            payload=event.payload,
            ttl=event.ttl,
            timeout=event.timeout,
            caller=event.caller,
            clusters=event.clusters,
            labels=event.labels,
            created=event.created,
            number=self._ledger.new_number(),
            targets=[],
            accepted=now,
        )
        dispatch = fresh_dispatch(row, now, GRACE)
        for wanted in event.targets:
            if wanted.uid not in dispatch.targets:
                self._place(dispatch, wanted)
        return dispatch

    def _place(self, dispatch: OriginDispatch, wanted: SubmitTarget) -> None:
        """A new target in its first state."""
        uid = wanted.uid
        row = TargetRow(uid, wanted.name, QUEUED, since=dispatch.row.created)
        target = dispatch.take(row, self._ctx.now)
        cluster = self._clusters.get(uid)
        reachable = self._reachable(uid)
        if cluster is None:
            row.state, row.reason, row.message = UNREACHABLE, "CLUSTER_REPLACED", "the cluster is not a member any more"
        elif not reachable and (not dispatch.change or dispatch.row.ttl <= 0) and not self._moves(target):
            row.state, row.reason, row.message = UNREACHABLE, "OFFLINE", "the cluster is not reachable"
        elif not dispatch.change:
            row.state, row.maybe_sent = SENT, True
        elif reachable and cluster.facts.journal_id and not self._ledger.chain(uid).waiting():
            self._ledger.mark_sent(target, cluster.facts.journal_id)
            self._ledger.chain(uid).instance = cluster.instance
        elif reachable:
            row.state, row.message = PENDING, "waits for its turn behind earlier commands"
        else:
            row.message = "waits until the cluster is reachable"
        if row.state not in FINAL:
            dispatch.open[uid] = target
            dispatch.unsettled += 1

    def cancel(self, event: CancelDispatch) -> None:
        """End what was not sent, and ask the targets to end the rest."""
        ctx = self._ctx
        dispatch = self._ledger.dispatches.get(event.dispatch_id)
        if dispatch is None:
            error = NotFound("DISPATCH_NOT_FOUND", f"no dispatch {event.dispatch_id} is known here")
            ctx.emit(fx.Answer(event.request, error=error))
            return
        revoked: Outgoing = {}
        for target in list(dispatch.open.values()):
            if target.row.maybe_sent and self._reachable(target.row.uid):
                revoked.setdefault(dispatch, []).append(target)
            if not dispatch.change or not target.row.maybe_sent:
                self._ledger.end(target, CANCELLED, CANCELLED, "cancelled")
        if dispatch.change and dispatch.open:
            dispatch.row.cancelled = dispatch.ended = True
            dispatch.tries = 0
            self._ledger.store_dispatch(dispatch)
            self._schedule(dispatch)
        ctx.barrier()
        ctx.emit(fx.Answer(event.request))
        self._sending.send({}, revoked)

    # --- sending --------------------------------------------------------------------------------------------------

    def _reachable(self, uid: str) -> bool:
        """Whether there is a way to a cluster."""
        return uid == self._ctx.uid or self._clusters.next_hop(uid) is not None

    # --- the registry ---------------------------------------------------------------------------------------------

    def paths_changed(self, uids: Iterable[str]) -> None:
        """Ways to these clusters and all below them may be new: send what waits, and again what was not answered."""
        ledger = self._ledger
        if not ledger.chains and not ledger.reads:
            return
        outgoing: Outgoing = {}
        revoked: Outgoing = {}
        for uid in self._with_subtrees(uids):
            if (uid in ledger.chains or uid in ledger.reads) and self._reachable(uid):
                for target in ledger.reads.get(uid, ()):
                    outgoing.setdefault(target.dispatch, []).append(target)
                if uid in ledger.chains:
                    self._path_of(ledger.chains[uid], outgoing, revoked)
        self._sending.send(outgoing, revoked)

    def _with_subtrees(self, uids: Iterable[str]) -> Iterator[str]:
        seen: set[str] = set()
        for root in uids:
            for uid in (root, *self._clusters.descendants(root)):
                if uid not in seen:
                    seen.add(uid)
                    yield uid

    def _path_of(self, chain: Chain, outgoing: Outgoing, revoked: Outgoing) -> None:
        cluster = self._clusters.get(chain.uid)
        if cluster is None:
            return
        restarted = chain.instance != cluster.instance
        for target in chain.sent:
            if target.dispatch.ended:
                revoked.setdefault(target.dispatch, []).append(target)
            elif restarted or not target.row.received:
                outgoing.setdefault(target.dispatch, []).append(target)
        self._next(chain, cluster, outgoing)

    def _next(self, chain: Chain, cluster: KnownCluster, outgoing: Outgoing) -> None:
        """Take all that waits, unless it is not known yet which journal is there: a change names the one it is for."""
        chain.instance, chain.retry_at = cluster.instance, 0.0
        if not cluster.facts.journal_id:
            return
        again = self._ctx.now + self._ctx.settings.resend_base
        for target in self._ledger.next_unsent(chain, cluster.facts.journal_id):
            outgoing.setdefault(target.dispatch, []).append(target)
            target.dispatch.tries = 0
            self._schedule(target.dispatch, again)

    def gone(self, uid: str) -> None:
        """A cluster is a member no more, and never will be again."""
        ledger = self._ledger
        chain = ledger.chains.get(uid)
        message = "the cluster is not a member any more"
        targets = [*ledger.reads.get(uid, ())]
        if chain is not None:
            targets += [*chain.sent, *(target for target in chain.unsent if target.is_open)]
        for target in targets:
            sent = target.dispatch.change and target.row.maybe_sent
            ledger.end(target, OUTCOME_UNKNOWN if sent else UNREACHABLE, "CLUSTER_REPLACED", message)
        ledger.forget_cluster(uid)

    def memory_lost(self) -> None:
        """The disk was set back: numbers that this origin does not know of have been used."""
        self._ledger.new_incarnation()

    # --- reports --------------------------------------------------------------------------------------------------

    def report(self, report: m.Report) -> None:
        """What a target, or a hop in its place, says: anything, for no hop has looked at it."""
        if report.incarnation > LIMIT or len(report.dispatch_id) > _LONGEST_ID or len(report.journal_id) > _LONGEST_ID:
            return
        self._check_memory(report)
        dispatch = self._ledger.dispatches.get(report.dispatch_id)
        target = dispatch.targets.get(report.target_uid) if dispatch is not None else None
        if target is not None:
            handle = self._kinds.get(report.kind)
            if handle is not None:
                handle(target, report)
        elif report.kind == m.RESULT:
            self._ctx.log(
                "warning",
                "result of an unknown dispatch",
                dispatch=report.dispatch_id,
                target=report.target_uid,
                state=report.state,
            )
            self._sending.ack(report)

    def _check_memory(self, report: m.Report) -> None:
        """A target that knows of more than was sent tells that this origin's disk was set back, or lies. So it counts
        anew with this one only: each other one will tell, should it know of more, by the first that it is sent."""
        ledger, uid = self._ledger, report.target_uid
        if self._clusters.get(uid) is None:
            return
        known = ledger.incarnation(uid)
        if report.incarnation > known or (report.incarnation == known and report.highest_seq > ledger.last(uid)):
            ledger.new_incarnation_for(uid, report.incarnation + 1)

    def _heard(self, target: OriginTarget) -> None:
        target.heard = self._ctx.now
        target.attempts |= NOT_TAKEN_BACK
        chain = self._ledger.chains.get(target.row.uid)
        if chain is not None:
            chain.tries = 0

    def _received(self, target: OriginTarget, report: m.Report) -> None:
        row = target.row
        self._heard(target)
        if target.dispatch.change and row.state not in FINAL and not row.received:
            row.received = True
            self._ledger.store(target)

    def _progress(self, target: OriginTarget, report: m.Report) -> None:
        row = target.row
        self._heard(target)
        if row.state in FINAL or (row.state == RUNNING and report.body in (b"", row.body)):
            return
        if row.state != RUNNING:
            row.state = RUNNING
            row.since = self._ledger.wall(target.dispatch)
        if 0 < len(report.body) <= BODY_LIMIT:
            row.body = report.body
        self._ledger.changed(target)

    def _result(self, target: OriginTarget, report: m.Report) -> None:
        row, change = target.row, target.dispatch.change
        if report.state not in _ENDS:
            return
        self._heard(target)
        if row.state not in FINAL or (row.state == OUTCOME_UNKNOWN != report.state):
            row.journal_number = report.journal_number
            row.output_bytes = report.output_bytes
            row.journal_id = row.journal_id or report.journal_id
            self._ledger.end(target, report.state, body=report.body)
        elif row.state == OUTCOME_UNKNOWN:
            self._ledger.close(target)
        if change:
            self._sending.ack(report)

    def _lost(self, target: OriginTarget, report: m.Report) -> None:
        """The target knows nothing of it and never will: another journal, or settled and forgotten."""
        row = target.row
        if row.state == OUTCOME_UNKNOWN:
            self._ledger.close(target)
        elif row.state not in FINAL and row.maybe_sent:
            message = "it may have taken effect; the cluster's memory of it is lost"
            self._ledger.end(target, OUTCOME_UNKNOWN, report.kind, message)

    def _turned_back(self, target: OriginTarget, report: m.Report) -> None:
        """One attempt did not arrive. What no attempt brought there counts as not sent again.

        BUSY that names no attempt and no time wants the command itself: to learn from the shim how it ended, or to have
        its payload served on the way again.
        """
        dispatch, row = target.dispatch, target.row
        if not target.is_open or not row.maybe_sent:
            return
        if report.attempt <= 0:
            again = dispatch.ended or row.received
            if again and report.kind == m.BUSY and not report.retry_after_ms:
                self._sending.deliver(dispatch, [target])
            return
        if report.attempt > row.attempts or not target.attempts & (bit := 1 << report.attempt):
            return
        target.attempts &= ~bit
        no_route = report.kind == m.NO_ROUTE
        wait = delay(self._ctx, 0) if no_route else min(max(report.retry_after_ms / 1000, 0.05), _LONGEST_WAIT)
        if not dispatch.change:
            if not no_route or target.attempts:
                self._ask_again(target, self._ctx.now + wait)
            elif self._moves(target):
                self._timers.at(dispatch.begun + MOVING, self._no_way, target)
            else:
                self._no_way(target)
            return
        chain = self._ledger.chain(row.uid)
        for back in chain.take_back():
            self._taken_back(back, no_route)
        if chain.waiting():
            if no_route:
                wait = delay(self._ctx, chain.tries)
                chain.tries += 1
            chain.retry_at = self._ctx.now + wait * (1.0 + 0.25 * self._ctx.rng.random())
            self._timers.at(chain.retry_at, self._chain_due, chain, chain.retry_at)
        if target in chain.sent and not no_route:
            self._schedule(dispatch, self._ctx.now + wait)
        self._ledger.drop_empty(row.uid)

    def _ask_again(self, target: OriginTarget, at: float) -> None:
        """Send a read again to a target that was turned back, with the others of that moment."""
        place = target.dispatch, at
        if place not in self._back:
            self._timers.at(at, self._asked_again, *place)
        self._back.setdefault(place, {})[target] = None

    def _asked_again(self, dispatch: OriginDispatch, at: float) -> None:
        targets = self._back.pop((dispatch, at))
        again = [target for target in targets if not target.attempts and self._reachable(target.row.uid)]
        self._sending.send({dispatch: again}, {})

    def _no_way(self, target: OriginTarget) -> None:
        """End a read of which no attempt is under way."""
        if target.is_open and not target.attempts:
            self._ledger.end(target, UNREACHABLE, m.NO_ROUTE, "there is no way to the cluster")

    def _taken_back(self, target: OriginTarget, no_route: bool) -> None:
        dispatch = target.dispatch
        if dispatch.row.cancelled:
            self._ledger.end(target, CANCELLED, CANCELLED, "cancelled")
        elif dispatch.ended:
            self._ledger.end_unsent(target)
        elif no_route and dispatch.row.ttl <= 0 and not self._moves(target):
            self._ledger.end(target, UNREACHABLE, m.NO_ROUTE, "there is no way to the cluster")
        elif no_route:
            self._ledger.queued(target, m.NO_ROUTE, "waits until the cluster is reachable")
            if dispatch.row.ttl <= 0:
                self._schedule(dispatch, dispatch.expiry)
        else:
            self._ledger.queued(target, m.BUSY, "the way to the cluster is full; it is tried again")

    def _chain_due(self, chain: Chain, due: float) -> None:
        """Try again what was turned back."""
        if chain.retry_at != due or self._ledger.chains.get(chain.uid) is not chain:
            return
        cluster = self._clusters.get(chain.uid)
        if cluster is None or not self._reachable(chain.uid):
            return
        outgoing: Outgoing = {}
        self._next(chain, cluster, outgoing)
        self._sending.send(outgoing, {})
