"""Contexts for people: how those on the machine itself get into a controller, with a certificate or without.

Not here: joining members (`trust`). The one idea: what a controller's own authority vouches for is good at that
controller and below; its console is good for whoever may read its data directory, and needs no certificate at all.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from ote.client.contexts import Context, Entry, write_context_file
from ote.clustercontroller.membership import Membership, console_of
from ote.model.errors import FailedPrecondition
from ote.rpc.address import join_host_port, split_host_port

_LIFETIME = 10 * 365 * 86400.0


def write_person_context(path: Path, membership: Membership, role: str, address: str) -> None:
    """Write `person_context` to a file of mode 0600."""
    write_context_file(path, person_context(membership, role, address))


def local_context(data_dir: Path, name: str) -> Context:
    """A context for this machine alone: the controller's console, no certificate."""
    return Context(name=name, entries=(Entry(address=f"unix:{console_of(data_dir)}"),))


def person_context(membership: Membership, role: str, address: str) -> Context:
    """A context with a new certificate of this role, good at this controller and below. Errors: FailedPrecondition."""
    authority = membership.authority
    name = membership.member.name
    if authority is None:
        raise FailedPrecondition(
            "NOT_A_PARENT", f"{name} has no authority of its own: make the context at the controller above it"
        )
    person = secrets.token_hex(4)
    chain, key = authority.issue_person(role, person, _LIFETIME)
    host, port = split_host_port(address)
    reachable = join_host_port("127.0.0.1", port) if host in ("0.0.0.0", "::") else address
    return Context(
        name=name,
        entries=(Entry(address=reachable, server_name=f"{name}.ote"),),
        ca=membership.root_certificate.decode(),
        cert=chain.decode(),
        key=key.decode(),
    )
