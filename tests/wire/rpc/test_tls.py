"""Who TLS itself lets through, and who not."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from ote.api.route.v1 import route_pb2 as pb
from ote.api.route.v1 import route_pb2_grpc
from ote.model.errors import FailedPrecondition, OteError, Unavailable
from ote.pki import Authority
from ote.rpc.channel import open_channel
from ote.rpc.errors import translated
from ote.rpc.server import Server
from ote.rpc.tls import TlsIdentity
from tests.bench.link import thin_link
from tests.wire.rpc.tree import EDGE_UID, ROUTES, Dial, Serve, below, member, nothing, person, routes


async def probe(stub: route_pb2_grpc.RouteServiceAsyncStub) -> str:
    with translated():
        answer = await stub.Probe(pb.ProbeRequest(), timeout=30)
    return answer.name


async def refused(stub: route_pb2_grpc.RouteServiceAsyncStub) -> OteError:
    with pytest.raises(Unavailable) as caught:
        await probe(stub)
    return caught.value


async def test_members_of_one_tree_talk(root: Authority, serve: Serve, dial: Dial) -> None:
    address = await serve(tls=member(root, "east"))
    assert await probe(dial(address, member(root, "edge-1"), "east.ote")) == "served"


async def test_a_handshake_over_a_slow_link_may_take_its_time(root: Authority, serve: Serve, dial: Dial) -> None:
    address = await serve(tls=member(root, "east"))
    async with thin_link(address, bits_per_second=10e6, delay=0.4) as slow:
        assert await probe(dial(slow, member(root, "edge-1"), "east.ote")) == "served"


async def test_a_server_with_another_name_is_refused(root: Authority, serve: Serve, dial: Dial) -> None:
    address = await serve(tls=member(root, "edge-7"))
    error = await refused(dial(address, member(root, "edge-1"), "east.ote"))
    assert error.reason == "TLS_FAILED"
    assert "another name" in str(error)


async def test_another_tree_is_refused_on_both_sides(root: Authority, serve: Serve, dial: Dial) -> None:
    other = Authority.create_root("a" * 32)
    address = await serve(tls=member(root, "east"))
    error = await refused(dial(address, member(other, "edge-1"), "east.ote"))
    assert (error.reason, str(error)) == ("TLS_FAILED", "the other side's certificate is not of this tree")
    stranger = member(other, "edge-1")
    mixed = TlsIdentity(stranger.certificate_chain, stranger.private_key, root.root_pem)
    error = await refused(dial(address, mixed, "east.ote"))
    assert "does not accept our certificate" in str(error)


async def test_no_certificate_is_no_connection(root: Authority, serve: Serve, dial: Dial) -> None:
    address = await serve(tls=member(root, "east"))
    await refused(dial(address))


async def test_an_expired_certificate_is_refused(root: Authority, serve: Serve, dial: Dial) -> None:
    past = Authority(root.chain_pem, root.key_pem, root.root_pem, now=lambda: time.time() - 60)
    address = await serve(tls=member(root, "east"))
    await refused(dial(address, member(past, "edge-1", lifetime=30), "east.ote"))
    old = await serve(tls=member(past, "west", lifetime=30))
    error = await refused(dial(old, member(root, "edge-1"), "west.ote"))
    assert "has expired" in str(error)


async def test_a_server_without_tls_is_named(root: Authority, serve: Serve, dial: Dial) -> None:
    error = await refused(dial(await serve(), member(root, "edge-1"), "east.ote"))
    assert error.reason == "TLS_FAILED"
    assert "TLS" in str(error)


async def test_join_rejoin_and_people_connect_but_cannot_serve(root: Authority, serve: Serve, dial: Dial) -> None:
    address = await serve(tls=member(root, "east"))
    assert await probe(dial(address, person(root, "admin"), "east.ote")) == "served"
    chain, key = root.issue_join("t1", time.time() + 60)
    joiner = TlsIdentity(chain, key, root.root_pem)
    assert await probe(dial(address, joiner, "east.ote")) == "served"
    await refused(dial(await serve(tls=joiner), member(root, "edge-1"), "east.ote"))


async def test_a_deep_tree_is_one_tree(root: Authority, serve: Serve, dial: Dial) -> None:
    authority = root
    with contextlib.suppress(FailedPrecondition):
        for depth in range(20):
            authority = below(authority, f"r{depth}", f"{depth:032x}")
    assert authority.host.count(".") >= 8
    deepest = "d" * 63
    address = await serve(tls=member(root, "top"))
    assert await probe(dial(address, member(authority, deepest, uid="u" * 63), "top.ote")) == "served"
    address = await serve(tls=member(authority, deepest))
    assert await probe(dial(address, member(root, "top"), f"{deepest}.ote")) == "served"


async def test_a_region_cannot_vouch_for_names_of_the_root(root: Authority, serve: Serve, dial: Dial) -> None:
    east = below(root, "east", "b" * 32)
    address = await serve(tls=member(root, "root"))
    assert await probe(dial(address, person(east, "admin"), "root.ote")) == "served"
    east._host = root.host
    await refused(dial(address, person(east, "admin"), "root.ote"))
    west = below(root, "west", "d" * 32)
    west._host = f"{'b' * 32}.{root.host}"
    await refused(dial(address, member(west, "edge-1"), "root.ote"))


async def test_a_leaf_cannot_sign_for_others(root: Authority, serve: Serve, dial: Dial) -> None:
    leaf = member(root, "edge-1")
    forger = Authority.create_root("a" * 32)
    forged = member(forger, "edge-2")
    chain = forged.certificate_chain + leaf.certificate_chain
    address = await serve(tls=member(root, "east"))
    await refused(dial(address, TlsIdentity(chain, forged.private_key, root.root_pem), "east.ote"))


async def test_renewed_certificates_are_shown_without_a_restart(root: Authority) -> None:
    server = Server("127.0.0.1:0", tls=member(root, "east"))
    server.add(route_pb2_grpc.add_RouteServiceServicer_to_server, routes(nothing), ROUTES)
    address = await server.start()
    me = member(root, "edge-1")
    old = open_channel(address, tls=me, server_name="east.ote")
    new = open_channel(address, tls=me, server_name="west.ote")
    try:
        assert await probe(route_pb2_grpc.RouteServiceStub(old)) == "served"
        server.reload_tls(member(root, "west"))
        assert await probe(route_pb2_grpc.RouteServiceStub(new)) == "served"
        assert await probe(route_pb2_grpc.RouteServiceStub(old)) == "served"
        for _ in range(3):
            fresh = open_channel(address, tls=me, server_name="west.ote")
            assert await probe(route_pb2_grpc.RouteServiceStub(fresh)) == "served"
            await fresh.close()
    finally:
        await old.close()
        await new.close()
        await server.stop(0.1)


async def test_garbage_and_half_open_peers_disturb_nobody(root: Authority, serve: Serve, dial: Dial) -> None:
    address = await serve(tls=member(root, "east"))
    host, _, port = address.rpartition(":")
    silent = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
    _, loud = await asyncio.open_connection(host, int(port))
    loud.write(b"GET / HTTP/1.1\r\n\r\n" * 100)
    await loud.drain()
    try:
        assert await probe(dial(address, member(root, "edge-1", uid=EDGE_UID), "east.ote")) == "served"
        async with asyncio.timeout(30):
            await asyncio.gather(*(reader.read() for reader, _ in silent))
    finally:
        for writer in (loud, *(writer for _, writer in silent)):
            writer.close()
