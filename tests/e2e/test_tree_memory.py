"""Disks that are set back, copied or asleep: no second effect, and a clone that ends itself."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from pathlib import Path

from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.apps.localtree import tail, until_online
from tests.e2e.trees import (
    DEAD_AFTER,
    FAST,
    OFFLINE,
    ONLINE,
    PATIENT,
    ROOT,
    SLACK,
    STEADY,
    Tree,
    accepted,
    apply_of,
    request_of,
    settled,
    until,
    until_state,
    until_target,
    watched,
)

SUCCEEDED = route_pb2.TARGET_STATE_SUCCEEDED
UNKNOWN = route_pb2.TARGET_STATE_OUTCOME_UNKNOWN
RUNNING = route_pb2.TARGET_STATE_RUNNING
NOOP = command_pb2.Command(noop=command_pb2.Noop())


async def controller(*arguments: str) -> None:
    """Run a subcommand of ote-clustercontroller."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ote.apps.clustercontroller", *arguments), cwd=ROOT, stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0


async def set_back(tree: Tree, name: str, file: Path) -> None:
    """End a controller, lose its disk, and restore what was kept of it."""
    await tree.kill_and_wait(name)
    data = tree.nodes[name].data_dir
    shutil.rmtree(data)
    await controller("restore", "--data-dir", str(data), str(file))
    await tree.start(name)


async def test_an_edge_whose_disk_was_set_back_has_no_second_effect_and_unknown_only_where_memory_was_lost(
    tree: Tree, tmp_path: Path
) -> None:
    await tree.start_root()
    await tree.join_counted("edge-1", "root")
    async with tree.client() as client:
        await until_online(client, {"edge-1": "root"})
        assert (await settled(client, apply_of("edge-1", "before")))["edge-1"].state == SUCCEEDED
        waits = await accepted(client, apply_of("edge-1", "runs", hold=tmp_path / "go"))
        await until_target(client, waits, {RUNNING})
        await controller("backup", "--data-dir", str(tree.nodes["edge-1"].data_dir), str(tmp_path / "kept"))
        (tmp_path / "go").touch()
        assert (await watched(client, waits))["edge-1"].state == SUCCEEDED
        assert (await settled(client, apply_of("edge-1", "after")))["edge-1"].state == SUCCEEDED
        lost = await accepted(client, apply_of("edge-1", "lost", hold=tmp_path / "later"))
        await until_target(client, lost, {RUNNING})
        await set_back(tree, "edge-1", tmp_path / "kept")
        assert (await watched(client, lost))["edge-1"].state == UNKNOWN
        (tmp_path / "later").touch()
        assert (await settled(client, apply_of("edge-1", "anew")))["edge-1"].state == SUCCEEDED
        assert (await client.get_dispatch(waits)).targets[0].state == SUCCEEDED
        await until(lambda: "lost" in tree.notes("edge-1"), "what the shim had begun goes on there")
    assert sorted(tree.notes("edge-1")) == ["after", "anew", "before", "lost", "runs"]


async def test_a_root_whose_disk_was_set_back_repeats_nothing_and_works_on(tree: Tree, tmp_path: Path) -> None:
    await tree.start_root()
    await tree.join("region", "root", children=True)
    await tree.join_counted("edge-1", "region")
    async with tree.client() as client:
        await until_online(client, {"edge-1": "region"})
        waits = await accepted(client, apply_of("edge-1", "open at the time", hold=tmp_path / "go"))
        await until_target(client, waits, {RUNNING})
        await controller("backup", "--data-dir", str(tree.nodes["root"].data_dir), str(tmp_path / "kept"))
        (tmp_path / "go").touch()
        assert (await watched(client, waits))["edge-1"].state == SUCCEEDED
        forgotten = [(await settled(client, apply_of("edge-1", f"{n}")))["edge-1"].state for n in range(5)]
        assert forgotten == [SUCCEEDED] * 5
        await set_back(tree, "root", tmp_path / "kept")
    async with tree.client() as client:
        await until_online(client, {"region": "root", "edge-1": "region"})
        assert (await settled(client, apply_of("edge-1", "anew")))["edge-1"].state == SUCCEEDED
        assert (await watched(client, waits))["edge-1"].state in (SUCCEEDED, UNKNOWN)
    assert tree.notes("edge-1") == ["open at the time", "0", "1", "2", "3", "4", "anew"]


