"""A local shim with real processes behind a real unix socket, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from ote.api.command.v1 import command_pb2
from ote.api.shim.v1 import shim_pb2, shim_pb2_grpc
from ote.rpc.errors import ErrorInterceptor
from ote.rpc.server import Server
from ote.shims.local.core.workloads import Backoff
from ote.shims.local.keeper import Keeper
from ote.shims.local.shim import SERVER_OPTIONS, SERVICE, DriverKind, LocalShim

PATIENCE = 30.0
"""Seconds for whatever comes soon where nothing is broken: a starved machine has them, too."""
_ids = itertools.count(1)


class Local:
    """A shim and a caller. After the test no pod is left."""

    def __init__(self, folder: Path, driver: DriverKind = "process") -> None:
        self.folder = folder
        self.driver: DriverKind = driver
        self.data = folder / "data"
        self.stub: shim_pb2_grpc.ShimServiceAsyncStub
        self._shim: LocalShim | None = None
        self._server: Server | None = None
        self._channel: grpc.aio.Channel | None = None

    async def start(self) -> None:
        self._shim = LocalShim(self.driver, self.data, backoff=Backoff(base=0.05))
        await self._shim.start()
        address = f"unix:{self.folder}/s"
        self._server = Server(address, interceptors=[ErrorInterceptor()], options=SERVER_OPTIONS)
        self._server.add(shim_pb2_grpc.add_ShimServiceServicer_to_server, self._shim.servicer, SERVICE)
        await self._server.start()
        self._channel = grpc.aio.insecure_channel(address, options=[("grpc.max_receive_message_length", 20 << 20)])
        self.stub = shim_pb2_grpc.ShimServiceStub(self._channel)

    async def stop(self) -> None:
        """Ends the shim and leaves its pods."""
        assert self._channel is not None
        assert self._server is not None
        assert self._shim is not None
        await self._channel.close()
        await self._server.stop(0.1)
        await self._shim.stop()
        self._shim = None

    @property
    def keeper(self) -> Keeper:
        """The owner of the state of the shim that runs."""
        assert self._shim is not None
        assert self._shim._keeper is not None
        return self._shim._keeper

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def close(self) -> None:
        if self._shim is None:
            await self.start()
        assert self._shim is not None
        async with asyncio.timeout(PATIENCE):
            await self._shim.stop_pods()
        await self.stop()

    async def send(
        self, command: command_pb2.Command, dispatch_id: str | None = None, **request: Any
    ) -> list[command_pb2.Progress | command_pb2.Result]:
        """All that is told of a command, the result last."""
        call = self.stub.Execute(
            shim_pb2.ExecuteRequest(dispatch_id=dispatch_id or f"test-{next(_ids)}", command=command, **request)
        )
        told: list[command_pb2.Progress | command_pb2.Result] = []
        async for response in call:
            told.append(response.result if response.HasField("result") else response.progress)
        return told

    async def execute(self, command: command_pb2.Command, dispatch_id: str | None = None, **request: Any) -> Any:
        """The result of a command."""
        return (await self.send(command, dispatch_id, **request))[-1]

    async def apply(self, manifests: str, dispatch_id: str | None = None, seconds: float = PATIENCE) -> Any:
        return await self.execute(apply_command(manifests, seconds), dispatch_id)

    async def told(self, manifests: str, *texts: str) -> Any:
        """The result of an apply of what never gets ready, once its message says all of this."""
        async with asyncio.timeout(PATIENCE):
            while True:
                result = await self.apply(manifests, seconds=0.5)
                if all(text in result.message for text in texts):
                    return result

    async def applied(self, manifests: str) -> list[str]:
        """The actions of an apply that must succeed."""
        result = await self.apply(manifests)
        assert result.outcome == command_pb2.OUTCOME_SUCCEEDED, result
        return [command_pb2.Action.Name(one.action).removeprefix("ACTION_") for one in result.objects]

    async def delete(self, *references: str) -> Any:
        objects = [command_pb2.ObjectRef(kind=kind, name=name) for kind, name in (one.split("/") for one in references)]
        return await self.execute(command_pb2.Command(delete=command_pb2.Delete(objects=objects)))

    async def get(self, kind: str, name: str = "") -> list[dict[str, Any]]:
        result = await self.execute(command_pb2.Command(get=command_pb2.Get(kind=kind, name=name)))
        found: list[dict[str, Any]] = json.loads(result.output) if result.output else []
        return found

    async def pod(self) -> dict[str, Any]:
        (pod,) = await self.get("Pod")
        return pod

    async def log(self, pod: str, lines: int = 0, container: str = "") -> str:
        logs = command_pb2.Logs(pod=pod, tail_lines=lines, container=container)
        result = await self.execute(command_pb2.Command(logs=logs))
        assert result.outcome == command_pb2.OUTCOME_SUCCEEDED, result
        return str(result.output.decode())

    async def logged(self, pod: str, container: str = "") -> str:
        """Its log, once there is something in it."""
        async with asyncio.timeout(PATIENCE):
            while not (told := await self.log(pod, container=container)):
                await asyncio.sleep(0.02)
        return told

    async def until(self, condition: Callable[[list[dict[str, Any]]], bool], kind: str = "Pod") -> list[dict[str, Any]]:
        """Waits until the objects of a kind are as asked for."""
        async with asyncio.timeout(PATIENCE):
            while not condition(found := await self.get(kind)):
                await asyncio.sleep(0.02)
        return found


def apply_command(manifests: str, seconds: float = PATIENCE) -> command_pb2.Command:
    command = command_pb2.Command(apply=command_pb2.Apply(manifests=manifests.encode()))
    command.apply.ready_timeout.FromNanoseconds(int(seconds * 1e9))
    return command


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="ote-") as name:
        yield Path(name)


@pytest.fixture
def driver() -> DriverKind:
    """The driver of the tests in a module."""
    return "process"


@pytest.fixture
async def local(folder: Path, driver: DriverKind) -> AsyncIterator[Local]:
    local = Local(folder, driver)
    async with contextlib.AsyncExitStack() as stack:
        await local.start()
        stack.push_async_callback(local.close)
        yield local
