"""Owns the cluster's state: one thing happens after the other, is committed, and only then has consequences.

Not here: the decisions (`core.cluster`), processes (the driver), commands (`commands`). The one idea: whoever wants a
change hands in a function; all that are waiting are applied in order and share one commit, whose effects follow it.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import structlog

from ote.model.errors import OteError
from ote.shims.local import probes
from ote.shims.local.core import environment
from ote.shims.local.core.cluster import Changes, Clean, Cluster, Effect, Launch, Refresh, Stop
from ote.shims.local.core.names import Key
from ote.shims.local.core.records import Pod, Stored
from ote.shims.local.core.workloads import Backoff
from ote.shims.local.ports import Driver, Ended, Plan
from ote.store.sqlite import Put, Remove, Store, Write

OBJECTS, PODS = "objects", "pods"
"""Tables of the store."""

T = TypeVar("T")
_log = structlog.get_logger("ote.shims.local")
_RETRY_SECONDS = 1.0
_SUFFIX = "bcdfghjklmnpqrstvwxz2456789"
_Probe = tuple[str, str, int, bool]
"""Pod, container, attempt, and whether it is the liveness probe."""
_Change = tuple[Callable[[Cluster, float], Any], Callable[[Any], Sequence[Write]], "asyncio.Future[Any] | None"]


class Clock:
    """Unix time that never goes back and never jumps while the process lives."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Seconds since 1970."""
        return time.monotonic() + self._offset


class MachineSource:
    """New names by chance, and ports that this machine has free. holds: whether a driver keeps a port for itself."""

    def __init__(self, holds: Callable[[int], bool] = lambda port: False) -> None:
        self._holds = holds

    def uid(self) -> str:
        """A random UUID."""
        return str(uuid.uuid4())

    def suffix(self) -> str:
        """Five random letters and digits, without vowels."""
        return "".join(random.choices(_SUFFIX, k=5))

    def port(self, preferred: int) -> int:
        """A port on which nobody listens now."""
        if preferred and self._holds(preferred):
            return preferred
        for wish in (preferred, 0):
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("", wish))
                except OSError:
                    continue
                return int(probe.getsockname()[1])
        return preferred


