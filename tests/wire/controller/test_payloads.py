"""Large commands on disk and on their way: who holds them, going on after a break, passing on before all is here."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2, route_pb2_grpc
from ote.client.payloads import payload_ref
from ote.clustercontroller import dispatches, pieces
from ote.clustercontroller import payloads as payloads_module
from ote.clustercontroller.bulk import PIECE, Uplink
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.payloads import Payloads, name_of
from ote.model.errors import ResourceExhausted, Unavailable
from ote.rpc.channel import open_channel
from ote.rpc.errors import ErrorInterceptor
from ote.rpc.server import Server
from tests.wire.controller.tree import PATIENCE, Tree, dispatch, until

BODY = os.urandom(5 * PIECE + 1000)
NAME = name_of(BODY)


def files(folder: Path) -> list[Path]:
    """What lies in a folder."""
    return list(folder.iterdir())


def here(part: Path, body: bytes, index: int) -> bool:
    """Whether a piece has been written to a file that is to have this body."""
    if not part.exists():
        return False
    with part.open("rb") as file:
        file.seek(index * PIECE)
        return file.read(PIECE) == body[index * PIECE : (index + 1) * PIECE]


async def no_ping() -> None:
    """Nobody is there to be pinged."""
    raise Unavailable("NO_ROUTE", "nobody")


class Above(route_pb2_grpc.RouteServiceServicer):
    """Has some pieces of BODY, and writes down which are asked for; it refuses the others once it is `ready` to."""

    def __init__(self, *has: int, ready: Callable[[], bool] = lambda: True) -> None:
        self.has = has
        self.ready = ready
        self.asked: list[int] = []

    async def FetchPieces(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        first = await context.read()
        (index,) = first.pieces
        self.asked.append(index)
        if index not in self.has:
            await until(self.ready)
            raise Unavailable("PIECE_NOT_HERE_YET", "not yet")
        credit, at, end = first.credit_bytes, index * PIECE, min(len(BODY), (index + 1) * PIECE)
        while at < end:
            while credit < min(16_384, end - at):
                credit += (await context.read()).credit_bytes
            chunk = BODY[at : min(at + 16_384, end)]
            await context.write(route_pb2.FetchPiecesResponse(piece=index, data=chunk))
            at, credit = at + len(chunk), credit - len(chunk)


@contextlib.asynccontextmanager
async def below(folder: Path, above: Above) -> AsyncIterator[tuple[Payloads, list[ev.Event]]]:
    """Payloads of a child of it, and what they tell."""
    server = Server("127.0.0.1:0", interceptors=[ErrorInterceptor()])
    server.add(route_pb2_grpc.add_RouteServiceServicer_to_server, above, "ote.api.route.v1.RouteService")
    channel = open_channel(await server.start())
    events: list[ev.Event] = []
    payloads = Payloads(folder, events.append, Uplink(lambda: channel, no_ping))
    try:
        yield payloads, events
    finally:
        await payloads.stop()
        await channel.close()
        await server.stop(0.1)


async def test_after_a_restart_only_the_missing_pieces_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "RETRIES", 1)
    monkeypatch.setattr(pieces, "RETRY_DELAY", 0.3)
    part = (tmp_path / NAME.sha256.hex()).with_suffix(".part")
    above = Above(0, 1, 3, ready=lambda: all(here(part, BODY, index) for index in (0, 1, 3)))  # type: ignore[abstract]
    async with below(tmp_path, above) as (payloads, events):
        payloads.fetch("a", NAME)
        await until(lambda: events)
        assert isinstance(events[0], ev.PayloadFailed)
        assert not events[0].final
        assert payloads.path(NAME).with_suffix(".part") == part
    above = Above(*range(6))  # type: ignore[abstract]
    async with below(tmp_path, above) as (payloads, events):
        payloads.hold("a", NAME)
        payloads.sweep(0.0)
        payloads.fetch("a", NAME)
        await until(lambda: events)
        assert events == [ev.PayloadReady("a")]
        assert payloads.path(NAME).read_bytes() == BODY
        assert above.asked == [2, 4, 5]
        assert payloads.pieces.in_memory == 0


async def test_two_that_need_the_same_payload_fetch_it_once(tmp_path: Path) -> None:
    above = Above(*range(6))  # type: ignore[abstract]
    async with below(tmp_path, above) as (payloads, events):
        payloads.fetch("a", NAME)
        payloads.fetch("b", NAME)
        await until(lambda: len(events) == 2)
        assert {event.key for event in events if isinstance(event, ev.PayloadReady)} == {"a", "b"}
        assert sorted(above.asked) == [0, 1, 2, 3, 4, 5]
        payloads.drop("a")
        assert payloads.has(NAME)
        payloads.drop("b")
        assert not files(tmp_path)


async def test_what_nobody_needs_any_more_is_fetched_no_further(tmp_path: Path) -> None:
    async with below(tmp_path, Above(0, 1)) as (payloads, events):  # type: ignore[abstract]
        payloads.fetch("a", NAME)
        part = payloads.path(NAME).with_suffix(".part")
        await until(lambda: part.exists() and part.stat().st_size >= PIECE)
        payloads.drop("a")
        await until(lambda: not payloads.pieces.in_memory)
        assert not files(tmp_path)
        assert not events


async def test_a_pinned_payload_outlives_an_equal_one_that_settles(tmp_path: Path) -> None:
    payloads = Payloads(tmp_path, lambda event: None, Uplink(lambda: None, no_ping))
    payload, pin = await payloads.keep(b"x" * 1000)
    payloads.hold("first", payload)
    payloads.drop("first")
    assert payloads.has(payload)
    payloads.hold("second", payload)
    payloads.unpin(pin)
    assert payloads.has(payload)
    payloads.drop("second")
    assert not payloads.has(payload)


async def put(payloads: Payloads, body: bytes) -> None:
    """As a caller does."""

    async def parts() -> AsyncIterator[bytes]:
        yield body

    await payloads.receive(name_of(body), parts())


async def test_what_was_put_and_nobody_names_takes_bounded_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payloads_module, "_MOST_UNUSED", 2500)
    payloads = Payloads(tmp_path, lambda event: None, Uplink(lambda: None, no_ping))
    first, second, third = (letter * 1000 for letter in (b"a", b"b", b"c"))
    await put(payloads, first)
    await put(payloads, second)
    with pytest.raises(ResourceExhausted, match="dispatch them, or wait") as refused:
        await put(payloads, third)
    assert refused.value.reason == "TOO_MANY_PAYLOADS"
    assert payloads.unused == 2000
    payloads.hold("dispatch", name_of(first))
    await put(payloads, third)
    assert payloads.unused == 2000
    payloads.drop("dispatch")
    pin = payloads.pin(name_of(second))
    assert payloads.unused == 1000
    payloads.unpin(pin)
    assert payloads.unused == 2000
    payloads.sweep(0.0)
    assert payloads.unused == 0
    assert not files(tmp_path)


async def test_what_is_being_put_counts_by_what_was_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads_module, "_MOST_UNUSED", 1500)
    payloads = Payloads(tmp_path, lambda event: None, Uplink(lambda: None, no_ping))
    begun = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"a"
        begun.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(payloads.receive(name_of(b"a" * 1000), slow()))
    await begun.wait()
    with pytest.raises(ResourceExhausted):
        await put(payloads, b"b" * 1000)
    putting.cancel()
    await asyncio.gather(putting, return_exceptions=True)
    await put(payloads, b"b" * 1000)


async def test_a_large_command_that_was_refused_leaves_nothing(tmp_path: Path) -> None:
    payloads = Payloads(tmp_path, lambda event: None, Uplink(lambda: None, no_ping))
    _, pin = await payloads.keep(b"x" * 1000)
    payloads.unpin(pin)
    assert not files(tmp_path)


async def test_a_dispatch_keeps_its_payload_while_an_equal_one_settles(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = await tree.start("root")
    await tree.start("leaf", "root", children=False)
    await until(lambda: root.shell.core.registry.find("leaf") is not None)
    admin = tree.admin("root")
    body = command_pb2.Command(noop=command_pb2.Noop(padding=secrets.token_bytes(PIECE))).SerializeToString()
    name = payload_ref(body)

    async def parts() -> AsyncIterator[route_pb2.PutPayloadRequest]:
        yield route_pb2.PutPayloadRequest(payload=name)
        yield route_pb2.PutPayloadRequest(data=body[:PIECE])
        yield route_pb2.PutPayloadRequest(data=body[PIECE:])

    async def send() -> dict[str, int]:
        request = route_pb2.DispatchRequest(
            dispatch_id=secrets.token_hex(16), selector=cluster_pb2.Selector(clusters="leaf"), payload=name
        )
        ends = [event.summary.states async for event in admin.routes.Dispatch(request) if event.HasField("summary")]
        return dict(ends[0])

    await admin.routes.PutPayload(parts())
    looked, go_on, kind_in = threading.Event(), threading.Event(), dispatches._kind_in

    def slowly(file: Path) -> str | None:
        kind = kind_in(file)
        if not looked.is_set():
            looked.set()
            go_on.wait(PATIENCE)
        return kind

    monkeypatch.setattr(dispatches, "_kind_in", slowly)
    late = asyncio.create_task(send())
    await until(looked.is_set)
    assert await send() == {"SUCCEEDED": 1}
    go_on.set()
    assert await late == {"SUCCEEDED": 1}
    await until(lambda: not files(tree.folder / "root" / "payloads"))


async def test_a_hop_passes_pieces_on_while_the_next_ones_come(tree: Tree) -> None:
    root = await tree.start("root")
    region = await tree.start("region", "root")
    leaf = await tree.start("leaf", "region", children=False)
    await until(lambda: root.shell.core.registry.find("leaf") is not None)
    payload, _ = await root.payloads.keep(BODY)
    for above, below_it in ((root, "region"), (region, "leaf")):
        (link,) = above.shell.links_of(tree.uid(below_it))
        above.payloads.serve(link, payload)
    held, more = root.payloads.pieces.held, asyncio.Event()

    @contextlib.asynccontextmanager
    async def held_up(wanted: m.Payload, index: int, by: str = "") -> AsyncIterator[bytes]:
        if index >= 3:
            await more.wait()
        async with held(wanted, index, by) as piece:
            yield piece

    root.payloads.pieces.held = held_up  # type: ignore[method-assign, assignment]
    leaf.payloads.fetch("a", payload)
    part = leaf.payloads.path(payload).with_suffix(".part")
    await until(lambda: part.exists() and part.stat().st_size == 3 * PIECE)
    assert not region.payloads.has(payload)
    more.set()
    await until(lambda: leaf.payloads.has(payload))
    sent = root.shell.budget.traffic.bulk_sent
    assert sent == len(BODY)
    await tree.stop("leaf")
    await until(lambda: not region.payloads.pieces._serving)
    assert not region.payloads.pieces._by_link


async def test_who_loses_its_parent_fetches_the_rest_from_the_next_one(tree: Tree) -> None:
    root = await tree.start("root")
    region = await tree.start("region", "root")
    leaf = await tree.start("leaf", "region", children=False)
    await until(lambda: root.shell.core.registry.find("leaf") is not None)
    await until(lambda: leaf.shell.core.parents.alternates.grandparent is not None)
    pieces_of_region, pieces_of_root = region.payloads.pieces, root.payloads.pieces
    at_region, at_root, seen = pieces_of_region.held, pieces_of_root.held, list[int]()

    @contextlib.asynccontextmanager
    async def not_the_last(wanted: m.Payload, index: int, by: str = "") -> AsyncIterator[bytes]:
        if index >= 2:
            await asyncio.Event().wait()
        async with at_region(wanted, index, by) as piece:
            yield piece

    @contextlib.asynccontextmanager
    async def seen_at_root(wanted: m.Payload, index: int, by: str = "") -> AsyncIterator[bytes]:
        if by == tree.uid("leaf"):
            seen.append(index)
        async with at_root(wanted, index, by) as piece:
            yield piece

    pieces_of_region.held = not_the_last  # type: ignore[method-assign, assignment]
    pieces_of_root.held = seen_at_root  # type: ignore[method-assign, assignment]
    command = command_pb2.Command(noop=command_pb2.Noop(padding=BODY[: 4 * PIECE - 1000]))
    sending = asyncio.create_task(dispatch(tree.admin("root"), "leaf", command=command))
    folder = tree.folder / "leaf" / "payloads"
    body = command.SerializeToString()
    await until(lambda: any(here(file, body, 0) and here(file, body, 1) for file in folder.glob("*.part")))
    await tree.stop("region")
    assert await sending == {"leaf": "SUCCEEDED"}
    assert sorted(set(seen)) == [2, 3]
