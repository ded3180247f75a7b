"""The control round trip beside bulk: at full speed, with a reader that has stopped, and through a 1 Mbit/s link.

The leaf is in this process; the controller above it is one of its own. What is asked is TraceRoute's round trip from
the controller to the leaf, on the tunnel; what runs beside it is a payload of 16 MiB on the same connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
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
from ote.clustercontroller.bulk import PIECE
from ote.clustercontroller.core.context import CoreSettings
from ote.clustercontroller.payloads import MAX_PAYLOAD
from tests.bench.figures import Figure
from tests.bench.leaves import Leaf, leaf_store
from tests.bench.link import thin_link
from tests.bench.processes import new_folder
from tests.bench.rates import QUIET, entry

_MEGABYTES = 16 * 1024 * 1024 - 4096
_QUESTIONS = 400


async def bulk(folder: Path) -> AsyncGenerator[Figure, None]:
    """Round trips in milliseconds, p99."""
    tree = LocalTree(new_folder(folder / "tree"), QUIET)
    try:
        root = await tree.start_root()
        leaf = await _start(tree, folder, "leaf", root.address)
        async with entry(tree) as stub:
            for _ in range(100):
                await _ask(stub, "leaf")
            quiet = await _p99(stub, "leaf", _QUESTIONS)
            yield _figure("quiet, p99", f"{quiet:.2f} ms", quiet, "ms")
            busy, rate = await _beside_transfer(stub, leaf)
            yield _figure("16 MiB at full speed", f"{rate:.0f} MB/s", rate, "MB/s")
            yield _figure("full speed, p99", f"{busy:.2f} ms", busy / quiet, "× quiet", 2)
            stopped = await _beside_stopped(stub, leaf)
            yield Figure(
                "control beside bulk", "reader stopped, p99", f"{stopped:.2f} ms", stopped / quiet, "× quiet", 2
            )
            async with thin_link(root.address, bits_per_second=1_000_000, delay=0.05) as address:
                far = await _start(tree, folder, "far", root.address, address)
                slow = await _beside_thin(stub, far)
            yield Figure(
                "control beside bulk", "1 Mbit/s, 50 ms each way, p99", f"{slow:.0f} ms", slow / 1000, "s", 0.5
            )
    finally:
        await tree.stop()


def _figure(what: str, measured: str, value: float, unit: str, floor: float | None = None) -> Figure:
    return Figure("control beside bulk", what, measured, value, unit, floor)


async def _start(tree: LocalTree, folder: Path, name: str, parent: str, dial: str = "") -> Leaf:
    leaf = Leaf(folder, name, leaf_store(new_folder(folder / name)), CoreSettings())
    await leaf.start(parent, await tree.token(name), dial)
    async with tree.client() as client:
        await until_online(client, {name: "root"}, 20)
    return leaf


async def _ask(stub: Any, cluster: str) -> float:
    answer = await stub.TraceRoute(route_pb2.TraceRouteRequest(cluster=cluster))
    taken: float = answer.hops[-1].rtt_ms
    if taken < 0:
        raise RuntimeError(f"{cluster} does not answer")
    return taken


async def _p99(stub: Any, cluster: str, times: int, pause: float = 0.005) -> float:
    taken = []
    for _ in range(times):
        taken.append(await _ask(stub, cluster))
        await asyncio.sleep(pause)
    return sorted(taken)[int(len(taken) * 0.99)]


async def _send_payload(stub: Any, cluster: str) -> None:
    """A no-op of 16 MiB, to its end."""
    padding = hashlib.sha256(str(time.time()).encode()).digest() * (_MEGABYTES // 32)
    body = command_pb2.Command(noop=command_pb2.Noop(padding=padding)).SerializeToString()
    assert len(body) < MAX_PAYLOAD
    pieces = [hashlib.sha256(body[at : at + PIECE]).digest() for at in range(0, len(body), PIECE)]
    name = command_pb2.PayloadRef(sha256=hashlib.sha256(body).digest(), size=len(body), pieces=pieces)

    async def parts() -> AsyncIterator[route_pb2.PutPayloadRequest]:
        yield route_pb2.PutPayloadRequest(payload=name)
        for at in range(0, len(body), PIECE):
            yield route_pb2.PutPayloadRequest(data=body[at : at + PIECE])

    await stub.PutPayload(parts())
    request = route_pb2.DispatchRequest(
        dispatch_id=new_dispatch_id(), selector=cluster_pb2.Selector(clusters=cluster), payload=name
    )
    async for event in stub.Dispatch(request):
        if event.HasField("summary") and "SUCCEEDED" not in event.summary.states:
            raise RuntimeError(f"not succeeded: {event.summary}")


async def _beside_transfer(stub: Any, leaf: Leaf) -> tuple[float, float]:
    """(p99, megabytes per second) while one payload after the other is fetched."""
    taken: list[float] = []
    carried = 0
    begun = time.perf_counter()
    sending = asyncio.create_task(_send_payload(stub, leaf.name))
    while len(taken) < _QUESTIONS:
        if sending.done():
            sending.result()
            carried += _MEGABYTES
            sending = asyncio.create_task(_send_payload(stub, leaf.name))
        if _fetching(leaf):
            taken.append(await _ask(stub, leaf.name))
        await asyncio.sleep(0.005)
    await sending
    rate = (carried + _MEGABYTES) / 1e6 / (time.perf_counter() - begun)
    return sorted(taken)[int(len(taken) * 0.99)], rate


def _fetching(leaf: Leaf) -> bool:
    return any(task.get_name().startswith(("fetch payload", "fetch piece")) for task in asyncio.all_tasks())


async def _beside_stopped(stub: Any, leaf: Leaf) -> float:
    """p99 while the leaf has asked for all pieces, granted credit, and reads nothing."""
    sending = asyncio.create_task(_send_payload(stub, leaf.name))
    while not leaf.shell.payloads._keys:  # type: ignore[attr-defined]  # the name of what is being fetched
        await asyncio.sleep(0.005)
    (sha256,) = set(leaf.shell.payloads._keys.values())  # type: ignore[attr-defined]
    channel = leaf.channel()
    assert channel is not None
    call: Any = route_pb2_grpc.RouteServiceStub(channel).FetchPieces()
    asked = route_pb2.FetchPiecesRequest(payload_sha256=sha256, pieces=range(64), credit_bytes=1 << 30)
    await call.write(asked)
    await sending
    await asyncio.sleep(0.5)
    try:
        return await _p99(stub, leaf.name, _QUESTIONS)
    finally:
        call.cancel()


async def _beside_thin(stub: Any, leaf: Leaf) -> float:
    """p99 for six seconds of a transfer that takes minutes."""
    sending = asyncio.create_task(_send_payload(stub, leaf.name))
    while not _fetching(leaf):
        await asyncio.sleep(0.01)
    await asyncio.sleep(1)
    p99 = await _p99(stub, leaf.name, 25, pause=0.05)
    if sending.done():
        raise RuntimeError("the transfer ended before the measurement did")
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
        await sending
    return p99