async def test_of_two_processes_on_copies_of_one_data_dir_one_ends_and_says_that_it_is_cloned(tree: Tree) -> None:
    tree.options = STEADY
    await tree.start_root()
    await tree.join("edge-1", "root")
    async with tree.client() as client:
        await until_online(client, {"edge-1": "root"})
        await tree.kill_and_wait("edge-1")
        original = tree.nodes["edge-1"]
        copy = tree.add_copy("edge-1", "copy")
        # One of them may end so soon that nobody sees it listen.
        await asyncio.gather(tree.start("edge-1"), tree.start("copy"), return_exceptions=True)
        begun = time.monotonic()
        await until(lambda: not (original.running and copy.running), "one of the two ends")
        print(f"a clone ended after {time.monotonic() - begun:.2f} s")
        ended, stays = (original, copy) if not original.running else (copy, original)
        assert ended.process is not None
        assert ended.process.returncode == 1
        assert "CLUSTER_CLONED" in tail(ended.log)
        await until_state(client, "edge-1", ONLINE)
        assert (await settled(client, request_of("edge-1", NOOP)))["edge-1"].state == SUCCEEDED
        assert stays.running
        async with asyncio.timeout(PATIENT):
            while [(one.reason, one.cluster) for one in (await client.status()).problems] != [
                ("CLUSTER_CLONED", "edge-1")
            ]:
                await asyncio.sleep(0.05)


async def test_a_controller_that_slept_declares_nobody_dead(tree: Tree) -> None:
    """The sleepers sleep for many dead intervals of their own; the others are patient enough not to notice."""
    patient = ("--dead-after", "60s")
    await tree.start_root("root", *patient)
    await tree.join("region", "root", *patient, children=True)
    await tree.join("edge-1", "region", *patient)
    async with tree.client() as client:
        before = {c.name: c.epoch for c in await until_online(client, {"region": "root", "edge-1": "region"})}
        for sleepers in (["root", "edge-1"], ["region"]):
            for name in sleepers:
                tree.freeze(name)
            await asyncio.sleep(2.5 * DEAD_AFTER)
            for name in sleepers:
                tree.thaw(name)
            assert (await settled(client, request_of("edge-1", NOOP)))["edge-1"].state == SUCCEEDED
        after = {c.name: c.epoch for c in await client.list_clusters()}
        assert after == before, "somebody attached anew"


async def test_root_and_edge_that_slept_for_eight_seconds_are_back_at_once_and_take_nobody_along(tree: Tree) -> None:
    tree.options = (*FAST, "--dead-after", "4s")
    await tree.start_root()
    await tree.join("region", "root", children=True)
    await asyncio.gather(tree.join("edge-1", "region"), tree.join("edge-2", "region"))
    async with tree.client("region") as region:
        await until_online(region, {"edge-1": "region", "edge-2": "region"})
        before = {cluster.name: cluster.epoch for cluster in await region.list_clusters()}
        tree.freeze("root")
        tree.freeze("edge-1")
        asleep = time.monotonic()
        await until_state(region, "edge-1", OFFLINE)
        await asyncio.sleep(8.0 - (time.monotonic() - asleep))
        tree.thaw("root")
        tree.thaw("edge-1")
        begun = time.monotonic()
        async with tree.client() as client:
            home = {"region": "root", "edge-1": "region", "edge-2": "region"}
            await until_online(client, home, 8.0 + SLACK)
        print(f"whole {time.monotonic() - begun:.2f} s after eight seconds of sleep")
        after = {cluster.name: cluster.epoch for cluster in await region.list_clusters()}
        assert after["edge-2"] == before["edge-2"]
