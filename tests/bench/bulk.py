"""The control round trip beside bulk: at full speed, with a reader that has stopped, and through a 1 Mbit/s link.

What is asked is TraceRoute's round trip from a root to a leaf, on the tunnel; what runs beside it is one payload of 16
MiB after the other, on the same connection. Root and leaf are processes of their own, this one only asks. The leaf
whose reader stops is in this process, because no controller would do so. Rounds alternate: each is compared with the
quiet one just before it, and the median of the ratios counts, so that what else the machine does falls on both.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import statistics
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2, route_pb2_grpc
from ote.apps.localtree import LocalTree, until_online
from ote.client.client import new_dispatch_id
from ote.client.payloads import payload_ref, pieces_of
from ote.clustercontroller.core.context import CoreSettings
from tests.bench.figures import Figure
from tests.bench.leaves import Leaf, leaf_store
from tests.bench.link import thin_link
from tests.bench.processes import all_cpu, new_folder
from tests.bench.rates import QUIET, entry

_PADDING = 16 * 1024 * 1024 - 4096
_ROUNDS = 5
_QUESTIONS = 400
_AHEAD = 4
"""Payloads that are put before a round at full speed begins: putting them is not what is measured."""


async def bulk(folder: Path) -> AsyncGenerator[Figure, None]:
    """Round trips in milliseconds, p99."""
    tree = LocalTree(new_folder(folder / "tree"), QUIET)
    try:
        root = await tree.start_root()
        await tree.join("leaf", "root")
        async with entry(tree) as stub:
            await _online(tree, "leaf")
            for _ in range(100):
                await _ask(stub, "leaf")
            async for figure in _full_speed(tree, stub):
                yield figure
            yield await _stopped(tree, folder, stub)
            async with thin_link(root.address, bits_per_second=1_000_000, delay=0.05) as address:
                await tree.join("far", "root", "--parent", address)
                await _online(tree, "far")
                slow = await _beside_thin(stub, "far")
            yield _figure("1 Mbit/s, 50 ms each way, p99", f"{slow:.0f} ms", slow / 1000, "s", 0.5)
    finally:
        await tree.stop()


def _figure(what: str, measured: str, value: float, unit: str, floor: float | None = None) -> Figure:
    return Figure("control beside bulk", what, measured, value, unit, floor)


async def _online(tree: LocalTree, name: str) -> None:
    async with tree.client() as client:
        await until_online(client, {name: "root"}, 20)


# --- at full speed ------------------------------------------------------------------------------------------------


async def _full_speed(tree: LocalTree, stub: Any) -> AsyncIterator[Figure]:
    pids = [tree.nodes[name].process.pid for name in ("root", "leaf")]  # type: ignore[union-attr]  # they run
    quiet, busy, rates, costs = [], [], [], []
    for _ in range(_ROUNDS):
        quiet.append(await _p99(stub, "leaf"))
        payloads = [await _put(stub) for _ in range(_AHEAD)]
        before, begun = sum(all_cpu(pids)), time.perf_counter()
        taken, bytes_ = await _beside_transfers(stub, "leaf", payloads)
        rates.append(bytes_ / 1e6 / (time.perf_counter() - begun))
        costs.append((sum(all_cpu(pids)) - before) / bytes_ * 1e9)
        busy.append(taken)
    ratio = statistics.median(loud / still for loud, still in zip(busy, quiet, strict=True))
    yield _figure("quiet, p99", f"{statistics.median(quiet):.2f} ms", statistics.median(quiet), "ms")
    rate = statistics.median(rates)
    yield _figure("16 MiB at full speed", f"{rate:.0f} MB/s", rate, "MB/s")
    cost = statistics.median(costs)
    yield _figure("CPU of both ends", f"{cost:.1f} ms per MB", cost, "ms/MB")
    yield _figure("full speed, p99", f"{statistics.median(busy):.2f} ms", ratio, "× quiet", 2)


async def _beside_transfers(stub: Any, cluster: str, payloads: list[command_pb2.PayloadRef]) -> tuple[float, int]:
    """(p99 while one payload after the other is fetched, bytes that were)."""

    async def send() -> int:
        for payload in payloads:
            await _dispatch(stub, cluster, payload)
        return sum(payload.size for payload in payloads)

    taken: list[float] = []
    sending = asyncio.create_task(send())
    while not sending.done():
        taken.append(await _ask(stub, cluster))
        await asyncio.sleep(0.002)
    return _99(taken), await sending


# --- with a reader that has stopped -------------------------------------------------------------------------------


async def _stopped(tree: LocalTree, folder: Path, stub: Any) -> Figure:
    leaf = Leaf(folder, "deaf", leaf_store(new_folder(folder / "deaf")), CoreSettings())
    await leaf.start(tree.nodes["root"].address, await tree.token("deaf"))
    await _online(tree, "deaf")
    payload = await _put(stub)
    quiet, busy = [], []
    for _ in range(_ROUNDS):
        quiet.append(await _p99(stub, "deaf"))
        sending = asyncio.create_task(_dispatch(stub, "deaf", payload))
        async with _deaf_reader(leaf, payload):
            await sending
            busy.append(await _p99(stub, "deaf"))
        await asyncio.sleep(0.2)
        payload = await _put(stub)
    ratio = statistics.median(loud / still for loud, still in zip(busy, quiet, strict=True))
    return _figure("reader stopped, p99", f"{statistics.median(busy):.2f} ms", ratio, "× quiet", 2)


@contextlib.asynccontextmanager
async def _deaf_reader(leaf: Leaf, payload: command_pb2.PayloadRef) -> AsyncIterator[None]:
    """Asks for all pieces on the tunnel's connection, grants all credit there is, and reads nothing."""
    channel = leaf.channel()
    assert channel is not None
    while payload.sha256 not in leaf.shell.payloads._coming:  # type: ignore[attr-defined]
        await asyncio.sleep(0.002)
    call: Any = route_pb2_grpc.RouteServiceStub(channel).FetchPieces()
    await call.write(
        route_pb2.FetchPiecesRequest(
            payload_sha256=payload.sha256, pieces=range(len(payload.pieces)), credit_bytes=1 << 30
        )
    )
    try:
        yield
    finally:
        call.cancel()


