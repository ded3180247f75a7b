"""The local shim put together: a store, a driver, a keeper and the service in front of them.

Used by `ote.apps.local_shim` as a process of its own, and by a controller inside its own process behind a unix socket.
Not here: listening. The one idea: whoever embeds it runs one task and adds one servicer.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

from ote.model.errors import FailedPrecondition
from ote.shims.local.commands import DISPATCHES, Commands
from ote.shims.local.core.names import Key
from ote.shims.local.core.workloads import Backoff
from ote.shims.local.keeper import OBJECTS, PODS, Keeper
from ote.shims.local.payloads import MAX_COMMAND, Payloads
from ote.shims.local.ports import Driver
from ote.shims.local.process import ProcessDriver
from ote.shims.local.service import LocalShimService
from ote.shims.local.status import StatusSource
from ote.store.sqlite import Store

SERVICE = "ote.api.shim.v1.ShimService"
"""Full name of the service."""
_LOCK_SECONDS, _LOCK_ATTEMPTS = 1.0, 20
DriverKind = Literal["process", "podman"]
SERVER_OPTIONS = (("grpc.max_receive_message_length", MAX_COMMAND + 65_536),)
"""What a server of it needs: a command may come whole."""


class LocalShim:
    """A cluster on this machine.

    driver: "process" or "podman". data_dir: belongs to this shim alone, made if it does not exist. `start`, then serve
    `servicer`, then `stop`; or `run`, which does both around waiting. Stopping ends no pod: a later shim on the same
    data_dir takes them over.
    """

    def __init__(self, driver: DriverKind, data_dir: Path, *, backoff: Backoff = Backoff()) -> None:
        self._kind = driver
        self._data_dir = data_dir
        self._backoff = backoff
        self._keeper: Keeper | None = None
        self._servicer: LocalShimService | None = None
        self._running: asyncio.Task[None] | None = None
        self._resources = contextlib.AsyncExitStack()

    @property
    def servicer(self) -> LocalShimService:
        """What to add to a server, once started."""
        if self._servicer is None:
            raise FailedPrecondition("NOT_STARTED", "the local shim is not started")
        return self._servicer

    async def start(self) -> None:
        """Takes the folder, loads what is remembered, adopts the pods that run.

        Raises FailedPrecondition: DATA_DIR_IN_USE when another shim has the folder, STORE_DAMAGED, NO_PODMAN,
        OTHER_DRIVER when the folder was made with another driver.
        """
        async with contextlib.AsyncExitStack() as resources:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self._data_dir / "pods").mkdir(mode=0o700, exist_ok=True)  # the folder above may be open to others
            await resources.enter_async_context(_only_one(self._data_dir / "lock"))
            _keep_driver(self._data_dir / "driver", self._kind)
            driver = self._make_driver()
            store = Store.open(self._data_dir / "shim.db", tables=[OBJECTS, PODS, DISPATCHES])
            resources.callback(store.close)
            keeper = Keeper(store, driver, backoff=self._backoff)
            commands = Commands(keeper, store, needs=driver.needs)
            commands.load()
            resources.callback(commands.close)
            await driver.begin(keeper.load())
            self._running = await resources.enter_async_context(_running(keeper))
            payloads = Payloads(self._data_dir / "payloads")
            status = StatusSource(keeper, self._data_dir)
            self._servicer = LocalShimService(keeper, commands, payloads, driver, status, secrets.token_hex(16))
            self._keeper = keeper
            self._resources = resources.pop_all()

    async def run(self) -> None:
        """Starts, and stops when it is cancelled."""
        await self.start()
        try:
            await self.failed()
        finally:
            await self.stop()

    async def failed(self) -> None:
        """Returns never; raises what ended the shim's work, if anything ever does."""
        if self._running is None:
            raise FailedPrecondition("NOT_STARTED", "the local shim is not started")
        await asyncio.shield(self._running)

    @property
    def trouble(self) -> str:
        """Why it is not ready, in one line; empty when all is well."""
        return self._keeper.trouble if self._keeper is not None else "not started"

    @staticmethod
    def driver_of(data_dir: Path) -> DriverKind:
        """The driver that a folder was made with. Raises FailedPrecondition (NOT_A_DATA_DIR)."""
        try:
            return "podman" if (data_dir / "driver").read_text().strip() == "podman" else "process"
        except OSError:
            raise FailedPrecondition("NOT_A_DATA_DIR", f"{data_dir} is not the folder of a local shim") from None

    async def stop(self) -> None:
        """Lets go of everything; pods stay."""
        self._servicer = self._keeper = None
        await self._resources.aclose()

    async def stop_pods(self) -> int:
        """Ends all pods and deletes what made them; returns how many objects that were."""
        if self._keeper is None:
            raise FailedPrecondition("NOT_STARTED", "the local shim is not started")
        keeper = self._keeper
        keys = [key for key in keeper.cluster.objects if key != Key("Namespace", "", "default")]
        pods = [Key("Pod", pod.namespace, pod.name) for pod in keeper.cluster.pods.values() if pod.owner not in keys]
        await keeper.change(lambda cluster, now: cluster.delete([*keys, *pods], now))
        while keeper.cluster.pods:
            await keeper.next_change(keeper.cluster.version)
        await keeper.tidied()
        return len(keys)

    def _make_driver(self) -> Driver:
        if self._kind == "podman":
            from ote.shims.local.podman import PodmanDriver

            return PodmanDriver(self._data_dir)
        return ProcessDriver(self._data_dir)


@contextlib.asynccontextmanager
async def _only_one(path: Path) -> AsyncIterator[None]:
    """Holds the lock. Waits a little: a child has a share in it between its fork and its exec."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        for attempt in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if attempt == _LOCK_ATTEMPTS - 1:
                    message = f"{path.parent} is in use by another local shim"
                    raise FailedPrecondition("DATA_DIR_IN_USE", message) from None
                await asyncio.sleep(_LOCK_SECONDS / _LOCK_ATTEMPTS)
            else:
                break
        yield
    finally:
        os.close(descriptor)


def _keep_driver(path: Path, driver: str) -> None:
    before = path.read_text().strip() if path.exists() else ""
    if before not in ("", driver):
        raise FailedPrecondition(
            "OTHER_DRIVER", f"{path.parent} holds pods of the {before} driver; give {driver} a folder of its own"
        )
    if not before:  # new, or there was no room for it
        path.write_text(f"{driver}\n")


@contextlib.asynccontextmanager
async def _running(keeper: Keeper) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(keeper.run(), name="local shim keeper")
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
