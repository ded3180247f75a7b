"""The composition of the core: every event goes to the part whose business it is, every effect comes back in order.

What lives here: who is told what, the cluster's own facts, drain and stop. What does not: any rule about parents, the
registry or dispatches; those are the parts'. The shell, and the simulator, call `handle` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core import records as rec
from ote.clustercontroller.core.candidates import key
from ote.clustercontroller.core.children import Children
from ote.clustercontroller.core.clones import Clones
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.evictions import in_messages
from ote.clustercontroller.core.facts import OwnRecord
from ote.clustercontroller.core.load import Load
from ote.clustercontroller.core.origin import Origin
from ote.clustercontroller.core.parents import Parents, ParentsCallbacks
from ote.clustercontroller.core.questions import Questions
from ote.clustercontroller.core.registry import Registry
from ote.clustercontroller.core.router import Router
from ote.clustercontroller.core.states import FAILED, SUCCEEDED
from ote.clustercontroller.core.target import Target
from ote.model.errors import FailedPrecondition, InvalidArgument, NotFound

_NEWS_INTERVAL = 0.1
"""Seconds between two messages of news to the parent; the first change after a quiet time leaves at once."""
_NEWS_BYTES = 24 * 1024
_BUSY_MS = 100
_MOST_OWED = 10_000
"""Evictions of unknown members that are kept for the parent while there is none."""
_FULL_WAIT = 1.0
"""Seconds after which what a full lane to the parent has dropped is said again."""

ROOT_CANNOT_DRAIN = "a root has nobody to hand its children to; drain the controllers below it, or stop it"
_NAMED = 8
"""Members that one line of the log names."""
NOTHING_TO_DRAIN = "it takes no children: there is nothing to drain"

Tables = Mapping[str, Mapping[str, Any]]
"""What was on disk: {table: {key: record of `records`}}."""


@dataclass(slots=True)
class _Waiting:
    """Somebody who is answered when the children have moved, or when the time is over."""

    until: float
    done: Callable[[list[str]], None]


class Controller:
    """One node of the tree. `home` is the configured parent, None for a root; `allowed` the commands it obeys, None
    all."""

    def __init__(
        self,
        ctx: Context,
        *,
        home: m.Alternate | None,
        facts: m.Facts,
        tables: Tables,
        allowed: frozenset[str] | None = None,
        has_shim: bool = True,
    ) -> None:
        self.ctx = ctx
        rows = tables.get("self", {})
        self._self: rec.Self = rows.get("self") or rec.Self()
        set_back = not self._self.journal_id
        if set_back:
            self._self.journal_id = ctx.new_id()
        self.own = OwnRecord(ctx, self._self, facts, rows)
        self.registry = Registry(ctx)
        self.registry.load(dict(tables.get("clusters", {})), dict(tables.get("evictions", {})))
        self.parents = Parents(ctx, self._self, home, self._callbacks_of_parents(), rows.get("alternates"))
        self.children = Children(ctx, self.registry, self.parents, self._self)
        self.router = Router(ctx, self.registry, lambda: self.parents.active_link, self._flush_news)
        self.router.ends = self
        self.questions = Questions(ctx, self.registry, self.router, is_root=home is None)
        self.origin = Origin(ctx, self.registry, self.router, self._self)
        self.target = Target(ctx, self.router, self._self, allowed, has_shim=has_shim)
        self.origin.load(tables)
        self.target.load(tables, set_back=set_back, doubtful=home is not None)
        self.registry.on_paths_changed = self.origin.paths_changed
        self.registry.on_gone = self._gone
        self.target.on_journal_changed = self._own_changed
        self._lets_go = False
        """It drains, or stops."""
        self.connected_since = ctx.now
        """When it last began, or ceased, to hear the root's beat."""
        self._was_connected = False
        self._news_at = self._full_until = float("-inf")
        """When news may be sent at the earliest, and until when the parent's lane counts as full."""
        self._evictions_owed: dict[str, None] = {}
        """Those that the parent has not been told of: there is none, or its lane was full."""
        self._waiting: list[_Waiting] = []
        self._stopping: tuple[int, list[str]] | None = None
        """Who is answered when the parent has let go, and which children stayed."""
        self._due: float | None = 0.0
        """When something is due; None for never."""
        self._wake_at: float | None = None
        """The time for which the shell was asked, that may be earlier."""
        self.load = Load(ctx, self.registry, self._publish_status)
        self.registry.on_load_changed = self.load.changed
        self.clones = Clones(ctx, self._tell_clones)
        self.children.on_clone = self.clones.seen
        self._parts = (self.parents, self.children, self.target, self.origin, self.load, self.questions, self.clones)
        """In the order in which they wake: what the origin finds overdue at its start meets a target that is loaded."""
        self._handlers = self._who_handles()

    def _callbacks_of_parents(self) -> ParentsCallbacks:
        return ParentsCallbacks(
            attached=self._attached,
            detached=self._detached,
            standing_changed=self._standing_changed,
            candidates_changed=lambda: self.children.above_changed(),
            memory_lost=self._memory_lost,
            own_record=self.own.record,
            digest=self.registry.digest,
            whole_digest=lambda: self.registry.whole_digest(self.ctx.uid),
            evictions_digest=self.registry.evictions_digest,
        )

    def _who_handles(self) -> dict[type, Callable[[Any], None]]:
        """Whose business each event is."""
        return {
            ev.Started: self._started,
            ev.Wake: self._woken,
            ev.ChildHello: self._child_hello,
            ev.FromChild: self._from_child,
            ev.FromParent: self._from_parent,
            ev.LinkLost: self._link_lost,
            ev.LaneFull: self._lane_full,
            ev.DialWelcome: lambda e: self.parents.dial_welcome(e.link, e.welcome),
            ev.DialReached: lambda e: self.parents.dial_reached(e.link),
            ev.DialRefused: lambda e: self.parents.dial_refused(e.link, e.refused),
            ev.DialFailed: lambda e: self.parents.dial_failed(e.link, e.reason),
            ev.ProbeAnswered: self.parents.probe_answered,
            ev.ProbeFailed: self.parents.probe_failed,
            ev.Submit: self.origin.submit,
            ev.SubmitMany: self._submit_many,
            ev.CancelDispatch: self.origin.cancel,
            ev.Evict: self._evict,
            ev.ShimUp: self._shim_up,
            ev.ShimDown: self.target.shim_down,
            ev.ShimSilent: self._shim_silent,
            ev.ShimStatus: self.load.shim_status,
            ev.ShimProgress: self.target.progress,
            ev.ShimResult: self.target.result,
            ev.ShimLost: self.target.lost,
            ev.PayloadReady: self.target.payload_ready,
            ev.PayloadFailed: self.target.payload_failed,
            ev.PayloadLost: self.target.payload_lost,
            ev.Asked: self.questions.asked,
            ev.Answered: self.questions.answered,
            ev.FactsChange: self._facts_change,
            ev.DrainAsked: self._drain_asked,
            ev.Renewed: lambda e: self.parents.reattach(),
            ev.Stop: self._stop,
        }

    def handle(self, event: ev.Event, now: float) -> list[fx.Effect]:
        """Let the event happen at `now` (seconds, monotonic) and return what is to be done, in order."""
        ctx = self.ctx
        ctx.now = now
        self._wake(now)
        self._handlers[type(event)](event)
        self._after()
        done = ctx.effects
        ctx.effects = []
        return done

    def failed(self) -> list[fx.Effect]:
        """`handle` has raised, by a fault of ours: what it had done until then. What it gathered to be sent goes, for
        it would leave without waiting for what was written; its ends say it again."""
        self.router.drop()
        done, self.ctx.effects = self.ctx.effects, []
        return done

    # --- links ----------------------------------------------------------------------------------------------------

    def _started(self, event: ev.Started) -> None:
        self.ctx.put_self(self._self)
        self._drain(self._self.draining)
        self.parents.start()

    def _woken(self, event: ev.Wake) -> None:
        self._wake_at = None

    def _child_hello(self, event: ev.ChildHello) -> None:
        self.parents.child_best(event.hello.best)
        self.children.hello(event.link, event.hello, event.peer_uid, event.peer_name, event.peer_key, leaf=event.leaf)

    def _from_child(self, event: ev.FromChild) -> None:
        link = event.link
        for item in event.items:
            uid = self.children.heard(link)
            if uid is None:
                self.children.unattached(link, item)
            else:
                self._child_item(link, uid, item)

    def _child_item(self, link: int, uid: str, item: m.UpItem) -> None:
        match item:
            case m.Heartbeat():
                self.children.heartbeat(link, item)
            case m.Report():
                if self._may_say(uid, item):
                    self.router.report(item)
            case m.Reports():
                if self.registry.via(item.target_uid) == uid:
                    self.router.reports(item)
            case m.News():
                self.children.news(link, item)
            case m.Ack():
                if self.registry.via(item.origin_uid) == uid:
                    self.router.ack(item)
            case m.Goodbye():
                self.children.goodbye(link, item)
            case m.Call():
                self.questions.from_below(link, uid, item)
            case m.Reply():
                self.questions.pass_on(item, from_above=False)
            case m.Evictions():
                self._evictions_from_below(link, uid, item.uids)
            case _:
                self.children.bad_frame(link, f"unexpected {type(item).__name__.lower()}")

    def _may_say(self, child: str, report: m.Report) -> bool:
        """For a target speaks the child below which it is. That a command was turned back also the one below which it
        was known last, for who turns it back may just have told that it is away."""
        if report.kind in (m.NO_ROUTE, m.BUSY):
            return self.registry.is_at_or_below(report.target_uid, child)
        return self.registry.via(report.target_uid) == child

    def _from_parent(self, event: ev.FromParent) -> None:
        link = event.link
        self.parents.heard(link)
        for item in event.items:
            if self.parents.item(link, item):
                continue
            match item:
                case m.Deliveries():
                    self.router.deliveries(item)
                case m.Deliver():
                    self.router.deliver(item)
                case m.Revoke():
                    self.router.revoke(item)
                case m.Ack():
                    self.router.ack(item)
                case m.Report():
                    self.router.report(item)
                case m.Reports():
                    self.router.reports(item)
                case m.Call() | m.Reply():
                    self.questions.pass_on(item, from_above=True)
                case m.Evictions():
                    self._learn_evictions(item.uids, but=link)
                case m.Away():
                    self._away(link, item)
                case m.Resync():
                    self._full_account(link)
                case _:
                    self.ctx.log("warning", "unexpected item from parent", item=type(item).__name__)

    def _link_lost(self, event: ev.LinkLost) -> None:
        if not self.children.link_lost(event.link, event.reason):
            self.parents.link_lost(event.link, event.reason)

    def _lane_full(self, event: ev.LaneFull) -> None:
        """What was to be said and found no room is state that is still owed: it is said anew, as it is then."""
        item = event.item
        if isinstance(item, m.Deliver | m.Deliveries):
            for deliver in item.items if isinstance(item, m.Deliveries) else (item,):
                for target in deliver.targets:
                    self.router.turn_back(deliver, target, m.BUSY, _BUSY_MS)
        elif event.link != self.parents.active_link:
            self.children.lane_full(event.link, item)
        elif isinstance(item, m.News):
            self.registry.untold(item.records)
            self._full_until = self.ctx.now + _FULL_WAIT
        elif isinstance(item, m.Evictions):
            self._evictions_owed.update(dict.fromkeys(item.uids))
            self._full_until = self.ctx.now + _FULL_WAIT

    def _attached(self, link: int, attachment: m.ClusterRecord) -> None:
        self.own.attached(attachment)
        self.own.set_home(key(cast(m.Alternate, self.parents.home)))
        self.registry.set_own(self.own.record())
        self.registry.told_nothing()
        owed, self._evictions_owed = self._evictions_owed, {}
        self._full_until = float("-inf")
        self._send_evictions(link, sorted(self.registry.evicted | owed.keys()))
        self.target.path_changed()

    def _detached(self, link: int) -> None:
        self.registry.set_own(self.own.record())

    def _standing_changed(self) -> None:
        """Tell the children, who are to go elsewhere while this cluster drains, stops, or is no member any more."""
        if self.children.draining != self._children_go:
            self.children.drain(self._children_go)
        else:
            self.children.announce()

    @property
    def _children_go(self) -> bool:
        return self._lets_go or self.parents.evicted or self.ctx.uid in self.registry.evicted

    def _memory_lost(self) -> None:
        """The disk was set back: what the old journal may have known must not run again."""
        self.target.memory_lost()
        self.origin.memory_lost()
        self._own_changed()

    # --- registry -------------------------------------------------------------------------------------------------

    @property
    def _has_news(self) -> bool:
        return self.registry.has_news or bool(self._evictions_owed)

    def _flush_news(self) -> None:
        """Tell the parent what is new, unless its lane has just been full."""
        if not self._has_news:
            return
        link, now = self.parents.active_link, self.ctx.now
        if link is None or now < self._full_until:
            return
        owed, self._evictions_owed = self._evictions_owed, {}
        self._send_evictions(link, list(owed))
        records = self.registry.news()
        if records:
            self._news_at = now + _NEWS_INTERVAL
            for batch in _batches(records):
                self.ctx.send(link, m.News(batch))

    def _send_evictions(self, link: int, uids: list[str]) -> None:
        for some in in_messages(uids):
            self.ctx.send(link, some)

    def _full_account(self, link: int) -> None:
        self.registry.news()
        batches = list(_batches(self.registry.account()))
        last = len(batches) - 1
        for index, batch in enumerate(batches):
            self.ctx.send(link, m.News(batch, full_begin=index == 0, full_end=index == last, part=index + 1))

    def _away(self, link: int, away: m.Away) -> None:
        below = self.registry.away(away, parent_knows=link == self.parents.active_link)
        if below is not None:
            self.ctx.send(below, away)

    def _learn_evictions(self, uids: list[str], but: int | None) -> None:
        new = self.registry.take_evictions(uids)
        if new:
            self._tell_evictions(new, but)

    def _evictions_from_below(self, link: int, via: str, uids: list[str]) -> None:
        """A child may end those below itself. Of those that nobody here knows, the root decides."""
        registry = self.registry
        above = {step.uid for step in self.parents.path}
        below = [uid for uid in uids if registry.via(uid) == via]
        unknown = [
            uid
            for uid in uids
            if not self.children.is_leaf(link)
            and uid not in registry.entries
            and uid not in registry.evicted
            and uid not in above
        ]
        beside = [uid for uid in uids if uid in registry.entries and uid not in below]
        if beside:
            names = ", ".join(registry.entries[uid].name for uid in beside[:_NAMED])
            self.ctx.log("warning", "evictions of what is not below are not taken", child=via, members=names)
        up = self.parents.active_link
        if self.parents.is_root:
            below += unknown
        elif up is not None:
            self._send_evictions(up, unknown)
        else:  # the child says it once, at its attach, and this one may find a parent long after
            self._evictions_owed.update(dict.fromkeys(unknown[: max(0, _MOST_OWED - len(self._evictions_owed))]))
        new = registry.take_evictions(below)
        if new:
            self._tell_evictions(new, but=None)

    def _tell_evictions(self, uids: list[str], but: int | None) -> None:
        for uid in uids:
            self.children.kick(uid, "EVICTED")
        links = [*self.children.links(), self.parents.active_link]
        for link in links:
            if link is not None and link != but:
                self._send_evictions(link, uids)
        if self.ctx.uid in uids:
            self._standing_changed()

    def _evict(self, event: ev.Evict) -> None:
        entry = self.registry.get(event.uid)
        if entry is None and not self.parents.is_root:
            error = NotFound("CLUSTER_NOT_FOUND", f"no cluster {event.uid} is known here")
            self.ctx.emit(fx.Answer(event.request, error=error))
            return
        left = None if self.parents.is_root else self.registry.left_with(event.uid)
        if left is not None:
            where = f" to {left.away_parent}" if left.away_parent else ""
            message = f"{left.name} has gone{where}, out of reach of {self.ctx.name}: evict {event.uid} at the root"
            self.ctx.emit(fx.Answer(event.request, error=FailedPrecondition("CLUSTER_AWAY", message)))
            return
        delivered = entry is not None and self.registry.reaches_parent_of(entry)
        orphans = self.registry.evict(event.uid)
        self._tell_evictions([event.uid], but=None)
        self.ctx.barrier()
        self.ctx.emit(fx.Answer(event.request, (event.uid, orphans, delivered)))

    def _gone(self, uid: str) -> None:
        self.origin.gone(uid)
        self.target.origin_gone(uid)

    def _submit_many(self, event: ev.SubmitMany) -> None:
        for submit in event.submits:
            self.origin.submit(submit)

    # --- the cluster itself ---------------------------------------------------------------------------------------

    def _own_changed(self) -> None:
        self.own.changed()
        self.registry.set_own(self.own.record())

    def _shim_up(self, event: ev.ShimUp) -> None:
        if self.own.set_shim(event):
            self._own_changed()
        self.target.shim_up(event)

    def _shim_silent(self, event: ev.ShimSilent) -> None:
        if self.own.set_shim_silent(event.since_ms):
            self._own_changed()

    def _tell_clones(self, names: tuple[str, ...]) -> None:
        self.own.set_clones(names)
        self.registry.set_own(self.own.record())

    def _publish_status(self, cluster_status: bytes, totals: m.Totals) -> None:
        self.own.set_status(cluster_status, totals)
        self.registry.set_own(self.own.record())

    def _facts_change(self, event: ev.FactsChange) -> None:
        try:
            self.own.change(event)
        except InvalidArgument as error:
            self.ctx.emit(fx.FinishHere(event.key, FAILED, error.reason, error.message))
            return
        self.registry.set_own(self.own.record())
        self.ctx.emit(fx.FinishHere(event.key, SUCCEEDED, "", ""))

    def _drain(self, on: bool) -> None:
        self._lets_go = on
        self.children.drain(self._children_go)
        self.own.set_draining(on, self._self.draining_since_ms)
        self.registry.set_own(self.own.record())

    def _drain_asked(self, event: ev.DrainAsked) -> None:
        if not event.off and self.parents.is_root:
            self.ctx.emit(fx.FinishHere(event.key, FAILED, "ROOT_CANNOT_DRAIN", ROOT_CANNOT_DRAIN))
            return
        if not event.off and not self.registry.own.facts.advertise:
            self.ctx.emit(fx.FinishHere(event.key, SUCCEEDED, "NOTHING_TO_DRAIN", NOTHING_TO_DRAIN))
            return
        if self._self.draining == event.off:
            self._self.draining_since_ms = 0 if event.off else event.since_ms
        self._self.draining = not event.off
        self.ctx.put_self(self._self)
        self.ctx.barrier()
        self._drain(not event.off)
        if event.off:
            self.ctx.emit(fx.FinishHere(event.key, SUCCEEDED, "", "children are welcome again"))
            return

        moved = "all children have moved" if self.children.remaining() else "it has no children, and takes none now"

        def done(stayed: list[str]) -> None:
            if stayed:
                names = ", ".join(sorted(stayed))
                self.ctx.emit(fx.FinishHere(event.key, FAILED, "CHILDREN_STAYED", f"could not move: {names}"))
            else:
                self.ctx.emit(fx.FinishHere(event.key, SUCCEEDED, "", moved))

        self._waiting.append(_Waiting(self.ctx.now + event.timeout, done))

    def _stop(self, event: ev.Stop) -> None:
        self._drain(True)

        def leave(stayed: list[str]) -> None:
            self.parents.stop()
            self._stopping = (event.request, stayed)

        grace = 0.0 if self.parents.is_root else event.grace  # a root has nobody to hand its children to
        self._waiting.append(_Waiting(self.ctx.now + grace, leave))
        names = self._names(self.children.remaining())
        if names and grace:
            text = "waiting for the children to move; a second signal ends at once"
            self.ctx.log("info", text, children=len(names), among_them=names[:_NAMED], at_most=grace)

    def _names(self, uids: Iterable[str]) -> list[str]:
        return [entry.name if (entry := self.registry.get(uid)) else uid for uid in uids]

    def _check_waiting(self) -> None:
        stayed = self.children.remaining()
        moved = not stayed and not self.registry.has_leaving
        due = [waiting for waiting in self._waiting if moved or waiting.until <= self.ctx.now]
        if due:
            names = self._names(stayed)
            self._waiting = [waiting for waiting in self._waiting if waiting not in due]
            for waiting in due:
                waiting.done(names)

    # --- ends of dispatches (router.Ends) -------------------------------------------------------------------------

    def deliver(self, deliver: m.Deliver, target: m.DeliveryTarget) -> None:
        self.target.deliver(deliver, target)

    def revoke(self, revoke: m.Revoke, target: m.DeliveryTarget) -> None:
        self.target.revoke(revoke, target)

    def acknowledged(self, ack: m.Ack) -> None:
        self.target.ack(ack)

    def reported(self, report: m.Report) -> None:
        self.origin.report(report)

    # --- time -----------------------------------------------------------------------------------------------------

    def _wake(self, now: float) -> None:
        if self._due is None or now < self._due:
            return
        for part in self._parts:
            due = part.next_wake()
            if due is not None and due <= now:
                part.wake()

    def _after(self) -> None:
        connected = self.parents.connected
        if connected != self._was_connected:
            self._was_connected, self.connected_since = connected, self.ctx.now
        self.target.flush()
        self.router.flush()
        if self._waiting:
            self._check_waiting()
        if self._stopping is not None and self.parents.stopped:
            (request, stayed), self._stopping = self._stopping, None
            self.ctx.emit(fx.Answer(request, stayed))
        news_at = max(self._news_at, self._full_until)
        waits = self._has_news and self.parents.active_link is not None
        if waits and self.ctx.now >= news_at:
            self._flush_news()
            waits = False
        times = [due for part in self._parts if (due := part.next_wake()) is not None]
        if self._waiting:
            times += [waiting.until for waiting in self._waiting]
        if waits:
            times.append(news_at)
        at = self._due = min(times, default=None)
        if at is not None and (self._wake_at is None or at < self._wake_at):
            self.ctx.emit(fx.WakeAt(at))
            self._wake_at = at


def _size(record: m.ClusterRecord) -> int:
    facts, status = record.facts, record.status
    size = 400
    if facts is not None:
        size += 160 + sum(len(k) + len(v) + 8 for k, v in facts.labels.items()) + sum(len(t) + 4 for t in facts.tags)
    if status is not None:
        size += 160 + len(status.cluster_status) + sum(len(kind) + 12 for kind in status.totals.workloads)
    return size


def _batches(records: Iterable[m.ClusterRecord]) -> Iterable[list[m.ClusterRecord]]:
    """Split records, of which there are some, into messages of at most about 24 KiB."""
    batch: list[m.ClusterRecord] = []
    room = _NEWS_BYTES
    for record in records:
        size = _size(record)
        if batch and size > room:
            yield batch
            batch, room = [], _NEWS_BYTES
        batch.append(record)
        room -= size
    yield batch
