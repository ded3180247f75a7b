"""What the controllers of a tree of real processes know of one another.

One tree serves most tests of this file: root, region below it, edge-1 and edge-2 below the region.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.apps.localtree import tail, until_online
from ote.client.client import Client
from ote.model.errors import Internal, NotFound
from tests.e2e.trees import (
    DEAD_AFTER,
    FAST,
    OFFLINE,
    ONLINE,
    PATIENT,
    SLACK,
    Tree,
    accepted,
    request_of,
    settled,
    until,
    until_moved,
    until_state,
    watched,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("registry")]  # one tree for all

HOME = {"region": "root", "edge-1": "region", "edge-2": "region"}
NOOP = command_pb2.Command(noop=command_pb2.Noop())
WITHIN = DEAD_AFTER + 1.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grown(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tree]:
    tree = Tree(tmp_path_factory.mktemp("registry") / "tree", FAST)
    try:
        await tree.start_root()
        await tree.join("region", "root", children=True)
        token = await tree.token("edge-*")
        await asyncio.gather(*(tree.join(name, "region", token=token) for name in ("edge-1", "edge-2")))
        yield tree
    finally:
        await tree.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def client(grown: Tree) -> AsyncIterator[Client]:
    """A client of the root; the tree is whole when a test begins."""
    async with grown.client() as client:
        await until_online(client, HOME)
        yield client


async def test_a_silent_region_is_offline_at_the_root_within_the_dead_interval_and_a_second_with_its_subtree(
    grown: Tree, client: Client
) -> None:
    """The edges hang, too: else they would be ONLINE elsewhere."""
    names = ["region", "edge-1", "edge-2"]
    for name in names:
        grown.freeze(name)
    begun = time.monotonic()
    clusters = [await until_state(client, name, OFFLINE, WITHIN + SLACK) for name in names]
    print(f"a silent region and its subtree are OFFLINE after {time.monotonic() - begun:.2f} s")
    assert [cluster.name for cluster in clusters] == names, "they keep their last known data"
    for name in names:
        grown.thaw(name)


async def test_labels_and_tags_changed_at_run_time_survive_restarts_and_reach_an_offline_cluster(
    grown: Tree, client: Client
) -> None:
    now = await client.update_cluster("edge-1", labels={"tier": "gold"}, tags=["pilot"])
    assert (await watched(client, now.dispatch))["edge-1"].state == route_pb2.TARGET_STATE_SUCCEEDED
    await grown.kill_and_wait("edge-1")
    await until_state(client, "edge-1", OFFLINE)
    later = await client.update_cluster("edge-1", labels={"rack": "7"}, remove_tags=["pilot"])
    assert not later.settled
    await grown.start("edge-1")
    targets = await watched(client, later.dispatch)
    assert targets["edge-1"].state == route_pb2.TARGET_STATE_SUCCEEDED
    await grown.restart("edge-1")
    async with grown.client("region") as region:
        for entry in (client, region):
            cluster = await until_state(entry, "edge-1", ONLINE)
            async with asyncio.timeout(PATIENT):
                while (dict(cluster.labels), list(cluster.tags)) != ({"tier": "gold", "rack": "7"}, []):
                    await asyncio.sleep(0.05)
                    cluster = await entry.get_cluster("edge-1")
    found = await client.list_clusters(cluster_pb2.Selector(labels="tier=gold"))
    assert [cluster.name for cluster in found] == ["edge-1"]


async def test_what_the_root_knows_survives_its_restart_and_is_shown_as_stale(grown: Tree, client: Client) -> None:
    known = {cluster.name: cluster.uid for cluster in await client.list_clusters()}
    await settled(client, request_of("edge-1", NOOP))  # accepted: so all that the root wrote before is on disk
    await grown.kill_and_wait("edge-2", "root")
    await grown.start("root")
    assert {cluster.name: cluster.uid for cluster in await client.list_clusters()} == known
    cluster = await until_state(client, "edge-2", OFFLINE)
    assert cluster.last_seen.seconds <= time.time() + 1
    await grown.start("edge-2")


async def test_a_name_that_is_taken_is_refused_on_both_sides_until_its_cluster_is_evicted(
    grown: Tree, client: Client
) -> None:
    await grown.join("guest", "root")
    await until_online(client, {"guest": "root"})
    first = grown.nodes["guest"]
    uid = (await client.get_cluster("guest")).uid
    first.data_dir = first.data_dir.rename(first.data_dir.with_name("guest-first"))
    await grown.kill_and_wait("guest")
    with pytest.raises(Internal, match="belongs to another cluster"):
        await grown.join("guest", "root")
    await until(lambda: "CLUSTER_NAME_TAKEN" in tail(grown.nodes["root"].log, 200), "the root says why")
    assert (await client.evict_cluster("guest")).uid == uid
    with pytest.raises(NotFound):
        await client.get_cluster("guest")
    await grown.start("guest")
    await until_online(client, {"guest": "root"})
    assert (await client.get_cluster("guest")).uid != uid
    await client.evict_cluster("guest")
    grown.kill("guest")


async def test_an_evicted_cluster_is_cut_off_at_once_and_does_not_come_back(grown: Tree, client: Client) -> None:
    await grown.join("outcast", "region")
    await until_online(client, {"outcast": "region"})
    queued = await accepted(client, request_of("outcast", NOOP))
    await watched(client, queued)
    answer = await client.evict_cluster("outcast")
    async with grown.client("region") as region:
        async with asyncio.timeout(PATIENT):
            while "outcast" in {cluster.name for cluster in await region.list_clusters()}:
                await asyncio.sleep(0.03)
    assert grown.nodes["outcast"].data_dir.exists(), "nothing is deleted there"
    await grown.kill_and_wait("outcast")
    await grown.start("outcast")
    async with asyncio.timeout(PATIENT):
        while "EVICTED" not in tail(grown.nodes["outcast"].log, 40):
            await asyncio.sleep(0.05)
    assert answer.uid not in {cluster.uid for cluster in await client.list_clusters()}
    grown.kill("outcast")


async def test_the_children_of_an_evicted_region_are_home_elsewhere_at_once_and_ages_outlive_a_restart(
    grown: Tree, client: Client
) -> None:
    await grown.join("doomed", "root", children=True)
    await grown.join("tenant", "doomed")
    await until_online(client, {"doomed": "root", "tenant": "doomed"})
    async with grown.client("tenant") as tenant, asyncio.timeout(PATIENT):
        while not (await tenant.status()).alternates:  # it is told whom else it may ask
            await asyncio.sleep(0.05)
    begun = time.monotonic()
    await client.evict_cluster("doomed")
    parents = await until_moved(client, "doomed", ["tenant"], 1.0 + SLACK)
    print(f"under {parents['tenant']} after {time.monotonic() - begun:.2f} s")
    grown.kill("doomed")

    await grown.kill_and_wait("tenant")
    before = await until_state(client, "tenant", OFFLINE)
    await settled(client, request_of("edge-1", NOOP))  # accepted: so all that the root wrote before is on disk
    await asyncio.sleep(3.0)
    await grown.restart("root")
    await until_online(client, HOME)
    after = await client.get_cluster("tenant")
    for old, new in ((before.last_seen, after.last_seen), (before.state_since, after.state_since)):
        assert abs(new.seconds - old.seconds) <= 2
    await client.evict_cluster("tenant")


async def test_a_watch_tells_all_and_goes_on_through_a_restart_of_the_controller(grown: Tree, client: Client) -> None:
    events: asyncio.Queue[cluster_pb2.WatchClustersResponse] = asyncio.Queue()

    async def watch() -> None:
        async for event in client.watch_clusters():
            events.put_nowait(event)

    async def until_put(name: str, state: int) -> None:
        async with asyncio.timeout(PATIENT):
            while True:
                event = await events.get()
                if event.HasField("put") and (event.put.name, event.put.state) == (name, state):
                    return

    task = asyncio.create_task(watch())
    try:
        first = []
        async with asyncio.timeout(PATIENT):
            while not (event := await events.get()).HasField("bookmark"):
                first.append(event.put.name)
        assert set(first) >= {"root", *HOME}
        await grown.kill_and_wait("edge-2")
        await until_put("edge-2", OFFLINE)
        await grown.restart("root")
        await grown.start("edge-2")
        await until_put("edge-2", ONLINE)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_watch_that_is_resumed_by_token_begins_where_it_ended(client: Client) -> None:
    link = await client._connection.link()
    token = ""
    async for event in link.clusters.WatchClusters(cluster_pb2.WatchClustersRequest()):
        token = event.resume_token
        if event.HasField("bookmark"):
            break
    await client.update_cluster("edge-1", labels={"resumed": "yes"})
    request = cluster_pb2.WatchClustersRequest(resume_token=token)
    async with asyncio.timeout(PATIENT):
        async for event in link.clusters.WatchClusters(request):
            assert event.put.name != "root", "the list is not told again"
            if event.put.name == "edge-1" and event.put.labels.get("resumed") == "yes":
                break
