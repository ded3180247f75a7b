"""A large payload on its way through a thin link: neither siblings nor its own tunnel suffer, and it arrives."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.client.payloads import payload_ref, pieces_of
from ote.clustercontroller.node import Node
from ote.clustercontroller.routes import PING
from tests.bench.link import thin_link
from tests.wire.controller.test_isolation import SLACK, held_once, measure
from tests.wire.controller.tree import Stubs, Tree, until

pytestmark = [pytest.mark.timed, pytest.mark.timeout(300)]

MIB = 1024 * 1024
PACE: dict[str, Any] = {"heartbeat": 0.5}
ATTEMPTS = 3


@pytest.fixture
async def house(tree: Tree) -> Tree:
    """A root with one quiet child."""
    root = await tree.start("root", **PACE)
    await tree.start("quiet", "root", children=False, **PACE)
    await until(lambda: root.shell.core.registry.find("quiet") is not None)
    await measure(tree.admin("root"), 10)
    return tree


async def start_far(house: Tree, address: str) -> Node:
    """A child of the root, which it knows by this address."""
    token = (await house.token("root")).secret
    node = await house.start("far", address=address, token=token, children=False, **PACE)
    await until(lambda: house.nodes["root"].shell.core.registry.find("far") is not None)
    return node


async def send(admin: Stubs, size: int) -> str:
    """A no-op of this size to the far child; how it ended."""
    body = command_pb2.Command(noop=command_pb2.Noop(padding=secrets.token_bytes(size))).SerializeToString()
    payload = payload_ref(body)

    async def parts() -> AsyncIterator[route_pb2.PutPayloadRequest]:
        yield route_pb2.PutPayloadRequest(payload=payload)
        for piece in pieces_of(body):
            yield route_pb2.PutPayloadRequest(data=piece)

    await admin.routes.PutPayload(parts())
    request = route_pb2.DispatchRequest(
        dispatch_id=secrets.token_hex(16), selector=cluster_pb2.Selector(clusters="far"), payload=payload
    )
    ends = [dict(event.summary.states) async for event in admin.routes.Dispatch(request) if event.HasField("summary")]
    ((state, number),) = ends[0].items()
    assert number == 1
    return str(state)


async def ping_for_ever(root: Node, uid: str, taken: list[float]) -> None:
    """Round trips on the tunnel to a child."""
    while True:
        begun = time.perf_counter()
        await root.shell.ask(uid, PING, b"")
        taken.append(time.perf_counter() - begun)
        await asyncio.sleep(0.05)


def complaints(**held: bool) -> str:
    """What did not hold."""
    return ", ".join(f"not {name}" for name, ok in held.items() if not ok)


@pytest.mark.parametrize(
    ("size", "rate", "delay"),
    [(MIB, 2e6, 0.05), (16 * MIB - 4096, 40e6, 0.01)],
    ids=["1 MiB at 2 Mbit a second", "16 MiB at 40 Mbit a second"],
)
async def test_a_payload_on_a_thin_link_holds_up_neither_siblings_nor_its_own_tunnel(
    house: Tree, size: int, rate: float, delay: float
) -> None:
    root, admin = house.nodes["root"], house.admin("root")
    async with thin_link(root.address, bits_per_second=rate, delay=delay) as address:
        far = await start_far(house, address)
        uid = house.uid("far")

        async def measured(_: int) -> str:
            epoch = root.shell.core.registry.known_epoch(uid)
            quiet = await measure(admin)
            own: list[float] = []
            begun = time.perf_counter()
            sending = asyncio.create_task(send(admin, size))
            pinging = asyncio.create_task(ping_for_ever(root, uid, own))
            try:
                await until(lambda: far.uplink.traffic.bulk_streams)
                beside = [await measure(admin)]
                while not sending.done() and len(beside) < 5:
                    beside.append(await measure(admin))
                assert await sending == "SUCCEEDED"
            finally:
                pinging.cancel()
                await asyncio.gather(pinging, return_exceptions=True)
            goodput = size * 8 / (time.perf_counter() - begun) / rate
            own.sort()
            print(
                f"sibling's p99 quiet {quiet * 1000:.0f} ms, beside {[round(p99 * 1000) for p99 in beside]} ms; "
                f"own round trip {own[len(own) // 2] * 1000:.0f} ms, at most {own[-1] * 1000:.0f} ms; {goodput:.0%}"
            )
            return complaints(
                the_sibling_is_quick=min(beside) <= 1.5 * quiet + SLACK,
                its_own_tunnel_is_quick=own[int(len(own) * 0.95)] <= 0.5 and own[-1] < 2.0,
                its_tunnel_was_kept=root.shell.core.registry.known_epoch(uid) == epoch,
                the_link_is_used=goodput > 0.3,
            )

        await held_once(measured, ATTEMPTS)
        await house.stop("far")


async def test_an_output_on_its_way_up_a_thin_link_does_not_hold_up_its_own_tunnel(house: Tree) -> None:
    root, output = house.nodes["root"], secrets.token_bytes(MIB // 2)
    async with thin_link(root.address, bits_per_second=1e6, delay=0.05) as address:
        far = await start_far(house, address)
        uid = house.uid("far")

        async def measured(_: int) -> str:
            dispatch_id = secrets.token_hex(16)
            asked = route_pb2.DispatchRequest(
                dispatch_id=dispatch_id, command=command_pb2.Command(get=command_pb2.Get())
            )
            asked.selector.clusters = "far"
            async for _ in house.admin("root").routes.Dispatch(asked):
                pass
            own: list[float] = []
            pinging = asyncio.create_task(ping_for_ever(root, uid, own))
            try:
                begun = time.perf_counter()
                async with asyncio.timeout(60):
                    await far.outputs.push(house.uid("root"), dispatch_id, uid, output)
                goodput = len(output) * 8 / (time.perf_counter() - begun) / 1e6
            finally:
                pinging.cancel()
                await asyncio.gather(pinging, return_exceptions=True)
            assert root.outputs.get(dispatch_id, uid) == output
            own.sort()
            print(f"round trip {own[len(own) // 2] * 1000:.0f} ms, at most {own[-1] * 1000:.0f} ms; {goodput:.0%}")
            return complaints(its_own_tunnel_is_quick=own[int(len(own) * 0.95)] <= 0.5, the_link_is_used=goodput > 0.3)

        await held_once(measured, ATTEMPTS)
        await house.stop("far")
