"""What no controller would send, on the tunnel and on the port: a clear error, no crash, siblings undisturbed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import secrets
import ssl
import struct
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2, tunnel_pb2
from ote.api.trust.v1 import trust_pb2
from ote.clustercontroller.core import messages as m
from ote.pki import csr, decode_token, new_key
from ote.rpc.tls import TlsIdentity
from tests.wire.controller.tree import (
    PATIENCE,
    Raw,
    Tree,
    attached,
    dispatch,
    encode_up,
    hello,
    record,
    refused,
    until,
    write,
)

MAX = 2**64 - 1
LEAF = "a" * 32
CONNECT = "/ote.api.route.v1.RouteService/Connect"


@pytest.fixture
async def house(tree: Tree) -> AsyncIterator[Tree]:
    """A root with one quiet child, which has to stay where it is, and to answer, whatever its sibling does."""
    root = await tree.start("root")
    await tree.start("quiet", "root", children=False)
    await until(lambda: root.shell.core.registry.find("quiet") is not None)
    link = root.shell.links_of(tree.uid("quiet"))
    errors: list[str] = []
    root.shell._log.error = lambda message, **_: errors.append(message)
    yield tree
    assert root.shell.links_of(tree.uid("quiet")) == link, "the sibling was disturbed"
    assert await dispatch(tree.admin("root"), "quiet") == {"quiet": "SUCCEEDED"}
    await until(lambda: len(root.shell.links) == 1)
    await until(lambda: root.shell.budget.used == 0)
    assert not errors


def raw(tree: Tree) -> Raw:
    return Raw(tree.as_("root", tree.mint("root", "leaf", LEAF)))


async def write_frames(link: Raw, *frames: bytes) -> None:
    """Bytes as frames, whatever they are."""
    link.call.cancel()
    channel: grpc.aio.Channel = link.channel
    link.call = channel.stream_stream(CONNECT, response_deserializer=tunnel_pb2.ConnectResponse.FromString)()
    link.read()
    for frame in frames:
        await write(link.call, frame)


async def test_garbage_is_a_bad_frame(house: Tree) -> None:
    good = tunnel_pb2.ConnectRequest(items=[encode_up(hello("leaf", LEAF))]).SerializeToString()
    broken_text = b"\x0a\x06\x0a\x04\x12\x02\xff\xfe"
    for frames in ([secrets.token_bytes(200)], [b"\xff" * 1000], [good, b"\xff\xff\xff"], [broken_text]):
        async with raw(house) as link:
            await write_frames(link, *frames)
            error = await link.end()
            assert error is not None, frames
            assert error.reason == "BAD_FRAME"


async def test_giant_frames_are_refused(house: Tree) -> None:
    crowd = [encode_up(m.Heartbeat(0, m.Digest(0, number))) for number in range(20_000)]
    giant = encode_up(m.Report(LEAF, 1, "c" * 32, LEAF, m.RESULT, body=bytes(600_000)))
    huge = encode_up(m.Report(LEAF, 1, "c" * 32, LEAF, m.RESULT, body=bytes(5_000_000)))
    for items, reasons in ((crowd, {"BAD_FRAME"}), ([giant], {"BAD_FRAME"}), ([huge], {"MESSAGE_TOO_LARGE"})):
        async with raw(house) as link:
            link.read()
            await link.say(hello("leaf", LEAF))
            await link.heard(m.Welcome)
            await write(link.call, tunnel_pb2.ConnectRequest(items=items))
            error = await link.end()
            assert error is not None
            assert error.reason in reasons, error


async def test_what_comes_out_of_order_is_refused(house: Tree) -> None:
    opening = hello("leaf", LEAF)
    beat = m.Heartbeat(0, m.Digest(0, 0))
    for first, then, reason in (
        ([beat], [], "BAD_FRAME"),
        ([], [beat], "BAD_FRAME"),
        ([opening, opening], [], "BAD_FRAME"),
        ([opening], [opening], "BAD_FRAME"),
        ([opening], [beat], "REFUSED"),
        ([opening], [m.News([])], "REFUSED"),
        ([opening], [m.Report(LEAF, 1, "c" * 32, LEAF, m.RESULT)], "REFUSED"),
        ([opening, m.Report(LEAF, 1, "c" * 32, LEAF, m.RESULT)], [], "REFUSED"),
        ([opening], [m.Evictions(["b" * 32])], "REFUSED"),
        ([opening], [m.Call("1" * 32, LEAF, "", "ping", b"")], "REFUSED"),
    ):
        async with raw(house) as link:
            link.read()
            await link.say(*first)
            if then:
                await link.say(*then)
            error = await link.end()
            assert error is not None
            assert error.reason == reason, (first, then)
            if reason == "REFUSED":
                assert (await link.heard(m.Refused)).reason == "BAD_FRAME"


async def test_a_wrong_version_is_refused_and_an_unknown_item_ignored(house: Tree) -> None:
    async with raw(house) as link:
        link.read()
        await link.say(hello("leaf", LEAF, protocol_versions=[2, 3]))
        assert (await link.heard(m.Refused)).reason == "PROTOCOL_VERSION"
    async with raw(house) as link:
        unknown = bytes([0x0A, 0x05, 0xFA, 0x07, 0x02, 0x08, 0x01])
        unset = tunnel_pb2.UpItem(report=tunnel_pb2.Report(target_uid=LEAF))
        good = tunnel_pb2.ConnectRequest(items=[encode_up(hello("leaf", LEAF)), unset]).SerializeToString()
        await write_frames(link, good, unknown)
        await link.heard(m.Welcome)
        assert not link.ended.is_set()


async def test_hello_has_to_come_in_time_and_the_attachment_too(tree: Tree) -> None:
    await tree.start("root", dead_after=1.5)
    async with raw(tree) as silent:
        silent.read()
        await write(silent.call, tunnel_pb2.ConnectRequest(items=[]))
        error = await silent.end()
        assert error is not None
        assert error.reason == "BAD_FRAME"
    async with raw(tree) as waiting:
        waiting.read()
        await waiting.say(hello("leaf", LEAF))
        error = await waiting.end()
        assert error is not None
        assert "no attach" in error.message


ABSURD: list[m.UpItem] = [
    m.Heartbeat(2**32 - 1, m.Digest(2**32 - 1, MAX)),
    m.Goodbye(MAX, MAX),
    m.Report(LEAF, MAX, "c" * 32, LEAF, m.RESULT, 2**32 - 1, "j", MAX, MAX, "SUCCEEDED", b"x", 9**9, 9**9),
    m.Report(LEAF, MAX, "c" * 32, LEAF, m.BUSY, 0, "j", MAX, MAX, retry_after_ms=2**32 - 1, hop_limit=0),
    m.Report(LEAF, MAX, "\x00", "../../x", m.JOURNAL_CHANGED, 0, "", MAX, MAX),
    m.Ack(LEAF, [LEAF], [""] * 100, 0),
    m.Call("", LEAF, "", "../../etc/passwd", b"\xff" * 1000, 2**32 - 1),
    m.Call("x", LEAF, "b" * 32, "ping", b"", 0),
    m.Call("x", LEAF, "", "reserve-name", b"\xc1", 3),
    m.Call("x", LEAF, "", "/ote.api.trust.v1.TrustService/Enrol", b"\x92\xa1x\xa1y", 3),
    m.Call("x", LEAF, "", "/ote.api.route.v1.RouteService/GetDispatch", b"\xff\xff\xff", 3),
    m.Reply("x", "", "OK"),
    m.Evictions([LEAF[:31] + "b"] * 100),
    m.News([], full_begin=True, full_end=True),
    m.News([], full_end=True),
]


async def test_absurd_numbers_and_words_hurt_nobody(house: Tree) -> None:
    identity = house.mint("root", "leaf", LEAF)
    for epoch, said in enumerate(ABSURD, start=1):
        if isinstance(said, m.Goodbye):
            continue
        async with attached(house, "root", identity, "leaf", LEAF, epoch=epoch) as link:
            await link.say(said)
            await link.say(m.Heartbeat(0, m.Digest(0, 0)))
            await asyncio.sleep(0.02)
    async with attached(house, "root", identity, "leaf", LEAF, epoch=100) as link:
        await link.say(m.Goodbye(MAX, MAX))
        await link.heard(m.Drained)


async def test_an_absurd_standing_or_epoch_spoils_nothing(house: Tree) -> None:
    root = house.nodes["root"].shell.core
    for best in (m.Standing(MAX, 0), m.Standing(2**63, 2**32 - 1)):
        async with raw(house) as link:
            link.read()
            await link.say(hello("leaf", LEAF, epoch=MAX, best=best))
            await link.heard(m.Welcome)
    assert root.parents.standing.beat < 2**62
    identity = house.mint("root", "leaf", LEAF)
    async with attached(house, "root", identity, "leaf", LEAF, epoch=MAX):
        await until(lambda: root.registry.state(LEAF) == "ONLINE")


async def test_names_like_paths_are_refused_by_enrol_and_in_news(house: Tree) -> None:
    secret = decode_token((await house.token("root", allow_children=True)).secret)
    joiner = house.as_("root", TlsIdentity(secret.chain_pem, secret.key_pem, secret.ca_pem), "parent.ote")
    key = new_key()
    region = house.mint("root", "region", LEAF, parent=True)
    for epoch, name in enumerate(["../../etc/passwd", "a/b", "", "UPPER", "x" * 64, "a\x1b[2J", "\u00e4"], start=1):
        error = await refused(joiner.trust.Enrol(trust_pb2.EnrolRequest(name=name, uid="b" * 32, csr=csr(key, "x"))))
        assert error.reason == "INVALID_NAME"
        async with attached(house, "root", region, "region", LEAF, epoch=epoch) as link:
            await link.say(m.News([record(name, "b" * 32, key, LEAF)]))
            ended = await link.end()
            assert ended is not None
            assert ended.reason == "BAD_FRAME"
    error = await refused(joiner.trust.Enrol(trust_pb2.EnrolRequest(name="parent", uid="b" * 32, csr=csr(key, "x"))))
    assert error.reason == "INVALID_NAME"


async def test_a_record_that_is_too_large_ends_its_own_tunnel_only(house: Tree) -> None:
    region = house.mint("root", "region", LEAF, parent=True)
    async with attached(house, "root", region, "region", LEAF) as link:
        own = record("fat", "b" * 32, new_key(), LEAF)
        own.facts = m.Facts(version=1, labels={f"k{number}": "v" * 60 for number in range(10_000)})
        await link.say(m.News([own]))
        error = await link.end()
        assert error is not None
        assert error.reason == "BAD_FRAME"


async def test_bad_requests_of_people_are_told_in_words(house: Tree) -> None:
    admin = house.admin("root")
    for payload in (b"", b"x", b"x" * 32):
        request = route_pb2.DispatchRequest(
            dispatch_id="c" * 32,
            selector=cluster_pb2.Selector(clusters="quiet"),
            payload=command_pb2.PayloadRef(sha256=payload, size=1),
        )
        error = await refused(admin.routes.Dispatch(request).read())
        assert error.reason in ("BAD_PAYLOAD", "PAYLOAD_MISSING")
    for asked in ("", "x", "../../x", "root/" + "z" * 32, "nobody/" + "c" * 32):
        error = await refused(admin.routes.GetDispatch(route_pb2.GetDispatchRequest(dispatch=asked)))
        assert error.reason in ("INVALID_ID", "DISPATCH_NOT_FOUND")
    for bad_csr in (b"", b"\x30\x00", b"x" * 20_000):
        request_ = trust_pb2.RenewRequest(csr=bad_csr)
        error = await refused(house.as_("root", house.stolen("quiet")).trust.Renew(request_))
        assert error.reason == "INVALID_CSR"


# --- below gRPC ---------------------------------------------------------------------------------------------------


async def cut(tree: Tree, first: bytes) -> None:
    """Connect, say this much, and wait for the end."""
    host, port = tree.nodes["root"].address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(first)
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionError):
            while await reader.read(4096):
                pass
    writer.close()


HALF_OPEN = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">I", 0),
    secrets.token_bytes(500),
)


async def test_who_trickles_bytes_is_cut_without_hurting_others(house: Tree) -> None:
    host, port = house.nodes["root"].address.rsplit(":", 1)
    identity = house.mint("root", "leaf", LEAF)
    context = ssl.create_default_context(cadata=identity.root.decode())
    context.check_hostname = False
    folder = house.folder / "leaf"
    folder.mkdir()
    (folder / "both.pem").write_bytes(identity.private_key + identity.certificate_chain)
    context.load_cert_chain(folder / "both.pem")
    context.set_alpn_protocols(["h2"])
    writers = []
    for _ in range(30):
        _, writer = await asyncio.open_connection(host, int(port), ssl=context)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[: secrets.randbelow(20) + 1])
        writers.append(writer)
    assert await dispatch(house.admin("root"), "quiet") == {"quiet": "SUCCEEDED"}
    for writer in writers:
        writer.transport.abort()


async def test_a_thousand_connects_without_hello_and_half_open_peers_leave_nothing(house: Tree) -> None:
    root = house.nodes["root"]
    half_open = asyncio.gather(*(cut(house, first) for first in HALF_OPEN))
    stubs = house.as_("root", house.mint("root", "leaf", LEAF))
    calls: list[Any] = []
    for _ in range(10):
        batch = [stubs.routes.Connect() for _ in range(100)]
        await asyncio.gather(*(call.initial_metadata() for call in batch[:1]), return_exceptions=True)
        calls += batch
        assert len(root.shell.links) <= 9
    codes = Counter(await asyncio.gather(*(call.code() for call in calls)))
    assert codes[grpc.StatusCode.RESOURCE_EXHAUSTED] > 900
    assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.FAILED_PRECONDITION}
    assert await dispatch(house.admin("root"), "quiet") == {"quiet": "SUCCEEDED"}
    for call in calls:
        call.cancel()
    await half_open


async def test_attacks_one_after_the_other_do_not_grow_memory(house: Tree) -> None:
    identity = house.mint("root", "leaf", LEAF)
    stubs = house.as_("root", identity)
    before = 0
    for round_ in range(200):
        async with Raw(stubs) as link:
            link.read()
            await link.say(hello("leaf", LEAF, software="x" * 250))
            await link.say(m.Report(LEAF, 1, "c" * 32, LEAF, m.RESULT, body=bytes(500_000)))
            await link.end()
        if round_ == 50:
            gc.collect()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gc.collect()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


async def test_whom_nobody_knows_is_evicted_by_its_uid_at_a_root_only(tree: Tree) -> None:
    await tree.start("root")
    east = await tree.start("east", "root")
    forgotten = cluster_pb2.EvictClusterRequest(name="f" * 32)
    nobody = cluster_pb2.EvictClusterRequest(name="nobody")
    assert (await refused(tree.admin("east").clusters.EvictCluster(forgotten))).reason == "CLUSTER_NOT_FOUND"
    assert (await refused(tree.admin("root").clusters.EvictCluster(nobody))).reason == "CLUSTER_NOT_FOUND"
    assert (await tree.admin("root").clusters.EvictCluster(forgotten)).uid == "f" * 32
    await until(lambda: "f" * 32 in east.shell.core.registry.evicted)
