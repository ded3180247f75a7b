"""Four processes in a row: dispatches per second and latencies. `dispatches`: no-op commands; `shim`: through a shim.

The client is this process, and shares the cores with all of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2, route_pb2_grpc
from ote.apps.localtree import LocalTree, until_online
from ote.client.client import new_dispatch_id
from ote.client.connection import tls_identity
from ote.client.contexts import load_contexts
from ote.rpc.channel import open_channel
from tests.bench.bare import Bare, in_flight, measure_bare, median_of
from tests.bench.figures import Figure
from tests.bench.processes import all_cpu, new_folder

QUIET = ("--log-level", "warning")
_IN_FLIGHT = 256
_BATCH = 32
_PADDING = bytes(1000)
_ROW = ("root", "region", "area", "edge")
_MANIFEST = b"""apiVersion: v1
kind: ConfigMap
metadata: {name: bench}
data: {padding: %s}
""" % (b"x" * 900)

Make = Callable[[str], route_pb2.DispatchRequest]


async def rates(folder: Path) -> AsyncGenerator[Figure, None]:
    """No-op commands: rates and latencies."""
    bare = await measure_bare(folder / "bare")
    async with _row(folder / "tree") as (tree, stub):
        pids = [tree.nodes[name].process.pid for name in _ROW]  # type: ignore[union-attr]  # they run
        yield Figure("bare", "unary p50", f"{bare.unary * 1000:.2f} ms", bare.unary * 1000, "ms")
        yield Figure("bare", "1,000 unary, 64 at a time", f"{bare.thousand:.3f} s", bare.thousand, "s")
        yield Figure("bare", "echo", f"{bare.echo:,.0f}/s", bare.echo, "/s")
        yield Figure("bare", "fsync p50", f"{bare.fsync * 1000:.2f} ms", bare.fsync * 1000, "ms")
        for figure in await _latencies(stub, bare):
            yield figure
        await _each(stub, "edge", noop, 500)
        before = all_cpu(pids)
        rate = await _each(stub, "edge", noop, 3000)
        yield _rate("one Dispatch each", rate, bare, 0.12)
        yield _costs("one Dispatch each", before, all_cpu(pids), 3000)
        await _many(stub, "edge", noop, 4000)
        before = all_cpu(pids)
        rate = await _many(stub, "edge", noop, 25_000)
        yield _rate("DispatchMany", rate, bare, 1.0)
        yield _costs("DispatchMany", before, all_cpu(pids), 25_000)


async def shim(folder: Path) -> AsyncGenerator[Figure, None]:
    """An unchanged ConfigMap through the local shim: reported, without floor."""
    bare = await measure_bare(folder / "bare")
    async with _row(folder / "tree") as (_, stub):
        once = await median_of(lambda: _one(stub, apply("edge")), 50)
        yield _latency("apply, three hops, local shim", once, bare)
        yield _rate("apply, one Dispatch each", await _each(stub, "edge", apply, 500), bare)
        yield _rate("apply, DispatchMany", await _many(stub, "edge", apply, 1000), bare)


def noop(cluster: str) -> route_pb2.DispatchRequest:
    """A dispatch of 1 KiB that does nothing."""
    return route_pb2.DispatchRequest(
        dispatch_id=new_dispatch_id(),
        selector=cluster_pb2.Selector(clusters=cluster),
        command=command_pb2.Command(noop=command_pb2.Noop(padding=_PADDING)),
    )


def apply(cluster: str) -> route_pb2.DispatchRequest:
    """A dispatch of 1 KiB that changes nothing after the first."""
    return route_pb2.DispatchRequest(
        dispatch_id=new_dispatch_id(),
        selector=cluster_pb2.Selector(clusters=cluster),
        command=command_pb2.Command(apply=command_pb2.Apply(manifests=_MANIFEST)),
    )


@asynccontextmanager
async def _row(folder: Path) -> AsyncIterator[tuple[LocalTree, Any]]:
    """root → region → area → edge, and a stub at the root."""
    tree = LocalTree(new_folder(folder), QUIET)
    try:
        await tree.start_root()
        await tree.join("region", "root", children=True)
        await tree.join("area", "region", children=True)
        await tree.join("edge", "area", shim="process")
        async with tree.client() as client:
            await until_online(client, {"edge": "area"}, 20)
        async with entry(tree) as stub:
            yield tree, stub
    finally:
        await tree.stop()


@asynccontextmanager
async def entry(tree: LocalTree) -> AsyncIterator[Any]:
    """A plain stub of RouteService at the root."""
    context = load_contexts(tree.admin).get()
    async with open_channel(
        context.entries[0].address, tls=tls_identity(context), server_name=context.entries[0].server_name
    ) as channel:
        yield route_pb2_grpc.RouteServiceStub(channel)


async def _one(stub: Any, request: route_pb2.DispatchRequest) -> None:
    async for event in stub.Dispatch(request):
        if event.HasField("summary") and set(event.summary.states) != {"SUCCEEDED"}:
            raise RuntimeError(f"not succeeded: {event}")


async def _latencies(stub: Any, bare: Bare) -> list[Figure]:
    taken = {name: await median_of(lambda name=name: _one(stub, noop(name)), 150) for name in _ROW}
    one, three = taken["region"], taken["edge"]
    further = (three - one) / 2
    floor = 6 + 2 * bare.fsync / bare.unary
    return [
        _latency("at the origin itself", taken["root"], bare),
        _latency("one hop (floor: 6 × unary + 2 fsync)", one, bare, floor),
        _latency("each further hop", further, bare, 1.5),
    ]


async def _each(stub: Any, cluster: str, make: Make, count: int) -> float:
    begun = time.perf_counter()
    await in_flight([lambda: _one(stub, make(cluster))] * count, _IN_FLIGHT)
    return count / (time.perf_counter() - begun)


async def _many(stub: Any, cluster: str, make: Make, count: int) -> float:
    call = stub.DispatchMany()
    done = 0
    room = asyncio.Event()

    async def read() -> None:
        nonlocal done
        while done < count:
            message = await call.read()
            if message is grpc.aio.EOF:
                raise RuntimeError("DispatchMany has ended")
            for event in message.events:
                if event.HasField("summary"):
                    done += 1
                    if "SUCCEEDED" not in event.summary.states:
                        raise RuntimeError(f"not succeeded: {event}")
                elif event.HasField("error"):
                    raise RuntimeError(f"refused: {event}")
            room.set()

    begun = time.perf_counter()
    reading = asyncio.create_task(read())
    sent = 0
    while sent < count:
        while sent - done > _IN_FLIGHT - _BATCH and not reading.done():
            room.clear()
            await room.wait()
        size = min(_BATCH, count - sent)
        await call.write(route_pb2.DispatchManyRequest(dispatches=[make(cluster) for _ in range(size)]))
        sent += size
    await reading
    taken = time.perf_counter() - begun
    await call.done_writing()
    return count / taken


def _rate(what: str, rate: float, bare: Bare, floor: float | None = None) -> Figure:
    return Figure("dispatches/s", what, f"{rate:,.0f}/s", rate / bare.echo, "× echo", floor, at_most=False)


def _latency(what: str, seconds: float, bare: Bare, floor: float | None = None) -> Figure:
    measured = f"{seconds * 1000:.2f} ms"
    return Figure("latency", what, measured, seconds / bare.unary, "× unary", floor)


def _costs(what: str, before: list[float], after: list[float], count: int) -> Figure:
    each = [(end - begin) / count * 1e6 for begin, end in zip(before, after, strict=True)]
    return Figure("CPU", f"{what}, µs {' / '.join(_ROW)}", " / ".join(f"{us:.0f}" for us in each), sum(each), "µs")
