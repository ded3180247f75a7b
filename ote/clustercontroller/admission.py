"""The controller's own veto on calls, after the policy's: the evicted, and those vouched for by the wrong authority.

Not here: which roles may call what (`rpc.policy`), who may attach (the core). The one idea: an evicted authority signs
nothing any more that counts, so a member that it vouches for is let in only if the tree knew its key before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from ote.clustercontroller.core.controller import Controller
from ote.clustercontroller.core.welcoming import EVICTED_TEXT
from ote.clustercontroller.tunnel import CONNECT
from ote.model.errors import OteError, PermissionDenied
from ote.pki import is_vouched_from_above
from ote.rpc.peer import PERSON_ROLES, Peer, Role

KEY_OF = "key-of"
"""Question to the root: the public key (DER) on record of the uid in the body, or nothing."""

_MEMBERS = frozenset({Role.CLUSTER, Role.REJOIN})
_MAX_KNOWN = 10_000

Ask = Callable[[str, str, bytes], Awaitable[bytes]]
Spawn = Callable[[Awaitable[None], str], None]


class Admission:
    """`host` is the authority whose people count here; `ask` asks another controller, "" being the root."""

    def __init__(self, core: Controller, host: Callable[[], str], ask: Ask, spawn: Spawn) -> None:
        self._core = core
        self._host = host
        self._ask = ask
        self._spawn = spawn
        self._known: OrderedDict[str, bytes] = OrderedDict()
        """Keys of members that are not in our registry, as the root said."""
        self._asking: set[str] = set()

    def admit(self, peer: Peer, method: str) -> None:
        """Errors: PermissionDenied (EVICTED, KEY_MISMATCH, ISSUER_EVICTED, ROLE_NOT_ALLOWED).

        Any authority can make a certificate in the name of any member: the key tells. Who connects is told so by the
        core, in answer to its hello.
        """
        if peer.is_local:
            return
        evicted = self._core.registry.evicted
        if peer.role in _MEMBERS and peer.uid in evicted:
            raise PermissionDenied("EVICTED", f"{peer.name} ({peer.uid}) {EVICTED_TEXT}")
        if peer.role in _MEMBERS and method != CONNECT and self.key_of(peer.uid) not in (b"", peer.public_key):
            raise PermissionDenied("KEY_MISMATCH", f"{peer.name} ({peer.uid}) is known with another key")
        if evicted and not evicted.isdisjoint(peer.vouched_by.split(".")):
            self._check_known(peer)
        if peer.role in PERSON_ROLES and not is_vouched_from_above(peer.vouched_by, self._host()):
            raise PermissionDenied(
                "ROLE_NOT_ALLOWED", "this certificate is good at the controller that made it and below, not here"
            )

    def key_of(self, uid: str) -> bytes:
        """The key on record of a member, empty when it was never seen."""
        entry = self._core.registry.get(uid)
        return entry.public_key if entry is not None else self._known.get(uid, b"")

    def _check_known(self, peer: Peer) -> None:
        if peer.role in _MEMBERS:
            key = self.key_of(peer.uid)
            if key and key == peer.public_key:
                return
            if not key and self._core.parents.connected and not self._core.parents.is_root:
                self._ask_root(peer.uid)
        raise PermissionDenied(
            "ISSUER_EVICTED",
            f"the authority that vouches for {peer.name} was evicted, and {peer.name} was no member here before; "
            "it is asked for above: try again, or join with a new token",
        )

    def _ask_root(self, uid: str) -> None:
        if uid not in self._asking and len(self._asking) < _MAX_KNOWN:
            self._asking.add(uid)
            self._spawn(self._learn(uid), "ask for a key")

    async def _learn(self, uid: str) -> None:
        try:
            key = await self._ask("", KEY_OF, uid.encode())
        except OteError:
            return
        finally:
            self._asking.discard(uid)
        if key:
            self._known[uid] = key
            if len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)
