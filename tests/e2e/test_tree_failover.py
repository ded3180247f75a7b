"""A tree of real processes loses some of them: what comes of the others, and how soon. Times are printed."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.apps.localtree import tail, until_online
from ote.client.client import Client
from tests.e2e.trees import (
    DEAD_AFTER,
    OFFLINE,
    ONLINE,
    SLACK,
    STEADY,
    Tree,
    accepted,
    apply_of,
    request_of,
    settled,
    until,
    until_moved,
    until_state,
    until_target,
    watched,
)

pytestmark = pytest.mark.timed

HOME_WITHIN = 10.0
ABRUPT = 1.0
SILENT = DEAD_AFTER + 1.0
SUCCEEDED = route_pb2.TARGET_STATE_SUCCEEDED
NOOP = command_pb2.Command(noop=command_pb2.Noop())


async def two_regions(tree: Tree) -> None:
    """root, and below it east and west."""
    await tree.start_root()
    token = await tree.token("region-*", children=True)
    await asyncio.gather(
        tree.join("region-east", "root", children=True, token=token),
        tree.join("region-west", "root", children=True, token=token),
    )


async def edges(tree: Tree, parent: str, *names: str, counted: bool = False) -> None:
    """Edges below a region."""
    token = await tree.token()
    join = tree.join_counted if counted else tree.join
    await asyncio.gather(*(join(name, parent, token=token) for name in names))
    async with tree.client() as client:
        await until_online(client, dict.fromkeys(names, parent))


async def leaves(tree: Tree, parent: str, count: int) -> list[str]:
    """So many leaves in one process, all below a parent, with the options of the tree."""
    token = await tree.token("leaf-*")
    named = zip(tree.options[::2], tree.options[1::2], strict=True)
    flags = [f"{name.removeprefix('--').replace('-', '_')}={value}" for name, value in named]
    address = tree.nodes[parent].address
    await tree.start_helper("leaves", "tests.e2e.many_leaves", str(tree.folder), address, token, str(count), *flags)
    names = [f"leaf-{number + 1}" for number in range(count)]
    async with tree.client() as client:
        await until_online(client, dict.fromkeys(names, parent))
    return names


class Watch:
    """Collects the names of clusters that an entry ever showed OFFLINE."""

    def __init__(self, client: Client) -> None:
        self.seen_down: list[str] = []
        self.complete = asyncio.Event()
        self._task = asyncio.create_task(self._run(client))

    async def _run(self, client: Client) -> None:
        async for event in client.watch_clusters():
            if event.HasField("bookmark"):
                self.complete.set()
            elif event.HasField("put") and event.put.state == OFFLINE and self.complete.is_set():
                self.seen_down.append(event.put.name)

    async def __aenter__(self) -> Watch:
        await self.complete.wait()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_fifty_children_of_a_killed_region_are_reachable_elsewhere_within_a_second_and_home_within_ten(
    tree: Tree,
) -> None:
    tree.options = STEADY
    await two_regions(tree)
    names = await leaves(tree, "region-east", 50)
    async with tree.client() as client:
        tree.kill("region-east")
        begun = time.monotonic()
        parents = await until_moved(client, "region-east", names, ABRUPT + SLACK)
        print(f"50 children of a killed region: reachable after {time.monotonic() - begun:.2f} s")
        assert set(parents.values()) <= {"root", "region-west"}, parents
        targets = await settled(client, request_of("leaf-*", NOOP))
        assert {name: target.state for name, target in targets.items()} == dict.fromkeys(names, SUCCEEDED)
        await tree.wait("region-east")
        await tree.start("region-east")
        begun = time.monotonic()
        async with Watch(client) as watch:
            await until_online(client, dict.fromkeys(names, "region-east"), HOME_WITHIN + SLACK)
        print(f"50 children home {time.monotonic() - begun:.2f} s after the region's return")
        assert not set(watch.seen_down) & set(names), "a child was gone on its way home"


async def test_children_of_a_parent_that_falls_silent_are_elsewhere_within_the_dead_interval_and_a_second(
    tree: Tree,
) -> None:
    await two_regions(tree)
    names = await leaves(tree, "region-east", 10)
    async with tree.client() as client:
        tree.freeze("region-east")
        begun = time.monotonic()
        await until_moved(client, "region-east", names, SILENT + SLACK)
        print(f"10 children of a silent region: reachable after {time.monotonic() - begun:.2f} s")
        await until_state(client, "region-east", OFFLINE, SILENT + SLACK)


async def test_a_killed_root_that_returns_finds_its_tree_whole_and_finishes_what_it_had_accepted(
    tree: Tree, tmp_path: Path
) -> None:
    await two_regions(tree)
    await asyncio.gather(
        edges(tree, "region-east", "edge-1", counted=True), edges(tree, "region-west", "edge-2", counted=True)
    )
    async with tree.client() as client:
        running = await accepted(client, apply_of("edge-*", "runs", hold=tmp_path / "go"))
        await until_target(client, running, {route_pb2.TARGET_STATE_RUNNING})
        await tree.kill_and_wait("edge-2")
        await until_state(client, "edge-2", OFFLINE)
        waiting = await accepted(client, apply_of("edge-*", "waits"))
        await tree.kill_and_wait("root")
        (tmp_path / "go").touch()
        await until(lambda: tree.notes("edge-1")[:1] == ["runs"], "edge-1 goes on without a root")
        await tree.start("edge-2")
        await tree.start("root")
        begun = time.monotonic()
        home = {"region-east": "root", "region-west": "root", "edge-1": "region-east", "edge-2": "region-west"}
        await until_online(client, home, HOME_WITHIN + SLACK)
        print(f"whole again {time.monotonic() - begun:.2f} s after the root's return")
        for name in (running, waiting):
            states = {target.state for target in (await watched(client, name)).values()}
            assert states == {SUCCEEDED}, states
    for edge in ("edge-1", "edge-2"):
        assert tree.notes(edge) == ["runs", "waits"]


async def test_a_lost_region_with_all_areas_is_offline_with_its_subtree_and_one_area_brings_its_edges_back(
    tree: Tree,
) -> None:
    await two_regions(tree)
    await asyncio.gather(
        tree.join("area-1", "region-east", children=True), tree.join("area-2", "region-east", children=True)
    )
    await edges(tree, "area-1", "edge-1", "edge-2")
    async with tree.client() as client:
        await until_online(client, {"area-2": "region-east"})
        await tree.kill_and_wait("region-east", "area-1", "area-2")
        begun = time.monotonic()
        for name in ("region-east", "area-1", "area-2", "edge-1", "edge-2"):
            await until_state(client, name, OFFLINE, SILENT + SLACK)
        print(f"a lost region is OFFLINE with its subtree after {time.monotonic() - begun:.2f} s")
        queued = await accepted(client, request_of("edge-*", NOOP))
        await tree.start("area-1")
        begun = time.monotonic()
        await until_online(client, {"edge-1": "", "edge-2": "", "area-1": ""}, HOME_WITHIN + SLACK)
        print(f"its edges are reachable {time.monotonic() - begun:.2f} s after one area's return")
        targets = await watched(client, queued)
        assert {target.state for target in targets.values()} == {SUCCEEDED}


async def test_drain_moves_children_away_and_off_brings_them_back_and_sigterm_moves_them_too(tree: Tree) -> None:
    tree.options = STEADY
    await two_regions(tree)
    names = await leaves(tree, "region-east", 10)
    drain = command_pb2.Command(drain=command_pb2.Drain())
    async with tree.client() as client:
        async with Watch(client) as watch:
            target = (await settled(client, request_of("region-east", drain)))["region-east"]
            assert target.state == SUCCEEDED, target.message
            await until_moved(client, "region-east", names, ABRUPT + SLACK)
            await tree.restart("region-east")
            assert (await until_state(client, "region-east", ONLINE)).draining, "draining survives a restart"
            parents = await until_moved(client, "region-east", names, SLACK)
            assert len(parents) == len(names)
            drain.drain.off = True
            assert (await settled(client, request_of("region-east", drain)))["region-east"].state == SUCCEEDED
            await until_online(client, dict.fromkeys(names, "region-east"), HOME_WITHIN + SLACK)
        assert not set(watch.seen_down) & set(names), "a child was gone while it was moved"
        tree.kill("region-east", signal.SIGTERM)
        begun = time.monotonic()
        assert await tree.wait("region-east") == 0
        print(f"SIGTERM: ended after {time.monotonic() - begun:.2f} s")
        await until_moved(client, "region-east", names, SLACK)
        assert tail(tree.nodes["region-east"].log, 300).count("children_without_a_place=[]") == 1
