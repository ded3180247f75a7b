"""Random histories of an origin and a target: loss, doubling, reordering, crashes, cancels, time.

Promises: at most one effect for each change, exactly one where it says SUCCEEDED, none where it says CANCELLED, EXPIRED
or UNREACHABLE; effects in the order of acceptance; once all is well again, every target final and nothing left over.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import CoreSettings
from ote.clustercontroller.core.states import FINAL
from tests.unit.clustercontroller.core.dispatch_ends import E1, OriginEnd, Shim, TargetEnd, online


class History:
    """R and e1 with a net between them that does as `rng` says, and disks that commit late."""

    def __init__(self, seed: int, durable: bool) -> None:
        self.rng = random.Random(seed)
        tuning = CoreSettings(hold_limit=4, unknown_after=1e9)
        self.clusters = online(E1)
        self.origin = OriginEnd(self.clusters, tuning, held=True)
        self.target = TargetEnd(tuning, held=True)
        self.shim = Shim(durable)
        self.target.shim_up(self.shim)
        self.net: list[m.Deliver | m.Revoke | m.Ack | m.Report] = []
        self.calls: list[fx.Execute] = []
        self.order: list[str] = []
        self.accepted = 0
        self.shim_restarts = 0

    def now(self, seconds: float) -> None:
        self.origin.pass_time(seconds)
        self.target.pass_time(seconds)

    def gather(self) -> None:
        self.net += self.origin.sent
        self.net += self.target.reports
        self.origin.sent, self.target.reports = [], []
        for effect in self.target.done:
            if isinstance(effect, fx.Execute):
                self.calls.append(effect)
            elif isinstance(effect, fx.CancelExecution):
                self.shim.cancel(effect.key)
        self.target.done = []

    def carry(self, item: m.Deliver | m.Revoke | m.Ack | m.Report) -> None:
        target = self.target
        match item:
            case m.Deliver():
                target.handle(lambda: target.target.deliver(item, item.targets[0]))
            case m.Revoke():
                target.handle(lambda: target.target.revoke(item, item.targets[0]))
            case m.Ack():
                target.handle(lambda: target.target.ack(item))
            case m.Report():
                self.origin.handle(lambda: self.origin.origin.report(item))

    # what may happen

    def submit(self) -> None:
        self.accepted += 1
        name = f"d{self.accepted}"
        self.origin.submit(name, E1, ttl=self.rng.choice([20.0, 3600.0]))
        self.order.append(name)

    def cancel(self) -> None:
        if self.order:
            self.origin.cancel(self.rng.choice(self.order))

    def arrive(self) -> None:
        if self.net:
            self.carry(self.net.pop(self.rng.randrange(len(self.net))))

    def double(self) -> None:
        later = [item for item in self.net if not isinstance(item, m.Deliver)]
        if later:
            self.carry(self.rng.choice(later))

    def lose(self) -> None:
        if self.net:
            self.net.pop(self.rng.randrange(len(self.net)))

    def turn_back(self) -> None:
        deliveries = [item for item in self.net if isinstance(item, m.Deliver)]
        if deliveries:
            item = self.rng.choice(deliveries)
            self.net.remove(item)
            kind = self.rng.choice([m.NO_ROUTE, m.BUSY])
            report = m.Report(item.origin_uid, 1, item.dispatch_id, E1, kind, attempt=item.targets[0].attempt)
            self.net.append(report)

    def run_shim(self) -> None:
        if self.calls:
            call = self.calls.pop(self.rng.randrange(len(self.calls)))
            state = self.shim.execute(call.key)
            if self.rng.random() < 0.8:
                event = ev.ShimResult(call.key, state, b"")
                self.target.handle(lambda: self.target.target.result(event))
            elif self.rng.random() < 0.5:
                done = ev.ShimProgress(call.key, b"", effect_done=True)
                self.calls.append(call)
                if state == "SUCCEEDED":
                    self.target.handle(lambda: self.target.target.progress(done))
            else:
                self.target.handle(lambda: self.target.target.lost(ev.ShimLost(call.key, "")))

    def commit(self) -> None:
        self.rng.choice([self.origin.commit, self.target.commit])()

    def crash_origin(self) -> None:
        self.origin.crash()

    def crash_target(self) -> None:
        self.target.crash()
        self.calls = []
        self.target.shim_up(self.shim)

    def restart_shim(self) -> None:
        self.shim.restart()
        self.shim_restarts += 1
        calls, self.calls = self.calls, []
        for call in calls:
            self.target.handle(lambda call=call: self.target.target.lost(ev.ShimLost(call.key, "")))  # type: ignore[misc]
        self.target.shim_up(self.shim)

    def cut(self) -> None:
        self.clusters.up.symmetric_difference_update({E1})
        self.origin.paths(E1)

    def path(self) -> None:
        self.origin.paths(E1)
        self.target.handle(self.target.target.path_changed)

    def wait(self) -> None:
        self.now(self.rng.choice([0.3, 3.0, 30.0]))

    def step(self) -> None:
        often: list[Callable[[], None]] = [self.submit, self.arrive, self.arrive, self.arrive, self.commit, self.commit]
        often += [self.run_shim, self.run_shim, self.wait]
        rare = [self.cancel, self.double, self.lose, self.turn_back, self.cut, self.path]
        rare += [self.crash_origin, self.crash_target, self.restart_shim]
        self.rng.choice(often if self.rng.random() < 0.75 else rare)()
        self.gather()

    def heal(self) -> None:
        self.clusters.up.add(E1)
        self.path()
        for _ in range(60):
            for _ in range(8):
                self.origin.commit()
                self.target.commit()
                self.gather()
                waiting, self.net = self.net, []
                for item in waiting:
                    self.carry(item)
                calls, self.calls = self.calls, []
                for call in calls:
                    event = ev.ShimResult(call.key, self.shim.execute(call.key), b"")
                    self.target.handle(lambda event=event: self.target.target.result(event))  # type: ignore[misc]
            self.now(30.0)

    def check(self, durable: bool) -> None:
        effects = [key.partition("/")[2] for key in self.shim.effects]
        assert len(effects) == len(set(effects)), "no effect twice"
        numbers = [int(name[1:]) for name in effects]
        assert numbers == sorted(numbers), "in the order of acceptance"
        for name in self.order:
            dispatch = self.origin.origin.dispatch(name)
            if dispatch is None:
                continue
            state = dispatch.targets[E1].row.state
            assert state in FINAL, f"{name} is final"
            if state == "SUCCEEDED":
                assert name in effects
            elif state != "OUTCOME_UNKNOWN":
                assert name not in effects, f"{name} {state}"
            assert state != "OUTCOME_UNKNOWN" or (self.shim_restarts and not durable)
        assert self.origin.origin.unsettled == 0
        assert self.target.target.unsettled == 0
        assert not self.target.disk.tables.get("journal")
        self.target.reports.clear()
        self.target.handle(self.target.target.path_changed)
        assert not self.target.reports, "no result is said again"


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10**9), durable=st.booleans(), steps=st.integers(10, 150))
def test_ends_keep_their_promises_through_any_history(seed: int, durable: bool, steps: int) -> None:
    history = History(seed, durable)
    for _ in range(steps):
        history.step()
    history.heal()
    history.submit()
    history.heal()
    history.check(durable)
