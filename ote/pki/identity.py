"""Who a certificate belongs to, as a value. Not here: reading it off one (`certificates`). Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

PARENT_DNS = "parent.ote"
"""Server name of every member that may have children, for those who dial one whose name they do not know yet."""

KINDS = {"cluster": 2, "rejoin": 2, "join": 1, "person": 2, "shim": 1}
"""Kind of identity → how many words follow it in the path of its URI."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a certificate belongs to.

    kind: cluster, rejoin, join, person or shim. name: of the cluster or shim, the id for the others. uid: of the
    cluster, else the id of token, person or shim. role: admin, operator or viewer for a person, else the kind. host:
    authority that vouches. not_after: end, seconds since 1970. public_key: SubjectPublicKeyInfo in DER. fingerprint:
    SHA-256 of the certificate, hexadecimal. parent: a member that may have children.
    """

    kind: str
    name: str
    uid: str
    role: str
    host: str
    not_after: float
    public_key: bytes
    fingerprint: str
    parent: bool = False


def is_vouched_from_above(peer_host: str, own_host: str) -> bool:
    """Whether the authority `peer_host` is `own_host` or one above it, up to the root.

    own_host: host of the controller's own authority, or of its certificate when it has none. A person's role counts
    only then.
    """
    if peer_host.count(".") < 1:
        return False
    return own_host == peer_host or own_host.endswith("." + peer_host)
