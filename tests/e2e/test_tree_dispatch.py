"""Dispatches through a tree of real processes, with effects counted at the shim.

One tree serves all tests of this file: root, region, edge-1 and edge-2 below the region, edge-3 below the root. Each
test leaves every process running.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.apps.localtree import until_online
from ote.client.client import Client, new_dispatch_id
from ote.model.errors import AlreadyExists
from tests.e2e.trees import (
    FAST,
    OFFLINE,
    PATIENT,
    ROOT,
    Tree,
    accepted,
    apply_of,
    ctl,
    request_of,
    settled,
    until,
    until_state,
    until_target,
    watched,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("dispatch")]  # one tree for all

PENDING = route_pb2.TARGET_STATE_PENDING
QUEUED = route_pb2.TARGET_STATE_QUEUED
SENT = route_pb2.TARGET_STATE_SENT
RUNNING = route_pb2.TARGET_STATE_RUNNING
SUCCEEDED = route_pb2.TARGET_STATE_SUCCEEDED
FAILED = route_pb2.TARGET_STATE_FAILED
EXPIRED = route_pb2.TARGET_STATE_EXPIRED
CANCELLED = route_pb2.TARGET_STATE_CANCELLED
UNREACHABLE = route_pb2.TARGET_STATE_UNREACHABLE
HOME = {"region": "root", "edge-1": "region", "edge-2": "region", "edge-3": "root"}
GET = command_pb2.Command(get=command_pb2.Get(kind="Effects"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grown(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tree]:
    tree = Tree(tmp_path_factory.mktemp("dispatch") / "tree", (*FAST, "--dead-after", "20s"))
    try:
        await tree.start_root()
        await tree.join("region", "root", children=True)
        token = await tree.token("edge-*")
        await asyncio.gather(
            *(tree.join_counted(name, HOME[name], token=token) for name in HOME if name.startswith("edge"))
        )
        async with tree.client() as client:
            await until_online(client, HOME)
        yield tree
    finally:
        await tree.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def client(grown: Tree) -> AsyncIterator[Client]:
    """A client of the root; the tree is whole when a test begins."""
    async with grown.client() as client:
        await until_online(client, HOME)
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def offline(grown: Tree, client: Client) -> AsyncIterator[str]:
    """edge-3, which does not run; it does again after the test."""
    await grown.kill_and_wait("edge-3")
    await until_state(client, "edge-3", OFFLINE)
    yield "edge-3"
    if not grown.nodes["edge-3"].running:
        await grown.start("edge-3")


def new_notes(tree: Tree, name: str) -> Callable[[], list[str]]:
    """The notes of effects from here on."""
    before = len(tree.effects(name))
    return lambda: tree.notes(name)[before:]


async def test_what_was_queued_for_an_offline_cluster_is_delivered_in_order_when_it_returns(
    grown: Tree, client: Client, offline: str
) -> None:
    notes = new_notes(grown, offline)
    names = [await accepted(client, apply_of(offline, f"queued {number}")) for number in range(5)]
    for name in names:
        assert (await client.get_dispatch(name)).targets[0].state == QUEUED
    await grown.start(offline)
    for name in names:
        assert (await watched(client, name))[offline].state == SUCCEEDED
    assert notes() == [f"queued {number}" for number in range(5)]


async def test_without_time_to_live_an_offline_cluster_is_unreachable_at_once_and_others_are_served(
    grown: Tree, client: Client, offline: str
) -> None:
    notes = new_notes(grown, offline)
    targets = await settled(client, apply_of("edge-*", "now or never", ttl=0))
    assert {name: target.state for name, target in targets.items()} == {
        "edge-1": SUCCEEDED,
        "edge-2": SUCCEEDED,
        "edge-3": UNREACHABLE,
    }
    await grown.start(offline)
    assert (await settled(client, apply_of(offline, "later")))[offline].state == SUCCEEDED
    assert notes() == ["later"]


async def test_what_never_left_is_cancelled_or_expired_by_the_origin_alone_and_has_no_effect(
    grown: Tree, client: Client, offline: str
) -> None:
    notes = new_notes(grown, offline)
    expires = await accepted(client, apply_of(offline, "expires", ttl=0.5))
    cancelled = await accepted(client, apply_of(offline, "is cancelled"))
    assert (await client.cancel_dispatch(cancelled)).targets[0].state == CANCELLED
    assert (await watched(client, expires))[offline].state == EXPIRED
    await grown.start(offline)
    assert (await settled(client, apply_of(offline, "goes on")))[offline].state == SUCCEEDED
    assert notes() == ["goes on"]


async def test_a_cancel_ends_what_runs_before_its_effect_and_what_waits_behind_it(
    grown: Tree, client: Client, tmp_path: Path
) -> None:
    notes = new_notes(grown, "edge-1")
    runs = await accepted(client, apply_of("edge-1", "runs", hold=tmp_path / "never"))
    waits = await accepted(client, apply_of("edge-1", "waits"))
    await until_target(client, runs, {RUNNING})
    await until_target(client, waits, {SENT, RUNNING})
    await client.cancel_dispatch(waits)
    assert (await watched(client, waits))["edge-1"].state == CANCELLED
    await client.cancel_dispatch(runs)
    assert (await watched(client, runs))["edge-1"].state == CANCELLED
    assert (await settled(client, apply_of("edge-1", "goes on")))["edge-1"].state == SUCCEEDED
    assert notes() == ["goes on"]


async def test_a_cancel_while_readiness_is_observed_keeps_the_effect_and_says_failed(
    grown: Tree, client: Client, tmp_path: Path
) -> None:
    notes = new_notes(grown, "edge-1")
    observed = await accepted(client, apply_of("edge-1", "observed", ready=tmp_path / "never"))
    await until(lambda: notes() == ["observed"], "the effect")
    assert (await settled(client, apply_of("edge-1", "next")))["edge-1"].state == SUCCEEDED, "readiness holds up nobody"
    await until_target(client, observed, {RUNNING})
    await client.cancel_dispatch(observed)
    target = (await watched(client, observed))["edge-1"]
    assert (target.state, target.reason) == (FAILED, "CANCELLED")
    assert notes() == ["observed", "next"]


async def test_a_client_that_is_killed_loses_nothing_and_dispatch_watch_picks_up(
    grown: Tree, client: Client, tmp_path: Path
) -> None:
    notes = new_notes(grown, "edge-1")
    manifest = tmp_path / "manifest.yaml"
    kind = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "any"}}
    manifest.write_text(json.dumps({**kind, "note": "by ote-ctl", "hold": str(tmp_path / "go")}))
    arguments = ("apply", "-f", str(manifest), "--clusters", "edge-1", "--timeout", "60s")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ote.apps.ctl", "--config", str(grown.admin), *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(PATIENT):
        while not (found := await client.list_dispatches(unsettled_only=True)):
            await asyncio.sleep(0.05)
    await until_target(client, found[0].name, {RUNNING})
    process.kill()
    await process.wait()
    watching = asyncio.create_task(ctl(grown, "dispatch", "watch", found[0].name))
    (tmp_path / "go").touch()
    code, output, errors = await watching
    assert code == 0, f"{output}{errors}"
    assert "SUCCEEDED" in output
    assert notes() == ["by ote-ctl"]


async def test_fifty_changes_take_effect_in_the_order_of_their_acceptance_through_a_loss_and_a_return_of_the_parent(
    grown: Tree, client: Client
) -> None:
    notes = new_notes(grown, "edge-1")
    names = []
    for number in range(50):
        names.append(await accepted(client, apply_of("edge-1", f"value {number}")))
        if number == 15:
            await grown.kill_and_wait("region")
        if number == 30:
            await grown.start("region")
    for name in names:
        assert (await watched(client, name))["edge-1"].state == SUCCEEDED
    await until_online(client, HOME)
    assert notes() == [f"value {number}" for number in range(50)]


async def test_reads_do_not_wait_behind_a_slow_change(grown: Tree, client: Client, tmp_path: Path) -> None:
    slow = await accepted(client, apply_of("edge-1", "slow", hold=tmp_path / "go"))
    await until_target(client, slow, {RUNNING})
    begun = time.monotonic()
    target = (await settled(client, request_of("edge-1", GET)))["edge-1"]
    print(f"a read beside a change that runs: {(time.monotonic() - begun) * 1000:.0f} ms")
    assert target.state == SUCCEEDED
    assert json.loads(target.output)[0]["effects"] == len(grown.effects("edge-1"))
    (tmp_path / "go").touch()
    assert (await watched(client, slow))["edge-1"].state == SUCCEEDED


async def test_a_region_takes_dispatches_for_its_edges_while_the_root_is_dead(grown: Tree, client: Client) -> None:
    notes = new_notes(grown, "edge-1")
    await grown.kill_and_wait("root")
    async with grown.client("region") as region:
        assert (await settled(region, apply_of("edge-1", "without a root")))["edge-1"].state == SUCCEEDED
    await grown.start("root")
    assert notes() == ["without a root"]


async def test_every_controller_on_the_way_answers_for_a_dispatch_by_its_full_name(grown: Tree, client: Client) -> None:
    from_root = await accepted(client, apply_of("edge-1", "asked for"))
    await watched(client, from_root)
    async with grown.client("region") as region, grown.client("edge-1") as edge:
        from_region = await accepted(region, apply_of("edge-1", "asked for"))
        await watched(region, from_region)
        for name in (from_root, from_region):
            for entry in (client, region, edge):
                dispatch = await entry.get_dispatch(name)
                assert (dispatch.name, dispatch.targets[0].state) == (name, SUCCEEDED)
                assert (await watched(entry, name))["edge-1"].state == SUCCEEDED


async def test_a_manifest_of_ten_mebibytes_arrives_once_per_cluster(grown: Tree, client: Client) -> None:
    notes = {name: new_notes(grown, name) for name in ("edge-1", "edge-2", "edge-3")}
    begun = time.monotonic()
    targets = await settled(client, apply_of("edge-*", "large", pad=10 * 1024 * 1024), 120.0)
    print(f"10 MiB to three clusters, two of them two hops away: {time.monotonic() - begun:.1f} s")
    assert {target.state for target in targets.values()} == {SUCCEEDED}
    assert {name: of() for name, of in notes.items()} == {name: ["large"] for name in notes}


async def test_the_same_id_twice_is_one_effect_and_other_content_is_refused(grown: Tree, client: Client) -> None:
    notes = new_notes(grown, "edge-1")
    dispatch_id = new_dispatch_id()
    first, second = await asyncio.gather(
        *(settled(client, apply_of("edge-1", "once", dispatch_id=dispatch_id)) for _ in range(2))
    )
    assert (first["edge-1"].state, second["edge-1"].state) == (SUCCEEDED, SUCCEEDED)
    with pytest.raises(AlreadyExists):
        await settled(client, apply_of("edge-1", "twice", dispatch_id=dispatch_id))
    assert notes() == ["once"]
