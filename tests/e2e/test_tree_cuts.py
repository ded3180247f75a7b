"""The link to the parent swallows what one side says: who notices, and how soon. Times are printed."""

from __future__ import annotations

import asyncio
import time

import pytest

from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.apps.localtree import until_online
from tests.e2e.cut_link import cut_link
from tests.e2e.trees import DEAD_AFTER, SLACK, Tree, request_of, settled, until_moved

pytestmark = pytest.mark.timed

SILENT = DEAD_AFTER + 1.0
HOME_WITHIN = 10.0
NOOP = command_pb2.Command(noop=command_pb2.Noop())


@pytest.mark.parametrize("lost", ["up", "down"])
async def test_a_child_whose_link_swallows_bytes_is_elsewhere_within_the_dead_interval_and_a_second(
    tree: Tree, lost: str
) -> None:
    await tree.start_root()
    token = await tree.token("region-*", children=True)
    await asyncio.gather(
        tree.join("region-east", "root", children=True, token=token),
        tree.join("region-west", "root", children=True, token=token),
    )
    async with cut_link(tree.nodes["region-east"].address) as link, tree.client() as client:
        await tree.join("edge-1", "region-east", "--parent", link.address)
        await until_online(client, {"edge-1": "region-east"})
        setattr(link, lost, False)
        begun = time.monotonic()
        await until_moved(client, "region-east", ["edge-1"], SILENT + SLACK)
        print(f"bytes lost on the way {lost}: reachable elsewhere after {time.monotonic() - begun:.2f} s")
        [target] = (await settled(client, request_of("edge-1", NOOP))).values()
        assert target.state == route_pb2.TARGET_STATE_SUCCEEDED, target.message
        link.mend()
        begun = time.monotonic()
        await until_online(client, {"edge-1": "region-east"}, HOME_WITHIN + SLACK)
        print(f"home {time.monotonic() - begun:.2f} s after the link was mended")
