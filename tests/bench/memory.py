"""What a registry of 100,000 clusters takes, how fast selectors are over it, and what an idle leaf controller takes.

`python -m tests.bench.memory` is the registry, alone in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncGenerator
from pathlib import Path

from ote.apps.localtree import LocalTree, until_online
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import Context, CoreSettings
from ote.clustercontroller.core.registry import Registry
from ote.model.selectors import compile_selector
from tests.bench.bare import bare_server, unary_of
from tests.bench.figures import Figure
from tests.bench.processes import Process, new_folder, rss
from tests.bench.rates import QUIET

_CLUSTERS = 100_000
_REGIONS = 100
_SELECTORS = {
    "a glob": ("shop-*7", ""),
    "a label expression": ("", "region in (eu,us),tier!=gold,!legacy"),
    "a tag": ("*gpu*", ""),
    "all three": ("shop-*7,*gpu*", "region=eu,tier in (gold,silver)"),
}


async def registry(folder: Path) -> AsyncGenerator[Figure, None]:
    """100,000 clusters in a subtree."""
    async with Process.run("tests.bench.memory") as process:
        result = json.loads(await process.hear(120))
    each = result["bytes"] / _CLUSTERS / 1000
    yield Figure("100,000 clusters", "memory each, indexes included", f"{each:.2f} kB", each, "kB", 1.5)
    for what, (seconds, found) in result["selectors"].items():
        measured = f"{seconds * 1000:.0f} ms, {found:,} found"
        yield Figure("100,000 clusters", what, measured, seconds, "s", 0.15)


async def leaf(folder: Path) -> AsyncGenerator[Figure, None]:
    """An idle leaf controller with the local shim, beside a bare grpc.aio server after 200 calls."""
    async with bare_server(folder / "bare") as (process, channel):
        call = unary_of(channel)
        for _ in range(200):
            await call(b"x" * 1024)
        bare = process.rss
    place = new_folder(folder / "tree")
    tree = LocalTree(place, QUIET)
    try:
        await tree.start_root()
        node = await tree.join("leaf", "root", shim="process")
        async with tree.client() as client:
            await until_online(client, {"leaf": "root"}, 20)
        await asyncio.sleep(6)
        assert node.process is not None
        first = rss(node.process.pid)
        tree.kill("leaf")
        await tree.wait("leaf")
        await tree.start("leaf")
        await asyncio.sleep(6)
        size = rss(node.process.pid)
    finally:
        await tree.stop()
    floor = f"{size / 1e6:.0f} MB (bare {bare / 1e6:.0f})"
    yield Figure("idle leaf", "resident, with the local shim", floor, size / bare, "× bare", 1.6)
    yield Figure("idle leaf", "the same in the process that joined", f"{first / 1e6:.0f} MB", first / bare, "× bare")


# --- the registry's process -------------------------------------------------------------------------------------------


def _context() -> Context:
    return Context(
        uid="0" * 32,
        name="root",
        instance="1" * 16,
        public_key=bytes(91),
        settings=CoreSettings(),
        rng=random.Random(1),
        sign=lambda statement: statement[:70],
        verify=lambda key, statement, signature: True,
        now=1000.0,
    )


def _record(rng: random.Random, name: str, uid: str, parent: str, facts: m.Facts) -> m.ClusterRecord:
    instance = f"{rng.getrandbits(64):016x}"
    return m.ClusterRecord(uid, name, parent, 1, instance, rng.randbytes(70), rng.randbytes(91), up=True, facts=facts)


def _facts(rng: random.Random, number: int, parent: str) -> m.Facts:
    return m.Facts(
        version=1,
        labels={
            "region": ("eu", "us", "asia")[number % 3],
            "tier": ("gold", "silver", "bronze")[number % 7 % 3],
            "serial": f"s-{number}",
        },
        tags=[("gpu", "cpu", "edge")[number % 5 % 3], f"batch-{number % 50}"],
        configured_parent=parent,
        shim_kind="local",
        shim_name="ote-local-shim",
        shim_version="1.0",
        capabilities=["apply", "delete", "get", "logs"],
        journal_id=f"{rng.getrandbits(128):032x}",
    )


def _fill(registry: Registry) -> None:
    rng = random.Random(1)
    for number in range(_REGIONS):
        uid = f"{number:032x}".replace("0", "a", 1)
        name = f"region-{number}"
        registry.take(_record(rng, name, uid, registry.own.uid, _facts(rng, number, "root")))
        registry.link_up(uid, number + 1)
        for start in range(0, _CLUSTERS // _REGIONS, 50):
            numbers = range(number * 1000 + start, number * 1000 + start + 50)
            records = [
                _record(rng, f"shop-{one}", f"{rng.getrandbits(128):032x}", uid, _facts(rng, one, name))
                for one in numbers
            ]
            registry.news_from(uid, m.News(records))
            registry.ctx.effects.clear()


def _main() -> None:
    before = rss(os.getpid())
    registry = Registry(_context())
    _fill(registry)
    size = rss(os.getpid()) - before
    found = {}
    for what, (clusters, labels) in _SELECTORS.items():
        taken: list[float] = []
        meant: list[object] = []
        for _ in range(5):
            compile_selector.cache_clear()
            begun = time.perf_counter()
            meant = [*compile_selector(clusters, labels).select(registry.entries.values())]
            taken.append(time.perf_counter() - begun)
        found[what] = (sorted(taken)[2], len(meant))
    print(json.dumps({"bytes": size, "selectors": found}), flush=True)


if __name__ == "__main__":
    _main()
