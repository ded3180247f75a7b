"""A thousand leaves: one dispatch to all of them, what their idle tunnels cost, and what happens when a parent dies."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

from ote.apps.localtree import LocalTree, Node
from tests.bench.bare import Bare, measure_bare
from tests.bench.figures import Figure
from tests.bench.processes import Process, all_cpu, cpu, new_folder, rss
from tests.bench.rates import QUIET, entry, noop

_LEAVES = 1000
_PER_PROCESS = 100
_WINDOW = 12.0
_SETTLE = 6.0
_HEADERS = 52
"""Bytes of IP and TCP with timestamps in front of each packet on the loopback."""


async def fanout(folder: Path) -> AsyncGenerator[Figure, None]:
    """One dispatch to 1,000 leaves under 10 regions."""
    bare = await measure_bare(folder / "bare")
    async with _tree(folder) as tree:
        names = [f"region-{number}" for number in range(10)]
        for name in names:
            await tree.join(name, "root", children=True)
        async with contextlib.AsyncExitStack() as stack:
            for number, name in enumerate(names):
                await stack.enter_async_context(_leaves(tree, folder, tree.nodes[name], number))
            await _known(tree, _LEAVES + 11)
            async with entry(tree) as stub:
                for figure in await _to_all(stub, _pid(tree.nodes["root"]), bare):
                    yield figure


async def _to_all(stub: Any, root: int, bare: Bare) -> list[Figure]:
    walls, costs = [], []
    for _ in range(6):
        before, begun = cpu(root), time.perf_counter()
        async for event in stub.Dispatch(noop("leaf-*")):
            if event.HasField("summary") and event.summary.states != {"SUCCEEDED": _LEAVES}:
                raise RuntimeError(f"not all succeeded: {event.summary}")
        walls.append(time.perf_counter() - begun)
        await asyncio.sleep(0.5)
        costs.append(cpu(root) - before)
    wall, cost = sorted(walls)[len(walls) // 2], sorted(costs)[len(costs) // 2]
    return [
        Figure("1,000 leaves", "one dispatch to all, wall", f"{wall:.3f} s", wall / bare.thousand, "× unary", 1.5),
        Figure(
            "1,000 leaves", "CPU of the root for it", f"{cost:.3f} s", cost / bare.thousand_cpu, "× unary's caller", 0.5
        ),
    ]


async def tunnels(folder: Path) -> AsyncGenerator[Figure, None]:
    """1,000 idle children of one parent."""
    async with _tree(folder) as tree:
        for name in ("east", "west"):
            await tree.join(name, "root", children=True)
        east = tree.nodes["east"]
        empty = rss(_pid(east))
        async with _thousand(tree, folder, east):
            each = (rss(_pid(east)) - empty) / _LEAVES / 1000
            yield Figure("idle tunnels", "memory each, at the parent", f"{each:.0f} kB", each, "kB", 130)
            traffic, used = await _idle(east, _LEAVES, _WINDOW)
            yield Figure("idle tunnels", "bytes/s each, heartbeat 2 s", f"{traffic:.0f} B/s", traffic, "B/s", 250)
            yield Figure("idle tunnels", "CPU of the parent per 1,000", f"{used:.1f} %", used, "%", 12)


async def orphans(folder: Path) -> AsyncGenerator[Figure, None]:
    """1,000 children lose their parent at once."""
    async with _tree(folder) as tree:
        for name in ("east", "west"):
            await tree.join(name, "root", children=True)
        async with _thousand(tree, folder, tree.nodes["east"]) as processes:
            for process in processes:
                await process.say("left east")
            parents = [_pid(tree.nodes[name]) for name in ("root", "west")]
            used, used_by_them = sum(all_cpu(parents)), sum(all_cpu(process.pid for process in processes))
            begun = time.monotonic()
            tree.kill("east")
            moved = [float((await process.hear(60)).split()[1]) - begun for process in processes]
            used = (sum(all_cpu(parents)) - used) / _LEAVES * 1000
            used_by_them = (sum(all_cpu(process.pid for process in processes)) - used_by_them) / _LEAVES * 1000
            taken = max(moved)
            yield Figure("1,000 orphans", "all attached elsewhere", f"{taken:.2f} s", taken, "s", 6)
            yield Figure("1,000 orphans", "CPU each, of the new parents", f"{used:.2f} ms", used, "ms")
            yield Figure("1,000 orphans", "CPU each, their own", f"{used_by_them:.2f} ms", used_by_them, "ms")


@contextlib.asynccontextmanager
async def _thousand(tree: LocalTree, folder: Path, parent: Node) -> AsyncIterator[list[Process]]:
    """1,000 leaves below a parent, which have come to rest."""
    async with contextlib.AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(_leaves(tree, folder, parent, number))
            for number in range(_LEAVES // _PER_PROCESS)
        ]
        await _known(tree, _LEAVES + 3)
        await asyncio.sleep(_SETTLE)
        yield processes


async def metered(folder: Path) -> AsyncGenerator[Figure, None]:
    """100 idle children with the heartbeat for metered links."""
    async with _tree(folder, "--heartbeat", "15s", "--dead-after", "45s") as tree:
        root = tree.nodes["root"]
        async with _leaves(tree, folder, root, 0, "15", "45"):
            await asyncio.sleep(_SETTLE)
            traffic, _ = await _idle(root, _PER_PROCESS, 30.0)
            yield Figure("idle tunnels", "bytes/s each, heartbeat 15 s", f"{traffic:.0f} B/s", traffic, "B/s", 40)


@contextlib.asynccontextmanager
async def _tree(folder: Path, *options: str) -> AsyncIterator[LocalTree]:
    tree = LocalTree(new_folder(folder / "tree"), (*QUIET, "--stop-grace", "1s", *options))
    try:
        await tree.start_root()
        yield tree
    finally:
        for name in tree.nodes:
            tree.kill(name)
        await tree.stop()


@contextlib.asynccontextmanager
async def _leaves(
    tree: LocalTree, folder: Path, parent: Node, number: int, heartbeat: str = "2", dead_after: str = "5"
) -> AsyncIterator[Process]:
    """A process with 100 leaves, attached to `parent`."""
    token = await tree.token("leaf-*")
    count = _PER_PROCESS
    place = folder / f"leaves-{number}"
    arguments = (str(place), parent.address, token, str(number * count), str(count), heartbeat, dead_after)
    async with Process.run("tests.bench.leaves", *arguments, log=folder / f"leaves-{number}.log") as process:
        if await process.hear(60) != "ready":
            raise RuntimeError("leaves that are not ready")
        yield process


async def _known(tree: LocalTree, count: int) -> None:
    async with tree.client() as client:
        for _ in range(300):
            if sum(cluster.state == 1 for cluster in await client.list_clusters()) >= count:
                return
            await asyncio.sleep(0.2)
    raise RuntimeError(f"not {count} clusters online")


async def _idle(parent: Node, count: int, seconds: float) -> tuple[float, float]:
    """Bytes per second of each tunnel, both directions, and the parent's CPU in percent of a core, per 1,000."""
    port = parent.address.rpartition(":")[2]
    used, carried = cpu(_pid(parent)), _carried(port)
    await asyncio.sleep(seconds)
    used, carried = cpu(_pid(parent)) - used, _carried(port) - carried
    return carried / seconds / count, used / seconds * 100 * 1000 / count


def _carried(port: str) -> float:
    """Bytes, headers included, of all connections of a port; of the whole loopback where the system has no `ss`."""
    if shutil.which("ss") is None:
        for line in Path("/proc/net/dev").read_text().splitlines():
            if line.strip().startswith("lo:"):
                return float(line.split()[1])
        raise RuntimeError("no loopback")
    text = subprocess.run(["ss", "-tinH", f"sport = :{port}"], capture_output=True, text=True, check=True).stdout
    total = 0
    for word in text.split():
        key, _, value = word.partition(":")
        if key in ("bytes_sent", "bytes_received"):
            total += int(value)
        elif key in ("segs_out", "segs_in"):
            total += int(value) * _HEADERS
    return total


def _pid(node: Node) -> int:
    assert node.process is not None
    return node.process.pid
