"""Carries out commands: from the bytes of a manifest to a committed effect and a result that is remembered.

Not here: gRPC (`service`) and what an effect sets off (`keeper`). The one idea: a command lives on its own, in a task;
a call only listens to it, so losing the call changes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence

import msgspec
import structlog

from ote.api.command.v1 import command_pb2 as pb
from ote.model.errors import AlreadyExists, ResourceExhausted
from ote.shims.local import documents, replies
from ote.shims.local.core import names
from ote.shims.local.core.cluster import Cluster
from ote.shims.local.core.dispatches import Dispatch, Memory, Watching
from ote.shims.local.core.manifest import InvalidManifest, Manifest, Needs
from ote.shims.local.core.names import DEFAULT_NAMESPACE, Key
from ote.shims.local.keeper import Keeper
from ote.shims.local.processes import signal_group, spawn
from ote.store.sqlite import Put, Remove, Store, Write

DISPATCHES = "dispatches"
"""Table of the store."""
MAX_RUNNING = 1_000
"""Changes that may run at a time."""

_ANY_CONTENT = b""
_IN_PROCESS = 32 << 10
_CHECKS_AT_ONCE = 4
"""Processes that read large manifests: each may need a processor for minutes, and much memory."""
_CHECK_SECONDS = 180.0
_READY_TIMEOUT = 300.0
_ENDING_TIMEOUT = 90_000.0
_DEADLINE, _NOT_READY = "DEADLINE_EXCEEDED", "NOT_READY"
_log = structlog.get_logger("ote.shims.local")


class Running:
    """A change that has no result yet, and everybody who listens to it."""

    def __init__(self, dispatch_id: str, digest: bytes) -> None:
        self.dispatch_id = dispatch_id
        self.digest = digest
        self.cancel = asyncio.Event()
        self.progress: pb.Progress | None = None
        self.result: pb.Result | None = None
        self._news = asyncio.Event()

    def tell(self, *, progress: pb.Progress | None = None, result: pb.Result | None = None) -> None:
        """Hands news to all who listen."""
        self.progress = progress or self.progress
        self.result = result
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def listen(self) -> AsyncIterator[pb.Progress | pb.Result]:
        """What is known now, then all news, then the result. Slow listeners miss progress, never the result."""
        told: pb.Progress | None = None
        while True:
            news = self._news
            if self.progress is not None and self.progress is not told:
                told = self.progress
                yield told
            if self.result is not None:
                yield self.result
                return
            if news is self._news:
                await news.wait()


class Commands:
    """The changes of one shim. `load` first; `close` leaves those that run to the next process."""

    def __init__(self, keeper: Keeper, store: Store, *, needs: Needs) -> None:
        self._keeper = keeper
        self._store = store
        self._needs: Needs = needs
        self._memory = Memory()
        self._running: dict[str, Running] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._checking = asyncio.Semaphore(_CHECKS_AT_ONCE)

    def load(self) -> None:
        """Takes up what an earlier process remembered, and goes on observing what it observed. Before the keeper loads:
        what is awaited must be known before anything is removed that has had its time."""
        rows = self._store.load(DISPATCHES)
        known = [(row, msgspec.msgpack.decode(value, type=Dispatch)) for row, value in rows]
        for dispatch_id in self._memory.load(known):
            dispatch = self._memory.find(dispatch_id)
            if dispatch is not None and dispatch.watching is not None:
                self._keeper.cluster.hold(dispatch.watching.actions)
                observer = self._running[dispatch_id] = Running(dispatch_id, dispatch.digest)
                self._spawn(observer, self._watch(observer, dispatch.watching))

    def close(self) -> None:
        """Stops observing."""
        for task in self._tasks:
            task.cancel()

    def submit(self, dispatch_id: str, command: pb.Command, timeout: float | None) -> Running | pb.Result:
        """Begins a change, or finds it again: what runs, or the remembered result.

        Raises AlreadyExists for an id of other content, ResourceExhausted when too many run.
        """
        digest = hashlib.sha256(command.SerializeToString(deterministic=True)).digest()
        running = self._running.get(dispatch_id)
        if self._memory.conflicts(dispatch_id, digest) or (
            running is not None and running.digest not in (_ANY_CONTENT, digest)
        ):
            raise AlreadyExists(
                "DISPATCH_EXISTS", f"dispatch {dispatch_id} was used for another command; make a new id"
            )
        if running is not None:
            return running
        known = self._memory.find(dispatch_id)
        if known is not None and known.result is not None:
            return pb.Result.FromString(known.result)
        if len(self._running) >= MAX_RUNNING:
            raise ResourceExhausted("TOO_MANY_COMMANDS", f"{MAX_RUNNING} commands run already", retry_after=1.0)
        running = self._running[dispatch_id] = Running(dispatch_id, digest)
        deadline = None if timeout is None else self._keeper.clock.now() + timeout
        self._spawn(running, self._carry_out(running, command, deadline))
        return running

    async def cancel(self, dispatch_id: str) -> bool | None:
        """Asks a change to stop. True: it runs; False: it has ended; None: unknown, and cancelled from now on."""
        running = self._running.get(dispatch_id)
        if running is not None:
            running.cancel.set()
            return True
        if self._memory.find(dispatch_id) is not None:
            return False
        cancelled = self._running[dispatch_id] = Running(dispatch_id, _ANY_CONTENT)
        self._spawn(cancelled, _at_once(replies.cancelled()))
        async for _ in cancelled.listen():
            continue
        return None

    def forget(self, dispatch_ids: Sequence[str]) -> None:
        """Forgets what will not be asked for again."""
        gone = self._memory.forget(dispatch_ids)
        if gone:
            writes: list[Write] = [Remove(DISPATCHES, name) for name in gone]
            self._keeper.report(lambda cluster, now: None, writes)

    def _spawn(self, running: Running, work: Coroutine[None, None, pb.Result]) -> None:
        task = asyncio.create_task(self._live(running, work), name=f"command {running.dispatch_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _live(self, running: Running, work: Coroutine[None, None, pb.Result]) -> None:
        try:
            result = await work
        except Exception as error:  # a fault of ours is that command's result, and not that of the others
            _log.exception("command failed unexpectedly", dispatch=running.dispatch_id)
            result = replies.failed("INTERNAL", f"{type(error).__name__}: {error}")
        known = self._memory.find(running.dispatch_id)
        if known is None or known.result is None:
            done = _finished(running, result)
            self._memory.remember(running.dispatch_id, done)
            awaited = known.watching.actions if known is not None and known.watching is not None else ()
            await self._keeper.change(
                lambda cluster, now: cluster.release(awaited, now), lambda _: [_row(running.dispatch_id, done)]
            )
        del self._running[running.dispatch_id]
        running.tell(result=result)

    async def _carry_out(self, running: Running, command: pb.Command, deadline: float | None) -> pb.Result:
        if command.WhichOneof("kind") == "noop":
            return replies.cancelled() if running.cancel.is_set() else replies.succeeded([])
        preparing = asyncio.create_task(self._prepare(command), name=f"prepare {running.dispatch_id}")
        cancelling = asyncio.create_task(running.cancel.wait())
        try:
            patience = None if deadline is None else max(deadline - self._keeper.clock.now(), 0.0)
            await asyncio.wait((preparing, cancelling), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if running.cancel.is_set():
                return replies.cancelled()
            if not preparing.done():
                return replies.failed(_DEADLINE, "the time was over before the manifests were read; nothing was done")
            prepared = await preparing
        except InvalidManifest as error:
            return replies.failed("INVALID_MANIFEST", str(error))
        finally:
            preparing.cancel()
            cancelling.cancel()
        patience = _READY_TIMEOUT if command.HasField("apply") else _ENDING_TIMEOUT
        if command.apply.HasField("ready_timeout"):
            patience = max(command.apply.ready_timeout.ToNanoseconds() / 1e9, 0.0)
        return await self._take_effect(running, prepared, patience, deadline)

    async def _take_effect(
        self,
        running: Running,
        prepared: Sequence[Manifest | Key],
        patience: float,
        deadline: float | None,
    ) -> pb.Result:
        def act(cluster: Cluster, now: float) -> Dispatch:
            dispatch = self._effect(running, prepared, cluster, now + patience, deadline)
            self._memory.remember(running.dispatch_id, dispatch)
            return dispatch

        dispatch = await self._keeper.change(act, lambda done: [_row(running.dispatch_id, done)])
        if dispatch.watching is None:
            return pb.Result.FromString(dispatch.result or b"")
        return await self._watch(running, dispatch.watching)

    def _effect(
        self,
        running: Running,
        prepared: Sequence[Manifest | Key],
        cluster: Cluster,
        until: float,
        deadline: float | None,
    ) -> Dispatch:
        if running.cancel.is_set():
            return _finished(running, replies.cancelled())
        now = self._keeper.clock.now()
        manifests = [one for one in prepared if isinstance(one, Manifest)]
        problems = cluster.check(manifests)
        if problems:
            return _finished(running, replies.failed("INVALID_MANIFEST", str(InvalidManifest(problems))))
        if manifests:
            watching = Watching(cluster.apply(manifests, now))
        else:
            keys = [one for one in prepared if isinstance(one, Key)]
            watching = Watching(cluster.delete(keys, now), deleting=True, ending=cluster.terminating(keys))
        reason = _NOT_READY
        if deadline is not None and deadline < until:
            until, reason = deadline, _DEADLINE
        watching = msgspec.structs.replace(watching, until=until, reason=reason)
        state = replies.observe(cluster, watching)
        if state.over:
            return _finished(running, state.result)
        if manifests and until <= now and reason == _NOT_READY:
            return _finished(running, replies.succeeded(state.progress.objects))
        cluster.hold(watching.actions)
        return Dispatch(running.digest, watching=watching)

    async def _watch(self, running: Running, watching: Watching) -> pb.Result:
        keeper = self._keeper
        cancelling = asyncio.create_task(self._wake_on_cancel(running))
        try:
            while True:
                state = replies.observe(keeper.cluster, watching)
                if state.over:
                    return state.result
                now = keeper.clock.now()
                if running.cancel.is_set():
                    return replies.not_ready(state, "CANCELLED", "cancelled after it took effect")
                if watching.until is not None and now >= watching.until:
                    return replies.not_ready(state, watching.reason, "not ready in time")
                if running.progress != state.progress:
                    running.tell(progress=state.progress)
                seconds = None if watching.until is None else watching.until - now
                await keeper.next_change(keeper.cluster.version, seconds, or_when=running.cancel.is_set)
        finally:
            cancelling.cancel()

    async def _wake_on_cancel(self, running: Running) -> None:
        await running.cancel.wait()
        async with self._keeper.changed:
            self._keeper.changed.notify_all()

    async def _prepare(self, command: pb.Command) -> Sequence[Manifest | Key]:
        if command.WhichOneof("kind") == "apply":
            return await self._read_manifests(command.apply.manifests, self._needs)
        keys: list[Key] = []
        problems: list[str] = []
        for reference in command.delete.objects:
            kind = names.kind_named(reference.kind)
            if kind is None or not names.is_subdomain(reference.name):
                problems.append(f"{reference.kind[:80]}/{reference.name[:80]}: no such kind, or not a name")
            else:
                keys.append(names.key_of(kind, reference.namespace, reference.name))
        if command.delete.manifests:
            keys.extend(one.key for one in await self._read_manifests(command.delete.manifests, None))
        if Key("Namespace", "", DEFAULT_NAMESPACE) in keys:
            problems.append("Namespace/default: cannot be deleted; delete what is in it")
        if problems:
            raise InvalidManifest(problems)
        return list(dict.fromkeys(keys))

    async def _read_manifests(self, data: bytes, needs: Needs | None) -> list[Manifest]:
        if len(data) <= _IN_PROCESS:
            return await asyncio.to_thread(documents.checked, data, needs)
        arguments = [sys.executable, "-m", documents.__name__, *filter(None, [needs])]
        async with self._checking:
            return await _check_elsewhere(arguments, data)


async def _check_elsewhere(arguments: list[str], data: bytes) -> list[Manifest]:
    process = await spawn(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    talking = asyncio.ensure_future(asyncio.to_thread(process.communicate, data))
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            output, _ = await asyncio.shield(talking)
    finally:
        if process.poll() is None:  # who talks to it reaps it then, and closes its pipes
            signal_group(process.pid, signal.SIGKILL)
    if process.returncode:
        raise InvalidManifest(["the manifests could not be read within the bounds of time and memory"])
    manifests = []
    for one in documents.decode(output):
        manifests.append(one)
        await asyncio.sleep(0)
    return manifests


async def _at_once(result: pb.Result) -> pb.Result:
    return result


def _finished(running: Running, result: pb.Result) -> Dispatch:
    return Dispatch(running.digest, result=result.SerializeToString())


def _row(dispatch_id: str, dispatch: Dispatch) -> Write:
    return Put(DISPATCHES, dispatch_id, msgspec.msgpack.encode(dispatch))
