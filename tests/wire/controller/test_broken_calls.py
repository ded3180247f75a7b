"""Calls to a shim, and fetches from a parent, whose connection goes away in the middle."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2, route_pb2_grpc
from ote.api.shim.v1 import shim_pb2, shim_pb2_grpc
from ote.clustercontroller import shimlink
from ote.clustercontroller.bulk import Uplink
from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.payloads import Payloads
from ote.clustercontroller.shimlink import ShimLink
from ote.model.errors import Unavailable
from ote.rpc.channel import open_channel
from ote.rpc.errors import ErrorInterceptor
from ote.rpc.server import Server
from tests.wire.controller.tree import PATIENCE, until

BODY = b"a piece" * 1000


class EndsItsStatus(shim_pb2_grpc.ShimServiceServicer):
    """A shim that ends WatchStatus when told so, while its commands run on."""

    def __init__(self) -> None:
        self.status_ends = asyncio.Event()

    async def GetShimInfo(self, request: Any, context: Any) -> shim_pb2.GetShimInfoResponse:
        return shim_pb2.GetShimInfoResponse(name="stranger", kind="stranger", capabilities=["status", "apply"])

    async def WatchStatus(self, request: Any, context: Any) -> AsyncIterator[shim_pb2.WatchStatusResponse]:
        yield shim_pb2.WatchStatusResponse(status=shim_pb2.ClusterStatus(ready=True))
        await self.status_ends.wait()

    async def Execute(self, request: Any, context: Any) -> AsyncIterator[shim_pb2.ExecuteResponse]:
        yield shim_pb2.ExecuteResponse(progress=command_pb2.Progress())
        await asyncio.sleep(30)


class SaysTooMuch(EndsItsStatus):
    """A shim whose progress and result no tunnel carries; nor does a message carry that of `logs`."""

    async def Execute(self, request: Any, context: Any) -> AsyncIterator[shim_pb2.ExecuteResponse]:
        yield shim_pb2.ExecuteResponse(progress=command_pb2.Progress(message="x" * 70_000, effect_done=True))
        number = 200_000 if request.command.HasField("logs") else 20_000
        objects = [command_pb2.ObjectResult(object=command_pb2.ObjectRef(kind="ConfigMap", name="n" * 60))] * number
        yield shim_pb2.ExecuteResponse(
            result=command_pb2.Result(outcome=command_pb2.OUTCOME_SUCCEEDED, objects=objects)
        )


class Nobody:
    """Keeps no bodies and observes nothing."""

    def path(self, payload: m.Payload) -> Path:
        raise FileNotFoundError

    async def push_output(self, key: str, output: bytes) -> None: ...

    def shim_restarted(self) -> None: ...

    def shim_call(self, command: str, outcome: str, seconds: float) -> None: ...


class Parent(route_pb2_grpc.RouteServiceServicer):
    """Serves one payload; one that `hangs` never comes to it."""

    def __init__(self, *, hangs: bool) -> None:
        self.hangs = hangs
        self.asked = asyncio.Event()

    async def FetchPieces(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        await context.read()
        self.asked.set()
        if self.hangs:
            await asyncio.sleep(30)
        await context.write(route_pb2.FetchPiecesResponse(data=BODY))


async def no_answer() -> None:
    """Nobody is there to be pinged."""
    raise Unavailable("NO_ROUTE", "nobody")


class Events(list[ev.Event]):
    """What was posted, and a way to wait for a kind of it."""

    async def one(self, kind: type) -> Any:
        async with asyncio.timeout(PATIENCE):
            while not (found := [event for event in self if type(event) is kind]):
                await asyncio.sleep(0.01)
        return found[0]


@asynccontextmanager
async def linked(shim: EndsItsStatus, events: Events, bodies: Nobody) -> AsyncIterator[tuple[Server, ShimLink]]:
    """A served shim, and a link to it that posts to `events`."""
    server = Server("127.0.0.1:0", interceptors=[ErrorInterceptor()])
    server.add(shim_pb2_grpc.add_ShimServiceServicer_to_server, shim, "ote.api.shim.v1.ShimService")
    address = await server.start()
    link = ShimLink(lambda: open_channel(address), events.append, bodies, bodies)
    running = asyncio.create_task(link.run())
    try:
        yield server, link
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await server.stop(0.1)


async def test_a_command_that_runs_while_the_shim_ends_its_status_is_told_as_lost() -> None:
    shim, events, nobody = EndsItsStatus(), Events(), Nobody()  # type: ignore[abstract]
    async with linked(shim, events, nobody) as (_, link):
        await events.one(ev.ShimUp)
        link.execute(fx.Execute("origin/1", "apply", True, b"", None, 0, []))
        await events.one(ev.ShimProgress)
        shim.status_ends.set()
        assert (await events.one(ev.ShimLost)).key == "origin/1"


async def test_a_command_that_cannot_be_read_fails_and_holds_up_nothing() -> None:
    shim, events, nobody = EndsItsStatus(), Events(), Nobody()  # type: ignore[abstract]
    async with linked(shim, events, nobody) as (_, link):
        await events.one(ev.ShimUp)
        link.execute(fx.Execute("origin/1", "apply", True, b"\xff garbage", None, 0, []))
        ended = await events.one(ev.ShimResult)
        assert (ended.key, ended.state) == ("origin/1", "FAILED")
        assert command_pb2.Result.FromString(ended.body).reason == "INVALID_COMMAND"


@pytest.mark.parametrize("size", [len(BODY), 2 * 1024 * 1024])
@pytest.mark.parametrize("there", ["nothing", "a folder"])
async def test_a_payload_that_cannot_be_read_is_told_and_nothing_reaches_the_shim(
    tmp_path: Path, size: int, there: str
) -> None:
    """Nothing and a folder in its place: neither open nor read does. A call whose parts cannot be read would end as if
    we had cancelled it ourselves, and nobody would be told."""
    shim, events, bodies = Silent(), Events(), OneBody(tmp_path / "body")
    if there == "a folder":
        bodies.file.mkdir()
    async with linked(shim, events, bodies) as (_, link):
        await events.one(ev.ShimUp)
        link.execute(fx.Execute("origin/1", "apply", True, None, m.Payload(b"h" * 32, size, []), 0, []))
        assert (await events.one(ev.PayloadLost)).key == "origin/1"
        assert not shim.seen
        assert not [event for event in events if isinstance(event, ev.ShimLost)]


async def test_a_payload_that_breaks_off_while_it_is_put_is_told(tmp_path: Path) -> None:
    shim, events, bodies = Silent(), Events(), OneBody(tmp_path / "body")
    bodies.file.touch()
    async with linked(shim, events, bodies) as (_, link):
        await events.one(ev.ShimUp)
        bodies.file = Path("/proc/self/mem")  # opens, and cannot be read from its beginning
        link.execute(fx.Execute("origin/1", "apply", True, None, m.Payload(b"h" * 32, 2 * 1024 * 1024, []), 0, []))
        assert (await events.one(ev.PayloadLost)).key == "origin/1"
        assert "Execute" not in shim.seen


async def test_those_above_are_told_that_the_shim_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    shim, events, nobody = EndsItsStatus(), Events(), Nobody()  # type: ignore[abstract]
    async with linked(shim, events, nobody) as (server, link):
        assert (await events.one(ev.ShimStatus)).totals.clusters_ready == 1
        events.clear()
        monkeypatch.setattr(shimlink, "_INFO_TIMEOUT", 0.2)
        await server.stop(0.1)
        lost = await events.one(ev.ShimStatus)
        assert (lost.totals.clusters, lost.totals.clusters_ready, lost.totals.clusters_silent) == (1, 0, 1)
        silent = await events.one(ev.ShimSilent)
        assert abs(silent.since_ms / 1000 - link.failed_at) < 0.01
        assert shim_pb2.ClusterStatus.FromString(lost.cluster_status).message == "the shim does not answer"


async def test_a_read_that_is_cancelled_loses_its_call_and_leaves_nothing_to_be_remembered() -> None:
    shim, events, nobody = Silent(), Events(), Nobody()
    async with linked(shim, events, nobody) as (_, link):
        await events.one(ev.ShimUp)
        link.execute(fx.Execute("origin/1", "get", False, b"", None, 0, []))
        await until(lambda: "Execute" in shim.seen)
        link.cancel("origin/1")
        await until(lambda: "lost" in shim.seen)
        assert shim.seen == ["Execute", "lost"]


async def test_a_payload_comes_from_the_new_parent_when_the_old_one_is_left(tmp_path: Path) -> None:
    sha256 = hashlib.sha256(BODY).digest()
    payload = m.Payload(sha256, len(BODY), [sha256])
    old, new = Parent(hangs=True), Parent(hangs=False)  # type: ignore[abstract]
    channels: list[grpc.aio.Channel] = []
    servers = []
    for parent in (old, new):
        server = Server("127.0.0.1:0", interceptors=[ErrorInterceptor()])
        server.add(route_pb2_grpc.add_RouteServiceServicer_to_server, parent, "ote.api.route.v1.RouteService")
        channels.append(open_channel(await server.start()))
        servers.append(server)
    events, now = Events(), list(channels)
    payloads = Payloads(tmp_path / "payloads", events.append, Uplink(lambda: now[0], no_answer))
    try:
        payloads.fetch("origin/1", payload)
        await old.asked.wait()
        payloads.fetch("origin/1", payload)
        left = now.pop(0)
        await left.close()
        assert (await events.one(ev.PayloadReady)).key == "origin/1"
        assert payloads.path(payload).read_bytes() == BODY
        assert sum(type(event) is ev.PayloadReady for event in events) == 1
    finally:
        await payloads.stop()
        for channel in channels:
            await channel.close()
        for server in servers:
            await server.stop(0.1)


class Silent(EndsItsStatus):
    """Executes without a word, takes payloads slowly, and writes down what reaches it in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    async def PutPayload(self, request_iterator: Any, context: Any) -> shim_pb2.PutPayloadResponse:
        async for _ in request_iterator:
            pass
        await asyncio.sleep(0.2)
        self.seen.append("PutPayload")
        return shim_pb2.PutPayloadResponse()

    async def Execute(self, request: Any, context: Any) -> AsyncIterator[shim_pb2.ExecuteResponse]:
        self.seen.append("Execute")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.seen.append("lost")
            raise
        yield shim_pb2.ExecuteResponse()

    async def Cancel(self, request: Any, context: Any) -> shim_pb2.CancelResponse:
        self.seen.append("Cancel")
        return shim_pb2.CancelResponse()


