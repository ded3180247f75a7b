"""Peers that open bulk calls and then stand still, trickle, or hoard: what they get, and what the others notice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.client.payloads import payload_ref
from ote.clustercontroller import bulkserving, pieces
from ote.clustercontroller.bulk import PIECE
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.node import Node
from tests.wire.controller.tree import PATIENCE, Stubs, Tree, attached, dispatch, refused, until, write

LEAF = "a" * 32


@pytest.fixture
async def house(tree: Tree) -> AsyncIterator[Tree]:
    """A root with one honest child."""
    root = await tree.start("root")
    await tree.start("honest", "root", children=False)
    await until(lambda: root.shell.core.registry.find("honest") is not None)
    yield tree
    assert await dispatch(tree.admin("root"), "honest") == {"honest": "SUCCEEDED"}
    await until(lambda: not root.shell.budget.traffic.bulk_streams)


@contextlib.asynccontextmanager
async def slow_child(house: Tree, size: int) -> AsyncIterator[tuple[Node, Stubs, m.Payload]]:
    """A child that may fetch a payload of this size, at the root: (root, its stubs, the payload)."""
    root = house.nodes["root"]
    payload, _ = await root.payloads.keep(secrets.token_bytes(size))
    identity = house.mint("root", "leaf", LEAF)
    async with attached(house, "root", identity, "leaf", LEAF):
        (link,) = root.shell.links_of(LEAF)
        root.payloads.serve(link, payload)
        yield root, house.as_("root", identity), payload


async def fetch(stubs: Stubs, payload: m.Payload, *indexes: int, credit: int) -> Any:
    """A call that has asked for pieces."""
    call = stubs.routes.FetchPieces()
    asked = route_pb2.FetchPiecesRequest(payload_sha256=payload.sha256, pieces=indexes, credit_bytes=credit)
    await write(call, asked)
    return call


async def end_of(call: Any) -> str:
    """The reason with which a call ends, after whatever it brings."""

    async def read() -> None:
        while True:
            await call.read()

    async with asyncio.timeout(PATIENCE):
        return (await refused(read())).reason


@pytest.mark.parametrize(("asked", "brought"), [(0, 16_384), (1, 16_384), (49_152, 49_152), (1 << 20, 65_536)])
async def test_a_child_says_how_much_a_message_brings(house: Tree, asked: int, brought: int) -> None:
    async with slow_child(house, PIECE) as (_, stubs, payload):
        call = stubs.routes.FetchPieces()
        first = route_pb2.FetchPiecesRequest(
            payload_sha256=payload.sha256, pieces=[0], credit_bytes=PIECE, chunk_bytes=asked
        )
        await call.write(first)
        sizes = [len((await call.read()).data) for _ in range(-(-PIECE // brought))]
        assert sum(sizes) == PIECE
        assert set(sizes[:-1]) == {brought}


async def test_a_message_that_may_be_large_waits_for_no_more_credit_than_a_small_one(house: Tree) -> None:
    async with slow_child(house, PIECE) as (_, stubs, payload):
        call = stubs.routes.FetchPieces()
        first = route_pb2.FetchPiecesRequest(
            payload_sha256=payload.sha256, pieces=[0], credit_bytes=20_000, chunk_bytes=65_536
        )
        await call.write(first)
        assert len((await call.read()).data) == 20_000
        await call.write(route_pb2.FetchPiecesRequest(credit_bytes=16_384))
        assert len((await call.read()).data) == 16_384
        call.cancel()


async def test_a_call_that_says_nothing_is_ended(house: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulkserving, "FIRST", 0.5)
    async with slow_child(house, PIECE) as (_, stubs, _):
        calls = [stubs.routes.FetchPieces(), stubs.routes.PushOutput(), house.admin("root").routes.PutPayload()]
        assert [await end_of(call) for call in calls[:2]] == ["TOO_SLOW"] * 2
        assert (await refused(calls[2])).reason == "TOO_SLOW"


async def test_who_takes_nothing_more_is_ended_and_holds_no_memory(
    house: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with slow_child(house, PIECE) as (root, stubs, payload):
        call = await fetch(stubs, payload, 0, credit=16_384)
        await call.read()
        assert root.payloads.pieces.in_memory == PIECE
        monkeypatch.setattr(bulkserving, "STANDSTILL", 0.5)
        await write(call, route_pb2.FetchPiecesRequest(credit_bytes=1))
        assert await end_of(call) == "TOO_SLOW"
        await until(lambda: root.payloads.pieces.in_memory == 0)


async def test_who_grants_all_and_does_not_read_is_ended(house: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulkserving, "STANDSTILL", 0.7)
    async with slow_child(house, 4 * PIECE) as (root, stubs, payload):
        call = await fetch(stubs, payload, 0, 1, 2, 3, credit=1 << 30)
        await until(lambda: root.payloads.pieces.in_memory == PIECE)
        await until(lambda: root.payloads.pieces.in_memory == 0)
        assert await end_of(call) == "TOO_SLOW"


async def test_who_grants_byte_by_byte_is_ended(house: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulkserving, "LONGEST", 1.5)
    async with slow_child(house, PIECE) as (_, stubs, payload):
        call = await fetch(stubs, payload, 0, credit=0)

        async def trickle() -> None:
            while True:
                await write(call, route_pb2.FetchPiecesRequest(credit_bytes=1))
                await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        try:
            assert await end_of(call) == "TOO_SLOW"
        finally:
            trickling.cancel()
            await asyncio.gather(trickling, return_exceptions=True)


async def test_who_hoards_calls_is_refused_and_others_get_their_pieces(
    house: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "_MEMORY", 8 * PIECE)
    async with slow_child(house, 16 * 1024 * 1024) as (root, stubs, payload):
        calls = [await fetch(stubs, payload, n, credit=1) for n in range(64)]
        await until(lambda: root.payloads.pieces.in_memory == 8 * PIECE)
        assert await end_of(await fetch(stubs, payload, 0, credit=1)) == "TOO_MANY_STREAMS"
        other = command_pb2.Command(noop=command_pb2.Noop(padding=secrets.token_bytes(900_000)))
        assert await dispatch(house.admin("root"), "honest", command=other) == {"honest": "SUCCEEDED"}
        assert root.payloads.pieces.in_memory <= 9 * PIECE
        for call in calls:
            call.cancel()


async def test_payloads_that_never_end_are_few_and_leave_nothing(house: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    body = os.urandom(2 * PIECE)
    name = payload_ref(body)
    folder = house.folder / "root" / "payloads"
    admin = house.admin("root")
    calls = [admin.routes.PutPayload() for _ in range(9)]
    for call in calls:
        await write(call, route_pb2.PutPayloadRequest(payload=name))
    await until(lambda: any(call.done() for call in calls))
    monkeypatch.setattr(bulkserving, "STANDSTILL", 0.5)
    for call in calls:
        await write(call, route_pb2.PutPayloadRequest(data=body[:PIECE]))
    reasons = [(await refused(call)).reason for call in calls]
    assert sorted(reasons) == ["TOO_MANY_STREAMS"] + ["TOO_SLOW"] * 8
    await until(lambda: not list(folder.iterdir()))


@contextlib.asynccontextmanager
async def reading(house: Tree) -> AsyncIterator[route_pb2.OutputHeader]:
    """A read that the slow child is asked for, and the header of its output."""
    await until(lambda: house.nodes["root"].shell.core.registry.via(LEAF) == LEAF)
    dispatch_id = secrets.token_hex(16)
    asked = route_pb2.DispatchRequest(dispatch_id=dispatch_id, command=command_pb2.Command(get=command_pb2.Get()))
    asked.selector.clusters = "leaf"
    watching = house.admin("root").routes.Dispatch(asked)
    await watching.read()
    yield route_pb2.OutputHeader(origin_uid=house.uid("root"), dispatch_id=dispatch_id, target_uid=LEAF, size=100_000)
    watching.cancel()


async def test_an_output_that_trickles_is_ended(house: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulkserving, "LONGEST", 1.5)
    async with slow_child(house, PIECE) as (root, stubs, _), reading(house) as header:
        call = stubs.routes.PushOutput()
        await write(call, route_pb2.PushOutputRequest(header=header))

        async def trickle() -> None:
            while True:
                await write(call, route_pb2.PushOutputRequest(data=b"x"))
                await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        try:
            assert await end_of(call) == "TOO_SLOW"
        finally:
            trickling.cancel()
            await asyncio.gather(trickling, return_exceptions=True)
        assert not root.outputs.get(header.dispatch_id, LEAF)


async def test_outputs_that_are_begun_and_not_finished_take_bounded_memory(
    house: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulkserving, "_PUSHED_BYTES", 100_000)
    async with slow_child(house, PIECE) as (_, stubs, _), reading(house) as header:
        calls = []
        for _ in range(4):
            call = stubs.routes.PushOutput()
            calls.append(call)
            await write(call, route_pb2.PushOutputRequest(header=header))
            await write(call, route_pb2.PushOutputRequest(data=bytes(30_000)))
            if len(calls) < 4:
                assert (await call.read()).taken_bytes == 30_000
        assert await end_of(calls[3]) == "TOO_MANY_STREAMS"
        monkeypatch.setattr(bulkserving, "STANDSTILL", 0.5)
        for call in calls[:3]:
            await write(call, route_pb2.PushOutputRequest(data=b"x"))
        assert [await end_of(call) for call in calls[:3]] == ["TOO_SLOW"] * 3


async def test_calls_that_are_opened_and_not_made_are_bounded(house: Tree) -> None:
    stubs = house.as_("root", house.mint("root", "leaf", LEAF))
    before = len(asyncio.all_tasks())
    open_call: Any = stubs.channel.stream_unary("/ote.api.route.v1.RouteService/Probe")
    calls = [open_call() for _ in range(1500)]
    await asyncio.sleep(1)
    theirs = len(asyncio.all_tasks()) - before - len(calls)
    assert theirs <= 2 * 1024 + 50, "a call takes two tasks of the server"
    assert await dispatch(house.admin("root"), "honest") == {"honest": "SUCCEEDED"}
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