# --- through a thin link ------------------------------------------------------------------------------------------


async def _beside_thin(stub: Any, cluster: str) -> float:
    """p99 for some seconds of a transfer that takes minutes."""
    sending = asyncio.create_task(_dispatch(stub, cluster, await _put(stub)))
    await asyncio.sleep(1)
    p99 = await _p99(stub, cluster, pause=0.05)
    if sending.done():
        raise RuntimeError("the transfer ended before the measurement did")
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
        await sending
    return p99


# --- parts --------------------------------------------------------------------------------------------------------


async def _ask(stub: Any, cluster: str) -> float:
    answer = await stub.TraceRoute(route_pb2.TraceRouteRequest(cluster=cluster))
    taken: float = answer.hops[-1].rtt_ms
    if taken < 0:
        raise RuntimeError(f"{cluster} does not answer")
    return taken


async def _p99(stub: Any, cluster: str, pause: float = 0.002) -> float:
    taken = []
    for _ in range(_QUESTIONS):
        taken.append(await _ask(stub, cluster))
        await asyncio.sleep(pause)
    return _99(taken)


def _99(taken: list[float]) -> float:
    return sorted(taken)[int(len(taken) * 0.99)]


async def _put(stub: Any) -> command_pb2.PayloadRef:
    """A no-op of 16 MiB, put at the root."""
    padding = secrets.token_bytes(_PADDING)  # equal pieces would be fetched once
    body = command_pb2.Command(noop=command_pb2.Noop(padding=padding)).SerializeToString()
    name = payload_ref(body)

    async def parts() -> AsyncIterator[route_pb2.PutPayloadRequest]:
        yield route_pb2.PutPayloadRequest(payload=name)
        for piece in pieces_of(body):
            yield route_pb2.PutPayloadRequest(data=piece)

    await stub.PutPayload(parts())
    return name


async def _dispatch(stub: Any, cluster: str, payload: command_pb2.PayloadRef) -> None:
    """To its end."""
    request = route_pb2.DispatchRequest(
        dispatch_id=new_dispatch_id(), selector=cluster_pb2.Selector(clusters=cluster), payload=payload
    )
    async for event in stub.Dispatch(request):
        if event.HasField("summary") and "SUCCEEDED" not in event.summary.states:
            raise RuntimeError(f"not succeeded: {event.summary}")
