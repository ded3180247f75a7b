"""Certificates that others made: what is not ours names nobody, whatever else it says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from ote.model.errors import InvalidArgument, Unauthenticated
from ote.pki import Authority, identity_of, split_chain, verify_chain
from ote.pki.keys import load_private_key

NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stranger")])


def foreign(
    *names: x509.GeneralName, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None, ca: bool = False
) -> bytes:
    own = key or ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(own.public_key())
        .serial_number(7)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(own, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["https://a.ote/cluster/x/y"],
        ["spiffe://a.ote"],
        ["spiffe://a.ote/"],
        ["spiffe:///cluster/x/y"],
        ["spiffe://a.ote/cluster/x"],
        ["spiffe://a.ote/cluster/x/y/z"],
        ["spiffe://a.ote/cluster//y"],
        ["spiffe://a.ote/god/x"],
        ["spiffe://a.ote/cluster/x/y?z"],
        ["spiffe://a.ote/cluster/x/y#z"],
        ["spiffe://a.ote/cluster/x/y", "spiffe://a.ote/person/admin/z"],
    ],
)
def test_an_id_that_is_not_exactly_one_of_ours_names_nobody(uris: list[str]) -> None:
    names = [x509.DNSName("east.ote"), *(x509.UniformResourceIdentifier(uri) for uri in uris)]
    with pytest.raises(Unauthenticated) as caught:
        identity_of(foreign(*names))
    assert caught.value.reason == "CERTIFICATE_UNKNOWN"


def test_no_names_and_other_keys_name_nobody() -> None:
    with pytest.raises(Unauthenticated):
        identity_of(foreign())
    uri = x509.UniformResourceIdentifier("spiffe://a.ote/cluster/x/y")
    assert identity_of(foreign(uri)).name == "x"
    with pytest.raises(Unauthenticated):
        identity_of(foreign(uri, key=rsa.generate_private_key(65537, 2048)))


def test_a_stranger_is_no_authority() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate = foreign(x509.UniformResourceIdentifier("spiffe://a.ote/x"), key=key, ca=True)
    with pytest.raises(InvalidArgument) as caught:
        Authority(certificate, private, certificate)
    assert caught.value.reason == "NOT_AN_AUTHORITY"


def test_an_issuer_without_constraints_is_not_of_a_tree() -> None:
    root = Authority.create_root("a" * 32)
    own = load_private_key(root.key_pem)
    stray = foreign(x509.UniformResourceIdentifier("spiffe://b.ote"), key=own, ca=True)
    leaf = Authority(stray, root.key_pem, stray).issue_person("admin", "p1", 60)[0]
    with pytest.raises(Unauthenticated):
        verify_chain(split_chain(leaf)[0] + stray, root.root_pem)


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP256K1()])
def test_keys_on_other_curves_are_refused(curve: ec.EllipticCurve) -> None:
    key = ec.generate_private_key(curve)
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(InvalidArgument, match="P-256"):
        load_private_key(text)


def test_a_root_shown_as_a_chain_names_nobody() -> None:
    root = Authority.create_root("a" * 32)
    with pytest.raises(Unauthenticated):
        verify_chain(root.root_pem, root.root_pem)
