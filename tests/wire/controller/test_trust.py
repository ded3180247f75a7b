"""Tokens, certificates, evictions and roles: what is promised to whoever runs a tree, and how others are refused."""

from __future__ import annotations

import asyncio
import json
import secrets
import stat
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from structlog.testing import capture_logs

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.trust.v1 import trust_pb2
from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.trust import TokenRow
from ote.model.errors import OteError
from ote.pki import Authority, csr, decode_token, new_key
from ote.rpc.errors import from_rpc_error
from ote.rpc.peer import Role
from ote.rpc.policy import POLICY
from ote.rpc.tls import TlsIdentity
from ote.telemetry.logs import mask_secrets
from tests.wire.controller.tree import PATIENCE, Raw, Stubs, Tree, dispatch, hello, refused, until


def joiner(tree: Tree, at: str, secret: str) -> Stubs:
    """The services of `at` for whoever holds this token."""
    token = decode_token(secret)
    return tree.as_(at, TlsIdentity(token.chain_pem, token.key_pem, token.ca_pem), "parent.ote")


async def enrol(tree: Tree, at: str, secret: str, name: str, **more: Any) -> trust_pb2.EnrolResponse:
    key = more.pop("key", None) or new_key()
    more.setdefault("uid", secrets.token_hex(16))
    if more.get("wants_children"):
        more["ca_csr"] = csr(new_key(), name)
    request = trust_pb2.EnrolRequest(name=name, csr=csr(key, name), **more)
    response: trust_pb2.EnrolResponse = await joiner(tree, at, secret).trust.Enrol(request, timeout=PATIENCE)
    return response


def tokens(tree: Tree, at: str) -> dict[str, TokenRow]:
    return tree.nodes[at]._trust._tokens


def state(tree: Tree, at: str, name: str) -> str:
    registry = tree.nodes[at].shell.core.registry
    entry = registry.find(name)
    return registry.state(entry.uid) if entry is not None else "UNKNOWN"


# --- tokens -------------------------------------------------------------------------------------------------------


