"""Lists of a real controller: whole, in order, by pages."""

from __future__ import annotations

import asyncio
import secrets

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from tests.wire.controller.tree import Stubs, Tree, dispatch, until

NOOP = command_pb2.Command(noop=command_pb2.Noop())


async def accepted(stubs: Stubs, clusters: str) -> str:
    """Send a no-op and go away once it is accepted; the name of the dispatch."""
    request = route_pb2.DispatchRequest(
        dispatch_id=secrets.token_hex(16), selector=cluster_pb2.Selector(clusters=clusters), command=NOOP
    )
    call = stubs.routes.Dispatch(request, timeout=10)
    try:
        async for response in call:
            return str(response.accepted.dispatch)
    finally:
        call.cancel()
    raise AssertionError("not accepted")


async def listed(stubs: Stubs, *, unsettled_only: bool = False) -> list[route_pb2.Dispatch]:
    """All dispatches, two a page."""
    found: list[route_pb2.Dispatch] = []
    token = ""
    while True:
        request = route_pb2.ListDispatchesRequest(page_size=2, page_token=token, unsettled_only=unsettled_only)
        page: route_pb2.ListDispatchesResponse = await stubs.routes.ListDispatches(request, timeout=5)
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
    sent = [await accepted(stubs, "root") for _ in range(5)]
    assert [one.name for one in await listed(stubs)] == sent[::-1]
    await tree.stop("edge")
    entry = root.shell.core.registry.find("edge")
    assert entry is not None
    await until(lambda: root.shell.core.registry.state(entry.uid) == "OFFLINE")
    waiting = [await accepted(stubs, "edge") for _ in range(3)]
    await asyncio.gather(*(dispatch(stubs, "root") for _ in range(2)))
    (first, second, third) = await listed(stubs, unsettled_only=True)
    assert [first.name, second.name, third.name] == waiting[::-1]
    assert dict(first.states) == {"QUEUED": 1}
    assert not first.targets
    assert len(await listed(stubs)) == 10
