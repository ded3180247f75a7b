"""Lists of a real controller: whole, in order, by pages."""

from __future__ import annotations

import asyncio
import secrets

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from tests.wire.controller.tree import PATIENCE, Stubs, Tree, dispatch, until

NOOP = command_pb2.Command(noop=command_pb2.Noop())


async def accept(stubs: Stubs, clusters: str) -> str:
    """Send a no-op and go away once it is accepted; the name of the dispatch."""
    request = route_pb2.DispatchRequest(
        dispatch_id=secrets.token_hex(16), selector=cluster_pb2.Selector(clusters=clusters), command=NOOP
    )
    call = stubs.routes.Dispatch(request, timeout=PATIENCE)
    try:
        async for response in call:
            return str(response.accepted.dispatch)
    finally:
        call.cancel()
    raise AssertionError("not accepted")


async def listed(stubs: Stubs, **only: bool) -> list[route_pb2.Dispatch]:
    """All dispatches, two a page."""
    found: list[route_pb2.Dispatch] = []
    token = ""
    while True:
        request = route_pb2.ListDispatchesRequest(page_size=2, page_token=token, **only)
        page: route_pb2.ListDispatchesResponse = await stubs.routes.ListDispatches(request, timeout=PATIENCE)
        assert len(page.dispatches) <= 2
        found += page.dispatches
        token = page.next_page_token
        if not token:
            return found


async def test_dispatches_are_listed_newest_first_by_pages_and_those_that_wait_by_themselves(tree: Tree) -> None:
    root = await tree.start("root")
    await tree.start("edge", "root")
    stubs = tree.admin("root")
    await until(lambda: root.shell.core.registry.find("edge") is not None)
    sent = [await accept(stubs, "root") for _ in range(5)]
    assert [one.name for one in await listed(stubs)] == sent[::-1]
    await tree.stop("edge")
    entry = root.shell.core.registry.find("edge")
    assert entry is not None
    await until(lambda: root.shell.core.registry.state(entry.uid) == "OFFLINE")
    waiting = [await accept(stubs, "edge") for _ in range(3)]
    await asyncio.gather(*(dispatch(stubs, "root") for _ in range(2)))
    (first, second, third) = await listed(stubs, unsettled_only=True)
    assert [first.name, second.name, third.name] == waiting[::-1]
    assert dict(first.states) == {"QUEUED": 1}
    assert not first.targets
    assert len(await listed(stubs)) == 10


async def test_dispatches_are_listed_without_reads_where_that_is_asked_for(tree: Tree) -> None:
    await tree.start("root")
    stubs = tree.admin("root")
    change = await accept(stubs, "root")
    await dispatch(stubs, "root", command=command_pb2.Command(get=command_pb2.Get(kind="Pod")))
    everything = await listed(stubs)
    assert [one.command for one in everything] == ["get", "noop"]
    assert [one.name for one in await listed(stubs, changes_only=True)] == [change]


async def test_a_trace_shows_the_way_as_far_as_it_goes_and_why_it_ends(tree: Tree) -> None:
    root = await tree.start("root")
    await tree.start("east", "root")
    await tree.start("edge", "east", children=False)
    stubs, registry = tree.admin("root"), root.shell.core.registry

    def state(name: str) -> str:
        entry = registry.find(name)
        return registry.state(entry.uid) if entry is not None else ""

    async def trace(cluster: str) -> tuple[list[tuple[str, bool]], str, str]:
        answer = await stubs.routes.TraceRoute(route_pb2.TraceRouteRequest(cluster=cluster), timeout=PATIENCE)
        return [(hop.cluster, hop.rtt_ms >= 0) for hop in answer.hops], answer.reason, answer.message

    await until(lambda: state("edge") == "ONLINE")
    assert await trace("edge") == ([("root", True), ("east", True), ("edge", True)], "", "")
    await tree.stop("edge")
    await until(lambda: state("edge") == "OFFLINE")
    ended = ([("root", True), ("east", True), ("edge", False)], "NO_ROUTE", "edge is OFFLINE: the way ends at east")
    assert await trace("edge") == ended
    await tree.stop("east")
    await until(lambda: state("east") == "OFFLINE")
    assert await trace("edge") == (
        [("root", True), ("east", False), ("edge", False)],
        "NO_ROUTE",
        "east is OFFLINE: the way ends at root",
    )
    assert await trace("root") == ([("root", True)], "", "")


async def test_outputs_that_do_not_fit_one_message_follow_it(tree: Tree) -> None:
    root = await tree.start("root")
    names = ["root", "edge-1", "edge-2", "edge-3"]
    for name in names[1:]:
        await tree.start(name, "root")
    stubs = tree.admin("root")
    registry = root.shell.core.registry
    await until(lambda: all(registry.find(name) is not None for name in names))
    read = command_pb2.Command(get=command_pb2.Get(kind="Pod"))
    request = route_pb2.DispatchRequest(
        dispatch_id=secrets.token_hex(16), selector=cluster_pb2.Selector(clusters=",".join(names)), command=read
    )
    begun, *_ = [response async for response in stubs.routes.Dispatch(request, timeout=PATIENCE)]
    name = begun.accepted.dispatch
    for entry in registry.entries.values():
        root.outputs.keep(request.dispatch_id, entry.uid, entry.name.encode() * 200_000)

    whole = (await stubs.routes.GetDispatch(route_pb2.GetDispatchRequest(dispatch=name))).dispatch
    assert len(whole.targets) == 4
    assert 0 < sum(len(target.output) for target in whole.targets) <= 2 * 1024 * 1024
    call = stubs.routes.WatchDispatch(route_pb2.WatchDispatchRequest(dispatch=name), timeout=PATIENCE)
    first, *others, last = [response async for response in call]
    assert [target.output for target in first.accepted.targets] == [b""] * 4
    outputs = {target.cluster: target.output for response in others for target in response.changed.targets}
    assert outputs == {name: name.encode() * 200_000 for name in names}
    assert last.summary.states


async def test_clusters_and_routes_are_listed_by_name_by_pages(tree: Tree) -> None:
    root = await tree.start("root")
    names = ["edge-3", "edge-1", "edge-2"]
    for name in names:
        await tree.start(name, "root")
    stubs = tree.admin("root")
    await until(lambda: all(root.shell.core.registry.find(name) is not None for name in names))
    found: list[str] = []
    token = ""
    while True:
        selector = cluster_pb2.Selector(clusters="edge-*")
        request = cluster_pb2.ListClustersRequest(selector=selector, page_size=2, page_token=token)
        page = await stubs.clusters.ListClusters(request, timeout=PATIENCE)
        assert page.total == 3
        found += [cluster.name for cluster in page.clusters]
        token = page.next_page_token
        if not token:
            break
    assert found == sorted(names)
    first = await stubs.routes.ListRoutes(route_pb2.ListRoutesRequest(page_size=2))
    rest = route_pb2.ListRoutesRequest(page_size=2, page_token=first.next_page_token)
    second = await stubs.routes.ListRoutes(rest)
    assert [route.cluster for page in (first, second) for route in page.routes] == sorted(names)
