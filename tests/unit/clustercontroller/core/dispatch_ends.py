"""The two ends of a dispatch in virtual time: an `Origin` and a `Target`, each with a disk, and a shim.

The disk keeps copies, at once or at `commit`; `crash` loses what was not committed and everything in memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import Context, CoreSettings
from ote.clustercontroller.core.origin import Origin
from ote.clustercontroller.core.records import Self, TargetRow
from ote.clustercontroller.core.target import Target

R = "uid-R"
E1 = "uid-e1"
E2 = "uid-e2"


class Disk:
    """What survives. `held`: writes wait for `commit`, and so does what stands after a barrier."""

    def __init__(self, held: bool = False) -> None:
        self.tables: dict[str, dict[str, Any]] = {}
        self.held = held
        self._unwritten: list[fx.Put | fx.Remove] = []
        self._waiting: list[fx.Effect] = []
        self.writes: list[fx.Put | fx.Remove] = []

    def execute(self, effects: list[fx.Effect], act: Callable[[fx.Effect], None]) -> None:
        for effect in effects:
            if isinstance(effect, fx.Put | fx.Remove):
                self._unwritten.append(deepcopy(effect))
        waits = False
        for effect in effects:
            if isinstance(effect, fx.Barrier):
                waits = waits or bool(self._unwritten)
            elif isinstance(effect, fx.Put | fx.Remove):
                continue
            elif waits:
                self._waiting.append(effect)
            else:
                act(effect)
        if not self.held:
            self.commit(act)

    def commit(self, act: Callable[[fx.Effect], None]) -> None:
        unwritten, self._unwritten = self._unwritten, []
        waiting, self._waiting = self._waiting, []
        self.writes += unwritten
        for write in unwritten:
            rows = self.tables.setdefault(write.table, {})
            if isinstance(write, fx.Put):
                rows[write.key] = write.value
            else:
                rows.pop(write.key, None)
        for effect in waiting:
            act(effect)

    def lose(self) -> None:
        self._unwritten.clear()
        self._waiting.clear()

    def load(self) -> Mapping[str, Mapping[str, Any]]:
        return deepcopy(self.tables)


@dataclass
class Facts:
    journal_id: str


@dataclass
class Cluster:
    facts: Facts
    instance: str = "i1"


@dataclass
class Clusters:
    """A registry as far as an origin asks it: all clusters are children of R unless `below` says otherwise."""

    known: dict[str, Cluster] = field(default_factory=dict)
    up: set[str] = field(default_factory=set)
    below: dict[str, list[str]] = field(default_factory=dict)
    moving: set[str] = field(default_factory=set)
    """They count as online, and there is no way."""

    def get(self, uid: str) -> Cluster | None:
        return self.known.get(uid)

    def next_hop(self, uid: str) -> int | None:
        return 1 if uid in self.up else None

    def is_up(self, uid: str) -> bool:
        return uid in self.up | self.moving

    def descendants(self, uid: str) -> Iterator[str]:
        return iter(self.below.get(uid, []))


def context(uid: str, settings: CoreSettings, now: float, seed: int = 1) -> Context:
    return Context(
        uid, uid.removeprefix("uid-"), "instance", b"", settings, random.Random(seed), bytes, lambda *_: False, now=now
    )


class OriginEnd:
    """R as an origin, and everything it sends and answers. `turn_back`: uids whose deliveries the first hop refuses."""

    def __init__(self, clusters: Clusters, settings: CoreSettings | None = None, held: bool = False) -> None:
        self.clusters = clusters
        self.settings = settings or CoreSettings()
        self.now = 100.0
        self.disk = Disk(held)
        self.disk.tables["self"] = {"self": Self(journal_id="j-R")}
        self.sent: list[m.Deliver | m.Revoke | m.Ack] = []
        self.done: list[fx.Effect] = []
        self.turn_back: set[str] = set()
        self._requests = 0
        self.start()

    def start(self) -> None:
        self.ctx = context(R, self.settings, 0.0)
        self.own: Self = deepcopy(self.disk.tables["self"]["self"])
        self.origin = Origin(self.ctx, self.clusters, self, self.own)
        self.origin.load(self.disk.load())
        self.handle(lambda: None)

    def crash(self) -> None:
        self.disk.lose()
        self.start()

    # the router, as far as it is needed

    def deliver(self, deliver: m.Deliver) -> None:
        self.ctx.emit(fx.Send(1, deliver))
        for aim in deliver.targets:
            if aim.uid in self.turn_back:
                self.origin.report(
                    m.Report(R, deliver.incarnation, deliver.dispatch_id, aim.uid, m.NO_ROUTE, attempt=aim.attempt)
                )

    def revoke(self, revoke: m.Revoke) -> None:
        self.ctx.emit(fx.Send(1, revoke))

    def ack(self, ack: m.Ack) -> None:
        self.ctx.emit(fx.Send(1, ack))

    # events

    def handle(self, happen: Callable[[], None]) -> None:
        self.ctx.now = self.now
        due = self.origin.next_wake()
        if due is not None and due <= self.now:
            self.origin.wake()
        happen()
        effects, self.ctx.effects = self.ctx.effects, []
        self.disk.execute(effects, self._act)

    def _act(self, effect: fx.Effect) -> None:
        if isinstance(effect, fx.Send):
            assert isinstance(effect.item, m.Deliver | m.Revoke | m.Ack)
            self.sent.append(deepcopy(effect.item))
        else:
            self.done.append(effect)

    def commit(self) -> None:
        self.disk.commit(self._act)

    def submit(
        self,
        dispatch_id: str,
        *uids: str,
        command: str = "apply",
        ttl: float = 3600.0,
        digest: bytes = b"d",
        timeout: float = 0.0,
        payload: m.Payload | None = None,
    ) -> fx.Answer | None:
        self._requests += 1
        event = ev.Submit(
            self._requests,
            dispatch_id,
            digest,
            command,
            b"body",
            payload,
            [ev.SubmitTarget(uid, uid.removeprefix("uid-")) for uid in uids],
            ttl,
            timeout,
            "me",
            created=1_000_000.0,
        )
        self.handle(lambda: self.origin.submit(event))
        return self.answer()

    def cancel(self, dispatch_id: str) -> fx.Answer | None:
        self._requests += 1
        self.handle(lambda: self.origin.cancel(ev.CancelDispatch(self._requests, dispatch_id)))
        return self.answer()

    def answer(self) -> fx.Answer | None:
        found = [e for e in self.done if isinstance(e, fx.Answer) and e.request == self._requests]
        return found[0] if found else None

    def report(self, dispatch_id: str, uid: str, kind: str, **more: Any) -> None:
        more.setdefault("incarnation", 1)
        self.handle(lambda: self.origin.report(m.Report(R, dispatch_id=dispatch_id, target_uid=uid, kind=kind, **more)))

    def paths(self, *uids: str) -> None:
        self.handle(lambda: self.origin.paths_changed(uids))

    def pass_time(self, seconds: float) -> None:
        """Let time go by, waking whenever it was asked for."""
        until = self.now + seconds
        while (due := self.origin.next_wake()) is not None and due <= until:
            self.now = max(self.now, due)
            self.handle(lambda: None)
        self.now = until

    # what is seen

    def on_disk(self, dispatch_id: str, uid: str = E1) -> TargetRow:
        """A target as a restart would find it."""
        tables = self.disk.tables
        dispatch = next(row for row in tables["dispatches"].values() if row.id == dispatch_id)
        accepted: TargetRow = next(row for row in dispatch.targets if row.uid == uid)
        return tables.get("targets", {}).get(f"{dispatch.key}/{uid}", accepted)  # type: ignore[no-any-return]

    def state(self, dispatch_id: str, uid: str = E1) -> str:
        dispatch = self.origin.dispatch(dispatch_id)
        assert dispatch is not None
        return dispatch.targets[uid].row.state

    def reason(self, dispatch_id: str, uid: str = E1) -> str:
        dispatch = self.origin.dispatch(dispatch_id)
        assert dispatch is not None
        return dispatch.targets[uid].row.reason

    def take(self) -> list[tuple[Any, ...]]:
        """What was sent since the last call: ("deliver", id, [(uid, seq, after, attempt)]), ("revoke", id, expired,
        [uid]) and ("ack", [uid], [ids])."""
        sent, self.sent = self.sent, []
        lines: list[tuple[Any, ...]] = []
        for item in sent:
            if isinstance(item, m.Deliver):
                aims = [(aim.uid, aim.seq, aim.after, aim.attempt) for aim in item.targets]
                lines.append(("deliver", item.dispatch_id, aims))
            elif isinstance(item, m.Revoke):
                lines.append(("revoke", item.dispatch_id, item.expired, [aim.uid for aim in item.targets]))
            else:
                lines.append(("ack", item.target_uids, item.dispatch_ids))
        return lines


def online(*uids: str) -> Clusters:
    """Clusters that are up, and e1 and e2 known in any case."""
    known = {uid: Cluster(Facts(f"j-{uid}")) for uid in {E1, E2, *uids}}
    return Clusters(known, set(uids))


class Shim:
    """A cluster behind a shim: `effects` counts what happened in it. A durable one remembers ids over restarts."""

    def __init__(self, durable: bool = True) -> None:
        self.durable = durable
        self.instance = "s1"
        self.effects: list[str] = []
        self.memory: dict[str, str] = {}
        self._starts = 1

    def up(self) -> ev.ShimUp:
        commands = ["apply", "delete", "get", "logs", "noop"]
        return ev.ShimUp("memory", "shim", "1", commands, self.instance, self.durable, 1_000_000)

    def restart(self) -> None:
        self._starts += 1
        self.instance = f"s{self._starts}"
        if not self.durable:
            self.memory.clear()

    def cancel(self, key: str) -> None:
        self.memory.setdefault(key, "CANCELLED")

    def execute(self, key: str) -> str:
        """Run a command to its end, or answer what is remembered of it."""
        if key not in self.memory:
            self.effects.append(key)
            self.memory[key] = "SUCCEEDED"
        return self.memory[key]


class TargetEnd:
    """e1 as a target, everything it reports, and what it hands to its shim."""

    def __init__(
        self,
        settings: CoreSettings | None = None,
        *,
        allowed: frozenset[str] | None = None,
        has_shim: bool = True,
        held: bool = False,
    ) -> None:
        self.settings = settings or CoreSettings()
        self.allowed = allowed
        self.has_shim = has_shim
        self.now = 100.0
        self.disk = Disk(held)
        self.disk.tables["self"] = {"self": Self(journal_id="j-uid-e1")}
        self.reports: list[m.Report] = []
        self.done: list[fx.Effect] = []
        self.journals: list[str] = []
        self.start()

    def start(self, *, set_back: bool = False) -> None:
        self.ctx = context(E1, self.settings, 0.0)
        self.own: Self = deepcopy(self.disk.tables["self"]["self"])
        self.target = Target(self.ctx, self, self.own, self.allowed, has_shim=self.has_shim)
        self.target.on_journal_changed = lambda: self.journals.append(self.own.journal_id)
        self.target.load(self.disk.load(), set_back=set_back)
        self.handle(lambda: None)

    def crash(self, *, set_back: bool = False) -> None:
        self.disk.lose()
        self.start(set_back=set_back)

    def report(self, report: m.Report) -> None:
        self.ctx.emit(fx.Send(1, report))

    def handle(self, happen: Callable[[], None]) -> None:
        self.ctx.now = self.now
        due = self.target.next_wake()
        if due is not None and due <= self.now:
            self.target.wake()
        happen()
        self.target.flush()
        effects, self.ctx.effects = self.ctx.effects, []
        self.disk.execute(effects, self._act)

    def _act(self, effect: fx.Effect) -> None:
        if isinstance(effect, fx.Send):
            assert isinstance(effect.item, m.Report)
            self.reports.append(deepcopy(effect.item))
        else:
            self.done.append(effect)

    def commit(self) -> None:
        self.disk.commit(self._act)

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.target.next_wake()) is not None and due <= until:
            self.now = max(self.now, due)
            self.handle(lambda: None)
        self.now = until

    # events

    def deliver(self, dispatch_id: str, seq: int, after: int = 0, **more: Any) -> None:
        aim = m.DeliveryTarget(
            E1,
            more.pop("journal_id", "j-uid-e1"),
            seq,
            after,
            more.pop("attempt", 1),
            more.pop("known", False),
            more.pop("after_ended", False),
        )
        deliver = m.Deliver(
            origin_uid=more.pop("origin", R),
            origin_name="R",
            incarnation=more.pop("incarnation", 1),
            dispatch_id=dispatch_id,
            command=more.pop("command", "apply"),
            change=more.pop("change", True),
            inline=more.pop("inline", b"body"),
            payload=more.pop("payload", None),
            ttl_ms=1000,
            timeout_ms=5000,
            hop_limit=30,
            targets=[aim],
            **more,
        )
        self.handle(lambda: self.target.deliver(deliver, aim))

    def revoke(self, dispatch_id: str, seq: int, after: int = 0, *, expired: bool = False, **more: Any) -> None:
        journal, known, ended = (
            more.pop("journal_id", "j-uid-e1"),
            more.pop("known", False),
            more.pop("after_ended", False),
        )
        aim = m.DeliveryTarget(E1, journal, seq, after, 0, known, ended)
        revoke = m.Revoke(more.pop("origin", R), more.pop("incarnation", 1), dispatch_id, expired, 30, [aim])
        self.handle(lambda: self.target.revoke(revoke, aim))

    def ack(self, *dispatch_ids: str, origin: str = R) -> None:
        self.handle(lambda: self.target.ack(m.Ack(origin, [E1], list(dispatch_ids))))

    def shim_up(self, shim: Shim) -> None:
        self.handle(lambda: self.target.shim_up(shim.up()))

    def shim_down(self) -> None:
        self.handle(lambda: self.target.shim_down(ev.ShimDown("gone")))

    def progress(self, dispatch_id: str, body: bytes = b"", effect_done: bool = False) -> None:
        self.handle(lambda: self.target.progress(ev.ShimProgress(f"{R}/{dispatch_id}", body, effect_done)))

    def result(self, dispatch_id: str, state: str = "SUCCEEDED", body: bytes = b"ok", origin: str = R) -> None:
        self.handle(lambda: self.target.result(ev.ShimResult(f"{origin}/{dispatch_id}", state, body)))

    def lost(self, dispatch_id: str) -> None:
        self.handle(lambda: self.target.lost(ev.ShimLost(f"{R}/{dispatch_id}", "broken")))

    # what is seen

    def take(self) -> list[tuple[str, str, str]]:
        """What was reported since the last call: (kind, dispatch id, state)."""
        reports, self.reports = self.reports, []
        return [(report.kind, report.dispatch_id, report.state) for report in reports]

    def asked(self) -> list[tuple[str, str]]:
        """What was handed over since the last call: (effect, dispatch id)."""
        done, self.done = self.done, []
        return [
            (type(effect).__name__, effect.key.partition("/")[2])
            for effect in done
            if isinstance(
                effect,
                fx.Execute | fx.ExecuteHere | fx.FinishHere | fx.CancelExecution | fx.FetchPayload | fx.DropPayload,
            )
        ]
