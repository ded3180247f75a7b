"""What authorities sign, and for how long."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from ote.model.errors import FailedPrecondition, InvalidArgument, Unauthenticated
from ote.pki import (
    BACKDATE,
    Authority,
    csr,
    identity_of,
    is_vouched_from_above,
    new_key,
    public_key_of,
    public_key_of_csr,
    split_chain,
    verify_chain,
)
from ote.pki.authority import MAX_CHAIN
from ote.pki.certificates import chain_size

ROOT_UID = "a" * 32
EAST_UID = "b" * 32
EDGE_UID = "c" * 32
NOW = 1_800_000_000.0
DAY = 86400.0


def at(moment: float) -> Callable[[], float]:
    return lambda: moment


@pytest.fixture
def root() -> Authority:
    return Authority.create_root(ROOT_UID, now=at(NOW))


@pytest.fixture
def east(root: Authority) -> Authority:
    return below(root, "east", EAST_UID)


def below(authority: Authority, name: str, uid: str) -> Authority:
    key = new_key()
    return Authority(authority.issue_ca(csr(key, name), name, uid), key, authority.root_pem, now=at(NOW))


def test_a_member_is_named_by_its_certificate(root: Authority) -> None:
    key = new_key()
    identity = identity_of(root.issue_cluster(csr(key, "edge-1"), "edge-1", EDGE_UID, 60))
    assert (identity.kind, identity.role, identity.name, identity.uid) == ("cluster", "cluster", "edge-1", EDGE_UID)
    assert identity.host == root.host == f"{ROOT_UID}.ote"
    assert identity.not_after == NOW + 60
    assert identity.public_key == public_key_of(key)
    assert len(identity.fingerprint) == 64


def test_a_member_is_a_server_under_its_own_name_only(root: Authority) -> None:
    chain = root.issue_cluster(csr(new_key(), "edge-1"), "edge-1", EDGE_UID, 60)
    names = x509.load_pem_x509_certificate(chain).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["edge-1.ote"]


@pytest.mark.parametrize("kind", ["rejoin", "join", "person"])
def test_only_members_and_shims_can_be_servers(root: Authority, kind: str) -> None:
    chain = {
        "rejoin": lambda: root.issue_rejoin(csr(new_key(), "x"), "edge-1", EDGE_UID),
        "join": lambda: root.issue_join("t1", NOW + 60)[0],
        "person": lambda: root.issue_person("admin", "p1", 60)[0],
    }[kind]()
    extensions = x509.load_pem_x509_certificate(chain).extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == []
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [ExtendedKeyUsageOID.CLIENT_AUTH]


def test_a_shims_server_name_cannot_be_a_members(root: Authority) -> None:
    chain, _ = root.issue_shim("edge-1", 60)
    names = x509.load_pem_x509_certificate(chain).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["edge-1.shim.ote"]
    assert identity_of(chain).role == "shim"


def test_people_tokens_and_rejoining_members_are_told_apart(root: Authority) -> None:
    person = identity_of(root.issue_person("viewer", "p1", 60)[0])
    join = identity_of(root.issue_join("t1", NOW + 60)[0])
    rejoin = identity_of(root.issue_rejoin(csr(new_key(), "x"), "edge-1", EDGE_UID))
    assert (person.kind, person.role, person.name, person.uid) == ("person", "viewer", "p1", "p1")
    assert (join.kind, join.role, join.uid) == ("join", "join", "t1")
    assert (rejoin.kind, rejoin.role, rejoin.name, rejoin.uid) == ("rejoin", "rejoin", "edge-1", EDGE_UID)


def test_nothing_outlives_its_issuer() -> None:
    root = Authority.create_root(ROOT_UID, lifetime=10 * DAY, now=at(NOW))
    east = below(root, "east", EAST_UID)
    request = csr(new_key(), "x")
    assert east.not_after == root.not_after == NOW + 10 * DAY
    for chain in (
        east.issue_cluster(request, "edge-1", EDGE_UID, 100 * DAY),
        east.issue_rejoin(request, "edge-1", EDGE_UID),
        east.issue_join("t1", NOW + 100 * DAY)[0],
        east.issue_person("admin", "p1", 100 * DAY)[0],
        east.issue_shim("edge-1", 100 * DAY)[0],
    ):
        assert identity_of(chain).not_after == east.not_after


def test_certificates_begin_before_they_are_made(root: Authority) -> None:
    certificate = x509.load_pem_x509_certificate(root.issue_cluster(csr(new_key(), "x"), "edge-1", EDGE_UID, 60))
    assert certificate.not_valid_before_utc.timestamp() == NOW - BACKDATE


def test_a_chain_holds_its_issuers_without_the_root(root: Authority, east: Authority) -> None:
    south = below(east, "south", "d" * 32)
    chain = split_chain(south.issue_cluster(csr(new_key(), "x"), "edge-1", EDGE_UID, 60))
    assert len(chain) == 3
    assert root.root_pem not in chain
    assert len(split_chain(root.issue_cluster(csr(new_key(), "x"), "edge-1", EDGE_UID, 60))) == 1


def test_a_ca_certificate_can_be_renewed_on_its_key(root: Authority, east: Authority) -> None:
    again = root.issue_ca(csr(east.key_pem, "east"), "east", EAST_UID)
    renewed = Authority(again, east.key_pem, root.root_pem, now=at(NOW))
    old = east.issue_cluster(csr(new_key(), "x"), "edge-1", EDGE_UID, 60)
    swapped = split_chain(old)[0] + renewed.chain_pem
    assert verify_chain(swapped, root.root_pem, now=NOW).name == "edge-1"


def test_a_deep_chain_leads_to_the_root(root: Authority) -> None:
    authority = root
    for depth in range(7):
        authority = below(authority, f"r{depth}", f"{depth:032x}")
    chain = authority.issue_cluster(csr(new_key(), "x"), "edge-1", EDGE_UID, 60)
    assert verify_chain(chain, root.root_pem, now=NOW).host == authority.host
    assert authority.host.count(".") == 8


def test_an_authority_so_deep_that_its_chains_could_not_be_shown_is_refused(root: Authority) -> None:
    authority = root
    with pytest.raises(FailedPrecondition) as caught:  # noqa: PT012 - which depth it is depends on sizes
        for depth in range(20):
            authority = below(authority, f"r{depth}", f"{depth:032x}")
    assert caught.value.reason == "TREE_TOO_DEEP"
    assert authority.host.count(".") >= 8
    chain = authority.issue_cluster(csr(new_key(), "n" * 63), "n" * 63, "u" * 63, 60)
    assert chain_size(chain) <= MAX_CHAIN


def test_no_member_is_called_as_all_parents_are(root: Authority) -> None:
    with pytest.raises(InvalidArgument) as caught:
        root.issue_cluster(csr(new_key(), "x"), "parent", EDGE_UID, 60)
    assert caught.value.reason == "INVALID_NAME"


def test_members_that_may_have_children_are_marked(root: Authority) -> None:
    request = csr(new_key(), "x")
    assert identity_of(root.issue_cluster(request, "east", EAST_UID, 60, parent=True)).parent
    assert identity_of(root.issue_rejoin(request, "east", EAST_UID, parent=True)).parent
    assert not identity_of(root.issue_cluster(request, "edge-1", EDGE_UID, 60)).parent


def test_another_trees_chain_is_refused(root: Authority) -> None:
    other = Authority.create_root(ROOT_UID, now=at(NOW))
    chain = other.issue_cluster(csr(new_key(), "x"), "edge-1", EDGE_UID, 60)
    with pytest.raises(Unauthenticated) as caught:
        verify_chain(chain, root.root_pem, now=NOW)
    assert caught.value.reason == "CERTIFICATE_UNKNOWN"


def test_a_chain_that_only_costs_time_is_not_verified(root: Authority) -> None:
    chain = root.issue_cluster(csr(new_key(), "x"), "edge-1", EDGE_UID, 60)
    with pytest.raises(Unauthenticated, match="longer than any"):
        verify_chain(chain + 1000 * root.root_pem, root.root_pem, now=NOW)


def test_a_leaf_cannot_sign(root: Authority) -> None:
    key = new_key()
    leaf = root.issue_cluster(csr(key, "x"), "edge-1", EDGE_UID, 60)
    with pytest.raises(InvalidArgument) as caught:
        Authority(leaf, key, root.root_pem)
    assert caught.value.reason == "NOT_AN_AUTHORITY"
    forged = Authority.create_root(ROOT_UID, now=at(NOW)).issue_cluster(csr(new_key(), "x"), "edge-2", EDGE_UID, 60)
    with pytest.raises(Unauthenticated):
        verify_chain(split_chain(forged)[0] + leaf, root.root_pem, now=NOW)


def test_an_authority_vouches_for_nobody_outside_its_host(root: Authority, east: Authority) -> None:
    east._host = root.host
    chain = east.issue_person("admin", "p1", 60)[0]
    with pytest.raises(Unauthenticated):
        verify_chain(chain, root.root_pem, now=NOW)


@pytest.mark.parametrize("moment", [NOW - BACKDATE - 1, NOW + 61])
def test_a_chain_outside_its_lifetime_is_refused(root: Authority, moment: float) -> None:
    chain = root.issue_cluster(csr(new_key(), "x"), "edge-1", EDGE_UID, 60)
    with pytest.raises(Unauthenticated) as caught:
        verify_chain(chain, root.root_pem, now=moment)
    assert caught.value.reason == "CERTIFICATE_EXPIRED"


def test_the_key_has_to_belong_to_the_certificate(root: Authority) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Authority(root.chain_pem, new_key(), root.root_pem)
    assert caught.value.reason == "INVALID_KEY"


@pytest.mark.parametrize("name", ["", "a/b", "a b", "../x", "a" * 64, "-a", "é", "a\n", "*"])
def test_names_that_would_change_the_meaning_of_an_id_are_refused(root: Authority, name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        root.issue_cluster(csr(new_key(), "x"), name, EDGE_UID, 60)
    assert caught.value.reason == "INVALID_NAME"


def test_people_have_roles_of_people_only(root: Authority) -> None:
    with pytest.raises(InvalidArgument):
        root.issue_person("cluster", "p1", 60)


def test_a_request_that_is_not_signed_by_its_key_is_refused(root: Authority) -> None:
    request = bytearray(csr(new_key(), "edge-1"))
    request[-1] ^= 1
    for bad in (bytes(request), b"", b"garbage", b"x" * 9000):
        with pytest.raises(InvalidArgument) as caught:
            root.issue_cluster(bad, "edge-1", EDGE_UID, 60)
        assert caught.value.reason == "INVALID_CSR"


def test_the_key_of_a_request_is_read() -> None:
    key = new_key()
    assert public_key_of_csr(csr(key, "x")) == public_key_of(key)


@pytest.mark.parametrize(
    ("peer", "own", "counts"),
    [
        ("r.ote", "r.ote", True),
        ("r.ote", "w.e.r.ote", True),
        ("e.r.ote", "w.e.r.ote", True),
        ("e.r.ote", "r.ote", False),
        ("e.r.ote", "w.r.ote", False),
        ("ote", "r.ote", False),
        ("", "r.ote", False),
        (".r.ote", "r.ote", False),
        ("r.ote", "xr.ote", False),
    ],
)
def test_a_persons_role_counts_at_and_below_its_authority(peer: str, own: str, counts: bool) -> None:
    assert is_vouched_from_above(peer, own) is counts


@pytest.mark.parametrize("text", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_names_nobody(text: bytes) -> None:
    with pytest.raises(Unauthenticated):
        identity_of(text)


def test_an_authoritys_certificate_names_nobody(root: Authority) -> None:
    with pytest.raises(Unauthenticated):
        identity_of(root.root_pem)


@pytest.mark.parametrize("text", [b"", b"garbage"])
def test_what_is_no_key_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        csr(text, "x")
    assert caught.value.reason == "INVALID_KEY"
