"""What somebody who holds a member's key may try, each from a real socket against real controllers."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from typing import Any

import grpc.aio
import msgspec
import pytest

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.api.trust.v1 import trust_pb2
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.messages import Alternate
from ote.clustercontroller.dispatches import CANCEL_DISPATCH, GET_DISPATCH
from ote.clustercontroller.trust import ENROL, RESERVE
from ote.pki import csr, new_key
from tests.wire.controller.tree import PATIENCE, Raw, Tree, attached, dispatch, hello, record, refused, until, write

NOOP = command_pb2.Command(noop=command_pb2.Noop())


@pytest.fixture
async def three(tree: Tree) -> Tree:
    """root; east with a sibling west; one edge below each."""
    await tree.start("root")
    await tree.start("east", "root")
    await tree.start("west", "root")
    await tree.start("e1", "east", children=False)
    await tree.start("w1", "west", children=False)
    await until(lambda: online(tree, "root", "east", "west", "e1", "w1"))
    return tree


def online(tree: Tree, at: str, *names: str) -> bool:
    registry = tree.nodes[at].shell.core.registry
    entries = [registry.find(name) for name in names]
    return all(entry is not None and registry.state(entry.uid) == "ONLINE" for entry in entries)


def known(tree: Tree, at: str, name: str) -> bool:
    return tree.nodes[at].shell.core.registry.find(name) is not None


# --- who says hello -----------------------------------------------------------------------------------------------


async def test_a_member_cannot_say_hello_as_another(three: Tree) -> None:
    west_uid = three.uid("w1")
    for name, uid in (("w1", west_uid), ("w1", three.uid("e1")), ("e1", west_uid)):
        async with Raw(three.as_("west", three.stolen("e1"))) as raw:
            raw.read()
            await raw.say(hello(name, uid))
            answer: m.Refused = await raw.heard(m.Refused)
            assert answer.reason == "IDENTITY_MISMATCH"
    assert online(three, "root", "w1")


async def test_a_region_cannot_pass_for_a_member_of_another_by_a_certificate_of_its_own(three: Tree) -> None:
    forged = three.mint("east", "w1", three.uid("w1"))
    async with Raw(three.as_("west", forged)) as raw:
        raw.read()
        await raw.say(hello("w1", three.uid("w1")))
        answer: m.Refused = await raw.heard(m.Refused)
        assert answer.reason == "IDENTITY_MISMATCH"
    assert online(three, "root", "w1")


async def test_a_forged_or_replayed_attachment_is_refused(three: Tree) -> None:
    thief = three.mint("east", "thief", "f" * 32)
    east = three.uid("east")
    good = record("thief", "f" * 32, thief.private_key, east, 5, "i1")
    forged = record("thief", "f" * 32, new_key(), east, 6, "i1", public_key=good.public_key)
    elsewhere = record("thief", "f" * 32, thief.private_key, three.uid("root"), 7, "i1")
    for attempt, reason in (
        (forged, "BAD_ATTACHMENT"),
        (elsewhere, "BAD_ATTACHMENT"),
        (good, ""),
        (good, "SUPERSEDED"),
    ):
        async with Raw(three.as_("east", thief)) as raw:
            raw.read()
            await raw.say(hello("thief", "f" * 32, instance="i1"))
            await raw.heard(m.Welcome)
            await raw.say(m.Attach(attempt, m.Digest(0, 0)))
            if reason:
                assert (await raw.heard(m.Refused)).reason == reason
            else:
                await raw.heard(m.Attached)


# --- what a member says of others ---------------------------------------------------------------------------------


async def test_a_region_cannot_take_a_member_that_is_not_below_it(three: Tree) -> None:
    east = three.stolen("east")
    stolen_uid = three.uid("w1")
    key = new_key()
    await three.stop("east")
    epoch = three.nodes["root"].shell.core.registry.known_epoch(east_uid := identity_uid(three, east)) + 1
    async with attached(three, "root", east, "east", east_uid, epoch=epoch, advertise="127.0.0.1:1") as raw:
        claim = record("w1", stolen_uid, key, east_uid, 2**40)
        theirs = three.nodes["root"].shell.core.registry.get(stolen_uid)
        assert theirs is not None
        replayed = theirs.record
        replayed.parent_uid, replayed.epoch = east_uid, 2**40
        await raw.say(m.News([claim]), m.News([replayed]))
        await raw.say(m.Heartbeat(0, m.Digest(0, 0)))
        await asyncio.sleep(0.2)
        registry = three.nodes["root"].shell.core.registry
        assert registry.path(stolen_uid) == ["root", "west", "w1"]
    assert await dispatch(three.admin("root"), "w1") == {"w1": "SUCCEEDED"}


def identity_uid(tree: Tree, identity: Any) -> str:
    from ote.pki import identity_of

    return identity_of(identity.certificate_chain).uid


async def test_a_leaf_cannot_invent_clusters_below_itself(three: Tree) -> None:
    leaf = three.mint("root", "leaf", "a" * 32)
    async with attached(three, "root", leaf, "leaf", "a" * 32) as raw:
        await raw.say(m.News([record("db-1", "b" * 32, new_key(), "a" * 32)]))
        await raw.say(m.Heartbeat(0, m.Digest(0, 0)))
        await asyncio.sleep(0.2)
        assert not known(three, "root", "db-1")
        assert online(three, "root", "leaf")


async def test_a_leaf_is_never_proposed_as_a_parent_and_tls_refuses_it_as_one(three: Tree) -> None:
    leaf = three.mint("root", "leaf", "a" * 32)
    async with attached(three, "root", leaf, "leaf", "a" * 32, advertise="127.0.0.1:9"):
        await until(lambda: known(three, "root", "leaf"))
        entry = three.nodes["root"].shell.core.registry.find("leaf")
        assert entry is not None
        assert entry.facts.advertise == ""
    e1 = three.nodes["e1"]
    posing = Alternate("w1", three.uid("w1"), three.nodes["w1"].address)
    channel = await e1.membership.connect(posing)
    async with channel:
        stub: Any = three.admin("root").routes.__class__(channel)
        error = await refused(stub.Probe(route_pb2.ProbeRequest(), timeout=PATIENCE))
    assert error.reason in ("TLS_FAILED", "CONNECTION_FAILED")


async def test_an_attacker_at_the_address_of_the_parent_is_refused_by_tls(three: Tree) -> None:
    e1 = three.nodes["e1"]
    diverted = Alternate("east", three.uid("east"), three.nodes["west"].address)
    async with await e1.membership.connect(diverted) as channel:
        stub: Any = three.admin("root").routes.__class__(channel)
        error = await refused(stub.Probe(route_pb2.ProbeRequest(), timeout=PATIENCE))
    assert error.reason in ("TLS_FAILED", "CONNECTION_FAILED")


async def test_evictions_told_from_below_count_only_for_what_is_below(three: Tree) -> None:
    leaf = three.mint("root", "leaf", "a" * 32)
    victims = [three.uid(name) for name in ("root", "west", "w1", "e1", "east")]
    async with attached(three, "root", leaf, "leaf", "a" * 32) as raw:
        await raw.say(m.Evictions([*victims, "d" * 32]))
        await raw.say(m.Heartbeat(0, m.Digest(0, 0)))
        await asyncio.sleep(0.3)
        assert not three.nodes["root"].shell.core.registry.evicted
    assert online(three, "root", "west", "w1", "e1", "east")


async def test_of_evictions_that_nobody_on_the_way_knows_the_root_decides(three: Tree) -> None:
    area = three.mint("east", "area", "a" * 32, parent=True)
    unknown = "d" * 32
    async with attached(three, "east", area, "area", "a" * 32) as raw:
        await raw.say(m.Evictions([three.uid("w1"), three.uid("root"), three.uid("east"), unknown]))
        for at in ("root", "east", "west", "e1"):
            registry = three.nodes[at].shell.core.registry
            await until(lambda registry=registry: registry.evicted)  # type: ignore[misc]
            assert registry.evicted == {unknown}
        await raw.say(m.Evictions(["a" * 32]))
        error = await raw.end()
        assert error is not None
        assert "EVICTED" in error.message


async def test_results_for_clusters_that_are_not_below_are_ignored(three: Tree) -> None:
    leaf = three.mint("root", "leaf", "a" * 32)
    async with attached(three, "root", leaf, "leaf", "a" * 32) as raw:
        await three.stop("w1")
        await until(lambda: not online(three, "root", "w1"))
        dispatch_id = secrets.token_hex(16)
        request = route_pb2.DispatchRequest(
            dispatch_id=dispatch_id, selector=cluster_pb2.Selector(clusters="w1"), command=NOOP
        )
        call = three.admin("root").routes.Dispatch(request)
        await call.read()
        root, w1 = three.uid("root"), three.nodes["root"].shell.core.registry.find("w1")
        assert w1 is not None
        known_ = three.nodes["root"].shell.core.origin.dispatch(dispatch_id)
        assert known_ is not None
        row = known_.targets[w1.uid].row
        incarnation = row.incarnation
        journal = w1.facts.journal_id
        await raw.say(m.Report(root, incarnation, dispatch_id, w1.uid, m.RESULT, 1, journal, 1, 1, "SUCCEEDED"))
        await raw.say(m.Ack(root, [w1.uid], [dispatch_id]))
        await raw.say(m.Heartbeat(0, m.Digest(0, 0)))
        await asyncio.sleep(0.2)
        assert row.state not in ("SUCCEEDED", "FAILED")
        call.cancel()


async def test_a_region_cannot_turn_back_what_goes_to_the_cluster_of_another(three: Tree) -> None:
    east = three.stolen("east")
    await three.stop("east")
    core = three.nodes["root"].shell.core
    heard: list[m.Report] = []
    core.router.ends.reported = heard.append  # type: ignore[method-assign,assignment]
    epoch = core.registry.known_epoch(east_uid := identity_uid(three, east)) + 1
    async with attached(three, "root", east, "east", east_uid, epoch=epoch, advertise="127.0.0.1:1") as raw:
        said = [
            m.Report(three.uid("root"), 1, "d" * 32, uid, kind, attempt=1)
            for uid in (three.uid("w1"), three.uid("west"), three.uid("root"), east_uid)
            for kind in (m.NO_ROUTE, m.BUSY)
        ]
        await raw.say(*said)
        await until(lambda: len(heard) >= 2)
    assert [report.target_uid for report in heard] == [east_uid] * 2


async def test_an_acknowledgement_counts_only_from_its_origin(three: Tree) -> None:
    acks: list[m.Ack] = []
    w1 = three.nodes["w1"].shell.core
    w1.target.ack = acks.append  # type: ignore[method-assign,assignment]
    leaf = three.mint("root", "leaf", "a" * 32)
    async with attached(three, "root", leaf, "leaf", "a" * 32) as raw:
        await raw.say(m.Ack(three.uid("root"), [three.uid("w1")], ["c" * 32]))
        await raw.say(m.Ack("a" * 32, [three.uid("w1")], ["e" * 32]))
        await until(lambda: bool(acks))
    assert [ack.origin_uid for ack in acks] == ["a" * 32]


# --- questions ----------------------------------------------------------------------------------------------------


async def ask(raw: Raw, me: str, to: str, method: str, body: bytes) -> m.Reply:
    call = m.Call(secrets.token_hex(16), me, to, method, body)
    await raw.say(call)
    await until(lambda: any(isinstance(i, m.Reply) and i.id == call.id for i in raw.items) or raw.ended.is_set())
    replies = [item for item in raw.items if isinstance(item, m.Reply) and item.id == call.id]
    assert replies, raw.error
    return replies[0]


async def test_a_member_cannot_cancel_or_change_above_or_beside_itself(three: Tree) -> None:
    leaf = three.mint("root", "leaf", "a" * 32)
    cancel = route_pb2.CancelDispatchRequest(dispatch="c" * 32).SerializeToString()
    async with attached(three, "root", leaf, "leaf", "a" * 32) as raw:
        for to in ("", three.uid("root"), three.uid("west")):
            reply = await ask(raw, "a" * 32, to, CANCEL_DISPATCH, cancel)
            assert (reply.code, reply.reason) == ("PERMISSION_DENIED", "NOT_FROM_BELOW"), to
        reply = await ask(raw, "a" * 32, three.uid("west"), "rm -rf", b"")
        assert reply.code == "PERMISSION_DENIED"


async def test_a_question_in_the_name_of_another_is_not_passed_on(three: Tree) -> None:
    leaf = three.mint("root", "leaf", "a" * 32)
    async with attached(three, "root", leaf, "leaf", "a" * 32) as raw:
        await raw.say(m.Call("1" * 32, three.uid("west"), "", "ping", b""))
        await raw.say(m.Heartbeat(0, m.Digest(0, 0)))
        reply = await ask(raw, "a" * 32, "", "ping", b"")
        assert reply.code == "OK"


async def test_a_member_cannot_redeem_a_token_of_which_it_knows_the_id_only(three: Tree) -> None:
    token = (await three.token("root")).token
    key = new_key()
    request = trust_pb2.EnrolRequest(name="intruder", uid="b" * 32, csr=csr(key, "intruder"))
    leaf = three.mint("root", "leaf", "a" * 32)
    async with attached(three, "root", leaf, "leaf", "a" * 32) as raw:
        for proof in (token.id, "", leaf.certificate_chain):
            body = msgspec.msgpack.encode([proof, request.SerializeToString()])
            reply = await ask(raw, "a" * 32, "", ENROL, body)
            assert reply.code != "OK"
            assert not reply.body


async def test_a_member_cannot_hold_all_names(three: Tree) -> None:
    leaf = three.mint("root", "leaf", "a" * 32)
    async with attached(three, "root", leaf, "leaf", "a" * 32) as raw:
        body = msgspec.msgpack.encode(("shop-1", "b" * 32))
        reply = await ask(raw, "a" * 32, "", RESERVE, body)
        assert reply.code == "PERMISSION_DENIED"
    east = three.stolen("east")
    uid = three.uid("east")
    epoch = three.nodes["root"].shell.core.registry.known_epoch(uid) + 1
    await three.stop("east")
    async with attached(three, "root", east, "east", uid, epoch=epoch, advertise="127.0.0.1:1") as raw:
        for number in range(1100):
            body = msgspec.msgpack.encode((f"shop-{number}", f"{number:032x}"))
            await raw.say(m.Call(f"{number:032x}", uid, "", RESERVE, body))
        await until(lambda: sum(isinstance(item, m.Reply) for item in raw.items) == 1100)
        reasons = Counter(item.reason for item in raw.items if isinstance(item, m.Reply))
        assert reasons["TOO_MANY_NAMES"] >= 100
        assert set(reasons) <= {"", "TOO_MANY_NAMES", "BUSY"}


async def test_outputs_of_others_are_not_shown_below(three: Tree) -> None:
    root = three.nodes["root"]
    dispatch_id = secrets.token_hex(16)
    request = route_pb2.DispatchRequest(
        dispatch_id=dispatch_id, selector=cluster_pb2.Selector(clusters="e1,w1"), command=NOOP
    )
    async for _ in three.admin("root").routes.Dispatch(request):
        pass
    for name in ("e1", "w1"):
        root.outputs.keep(dispatch_id, three.uid(name), f"secret of {name}".encode())
    body = route_pb2.GetDispatchRequest(dispatch=dispatch_id).SerializeToString()
    answer = await three.nodes["e1"].shell.ask(three.uid("root"), GET_DISPATCH, body)
    shown = route_pb2.GetDispatchResponse.FromString(answer).dispatch
    assert b"secret of e1" in answer
    assert b"secret of w1" not in answer
    assert {target.cluster for target in shown.targets} == {"e1", "w1"}


# --- bulk ---------------------------------------------------------------------------------------------------------


async def test_pieces_are_given_only_to_those_a_delivery_names(three: Tree) -> None:
    payload, _ = await three.nodes["root"].payloads.keep(b"x" * 70_000)
    call = three.as_("root", three.stolen("east")).routes.FetchPieces()
    await write(call, route_pb2.FetchPiecesRequest(payload_sha256=payload.sha256, pieces=[0], credit_bytes=32768))
    error = await refused(call.read())
    assert error.reason == "PAYLOAD_UNKNOWN"


async def test_outputs_are_taken_only_from_those_that_have_the_cluster_below(three: Tree) -> None:
    async def push(target: str, dispatch_id: str) -> str:
        call = three.as_("root", three.stolen("east")).routes.PushOutput()
        header = route_pb2.OutputHeader(
            origin_uid=three.uid("root"), dispatch_id=dispatch_id, target_uid=three.uid(target), size=3
        )
        await write(call, route_pb2.PushOutputRequest(header=header))
        return (await refused(call.read())).reason

    assert await push("w1", "c" * 32) == "NOT_BELOW"
    assert await push("root", "c" * 32) == "NOT_BELOW"
    assert await push("e1", "c" * 32) == "DISPATCH_NOT_FOUND"
    assert not three.nodes["root"].outputs.get("c" * 32, three.uid("e1"))


async def test_a_region_cannot_bring_or_fetch_in_the_name_of_another_by_a_certificate_of_its_own(three: Tree) -> None:
    root, dispatch_id = three.nodes["root"], secrets.token_hex(16)
    request = route_pb2.DispatchRequest(
        dispatch_id=dispatch_id, selector=cluster_pb2.Selector(clusters="e1,w1"), command=NOOP
    )
    async for _ in three.admin("root").routes.Dispatch(request):
        pass
    forged = three.as_("root", three.mint("east", "west", three.uid("west")))
    header = route_pb2.OutputHeader(
        origin_uid=three.uid("root"), dispatch_id=dispatch_id, target_uid=three.uid("w1"), size=3
    )
    assert (await refused(forged.routes.PushOutput().read())).reason == "KEY_MISMATCH"
    push = forged.routes.PushOutput()
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await push.write(route_pb2.PushOutputRequest(header=header))
        await push.write(route_pb2.PushOutputRequest(data=b"lie"))
        await push.read()
    assert root.outputs.get(dispatch_id, three.uid("w1")) == b""
    fetch = forged.routes.FetchPieces()
    assert (await refused(fetch.read())).reason == "KEY_MISMATCH"


# --- authorities --------------------------------------------------------------------------------------------------


async def test_a_person_made_by_a_region_is_somebody_there_and_below_and_nobody_elsewhere(three: Tree) -> None:
    listing = cluster_pb2.ListClustersRequest()
    for at in ("east", "e1"):
        await three.admin(at, "east").clusters.ListClusters(listing, timeout=PATIENCE)
    for at in ("root", "west", "w1"):
        error = await refused(three.admin(at, "east").clusters.ListClusters(listing, timeout=PATIENCE))
        assert error.reason == "ROLE_NOT_ALLOWED"
    for at in ("root", "east", "e1", "w1"):
        await three.admin(at, "root").clusters.ListClusters(listing, timeout=PATIENCE)


async def test_an_evicted_region_makes_no_members_any_more(three: Tree) -> None:
    before = three.mint("east", "before", "a" * 32)
    async with attached(three, "west", before, "before", "a" * 32):
        await until(lambda: known(three, "root", "before"))
        after = three.mint("east", "after", "b" * 32)
        person = three.person("admin", "east")
        await until(lambda: three.nodes["e1"].shell.core.parents.alternates.grandparent is not None)
        await three.admin("root").clusters.EvictCluster(cluster_pb2.EvictClusterRequest(name="east"), timeout=PATIENCE)
        await until(lambda: three.uid("east") in three.nodes["west"].shell.core.registry.evicted)
        for at in ("root", "west"):
            async with Raw(three.as_(at, after)) as raw:
                raw.read()
                await raw.say(hello("after", "b" * 32))
                error = await raw.end()
                assert error is not None
                assert error.reason == "ISSUER_EVICTED"
        renewal = trust_pb2.RenewRequest(csr=csr(after.private_key, "after"))
        assert (await refused(three.as_("west", after).trust.Renew(renewal))).reason == "ISSUER_EVICTED"
        # What it signed before stays good, at a controller that has never seen the member, too.
        assert online(three, "root", "before")
    await three.stop("east")
    await until(lambda: online(three, "root", "e1"))
    error = await refused(three.as_("e1", person).clusters.ListClusters(cluster_pb2.ListClustersRequest()))
    assert error.reason == "ISSUER_EVICTED"