async def test_a_token_is_refused_with_the_reason_on_both_sides(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    await tree.start("root")
    fine = await tree.token("root")
    once = await tree.token("root", uses=1)
    shops = await tree.token("root", name_pattern="shop-*")
    old = await tree.token("root")
    tokens(tree, "root")[old.token.id].expires = time.time() - 1
    gone = await tree.token("root")
    await tree.admin("root").trust.RevokeJoinToken(trust_pb2.RevokeJoinTokenRequest(id=gone.token.id))
    await enrol(tree, "root", once.secret, "first")
    for secret, name, more, reason in (
        (once.secret, "second", {}, "TOKEN_USED_UP"),
        (shops.secret, "bank-1", {}, "NAME_NOT_ALLOWED"),
        (old.secret, "late", {}, "TOKEN_EXPIRED"),
        (gone.secret, "late", {}, "TOKEN_REVOKED"),
        (fine.secret, "region", {"wants_children": True}, "CHILDREN_NOT_ALLOWED"),
        (fine.secret, "first", {}, "CLUSTER_NAME_TAKEN"),
        (fine.secret, "root", {}, "CLUSTER_NAME_TAKEN"),
        (fine.secret, "x", {"uid": "../../x"}, "INVALID_UID"),
    ):
        capsys.readouterr()
        error = await refused(enrol(tree, "root", secret, name, **more))
        assert error.reason == reason
        assert error.message
        assert ("evict that one" in error.message) == (name == "first")
        assert reason in capsys.readouterr().out
    with pytest.raises(OteError, match="shop-"):
        await tree.start("bank", "root", token=shops.secret, children=False)


async def test_logs_name_the_token_by_its_id_also_where_it_was_made(tree: Tree) -> None:
    await tree.start("root")
    await tree.start("east", "root")
    await until(lambda: state(tree, "root", "east") == "ONLINE")
    with capture_logs() as lines:
        made = await tree.token("root", uses=1)
        await enrol(tree, "root", made.secret, "first")
        assert (await refused(enrol(tree, "east", made.secret, "second"))).reason == "TOKEN_USED_UP"
    shown = [mask_secrets(None, "", line) for line in lines if "token_id" in line]
    assert [(line["event"], line.get("reason")) for line in shown] == [
        ("join token created", None),
        ("cluster enrolled", None),
        ("cluster refused", "TOKEN_USED_UP"),
        ("cluster refused", "TOKEN_USED_UP"),
    ]
    assert {line["token_id"] for line in shown} == {made.token.id}


async def test_a_token_for_names_that_nobody_can_have_is_not_made(tree: Tree) -> None:
    await tree.start("root")
    for pattern in ("[", "Foo/*"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await tree.token("root", name_pattern=pattern)
        error = from_rpc_error(caught.value)
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_NAME_PATTERN")
    assert not tokens(tree, "root")


class _Later:
    """The node's clock, a while ahead."""

    def __init__(self) -> None:
        self.by = 0.0

    def now(self) -> float:
        return time.monotonic() + self.by

    def wall(self) -> float:
        return time.time() + self.by


async def test_tokens_are_forgotten_thirty_days_after_their_end_and_not_before(tree: Tree) -> None:
    day = 86400.0
    await tree.start("root")
    trust, clock = tree.nodes["root"]._trust, _Later()
    trust._clock = clock
    stubs = tree.admin("root").trust

    async def listed() -> set[str]:
        rows = await stubs.ListJoinTokens(trust_pb2.ListJoinTokensRequest())
        return {names[one.id] for one in rows.tokens}

    ttl = Duration(seconds=int(300 * day))
    made = {
        "expired": await tree.token("root"),
        "revoked": await tree.token("root", ttl=ttl),
        "used up": await tree.token("root", ttl=ttl, uses=1),
        "good": await tree.token("root", ttl=ttl, uses=2),
    }
    names = {answer.token.id: name for name, answer in made.items()}
    await stubs.RevokeJoinToken(trust_pb2.RevokeJoinTokenRequest(id=made["revoked"].token.id))
    await enrol(tree, "root", made["used up"].secret, "first")
    await enrol(tree, "root", made["good"].secret, "second")
    clock.by = 29.9 * day
    assert await listed() == set(made)
    clock.by = 30.5 * day
    assert await listed() == {"good", "expired"}, "an expired one was good for a day"
    clock.by = 31.1 * day
    await tree.token("root", ttl=ttl)
    assert made["expired"].token.id not in tokens(tree, "root")
    assert (await refused(enrol(tree, "root", made["revoked"].secret, "late"))).reason == "TOKEN_UNKNOWN"
    await tree.stop("root")
    await tree.start("root")
    assert set(names) & set(tokens(tree, "root")) == {made["good"].token.id}, "nor are they on disk"


async def test_who_may_have_children_and_has_no_address_for_them_says_so(tree: Tree) -> None:
    await tree.start("root")
    home = tree.nodes["root"].address
    with capture_logs() as lines:
        await tree.start("east", "root")
    said = "takes no children: start it with --advertise HOST:PORT"
    assert said not in [line["event"] for line in lines]
    await tree.stop("east")
    with capture_logs() as lines:
        await tree.start("east", "root", children=False, address=home)
    assert [line["log_level"] for line in lines if line["event"] == said] == ["warning"]


async def test_a_token_of_another_tree_names_no_one_here(tree: Tree) -> None:
    await tree.start("root")
    other = Tree(tree.folder / "other")
    try:
        await other.start("root")
        token = (await other.token("root")).secret
        with pytest.raises(OteError, match="of another tree"):
            await tree.start("edge", "root", token=token, children=False)
        mixed = decode_token(token)
        ours = tree.nodes["root"].membership.root_certificate
        stubs = tree.as_("root", TlsIdentity(mixed.chain_pem, mixed.key_pem, ours), "parent.ote")
        request = trust_pb2.EnrolRequest(name="x", uid="b" * 32, csr=csr(new_key(), "x"))
        assert (await refused(stubs.trust.Enrol(request, timeout=PATIENCE))).code == "UNAVAILABLE"
    finally:
        await other.close()


async def test_enrol_may_be_repeated_without_another_use_but_not_with_more_rights(tree: Tree) -> None:
    await tree.start("root")
    token = await tree.token("root", uses=1)
    key, uid = new_key(), "b" * 32
    for _ in range(3):
        await enrol(tree, "root", token.secret, "edge", key=key, uid=uid)
    assert len(tokens(tree, "root")[token.token.id].used) == 1
    for more, reason in (
        ({"key": new_key(), "uid": uid}, "KEY_MISMATCH"),
        ({"key": key, "uid": "c" * 32}, "TOKEN_USED_UP"),
        ({"key": key, "uid": uid, "wants_children": True}, "CHILDREN_NOT_ALLOWED"),
    ):
        assert (await refused(enrol(tree, "root", token.secret, "edge", **more))).reason == reason


async def test_a_token_for_one_is_not_used_twice_at_once(tree: Tree) -> None:
    await tree.start("root")
    await tree.start("east", "root")
    await until(lambda: tree.nodes["east"].shell.core.parents.connected)
    token = (await tree.token("east", uses=1)).secret
    answers = await asyncio.gather(
        *(enrol(tree, "east", token, f"edge-{number}") for number in range(8)), return_exceptions=True
    )
    assert sum(isinstance(answer, trust_pb2.EnrolResponse) for answer in answers) == 1


async def test_who_could_not_join_founds_no_tree_by_being_started_again_without_a_parent(tree: Tree) -> None:
    await tree.start("root")
    with pytest.raises(OteError):
        await tree.start("edge", "root", token="not a token")
    with pytest.raises(OteError) as caught:
        await tree.start("edge")
    assert caught.value.reason == "JOIN_TOKEN_NEEDED"
    await tree.start("edge", "root", children=False)
    await until(lambda: state(tree, "root", "edge") == "ONLINE")


async def test_a_root_that_is_slow_to_hold_a_name_holds_up_that_joiner_alone(tree: Tree) -> None:
    root = await tree.start("root")
    await tree.start("east", "root")
    await until(lambda: tree.nodes["east"].shell.core.parents.connected)
    token = (await tree.token("east")).secret
    key, uid = new_key(), secrets.token_hex(16)
    await enrol(tree, "east", token, "edge-1", key=key, uid=uid)
    answer, asked, go_on = root.shell.answer, asyncio.Event(), asyncio.Event()

    async def late(ask: fx.Ask) -> bytes:
        asked.set()
        await go_on.wait()
        return await answer(ask)

    root.shell.answer = late
    new = asyncio.create_task(enrol(tree, "east", token, "edge-2"))
    await asyncio.wait_for(asked.wait(), PATIENCE)
    await asyncio.wait_for(enrol(tree, "east", token, "edge-1", key=key, uid=uid), PATIENCE)
    assert not new.done()
    go_on.set()
    assert (await new).parent_name == "east"


async def test_a_token_is_handed_on_to_its_maker_and_a_lost_maker_is_named(tree: Tree) -> None:
    await tree.start("root")
    await tree.start("east", "root")
    await tree.start("west", "root")
    await until(lambda: state(tree, "root", "east") == state(tree, "root", "west") == "ONLINE")
    of_east = (await tree.token("east", uses=2)).secret
    of_root = (await tree.token("root", uses=1)).secret
    response = await enrol(tree, "west", of_east, "edge-1")
    assert response.parent_name == "west"
    response = await enrol(tree, "east", of_root, "edge-2")
    assert response.parent_name == "east"
    assert (await refused(enrol(tree, "west", of_root, "edge-3"))).reason == "TOKEN_USED_UP"
    await tree.stop("east")
    await until(lambda: state(tree, "root", "east") == "OFFLINE")
    error = await refused(enrol(tree, "west", of_east, "edge-4"))
    assert error.reason == "TOKEN_MAKER_UNREACHABLE"
    assert "west" in error.message


# --- roles --------------------------------------------------------------------------------------------------------


async def _empty() -> AsyncIterator[Any]:
    yield b""


async def test_every_method_is_open_to_the_roles_of_the_table_and_to_no_other(tree: Tree) -> None:
    await tree.start("root")
    authority = tree.authority("root")
    root = authority.root_pem
    key = new_key()
    identities = {role: tree.person(role, "root") for role in (Role.ADMIN, Role.OPERATOR, Role.VIEWER)}
    identities[Role.CLUSTER] = tree.mint("root", "leaf", "a" * 32)
    identities[Role.SHIM] = TlsIdentity(*authority.issue_shim("leaf", 600.0), root)
    identities[Role.JOIN] = TlsIdentity(*authority.issue_join("ffff", time.time() + 600), root)
    identities[Role.REJOIN] = TlsIdentity(authority.issue_rejoin(csr(key, "leaf"), "leaf", "a" * 32), key, root)

    async def answer(stubs: Stubs, method: str) -> str:
        reason = ""
        for _ in range(50):
            reason = await answer_once(stubs, method)
            if reason != "INTERNAL":  # what gRPC's client says when a refusal comes while it writes
                break
        return reason

    async def answer_once(stubs: Stubs, method: str) -> str:
        call: Any = stubs.channel.stream_stream(method)(_empty(), timeout=PATIENCE)
        try:
            async for _ in call:
                break
            call.cancel()
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error).reason
        return "OK"

    methods = [method for method in POLICY if "ShimService" not in method and "reflection.v1." not in method]
    for role in Role:
        stubs = tree.as_("root", identities[role])
        answers = await asyncio.gather(*(answer(stubs, method) for method in methods))
        allowed = {method for method, reason in zip(methods, answers, strict=True) if reason != "ROLE_NOT_ALLOWED"}
        assert allowed == {method for method in methods if role in POLICY[method]}, (role, answers)
    assert {method for method in POLICY if Role.JOIN in POLICY[method]} == {"/ote.api.trust.v1.TrustService/Enrol"}
    assert {method for method in POLICY if Role.REJOIN in POLICY[method]} == {"/ote.api.trust.v1.TrustService/Renew"}


async def test_nobody_is_let_in_without_a_certificate_of_this_tree(tree: Tree) -> None:
    root = await tree.start("root")
    ours = root.membership.root_certificate
    for credentials in (
        grpc.ssl_channel_credentials(ours),
        grpc.ssl_channel_credentials(ours, *_self_signed()),
    ):
        options = [("grpc.ssl_target_name_override", "root.ote")]
        async with grpc.aio.secure_channel(root.address, credentials, options=options) as channel:
            assert (await refused(_check_health(channel))).code == "UNAVAILABLE"
    async with grpc.aio.insecure_channel(root.address) as channel:
        assert (await refused(_check_health(channel))).code == "UNAVAILABLE"


async def _check_health(channel: Any) -> Any:
    return await channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=PATIENCE)


