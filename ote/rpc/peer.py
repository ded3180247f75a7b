"""Who is calling, by the certificate of the connection and by nothing that a message says.

Not here: who may what (`policy`). The one idea: reading a certificate costs 50 times a look-up, so 2,048 are kept.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import grpc.aio

from ote.model.errors import Unauthenticated


class Role(StrEnum):
    """What a certificate is good for."""

    ADMIN = "admin"
    OPERATOR = "operator"
    VIEWER = "viewer"
    CLUSTER = "cluster"
    SHIM = "shim"
    JOIN = "join"
    REJOIN = "rejoin"


PERSON_ROLES = frozenset({Role.ADMIN, Role.OPERATOR, Role.VIEWER})


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection.

    name: of a cluster or shim; a person's or token's id; "local" on a connection without TLS. uid: a cluster's uid,
    else the id of person, token or shim. vouched_by: host part of the SPIFFE id, so which authority says all this.
    fingerprint: SHA-256 of the certificate, hexadecimal. not_after: its end, seconds since 1970. public_key: DER.
    parent: a member that may have children.
    """

    role: Role
    name: str
    uid: str
    vouched_by: str
    fingerprint: str
    not_after: float
    public_key: bytes = b""
    parent: bool = False

    @property
    def id(self) -> str:
        """Id of the token, person or shim, or the uid of the cluster."""
        return self.uid

    @property
    def is_local(self) -> bool:
        """Whether the connection had no TLS, so comes from this machine."""
        return not self.fingerprint


LOCAL = Peer(role=Role.ADMIN, name="local", uid="", vouched_by="", fingerprint="", not_after=math.inf)
"""Whoever can reach a loopback port or socket that is served without TLS."""

_KEPT = 2048
_known: OrderedDict[bytes, Peer] = OrderedDict()


def peer_of(context: grpc.aio.ServicerContext[Any, Any]) -> Peer:
    """The peer of an RPC. Raises Unauthenticated (CERTIFICATE_UNKNOWN) for a certificate that names no identity."""
    auth = context.auth_context()
    certificate = next(iter(auth.get("x509_pem_cert", ())), None)
    if certificate is not None:
        return peer_of_certificate(certificate)
    if next(iter(auth.get("transport_security_type", ())), b"insecure") != b"insecure":
        raise Unauthenticated("CERTIFICATE_UNKNOWN", "the connection shows no certificate")
    return LOCAL


def peer_of_certificate(certificate_pem: bytes) -> Peer:
    """The peer that a verified certificate names; see peer_of."""
    digest = hashlib.sha256(certificate_pem).digest()
    peer = _known.get(digest)
    if peer is not None:
        _known.move_to_end(digest)
        return peer
    peer = _parse(certificate_pem)
    _known[digest] = peer
    if len(_known) > _KEPT:
        _known.popitem(last=False)
    return peer


def _parse(certificate_pem: bytes) -> Peer:
    from ote.pki import identity_of  # late: a server that nobody calls over TLS saves its 10 MB

    identity = identity_of(certificate_pem)
    try:
        role = Role(identity.role)
    except ValueError:
        raise Unauthenticated("CERTIFICATE_UNKNOWN", f"no role is called {identity.role[:40]!r}") from None
    return Peer(
        role=role,
        name=identity.name,
        uid=identity.uid,
        vouched_by=identity.host,
        fingerprint=identity.fingerprint,
        not_after=identity.not_after,
        public_key=identity.public_key,
        parent=identity.parent,
    )
