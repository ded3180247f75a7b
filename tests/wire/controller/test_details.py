"""What clusters have and use, over three levels: sums everywhere, details of one cluster when they are asked for."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.shim.v1 import shim_pb2
from ote.clustercontroller import details
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core.states import OFFLINE, ONLINE
from ote.clustercontroller.details import STATUS_OF
from ote.clustercontroller.node import Node
from ote.clustercontroller.wire.totals import totals_of
from ote.model.errors import PermissionDenied
from tests.wire.controller.tree import Tree, dispatch, until


def status(running: int, failing: int = 0) -> shim_pb2.ClusterStatus:
    return shim_pb2.ClusterStatus(
        ready=True, capacity=shim_pb2.Resources(cpu_millis=4000), pods_running=running, pods_failing=failing
    )


def say(node: Node, told: shim_pb2.ClusterStatus) -> None:
    node.shell.post(ev.ShimStatus(told.SerializeToString(), totals_of(told)))


async def get(tree: Tree, name: str) -> cluster_pb2.Cluster:
    response = await tree.admin("root").clusters.GetCluster(cluster_pb2.GetClusterRequest(name=name))
    cluster: cluster_pb2.Cluster = response.cluster
    return cluster


@pytest.fixture
async def line(tree: Tree) -> Tree:
    """A root, a region, an edge, all of whom know of each other."""
    root = await tree.start("root")
    await tree.start("east", "root")
    await tree.start("edge", "east", children=False)
    registry = root.shell.core.registry
    await until(lambda: (entry := registry.find("edge")) and registry.state(entry.uid) == ONLINE)
    return tree


async def test_sums_reach_the_root_and_the_details_only_who_asks(line: Tree) -> None:
    root, began = line.nodes["root"].shell.core, time.time()
    say(line.nodes["edge"], status(3, failing=2))
    await until(lambda: root.load.totals().clusters == 1)
    answer = await line.admin("root").clusters.GetControllerStatus(cluster_pb2.GetControllerStatusRequest())
    assert (answer.totals.capacity.cpu_millis, answer.totals.pods_failing) == (4000, 2)
    assert list(answer.totals.unwell) == ["edge"]
    [problem] = [one for one in answer.problems if one.reason == "WORKLOADS_FAILING"]
    assert (problem.cluster, problem.message) == (
        "edge",
        "2 pods fail or restart again and again, in edge: 'ote-ctl get pods --clusters edge'",
    )
    assert began - 1 <= problem.since.ToSeconds() <= time.time()
    near = {line.uid("root"), line.uid("east")}
    await until(lambda: set(root.registry.details) >= near)
    assert set(root.registry.details) == near
    listed = await line.admin("root").clusters.ListClusters(cluster_pb2.ListClustersRequest())
    assert {one.name: one.HasField("status") for one in listed.clusters}["edge"] is False

    say(line.nodes["edge"], status(7))
    edge = await get(line, "edge")
    assert (edge.status.pods_running, edge.totals.pods_running, edge.status_stale) == (7, 7, False)
    east = await get(line, "east")
    assert (east.totals.clusters, east.HasField("status"), east.status_stale) == (1, False, False)


async def test_a_shim_that_does_not_answer_shows_from_above_and_is_no_workload_that_fails(line: Tree) -> None:
    edge, root = line.nodes["edge"].shell, line.nodes["root"].shell.core
    entry = root.registry.find("edge")
    assert entry is not None
    edge.post(ev.ShimUp("memory", "shim", "1", ["get"], "i1", True, 1000))
    await until(lambda: entry.facts.shim_name)
    assert not (await get(line, "edge")).shim.HasField("not_answering_since")
    since = round(time.time() * 1000) - 60_000
    edge.post(ev.ShimSilent(since))
    silent = replace(totals_of(status(1)), clusters_ready=0, clusters_silent=1)
    edge.post(ev.ShimStatus(status(1).SerializeToString(), silent))
    await until(lambda: entry.facts.shim_silent_since_ms and root.load.totals().clusters_silent)
    answer = await line.admin("root").clusters.GetControllerStatus(cluster_pb2.GetControllerStatusRequest())
    [problem] = answer.problems
    told = (problem.reason, problem.cluster, problem.message, problem.since.ToMilliseconds())
    assert told == ("SHIM_UNAVAILABLE", "edge", "the shim of edge does not answer", since)
    assert (await get(line, "edge")).shim.not_answering_since.ToMilliseconds() == since
    edge.post(ev.ShimUp("memory", "shim", "1", ["get"], "i2", True, 1000))
    await until(lambda: not entry.facts.shim_silent_since_ms)


async def test_a_cluster_that_ran_twice_is_told_of_from_above(line: Tree) -> None:
    east, root = line.nodes["east"].shell.core, line.nodes["root"].shell.core
    edge, region = root.registry.find("edge"), root.registry.find("east")
    assert edge is not None
    assert region is not None
    east.clones.seen("edge")
    await until(lambda: region.facts.clones == ("edge",))
    answer = await line.admin("root").clusters.GetControllerStatus(cluster_pb2.GetControllerStatusRequest())
    [problem] = answer.problems
    assert (problem.reason, problem.cluster) == ("CLUSTER_CLONED", "edge")
    assert problem.message.startswith("two processes ran as edge and one was ended")
    assert abs(problem.since.ToSeconds() - time.time()) < 20


async def test_problems_say_since_when(line: Tree) -> None:
    east, asked = line.nodes["east"], time.time()
    drained = await dispatch(line.admin("root"), "east", command=command_pb2.Command(drain=command_pb2.Drain()))
    assert drained == {"east": "SUCCEEDED"}
    drained_by = time.time()
    await asyncio.sleep(1.1)
    since: dict[str, float] = {}
    failed = failed_by = 0.0
    while "DISK" not in since:  # a commit that succeeds meanwhile says that the disk is well
        failed = time.time() - 50
        east.shell.commit_error, east.shell.commit_failed_at = "full", east.shell._clock.now() - 50
        failed_by = time.time() - 50
        answer = await line.admin("east", "root").clusters.GetControllerStatus(cluster_pb2.GetControllerStatusRequest())
        east.shell.commit_error = ""
        since = {problem.reason: problem.since.ToMilliseconds() / 1000 for problem in answer.problems}
    assert failed - 0.1 <= since["DISK"] <= failed_by + 0.1
    assert asked - 0.1 <= since["DRAINING"] <= drained_by + 0.1


async def test_who_is_away_is_shown_as_its_parent_heard_it_last(line: Tree) -> None:
    say(line.nodes["edge"], status(3))
    core = line.nodes["east"].shell.core
    await until(lambda: core.load.totals().clusters == 1)
    uid = line.uid("edge")
    await line.stop("edge")
    await until(lambda: line.nodes["root"].shell.core.registry.state(uid) == OFFLINE)
    edge = await get(line, "edge")
    assert (edge.status.pods_running, edge.status_stale) == (3, True)
    assert edge.status_as_of.ToSeconds() > 0
    assert core.load.totals().clusters == 0


async def test_who_does_not_answer_is_not_waited_for(line: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(details, "_PATIENCE", 0.2)
    say(line.nodes["edge"], status(3))
    await until(lambda: line.nodes["east"].shell.core.load.totals().clusters == 1)
    line.nodes["edge"].shell.answer = None  # type: ignore[assignment]  # whoever asks it waits in vain
    edge = await get(line, "edge")
    assert (edge.status.pods_running, edge.status_stale) == (3, True)


async def test_a_status_that_nobody_can_read_harms_nobody(line: Tree) -> None:
    line.nodes["edge"].shell.post(ev.ShimStatus(b"\xff\xff\xff"))
    say(line.nodes["east"], status(1))
    await until(lambda: line.uid("edge") in line.nodes["east"].shell.core.registry.details)
    assert not (await get(line, "edge")).HasField("status")
    assert (await get(line, "east")).status.pods_running == 1


async def test_nobody_below_asks_what_those_above_have(line: Tree) -> None:
    with pytest.raises(PermissionDenied):
        await line.nodes["edge"].shell.ask(line.uid("east"), STATUS_OF, line.uid("east").encode())


async def test_a_configured_parent_that_is_wrong_is_seen_from_above_with_the_reason(line: Tree) -> None:
    root = line.nodes["root"].shell.core.registry
    right, wrong = line.nodes["east"].address, line.address()
    assert (await get(line, "edge")).configured_parent == "east"
    assert not (await get(line, "edge")).HasField("away_from_home_since")
    await line.stop("edge")
    began = time.time()
    await line.start("edge", "east", address=wrong, children=False)
    await until(lambda: (entry := root.find("edge")) and entry.facts.configured_parent == wrong)
    edge = await get(line, "edge")
    assert edge.parent in ("root", "east")
    assert edge.home_problem
    assert began - 1 <= edge.away_from_home_since.ToSeconds() <= time.time()
    own = await line.admin("edge", "root").clusters.GetCluster(cluster_pb2.GetClusterRequest(name="."))
    assert own.cluster.home_problem
    answer = await line.admin("edge", "root").clusters.GetControllerStatus(cluster_pb2.GetControllerStatusRequest())
    [problem] = [one for one in answer.problems if one.reason == "NOT_AT_HOME"]
    assert problem.message == f"attached to {edge.parent} until {wrong} is back; tried last: {edge.home_problem}"
    above = await line.admin("root").clusters.GetControllerStatus(cluster_pb2.GetControllerStatusRequest())
    [seen] = [one.message for one in above.problems if one.reason == "NOT_AT_HOME"]
    assert seen == f"edge is below {edge.parent}, its home is {wrong}"
    await line.stop("edge")
    await line.start("edge", "east", address=right, children=False)
    await until(lambda: (entry := root.find("edge")) and entry.facts.configured_parent == "east")
    at_home = await get(line, "edge")
    assert (at_home.parent, at_home.home_problem) == ("east", ""), "a right address is known by its name again"