def _self_signed() -> tuple[bytes, bytes]:

    chain, key = Authority.create_root("e" * 32).issue_person("admin", "me", 600.0)
    return key, chain


async def test_a_member_obeys_only_what_it_was_told_to_obey(tree: Tree) -> None:
    await tree.start("root")
    await tree.start("edge", "root", children=False, allow=("get", "logs"))
    await until(lambda: state(tree, "root", "edge") == "ONLINE")
    admin = tree.admin("root")
    for command in (
        command_pb2.Command(noop=command_pb2.Noop()),
        command_pb2.Command(set_facts=command_pb2.SetFacts(labels={"a": "b"})),
        command_pb2.Command(drain=command_pb2.Drain()),
    ):
        assert await dispatch(admin, "edge", command=command) == {"edge": "FAILED"}
    request = cluster_pb2.UpdateClusterRequest(name="edge", labels={"a": "b"})
    error = await refused(admin.clusters.UpdateCluster(request, timeout=PATIENCE))
    assert (error.reason, "NOT_ALLOWED" in error.message) == ("TARGET_FAILED", True)


# --- on disk ------------------------------------------------------------------------------------------------------


async def test_a_folder_belongs_to_one_name_and_one_process(tree: Tree) -> None:
    await tree.start("root")
    with pytest.raises(OteError, match="another controller runs"):
        await tree.start("root")
    await tree.stop("root")
    with pytest.raises(OteError, match="belongs to the cluster 'root'"):
        await tree.start("root", called="other")
    await tree.start("root")


