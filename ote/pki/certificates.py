"""Reads what a certificate says about its holder, and whether a chain leads to a root.

Not here: what may be said (`identity`), issuing (`authority`). The one idea: identity is one URI,
`spiffe://<host>/<kind>/...`; the host part only says which authority vouches for it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ote.model.errors import Unauthenticated
from ote.pki.identity import KINDS, PARENT_DNS, Identity
from ote.pki.keys import public_der

_SPIFFE = re.compile(r"spiffe://[A-Za-z0-9.-]+/[A-Za-z0-9_./-]+")
"""No user, port, query or escape: nothing that another reader, such as TLS, could take for another host."""

_MAX_PEM = 32 * 1024
"""Bytes of a chain: that of the deepest tree takes a third of it, and each certificate costs a signature to verify."""


def identity_of(cert_pem: bytes) -> Identity:
    """Reads the first certificate of a PEM; the chain was verified by TLS.

    Raises Unauthenticated (CERTIFICATE_UNKNOWN) for a certificate that names no identity of ours.
    """
    try:
        certificate = x509.load_pem_x509_certificate(cert_pem)
        kind, words, host = _parse_uri(_only_uri(certificate))
    except ValueError as error:
        raise Unauthenticated("CERTIFICATE_UNKNOWN", f"the certificate names no identity: {error}") from None
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Unauthenticated("CERTIFICATE_UNKNOWN", "the certificate's key is not on an elliptic curve")
    return Identity(
        kind=kind,
        name=words[1] if kind == "person" else words[0],
        uid=words[-1],
        role=words[0] if kind == "person" else kind,
        host=host,
        not_after=certificate.not_valid_after_utc.timestamp(),
        public_key=public_der(key),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        parent=PARENT_DNS in _alternative_names(certificate).get_values_for_type(x509.DNSName),
    )


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise ValueError("it has no alternative name") from None


def _only_uri(certificate: x509.Certificate) -> str:
    uris = _alternative_names(certificate).get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise ValueError(f"it has {len(uris)} URIs instead of one")
    return uris[0]


def _parse_uri(uri: str) -> tuple[str, list[str], str]:
    if not _SPIFFE.fullmatch(uri):
        raise ValueError("its URI is not a SPIFFE id")
    parts = urlsplit(uri)
    kind, *words = parts.path.removeprefix("/").split("/")
    host = parts.netloc
    if KINDS.get(kind) != len(words) or not all(words):
        raise ValueError("its SPIFFE id is of no known kind")
    return kind, words, host.lower()


def authority_host(certificate: x509.Certificate) -> str:
    """The host for which an authority vouches: its constraint, or the root's own id. ValueError for others."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return _root_host(certificate)
    hosts = [str(name.value) for name in constraints.permitted_subtrees or () if _is_uri(name)]
    if len(hosts) != 2 or hosts[1] != f".{hosts[0]}":
        raise ValueError("not an authority's certificate")
    return hosts[0].lower()


def _is_uri(name: x509.GeneralName) -> bool:
    return isinstance(name, x509.UniformResourceIdentifier)


def _root_host(certificate: x509.Certificate) -> str:
    parts = urlsplit(_only_uri(certificate))
    if parts.scheme != "spiffe" or parts.path or not parts.netloc:
        raise ValueError("not an authority's certificate")
    return parts.netloc.lower()


def split_chain(chain_pem: bytes) -> list[bytes]:
    """The certificates of a PEM chain, each as PEM. Raises Unauthenticated (CERTIFICATE_UNKNOWN)."""
    return [pem(certificate) for certificate in load_chain(chain_pem)]


def load_chain(chain_pem: bytes) -> list[x509.Certificate]:
    """The certificates of a PEM chain. Raises Unauthenticated (CERTIFICATE_UNKNOWN)."""
    if len(chain_pem) > _MAX_PEM:
        raise Unauthenticated("CERTIFICATE_UNKNOWN", "the certificate chain is longer than any of a tree")
    try:
        return x509.load_pem_x509_certificates(chain_pem)
    except ValueError:
        raise Unauthenticated("CERTIFICATE_UNKNOWN", "the certificate chain cannot be read: it has to be PEM") from None


def pem(certificate: x509.Certificate) -> bytes:
    """PEM of a certificate."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def chain_size(chain_pem: bytes) -> int:
    """Bytes of a chain as it goes over the wire."""
    return sum(len(certificate.public_bytes(serialization.Encoding.DER)) for certificate in load_chain(chain_pem))


def verify_chain(chain_pem: bytes, root_pem: bytes, *, now: float | None = None) -> Identity:
    """Identity of a chain's leaf, once each certificate is signed by the next and the last by the root.

    For chains that come in a message instead of a handshake: signatures, lifetimes, CA flags and the authorities' host
    constraints are checked. now: seconds since 1970. Raises Unauthenticated (CERTIFICATE_UNKNOWN, CERTIFICATE_EXPIRED).
    """
    moment = time.time() if now is None else now
    root = load_chain(root_pem)[0]
    chain = load_chain(chain_pem)
    issuers = [*chain[1:], root] if chain[-1] != root else [*chain[1:], root][: len(chain)]
    for certificate in {id(c): c for c in [*chain, root]}.values():
        if not certificate.not_valid_before_utc.timestamp() <= moment <= certificate.not_valid_after_utc.timestamp():
            raise Unauthenticated("CERTIFICATE_EXPIRED", "the certificate or one above it is outside its lifetime")
    for certificate, issuer in zip(chain, issuers, strict=False):
        _check_link(certificate, issuer)
    found = identity_of(chain_pem)
    _check_hosts(found.host, chain[1:])
    return found


def _check_link(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        basic = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        raise Unauthenticated(
            "CERTIFICATE_UNKNOWN", "the certificate chain does not lead to this tree's root"
        ) from None
    if not basic.ca:
        raise Unauthenticated("CERTIFICATE_UNKNOWN", "the certificate chain goes through one that may not sign")


def _check_hosts(host: str, authorities: Sequence[x509.Certificate]) -> None:
    for certificate in authorities:
        try:
            own = authority_host(certificate)
        except ValueError:
            raise Unauthenticated("CERTIFICATE_UNKNOWN", "an issuer is not an authority of a tree") from None
        if host != own and not host.endswith("." + own):
            raise Unauthenticated("CERTIFICATE_UNKNOWN", "the issuer may not vouch for this identity")