class Keeper:
    """The cluster with its store and its driver. `load` first, then `run`."""

    def __init__(
        self, store: Store, driver: Driver, *, backoff: Backoff = Backoff(), clock: Clock | None = None
    ) -> None:
        self.clock = clock or Clock()
        self.cluster = Cluster(MachineSource(driver.holds), backoff)
        self.changed = asyncio.Condition()
        """Notified after each commit that changed the cluster."""
        self.trouble = ""
        """Why nothing can be committed; empty when all is well."""
        self._store = store
        self._driver = driver
        self._waiting: list[_Change] = []
        self._answers: dict[_Probe, str] = {}
        """The newest answer of each probe that was not looked at yet."""
        self._work = asyncio.Event()
        self._attempts: dict[tuple[str, str, int], asyncio.Task[None]] = {}
        self._chores: set[asyncio.Task[None]] = set()

    def load(self) -> dict[str, dict[str, int]]:
        """Reads what an earlier process committed. Returns the last attempt of each container, by the pod's uid."""
        objects = [msgspec.msgpack.decode(value, type=Stored) for _, value in self._store.load(OBJECTS)]
        pods = [msgspec.msgpack.decode(value, type=Pod) for _, value in self._store.load(PODS)]
        attempts = {pod.uid: {container.name: container.attempt for container in pod.containers} for pod in pods}
        self.cluster.load(objects, pods, self.clock.now())
        self._work.set()
        return attempts

    async def run(self) -> None:
        """Applies changes until it is cancelled; what runs then goes on running."""
        try:
            while True:
                await self._wait_for_work()
                await self._turn()
        finally:
            for task in (*self._attempts.values(), *self._chores):
                task.cancel()

    async def change(
        self, action: Callable[[Cluster, float], T], also: Callable[[T], Sequence[Write]] = lambda result: ()
    ) -> T:
        """Applies a change; returns its result when it is on disk, together with the writes that `also` makes of it."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._hand_in((action, also, done))
        return await asyncio.shield(done)

    def report(self, action: Callable[[Cluster, float], object], writes: Sequence[Write] = ()) -> None:
        """Applies a change that nobody waits for, together with some writes."""
        self._hand_in((action, lambda result: writes, None))

    async def tidied(self) -> None:
        """Returns when what was decided is on disk, and what follows from it, such as removing folders, is done."""
        await self.change(lambda cluster, now: None)
        while self._chores:
            await asyncio.wait(self._chores)

    async def next_change(
        self, version: int, seconds: float | None = None, *, or_when: Callable[[], bool] = lambda: False
    ) -> None:
        """Returns when the cluster is past a version, something else holds (tell `changed`), or the time is over."""
        async with self.changed:
            try:
                async with asyncio.timeout(seconds):
                    await self.changed.wait_for(lambda: self.cluster.version != version or or_when())
            except TimeoutError:
                return

    def plan(self, pod: Pod, name: str) -> Plan:
        """What a container is made from, as things are now."""
        state, wanted, lookup = pod.container(name), pod.typed.container(name), self.cluster.lookup
        fields = {
            "metadata.name": pod.name,
            "metadata.namespace": pod.namespace,
            "metadata.uid": pod.uid,
            "status.podIP": "127.0.0.1",
        }
        base = self._driver.base_variables(pod, wanted, state.ports)
        variables = environment.variables(wanted, fields, base, pod.namespace, lookup)
        command = [environment.expand(word, variables) for word in (*wanted.command, *wanted.args)]
        return Plan(
            pod=pod,
            container=wanted,
            attempt=state.attempt,
            ports=list(state.ports),
            command=command,
            variables=variables,
            volumes=self._volumes(pod),
            siblings=lambda: [self.plan(pod, container.name) for container in pod.containers],
        )

    def _volumes(self, pod: Pod) -> dict[str, Sequence[environment.VolumeFile] | None]:
        lookup = self.cluster.lookup
        return {volume.name: environment.volume_files(volume, pod.namespace, lookup) for volume in pod.typed.volumes}

    def _hand_in(self, change: _Change) -> None:
        self._waiting.append(change)
        self._work.set()

    async def _wait_for_work(self) -> None:
        wake_at = self.cluster.wake_at
        try:
            async with asyncio.timeout(None if wake_at is None else max(wake_at - self.clock.now(), 0.0)):
                await self._work.wait()
        except TimeoutError:
            pass
        self._work.clear()

    async def _turn(self) -> None:
        waiting, self._waiting = self._waiting, []
        answers, self._answers = self._answers, {}
        writes: list[Write] = []
        done: list[tuple[asyncio.Future[Any], Any]] = []
        before = self.cluster.version
        for action, also, future in waiting:
            try:
                result = action(self.cluster, self.clock.now())
                writes.extend(also(result))
            except Exception as error:  # of whoever asked: it is told, the others of this turn go on
                if future is None:
                    raise
                if not future.done():
                    future.set_exception(error)
                continue
            if future is not None:
                done.append((future, result))
        for (uid, name, attempt, liveness), message in answers.items():
            self.cluster.probed(uid, name, attempt, liveness, message, self.clock.now())
        self.cluster.tick(self.clock.now())
        changes = self.cluster.take()
        writes.extend(_writes(changes))
        if writes:
            await self._commit(writes)
        for future, result in done:
            if not future.done():
                future.set_result(result)
        for effect in changes.effects:
            self._carry_out(effect)
        if self.cluster.version != before or changes.objects or changes.pods:
            async with self.changed:
                self.changed.notify_all()

    async def _commit(self, writes: Sequence[Write]) -> None:
        """Commits; while the disk refuses, nothing else happens and nobody is told anything."""
        while True:
            try:
                await self._store.commit(writes)
            except OteError as error:
                self.trouble = error.message
                _log.error("commit failed, trying again", reason=error.reason, error=error.message)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                self.trouble = ""
                return

    def _carry_out(self, effect: Effect) -> None:
        pod = self.cluster.pods.get(effect.uid)
        if isinstance(effect, Clean):
            self._chore(self._driver.clean(effect.uid), f"clean {effect.uid}")
        elif pod is None:
            return
        elif isinstance(effect, Refresh):
            self._chore(self._driver.refresh(pod, self._volumes(pod)), f"refresh {pod.name}")
        elif isinstance(effect, Stop):
            if (effect.uid, effect.container, effect.attempt) in self._attempts:
                stop = self._driver.stop(pod, effect.container, effect.attempt, effect.grace)
                self._chore(stop, f"stop {pod.name}")
        else:
            self._launch(pod, effect)

    def _launch(self, pod: Pod, effect: Launch) -> None:
        key = (effect.uid, effect.container, effect.attempt)
        task = asyncio.create_task(
            self._attempt(self.plan(pod, effect.container), effect.adopt), name=f"pod {pod.name}"
        )
        self._attempts[key] = task
        task.add_done_callback(lambda _: self._attempts.pop(key, None))

    async def _attempt(self, plan: Plan, adopt: bool) -> None:
        uid, name, attempt = plan.pod.uid, plan.container.name, plan.attempt
        asking: list[asyncio.Task[None]] = []
        log = _log.bind(pod=plan.pod.name, namespace=plan.pod.namespace, container=name, attempt=attempt)

        def started() -> None:
            log.info("container adopted" if adopt else "container started")
            self.report(lambda cluster, now: cluster.started(uid, name, attempt, now))
            asking.extend([] if asking else self._probe(plan))

        try:
            ended = await (self._adopt(plan, started) if adopt else self._driver.run(plan, started))
        except Exception as error:  # whatever a driver does wrong is the end of that container alone
            log.exception("container lost")
            ended = Ended(128, f"the driver failed: {error}")
        finally:
            for task in asking:
                task.cancel()
        log.info("container ended", exit_code=ended.exit_code, why=ended.message)
        self.report(lambda cluster, now: cluster.ended(uid, name, attempt, ended.exit_code, ended.message, now))

    async def _adopt(self, plan: Plan, started: Callable[[], None]) -> Ended:
        """The driver's `adopt`. Where the machine does not let it look, as when too many files are open, nothing is
        known, and to call that an end would be to start it beside itself."""
        while True:
            try:
                return await self._driver.adopt(plan, started)
            except OSError as error:
                _log.warning("cannot look for a container, trying again", pod=plan.pod.name, error=str(error))
            await asyncio.sleep(_RETRY_SECONDS)

    def _probe(self, plan: Plan) -> list[asyncio.Task[None]]:
        uid, name, attempt = plan.pod.uid, plan.container.name, plan.attempt
        tasks = []
        for liveness, probe in ((False, plan.container.readiness_probe), (True, plan.container.liveness_probe)):
            if probe is None:
                continue

            def answer(message: str, liveness: bool = liveness) -> None:
                self._answers[uid, name, attempt, liveness] = message
                self._work.set()

            asking = probes.ask_for_ever(self._driver, plan, probe, answer, eager=not liveness)
            task = asyncio.create_task(asking, name=f"probe {plan.pod.name}")
            task.add_done_callback(self._chore_done)
            tasks.append(task)
        return tasks

    def _chore(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._chores.add(task)
        task.add_done_callback(self._chore_done)

    def _chore_done(self, task: asyncio.Task[None]) -> None:
        self._chores.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("chore failed", chore=task.get_name(), exc_info=task.exception())


def _writes(changes: Changes) -> list[Write]:
    writes: list[Write] = []
    for key, stored in changes.objects.items():
        writes.append(_write(OBJECTS, _row(key), stored))
    for uid, pod in changes.pods.items():
        writes.append(_write(PODS, uid, pod))
    return writes


def _write(table: str, row: str, record: Stored | Pod | None) -> Write:
    return Remove(table, row) if record is None else Put(table, row, msgspec.msgpack.encode(record))


def _row(key: Key) -> str:
    return "/".join(key)
