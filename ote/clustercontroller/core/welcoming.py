"""Who may open a link to this controller, and what it is told then.

Who is refused: a wrong protocol version, another identity than the certificate's or another key than the one on
record, the evicted, a name held by another uid (only newcomers: a clash made during a cut keeps its tunnel), one that
another instance of the uid has followed (a clone), anybody but last resorts while draining, and too many at a time.

What lives here: the answer to a hello. What does not: what becomes of the link (`children`), and what only the attach
shows: its epoch and its signature.
"""

from __future__ import annotations

from typing import Protocol

from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.registry import Registry

PROTOCOL_VERSION = 1

EVICTED_TEXT = (
    "was evicted from the tree; to join again stop it, remove identity and store.db* from its data directory, "
    "and start it with a new --join-token"
)
CLONED = m.Refused("CLUSTER_CLONED", "another process has attached with this identity")
_RETRY_MS = (300, 1500)
"""Between which somebody who is told BUSY is to try again."""


class ParentsView(Protocol):
    """What the children are told of this controller's own place."""

    @property
    def standing(self) -> m.Standing: ...
    @property
    def connected(self) -> bool: ...
    @property
    def path(self) -> list[m.PathStep]: ...
    @property
    def alternates(self) -> m.Alternates: ...


class Welcoming:
    """`parents` says where this controller stands."""

    def __init__(self, ctx: Context, registry: Registry, parents: ParentsView) -> None:
        self._ctx = ctx
        self._registry = registry
        self._parents = parents
        self._admit_room = ctx.settings.admit_per_second
        self._admit_since = ctx.now

    def welcome(self, uid: str, draining: bool) -> m.Welcome:
        """The answer to somebody who is welcome."""
        ctx, parents = self._ctx, self._parents
        return m.Welcome(
            name=ctx.name,
            uid=ctx.uid,
            instance=ctx.instance,
            standing=parents.standing,
            connected=parents.connected,
            path=parents.path,
            heartbeat_ms=round(ctx.settings.heartbeat * 1000),
            dead_after_ms=round(ctx.settings.dead_after * 1000),
            known_epoch=self._registry.known_epoch(uid),
            draining=draining,
            evictions_digest=self._registry.evictions_digest(),
            protocol_version=PROTOCOL_VERSION,
        )

    def refusal(
        self, hello: m.Hello, peer_uid: str, peer_name: str, peer_key: bytes, draining: bool
    ) -> m.Refused | None:
        """Why somebody is not welcome; None when he is. `peer_` is of its certificate."""
        registry = self._registry
        if PROTOCOL_VERSION not in hello.protocol_versions:
            return m.Refused("PROTOCOL_VERSION", f"this controller speaks version {PROTOCOL_VERSION} of the protocol")
        if (hello.uid, hello.name) != (peer_uid, peer_name):
            return m.Refused("IDENTITY_MISMATCH", f"the certificate is that of {peer_name} ({peer_uid})")
        if hello.uid == self._ctx.uid:
            return m.Refused("IDENTITY_MISMATCH", "this is the controller itself, it cannot be its own child")
        if hello.uid in registry.evicted:
            return m.Refused("EVICTED", f"{hello.name} ({hello.uid}) {EVICTED_TEXT}")
        known = registry.get(hello.uid)
        if known is not None and known.name != hello.name:
            return m.Refused("IDENTITY_MISMATCH", f"this uid is known as {known.name}")
        if known is not None and peer_key not in (b"", known.public_key):
            return m.Refused("IDENTITY_MISMATCH", f"{known.name} is known with another key")
        if known is None and (holder := registry.name_holder(hello.name)) is not None:
            return m.Refused("CLUSTER_NAME_TAKEN", f"{hello.name} is the name of {holder}; evict that one first")
        if registry.was_replaced(hello.uid, hello.instance):
            return CLONED
        if draining and not hello.last_resort:
            return m.Refused("DRAINING", f"{self._ctx.name} moves its children away")
        if not self._admit():
            wait = round(self._ctx.rng.uniform(*_RETRY_MS))
            return m.Refused("BUSY", "many children are coming; try another parent, or later", retry_after_ms=wait)
        return None

    def _admit(self) -> bool:
        """A bucket that holds one second's worth."""
        rate = self._ctx.settings.admit_per_second
        self._admit_room = min(rate, self._admit_room + rate * (self._ctx.now - self._admit_since))
        self._admit_since = self._ctx.now
        if self._admit_room < 1:
            return False
        self._admit_room -= 1
        return True