async def test_keys_are_private_and_no_secret_is_logged(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    await tree.start("root", certificate_lifetime=4.0)
    token = await tree.token("root", allow_children=True)
    await tree.start("east", "root", token=token.secret)
    await tree.start("edge", "east", children=False)
    await until(lambda: state(tree, "root", "edge") == "ONLINE")
    expires = tree.nodes["east"].membership.expires
    await until(lambda: tree.nodes["east"].membership.expires > expires)
    said = capsys.readouterr()
    secrets_ = [token.secret, *_lines_of_keys(tree)]
    assert len(secrets_) > 6
    for secret in secrets_:
        assert secret not in said.out + said.err
    for path in tree.folder.rglob("*"):
        holds_secrets = path.suffix in (".pem", ".yaml", ".json") or path.name.startswith("store.db")
        if holds_secrets and path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert json.loads((tree.folder / "east/identity/member.json").read_bytes())["name"] == "east"


def _lines_of_keys(tree: Tree) -> list[str]:
    keys = [*tree.folder.rglob("*key.pem"), *tree.folder.rglob("admin.yaml")]
    return [line.strip() for path in keys for line in _private(path.read_text())]


def _private(text: str) -> list[str]:
    inside = text.partition("BEGIN PRIVATE KEY-----")[2].partition("-----END")[0]
    return [line for line in inside.splitlines() if len(line.strip()) > 40]


async def test_a_hello_of_a_member_that_was_never_known_is_no_surprise(tree: Tree) -> None:
    await tree.start("root")
    async with Raw(tree.as_("root", tree.mint("root", "new", "b" * 32))) as raw:
        raw.read()
        await raw.say(hello("new", "b" * 32))
        welcome: m.Welcome = await raw.heard(m.Welcome)
        assert welcome.known_epoch == 0
