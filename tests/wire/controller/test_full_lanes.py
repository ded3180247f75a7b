"""Queues that have hardly any room: what they drop is said again on the same links, once there is room."""

from __future__ import annotations

from ote.api.cluster.v1 import cluster_pb2
from ote.clustercontroller.core.states import ONLINE
from ote.clustercontroller.lanes import Lane
from tests.wire.controller.tree import Tree, until

ROOM = 20
"""Bytes: nothing that names anybody fits. Sessions and beats have room of their own."""


async def test_what_a_full_lane_dropped_arrives_by_the_link_that_dropped_it(tree: Tree) -> None:
    root = await tree.start("root")
    east = await tree.start("east", "root")
    edge = await tree.start("edge", "east", children=False)
    await tree.start("gone", "east", children=False)
    registry = root.shell.core.registry
    await until(lambda: all((e := registry.find(n)) and registry.state(e.uid) == ONLINE for n in ("edge", "gone")))
    links = [node.shell.core.parents.active_link for node in (east, edge)]
    gone_uid = tree.uid("gone")
    limits = [node.shell.budget.limit for node in (root, east, edge)]
    await until(lambda: not any(node.shell.budget.used for node in (root, east, edge)))

    admin = tree.admin("edge", "root")
    for node in (east, edge):
        node.shell.budget.limit = ROOM
    await admin.clusters.UpdateCluster(cluster_pb2.UpdateClusterRequest(name=".", labels={"tier": "gold"}))
    await until(lambda: edge.shell.budget.traffic.refused[Lane.REGISTRY] > 0)
    west = await tree.start("west", "root")
    await tree.stop("gone")
    await tree.admin("root").clusters.EvictCluster(cluster_pb2.EvictClusterRequest(name=gone_uid))
    await until(lambda: gone_uid in east.shell.core.registry.evicted)
    await until(lambda: east.shell.budget.traffic.refused[Lane.REGISTRY] > 0)
    entry = registry.find("edge")
    assert entry is not None
    assert "tier" not in entry.labels
    assert gone_uid not in edge.shell.core.registry.evicted

    for node, limit in zip((root, east, edge), limits, strict=True):
        node.shell.budget.limit = limit
    await until(lambda: entry.labels.get("tier") == "gold")
    await until(lambda: gone_uid in edge.shell.core.registry.evicted)
    uncles = edge.shell.core.parents
    await until(lambda: [uncle.name for uncle in uncles.alternates.uncles] == ["west"])
    assert [node.shell.core.parents.active_link for node in (east, edge)] == links
    assert west.shell.core.parents.parent is not None
