"""A cluster without a machine: time is a number, ports and names are counted, and every effect is written down."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import yaml

from ote.shims.local.core import manifest
from ote.shims.local.core.cluster import Changes, Cluster, Effect, Launch, Stop
from ote.shims.local.core.names import KINDS, Key, key_of
from ote.shims.local.core.records import Pod
from ote.shims.local.core.workloads import Backoff


class CountedSource:
    """Names and ports in the order in which they are asked for; ports in `busy` are taken by somebody else."""

    def __init__(self) -> None:
        self._uids, self._suffixes, self._ports = itertools.count(1), itertools.count(1), itertools.count(40001)
        self.busy: set[int] = set()

    def uid(self) -> str:
        return f"uid-{next(self._uids)}"

    def suffix(self) -> str:
        return f"x{next(self._suffixes):04}"

    def port(self, preferred: int) -> int:
        return preferred if preferred and preferred not in self.busy else next(self._ports)


class World:
    """A cluster, its time, and the containers that would run. steady_cap: 0 makes them ready as soon as they run."""

    def __init__(self, steady_cap: float = 0.0) -> None:
        self.now = 1_000.0
        self.source = CountedSource()
        self.cluster = Cluster(self.source, Backoff(base=1.0, cap=60.0, reset_after=100.0, steady_cap=steady_cap))
        self.effects: list[Effect] = []
        self.saved_objects: dict[Any, Any] = {}
        self.saved_pods: dict[str, Any] = {}
        self.cluster.load([], [], self.now)
        self.settle()

    def apply(self, text: str) -> list[tuple[str, str]]:
        manifests = manifest.check(yaml.safe_load_all(text), needs="command")
        problems = self.cluster.check(manifests)
        assert not problems, problems
        actions = self.cluster.apply(manifests, self.now)
        self.settle()
        return [(str(one.key), one.action) for one in actions]

    def problems(self, text: str) -> list[str]:
        return self.cluster.check(manifest.check(yaml.safe_load_all(text), needs="command"))

    def delete(self, *references: str) -> list[str]:
        actions = self.cluster.delete([self.key(reference) for reference in references], self.now)
        self.settle()
        return [one.action for one in actions]

    def key(self, reference: str) -> Key:
        kind, *rest = reference.split("/")
        return key_of(KINDS[kind], rest[0] if len(rest) > 1 else "", rest[-1])

    def settle(self) -> Changes:
        """Takes what came out, as a shell would: records to its store, effects to its list."""
        changes = self.cluster.take()
        self.saved_objects = _saved({**self.saved_objects, **changes.objects})
        self.saved_pods = _saved({**self.saved_pods, **changes.pods})
        self.effects.extend(changes.effects)
        return changes

    def take(self, kind: type[Effect]) -> list[Any]:
        """The effects of a kind since the last time somebody asked for them."""
        found = [effect for effect in self.effects if isinstance(effect, kind)]
        self.effects = [effect for effect in self.effects if not isinstance(effect, kind)]
        return found

    def run(self, *, ready: bool = True) -> list[Launch]:
        """Starts all that is to be started; probes answer well if ready."""
        launches = self.take(Launch)
        for launch in launches:
            self.cluster.started(launch.uid, launch.container, launch.attempt, self.now)
            probe = self.cluster.pods[launch.uid].typed.container(launch.container).readiness_probe
            if ready and probe is not None:
                self.cluster.probed(launch.uid, launch.container, launch.attempt, False, "", self.now)
            self.settle()
        return launches

    def run_all(self) -> None:
        """Goes on until nothing is to be started or stopped."""
        while any(isinstance(effect, Launch | Stop) for effect in self.effects):
            self.run()
            self.obey()

    def obey(self, code: int = 143) -> list[Stop]:
        """Ends all that is to be stopped."""
        stops = self.take(Stop)
        for stop in stops:
            self.end(stop.uid, stop.container, code)
        return stops

    def end(self, uid: str, container: str, code: int | None, message: str = "") -> None:
        attempt = self.cluster.pods[uid].container(container).attempt
        self.cluster.ended(uid, container, attempt, code, message, self.now)
        self.settle()

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.cluster.tick(self.now)
        self.settle()

    def pods(self, reference: str) -> list[Pod]:
        return self.cluster.pods_of(self.key(reference))

    def only_pod(self, reference: str) -> Pod:
        (pod,) = self.pods(reference)
        return pod


def _saved(records: dict[Any, Any]) -> dict[Any, Any]:
    return {name: record for name, record in records.items() if record is not None}


@pytest.fixture
def world() -> World:
    return World()
