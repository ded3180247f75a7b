"""A certificate authority of the tree: the root's, or a member's that may have children.

Not here: who may ask it for what (the controller's trust service). The one idea: an authority owns a host name,
`<uid>.<host of its issuer>`, may vouch only for names at or under it, and never signs beyond its own end.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ote.model.errors import FailedPrecondition, InvalidArgument
from ote.pki.certificates import authority_host, chain_size, load_chain, pem
from ote.pki.identity import PARENT_DNS
from ote.pki.keys import load_private_key, new_key, private_pem, requested_key

BACKDATE = 300.0
"""Seconds by which certificates begin before they are made, for peers whose clocks are behind."""

ROOT_LIFETIME = 20 * 365 * 86400.0
"""Seconds a root certificate is good."""

CA_LIFETIME = 10 * 365 * 86400.0
"""Seconds a member's CA certificate is good; its issuer's end comes first."""

MAX_CHAIN = 8_000
"""Bytes of a chain that a client can show: gRPC's servers put it into two session tickets, which have to fit into a
buffer of 17 KiB together, or the connection is lost without a word."""

_LEAF = 750
"""Most bytes of a leaf's certificate, without its host."""

PERSON_ROLES = ("admin", "operator", "viewer")

_WORD = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\Z")
_CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)
_BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


