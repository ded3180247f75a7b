"""Certificates: renewed in time and without a gap, of no use once they have expired or their member was evicted."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from pathlib import Path
from types import ModuleType

import pytest
from structlog.testing import capture_logs

from ote.api.cluster.v1 import cluster_pb2
from ote.api.trust.v1 import trust_pb2
from ote.clustercontroller import membership, routes
from ote.model.errors import OteError
from ote.pki import Authority, csr
from ote.rpc.tls import TlsIdentity
from tests.wire.controller.test_trust import enrol, state
from tests.wire.controller.tree import PATIENCE, Raw, Tree, attached, dispatch, hello, refused, until


class _Ahead:
    """The wall clock, set ahead: for what looks at it by `module.time`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
        self.by = 0.0
        monkeypatch.setattr(module, "time", self)

    def time(self) -> float:
        return time.time() + self.by


async def test_certificates_renew_and_tunnels_change_over_without_a_gap(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = _Ahead(monkeypatch, membership)
    monkeypatch.setattr(membership, "LOOK", 0.02)
    root = await tree.start("root", certificate_lifetime=600.0)
    edge = await tree.start("edge", "root", children=False)
    await until(lambda: state(tree, "root", "edge") == "ONLINE")
    uid, first = tree.uid("edge"), root.shell.links_of(tree.uid("edge"))
    expires, admin = edge.membership.expires, tree.admin("root")
    states = set()
    await until(lambda: time.time() + 599.0 > expires)  # certificates count in seconds
    clock.by = 450.0
    with capture_logs() as lines:
        while edge.membership.expires == expires or first & root.shell.links_of(uid):
            states.add((state(tree, "root", "edge"), *(await dispatch(admin, "edge")).values()))
            await asyncio.sleep(0.02)
    [told, *_] = [line["expires"] for line in lines if line["event"] == "certificate renewed"]
    assert datetime.fromisoformat(told).timestamp() > expires
    assert states == {("ONLINE", "SUCCEEDED")}
    assert edge.membership.expires > expires


async def test_no_parent_puts_another_root_in_the_place_of_the_trees(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = await tree.start("root")
    edge = await tree.start("edge", "root", children=False)
    await until(lambda: edge.shell.core.parents.parent)
    parent, other = edge.shell.core.parents.parent, Authority.create_root("f" * 32)
    assert parent is not None

    def kept() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in (tree.folder / "edge/identity").iterdir()}

    async def renewed(signed_by: Authority) -> None:
        def sign(name: str, uid: str, request: bytes, ca_request: bytes) -> trust_pb2.Certificates:
            return trust_pb2.Certificates(
                certificate=signed_by.issue_cluster(request, name, uid, 600.0),
                rejoin_certificate=signed_by.issue_rejoin(request, name, uid),
                root_certificate=other.root_pem,
            )

        monkeypatch.setattr(root._trust, "_sign", sign)
        async with await edge.membership.connect(parent) as channel:
            await edge.membership.renew(channel)

    before = kept()
    with pytest.raises(OteError, match="does not lead to this tree's root"):
        await renewed(other)
    assert kept() == before
    await renewed(tree.authority("root"))
    assert kept()["root.pem"] == before["root.pem"]
    assert kept()["certificate.pem"] != before["certificate.pem"]


async def test_a_certificate_is_renewed_in_time_also_when_the_clock_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = _Ahead(monkeypatch, membership)
    monkeypatch.setattr(membership, "LOOK", 0.02)
    own = membership.Membership.open(tmp_path / "root", "root", 30 * 86400.0)
    own.found()
    renewed = asyncio.Event()
    keeping = asyncio.create_task(own.keep_fresh(lambda: None, renewed.set))
    await asyncio.sleep(0.1)
    assert not renewed.is_set()
    clock.by = 21 * 86400.0
    await asyncio.wait_for(renewed.wait(), PATIENCE)
    keeping.cancel()


async def test_a_tunnel_lives_as_long_as_its_certificate(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "LOOK", 0.1)
    await tree.start("root")
    leaf = tree.mint("root", "leaf", "a" * 32, lifetime=4.0)
    begun = time.monotonic()
    async with attached(tree, "root", leaf, "leaf", "a" * 32) as link:
        error = await link.end()
    assert error is not None
    assert "CERTIFICATE_EXPIRED" in error.message
    assert time.monotonic() - begun > 1.5


async def test_who_knows_the_uid_of_a_member_cannot_join_as_it(tree: Tree) -> None:
    await tree.start("root")
    await tree.start("edge", "root", children=False)
    await until(lambda: state(tree, "root", "edge") == "ONLINE")
    token = (await tree.token("root")).secret
    error = await refused(enrol(tree, "root", token, "edge", uid=tree.uid("edge")))
    assert error.reason == "KEY_MISMATCH"


async def test_a_tunnel_ends_with_its_certificate(tree: Tree) -> None:
    root = await tree.start("root")
    leaf = tree.mint("root", "leaf", "a" * 32, lifetime=4.0)
    async with attached(tree, "root", leaf, "leaf", "a" * 32) as link:
        error = await link.end()
        assert error is not None
        assert "CERTIFICATE_EXPIRED" in error.message
        await until(lambda: state(tree, "root", "leaf") == "OFFLINE")
    error = await refused(tree.as_("root", leaf).trust.Renew(trust_pb2.RenewRequest(), timeout=PATIENCE))
    assert error.code == "UNAVAILABLE"
    assert not root.shell.links


async def test_who_was_away_until_expiry_comes_home_without_a_token_and_takes_children_at_once(tree: Tree) -> None:
    await tree.start("root")
    await tree.start("east", "root")
    home, address = tree.nodes["root"].address, tree.nodes["east"].address
    await tree.start("edge", "east", children=False)
    await until(lambda: state(tree, "root", "edge") == "ONLINE")
    expired = {"edge": tree.expired("east", "edge"), "east": tree.expired("root", "east", parent=True)}
    for name, certificate in expired.items():
        await tree.stop(name)
        (tree.folder / name / "identity" / "certificate.pem").write_bytes(certificate)
    await tree.stop("root")
    await tree.start("root", listen=home)
    east = await tree.start("east", address=home, listen=address, parent="root")
    await until(lambda: east.membership.expires > time.time() + 3600)
    await until(lambda: east.shell.core.parents.connected)
    edge = await tree.start("edge", address=address, children=False, parent="east")
    await until(lambda: edge.shell.core.parents.connected)
    assert [step.name for step in edge.shell.core.parents.path] == ["root", "east", "edge"]


async def test_an_evicted_member_is_cut_at_once_and_does_not_come_back_anywhere(tree: Tree) -> None:
    await tree.start("root")
    await tree.start("east", "root")
    await tree.start("edge", "east", children=False)
    await until(lambda: state(tree, "root", "edge") == "ONLINE")
    identity, uid = tree.stolen("edge"), tree.uid("edge")
    rejoin = TlsIdentity((tree.folder / "edge/identity/rejoin.pem").read_bytes(), identity.private_key, identity.root)
    await tree.admin("root").clusters.EvictCluster(cluster_pb2.EvictClusterRequest(name="edge"), timeout=PATIENCE)
    await until(lambda: not tree.nodes["east"].shell.links_of(uid))
    for at in ("east", "root"):
        for who in (identity, rejoin):
            renewal = trust_pb2.RenewRequest(csr=csr(identity.private_key, "edge"))
            assert (await refused(tree.as_(at, who).trust.Renew(renewal, timeout=PATIENCE))).reason == "EVICTED"
        async with Raw(tree.as_(at, identity)) as raw:
            raw.read()
            await raw.say(hello("edge", uid))
            error = await raw.end()
            assert error is not None
            assert error.reason == "EVICTED"
    await tree.stop("edge")
    await tree.start("edge", "east", children=False)
    await asyncio.sleep(0.5)
    assert state(tree, "root", "edge") == "UNKNOWN"
    await tree.stop("east")
    await tree.start("east", "root")
    assert uid in tree.nodes["east"].shell.core.registry.evicted
    token = (await tree.token("root")).secret
    error = await refused(enrol(tree, "root", token, "edge", key=identity.private_key, uid=uid))
    assert error.reason == "EVICTED"
    await enrol(tree, "root", token, "edge")


async def test_what_an_evicted_authority_signed_before_is_asked_for_above(tree: Tree) -> None:
    await tree.start("root")
    await tree.start("east", "root")
    await tree.start("west", "root")
    await until(lambda: state(tree, "root", "east") == state(tree, "root", "west") == "ONLINE")
    old = tree.mint("east", "old", "a" * 32)
    async with attached(tree, "root", old, "old", "a" * 32):
        await tree.admin("root").clusters.EvictCluster(cluster_pb2.EvictClusterRequest(name="east"), timeout=PATIENCE)
        await until(lambda: tree.uid("east") in tree.nodes["west"].shell.core.registry.evicted)
        reasons: list[str] = []
        while "Welcome" not in reasons:
            async with Raw(tree.as_("west", old)) as raw:
                raw.read()
                await raw.say(hello("old", "a" * 32))
                await until(lambda raw=raw: raw.items or raw.ended.is_set())  # type: ignore[misc]
                reasons.append(raw.error.reason if raw.error else type(raw.items[0]).__name__)
            await asyncio.sleep(0.02)
    assert set(reasons) == {"ISSUER_EVICTED", "Welcome"}