class OneBody(Nobody):
    """Keeps one large body, whatever is asked for."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def path(self, payload: m.Payload) -> Path:
        return self.file


@pytest.mark.parametrize("size", [1024 * 1024, 2 * 1024 * 1024], ids=["in one message", "put ahead"])
async def test_cancel_and_execute_reach_the_shim_in_the_order_in_which_they_were_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(shimlink, "_HANDED_OVER", 2.0)
    command = command_pb2.Command(apply=command_pb2.Apply(manifests=b"x" * (size - 64)))
    file = tmp_path / "body"
    file.write_bytes(command.SerializeToString())
    payload = m.Payload(b"s" * 32, file.stat().st_size, [])
    shim, events, bodies = Silent(), Events(), OneBody(file)
    put = ["PutPayload"] if size > 1024 * 1024 else []
    async with linked(shim, events, bodies) as (_, link):
        await events.one(ev.ShimUp)
        link.execute(fx.Execute("origin/1", "apply", True, None, payload, 0, []))
        link.cancel("origin/1")
        await until(lambda: "Cancel" in shim.seen)
        assert shim.seen == [*put, "Execute", "Cancel"]
        shim.seen.clear()
        link.cancel("origin/2")
        link.execute(fx.Execute("origin/2", "apply", True, None, payload, 0, []))
        await until(lambda: "Execute" in shim.seen)
        assert shim.seen == ["Cancel", *put, "Execute"]


async def test_what_a_shim_says_beyond_measure_is_cut_where_it_is_said() -> None:
    """On its way it would be dropped again and again, and nobody would ever hear how the command ended."""
    events = Events()
    shim = SaysTooMuch()  # type: ignore[abstract]
    async with linked(shim, events, Nobody()) as (_, link):
        await events.one(ev.ShimUp)
        link.execute(fx.Execute("o/d", "apply", True, b"", None, 0))
        result = await events.one(ev.ShimResult)
    assert (await events.one(ev.ShimProgress)) == ev.ShimProgress("o/d", b"", effect_done=True)
    said = command_pb2.Result.FromString(result.body)
    assert (result.state, said.outcome, said.reason) == ("SUCCEEDED", command_pb2.OUTCOME_SUCCEEDED, "RESULT_TOO_LARGE")
    assert len(result.body) < 200


@pytest.mark.parametrize(("change", "state"), [(True, "OUTCOME_UNKNOWN"), (False, "FAILED")])
async def test_what_no_message_holds_is_not_asked_for_again_and_again(change: bool, state: str) -> None:
    events = Events()
    shim = SaysTooMuch()  # type: ignore[abstract]
    body = command_pb2.Command(logs=command_pb2.Logs()).SerializeToString()
    async with linked(shim, events, Nobody()) as (_, link):
        await events.one(ev.ShimUp)
        link.execute(fx.Execute("o/d", "logs", change, body, None, 0))
        result = await events.one(ev.ShimResult)
    assert (result.state, command_pb2.Result.FromString(result.body).reason) == (state, "RESULT_TOO_LARGE")
    assert not [event for event in events if isinstance(event, ev.ShimLost)]