class Authority:
    """Signs certificates with one CA key.

    cert_chain_pem: the CA's certificate and its issuers, without the root (the root's own authority gives the root
    itself). key_pem: its private key. root_pem: the tree's root certificate. now: seconds since 1970. All lifetimes are
    seconds; whatever is asked for, nothing outlives the CA's own certificate. Chains come leaf first, without the root.
    """

    def __init__(
        self, cert_chain_pem: bytes, key_pem: bytes, root_pem: bytes, *, now: Callable[[], float] = time.time
    ) -> None:
        chain = load_chain(cert_chain_pem)
        self._certificate = chain[0]
        self._key = load_private_key(key_pem)
        self._now = now
        self._root = load_chain(root_pem)[0]
        if self._certificate.public_key() != self._key.public_key():
            raise InvalidArgument("INVALID_KEY", "the key does not belong to the authority's certificate")
        try:
            self._host = authority_host(self._certificate)
        except ValueError:
            raise InvalidArgument("NOT_AN_AUTHORITY", "the certificate is not an authority's") from None
        self._issuers = b"".join(pem(c) for c in chain if c != self._root)
        self._chain_pem = cert_chain_pem
        self._key_pem = key_pem

    @classmethod
    def create_root(
        cls, root_uid: str, *, lifetime: float = ROOT_LIFETIME, now: Callable[[], float] = time.time
    ) -> Authority:
        """A new tree's root, with the host `<root uid>.ote`."""
        _check_word("uid", root_uid)
        key_pem = new_key()
        key = load_private_key(key_pem)
        host = f"{root_uid.lower()}.ote"
        name = _subject(f"ote root {root_uid[:12]}")
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{host}")])
        builder = _ca_builder(name, name, key.public_key(), key.public_key(), now(), now() + lifetime)
        builder = builder.add_extension(names, critical=False)
        certificate = pem(builder.sign(key, hashes.SHA256()))
        return cls(certificate, key_pem, certificate, now=now)

    @property
    def host(self) -> str:
        """The host part for which this authority vouches."""
        return self._host

    @property
    def chain_pem(self) -> bytes:
        """The CA's certificate chain as given."""
        return self._chain_pem

    @property
    def key_pem(self) -> bytes:
        """The CA's private key. Keep it in a file made by `write_private`."""
        return self._key_pem

    @property
    def root_pem(self) -> bytes:
        """The tree's root certificate."""
        return pem(self._root)

    @property
    def not_after(self) -> float:
        """End of the CA's certificate, seconds since 1970."""
        return self._certificate.not_valid_after_utc.timestamp()

    def issue_cluster(self, csr_der: bytes, name: str, uid: str, lifetime: float, *, parent: bool = False) -> bytes:
        """Chain (PEM) of a member, good as client and as the server `<name>.ote`.

        `parent`: it may have children, whom it shows the server names `<name>.parent.ote` and `parent.ote`.

        Raises InvalidArgument (INVALID_CSR, INVALID_NAME), as every issue_ method.
        """
        if f"{name}.ote" == PARENT_DNS:
            raise InvalidArgument("INVALID_NAME", f"the name {name!r} is reserved")
        path = f"cluster/{_check_word('name', name)}/{_check_word('uid', uid)}"
        dns = [f"{name}.ote", *([f"{name}.{PARENT_DNS}", PARENT_DNS] if parent else [])]
        return self._issue(requested_key(csr_der), path, self._now() + lifetime, usage=_BOTH, dns=dns)

    def issue_rejoin(self, csr_der: bytes, name: str, uid: str, *, parent: bool = False) -> bytes:
        """Chain (PEM) that is good for Renew only and as long as this authority."""
        path = f"rejoin/{_check_word('name', name)}/{_check_word('uid', uid)}"
        return self._issue(requested_key(csr_der), path, self.not_after, dns=[PARENT_DNS] if parent else [])

    def issue_join(self, token_id: str, not_after: float | datetime) -> tuple[bytes, bytes]:
        """(Chain, key) of a join token, good for Enrol only until `not_after` (seconds since 1970 or a datetime)."""
        end = not_after.timestamp() if isinstance(not_after, datetime) else not_after
        return self._issue_with_key(f"join/{_check_word('token id', token_id)}", end)

    def issue_person(self, role: str, person_id: str, lifetime: float) -> tuple[bytes, bytes]:
        """(Chain, key) of a person with the role admin, operator or viewer."""
        if role not in PERSON_ROLES:
            raise InvalidArgument("INVALID_ROLE", f"{role!r} is no role of people: take {', '.join(PERSON_ROLES)}")
        return self._issue_with_key(f"person/{role}/{_check_word('id', person_id)}", self._now() + lifetime)

    def issue_shim(self, name: str, lifetime: float) -> tuple[bytes, bytes]:
        """(Chain, key) of a shim, good as client and as the server `<name>.shim.ote`."""
        path = f"shim/{_check_word('name', name)}"
        return self._issue_with_key(path, self._now() + lifetime, usage=_BOTH, dns=[f"{name}.shim.ote"])

    def issue_ca(self, csr_der: bytes, name: str, uid: str, lifetime: float = CA_LIFETIME) -> bytes:
        """Chain (PEM) of a member's own authority `<uid>.<host>`, constrained to that host and those under it.

        Raises FailedPrecondition (TREE_TOO_DEEP) when what it signs could not be shown any more, about 8 authorities
        below the root; InvalidArgument as issue_cluster.
        """
        key = requested_key(csr_der)
        host = f"{_check_word('uid', uid).lower()}.{self._host}"
        subject = _subject(f"{_check_word('name', name)} ca")
        end = min(self._now() + lifetime, self.not_after)
        builder = _ca_builder(subject, self._certificate.subject, key, self._key.public_key(), self._now(), end)
        permitted = [x509.UniformResourceIdentifier(host), x509.UniformResourceIdentifier(f".{host}")]
        builder = builder.add_extension(x509.NameConstraints(permitted, None), critical=True)
        chain = pem(builder.sign(self._key, hashes.SHA256())) + self._issuers
        if chain_size(chain) + _LEAF + len(host) > MAX_CHAIN:
            raise FailedPrecondition("TREE_TOO_DEEP", f"there are too many authorities between {name} and the root")
        return chain

    def _issue_with_key(
        self, path: str, end: float, *, usage: Sequence[x509.ObjectIdentifier] = _CLIENT, dns: Sequence[str] = ()
    ) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        return self._issue(key.public_key(), path, end, usage=usage, dns=dns), private_pem(key)

    def _issue(
        self,
        key: ec.EllipticCurvePublicKey,
        path: str,
        end: float,
        *,
        usage: Sequence[x509.ObjectIdentifier] = _CLIENT,
        dns: Sequence[str] = (),
    ) -> bytes:
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"spiffe://{self._host}/{path}")]
        names += [x509.DNSName(name) for name in dns]
        subject = _subject(" ".join(path.split("/")[:2]))
        builder = _builder(subject, self._certificate.subject, key, self._now(), min(end, self.not_after))
        builder = (
            builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(list(usage)), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        return pem(builder.sign(self._key, hashes.SHA256())) + self._issuers


def _check_word(what: str, word: str) -> str:
    if not _WORD.match(word):
        raise InvalidArgument("INVALID_NAME", f"the {what} {word[:80]!r} cannot stand in a certificate")
    return word


def _subject(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: float, end: float
) -> x509.CertificateBuilder:
    begin = datetime.fromtimestamp(int(now - BACKDATE), UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(max(begin, datetime.fromtimestamp(int(end), UTC)))
    )


def _ca_builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    now: float,
    end: float,
) -> x509.CertificateBuilder:
    return (
        _builder(subject, issuer, key, now, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
