"""TrustService: takes clusters into the tree by join tokens, and renews the certificates of members.

What lives here: tokens and what they allow. What does not: who may call (`rpc.policy`), the certificates' form
(`pki`). The one idea: a token belongs to the controller that made it; any other hands Enrol on to it, so that uses
and revocation are exact, and the same joiner gets the same answer however often it asks.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import grpc.aio
import msgspec
import structlog
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from ote import pki
from ote.api.trust.v1 import trust_pb2, trust_pb2_grpc
from ote.clustercontroller.membership import Membership
from ote.model.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OteError,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from ote.model.names import check_name
from ote.model.selectors import check_name_pattern
from ote.rpc.paging import page_of
from ote.rpc.peer import Peer, Role, peer_of
from ote.runtime.clock import Clock
from ote.store.sqlite import Put, Remove, Store

ENROL = "/ote.api.trust.v1.TrustService/Enrol"
RESERVE = "reserve-name"
_TTL = 86400.0
_MAX_TTL = 366 * 86400.0
_GRACE = 30 * 86400.0
"""A token's certificate outlives the token by this, so that a late joiner is told the reason and not cut by TLS."""
_KEPT = 30 * 86400.0
"""For so long after its end a token is listed, and whoever comes with it is told what became of it."""
_RESERVED_NAMES = frozenset({"parent"})
_NAME_HELD = 600.0
_MAX_HELD = 1000
"""Names that one controller may hold for joiners that have not come yet."""


@dataclass(slots=True)
class TokenRow:
    """Table `tokens`, key id. Times in seconds since 1970; `used` maps uid to (name, public key). `ended` is when it
    was revoked or used up, 0 for neither."""

    id: str
    created: float
    expires: float
    uses: int
    name_pattern: str
    allow_children: bool
    revoked: bool = False
    used: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    ended: float = 0.0


class Handed(msgspec.Struct, array_like=True):
    """An Enrol that another controller hands on: the certificates that the joiner showed, and its request."""

    chain: bytes
    request: bytes


class Tree(msgspec.Struct):
    """What this service asks of the rest of the controller. `ask` sends a question to the controller `uid` ("" the
    root)."""

    holder: Callable[[str], str | None]
    """uid of the cluster that holds a name."""
    key_of: Callable[[str], bytes]
    """Public key on record of a uid, empty when it was never seen."""
    evicted: Callable[[str], bool]
    uid_of_host: Callable[[str], str | None]
    """uid of the controller whose authority has this host."""
    below_of_host: Callable[[str], str | None]
    """The same, if it is below this controller."""
    connected: Callable[[], bool]
    ask: Callable[[str, str, bytes], Awaitable[bytes]]
    advertise: Callable[[], str]
    takes_children: Callable[[str], bool]
    """Whether this member was enrolled to have children."""


class TrustServicer(trust_pb2_grpc.TrustServiceServicer):
    """`tokens` are the rows of the table at start."""

    def __init__(
        self,
        membership: Membership,
        tree: Tree,
        disk: Store,
        clock: Clock,
        tokens: Sequence[TokenRow],
        count: Callable[[str, tuple[str, ...], float], None],
    ) -> None:
        self._count = count
        self._membership = membership
        self._tree = tree
        self._disk = disk
        self._clock = clock
        self._tokens = {token.id: token for token in tokens}
        self._held: dict[str, tuple[str, float, str]] = {}
        """Name → uid, until when, and for which controller."""
        self._log = structlog.get_logger("ote.clustercontroller.trust")

    # --- joining --------------------------------------------------------------------------------------------------

    async def Enrol(
        self, request: trust_pb2.EnrolRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> trust_pb2.EnrolResponse:
        peer = peer_of(context)
        try:
            _check(request)
            return await self._enrol(peer, _chain_of(context), request)
        except OteError as error:
            self._log_refusal(request, peer.id, error)
            self._refused(error)
            raise

    def _log_refusal(self, request: trust_pb2.EnrolRequest, token_id: str, error: OteError) -> None:
        self._log.warning(
            "cluster refused", member=request.name, uid=request.uid, token_id=token_id, reason=error.reason
        )

    async def handed_on(self, body: bytes) -> bytes:
        """An Enrol that another controller took, with a token of ours or of one below."""
        handed, request = _handed(body)
        joiner = pki.verify_chain(handed.chain, self._membership.root_certificate)
        authority = self._membership.authority
        if joiner.kind == Role.JOIN and (maker := self._tree.below_of_host(joiner.host)) is not None:
            return await self._tree.ask(maker, ENROL, body)
        if joiner.kind != Role.JOIN or authority is None or joiner.host != authority.host:
            raise PermissionDenied("TOKEN_UNKNOWN", "this is no join token of this controller")
        try:
            _check(request)
            response = await self._redeem(joiner.uid, request)
        except OteError as error:
            self._log_refusal(request, joiner.uid, error)
            raise
        return response.SerializeToString()

    async def _enrol(self, peer: Peer, chain: bytes, request: trust_pb2.EnrolRequest) -> trust_pb2.EnrolResponse:
        authority = self._membership.authority
        if authority is not None and authority.host == peer.vouched_by:
            return await self._redeem(peer.id, request)
        maker = self._tree.uid_of_host(peer.vouched_by)
        handed = msgspec.msgpack.encode(Handed(chain, request.SerializeToString()))
        try:
            answer = await self._tree.ask(maker if maker is not None else "", ENROL, handed)
        except (Unavailable, DeadlineExceeded) as error:
            raise Unavailable(
                "TOKEN_MAKER_UNREACHABLE",
                "the controller that made this token cannot be reached from here; make a token at "
                f"{self._membership.member.name} instead",
            ) from error
        response = trust_pb2.EnrolResponse.FromString(answer)
        response.parent_name = self._membership.member.name
        return response

    async def _redeem(self, token_id: str, request: trust_pb2.EnrolRequest) -> trust_pb2.EnrolResponse:
        token = self._tokens.get(token_id)
        key = pki.public_key_of_csr(request.csr)
        if token is None:
            raise PermissionDenied("TOKEN_UNKNOWN", "this controller does not know the token; ask for another")
        if self._tree.evicted(request.uid):
            raise PermissionDenied("EVICTED", "this identity was evicted; start with an empty data directory")
        if self._tree.key_of(request.uid) not in (b"", key):
            raise PermissionDenied("KEY_MISMATCH", "this uid is known with another key")
        if request.wants_children and not token.allow_children:
            raise PermissionDenied(
                "CHILDREN_NOT_ALLOWED",
                "the token does not allow children: leave --advertise away, or ask for one made with --allow-children",
            )
        if token.used.get(request.uid) != (request.name, key):
            self._allow(token, request)
            await self._reserve(request.name, request.uid)
            await self._use(token, request, key)
        return trust_pb2.EnrolResponse(
            certificates=self._sign(
                request.name, request.uid, request.csr, request.ca_csr if request.wants_children else b""
            ),
            parent_name=self._membership.member.name,
        )

    async def _use(self, token: TokenRow, request: trust_pb2.EnrolRequest, key: bytes) -> None:
        """Count a use. The token is looked at once more: others may have come while the name was asked for."""
        joiner = (request.name, key)
        if token.used.get(request.uid) == joiner:
            return
        self._allow(token, request)
        token.used[request.uid] = joiner
        if len(token.used) == token.uses:
            token.ended = token.ended or self._clock.wall()
        try:
            await self._disk.commit([Put("tokens", token.id, msgspec.msgpack.encode(token))])
        except OteError:
            del token.used[request.uid]
            token.ended = token.ended if token.revoked else 0.0
            raise
        self._log.info("cluster enrolled", member=request.name, uid=request.uid, token_id=token.id)
        self._count("ote_trust_enrolments_total", (), 1.0)

    def _allow(self, token: TokenRow, request: trust_pb2.EnrolRequest) -> None:
        if token.revoked:
            raise PermissionDenied("TOKEN_REVOKED", "the token was revoked; ask for another")
        if token.expires <= self._clock.wall():
            raise PermissionDenied("TOKEN_EXPIRED", "the token has expired; ask for another")
        if request.uid in token.used:
            raise PermissionDenied("KEY_MISMATCH", "this uid has joined with another name or key")
        if token.uses and len(token.used) >= token.uses:
            raise PermissionDenied(
                "TOKEN_USED_UP", f"the token was good for {token.uses} and is used up; ask for another"
            )
        if token.name_pattern and not fnmatchcase(request.name, token.name_pattern):
            raise PermissionDenied(
                "NAME_NOT_ALLOWED", f"the token allows names like {token.name_pattern!r}, not {request.name!r}"
            )

    async def _reserve(self, name: str, uid: str) -> None:
        """Hold the name at the root while we are connected; cut off, it is provisional."""
        self.reserve(name, uid)
        if self._membership.member.parent_address and self._tree.connected():
            await self._tree.ask("", RESERVE, msgspec.msgpack.encode((name, uid)))

    def reserve_for(self, asker: str, name: str, uid: str) -> None:
        """Hold a name for a joiner at another controller.

        Errors: those of `reserve`, InvalidArgument, PermissionDenied (NOT_A_PARENT), ResourceExhausted.
        """
        check_name(name)
        if asker != self._membership.member.uid and not self._tree.takes_children(asker):
            raise PermissionDenied("NOT_A_PARENT", "only controllers that may have children hold names")
        mine = [held for held, (_, _, by) in self._held.items() if by == asker and self._tree.holder(held) is None]
        if len(mine) >= _MAX_HELD:
            raise ResourceExhausted("TOO_MANY_NAMES", "too many clusters are joining there at once", retry_after=60.0)
        self.reserve(name, uid, asker)

    def reserve(self, name: str, uid: str, asker: str = "") -> None:
        """Hold a name for a joiner. Errors: AlreadyExists (CLUSTER_NAME_TAKEN)."""
        now = self._clock.now()
        if len(self._held) >= _MAX_HELD:
            self._held = {held: row for held, row in self._held.items() if row[1] > now}
        held_by, held_until, _ = self._held.get(name, (uid, 0.0, ""))
        still_held = held_until > now and not self._tree.evicted(held_by)
        holder = self._tree.holder(name) or (held_by if still_held else uid)
        if holder != uid:
            whose = f"another cluster (uid {holder[:8]}): choose another, or evict that one"
            if holder == self._membership.member.uid:
                whose = "the controller itself, which cannot be evicted: choose another"
            raise AlreadyExists("CLUSTER_NAME_TAKEN", f"the name {name!r} belongs to {whose}")
        self._held[name] = (uid, now + _NAME_HELD, asker)

    # --- renewing -------------------------------------------------------------------------------------------------

    async def Renew(
        self, request: trust_pb2.RenewRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> trust_pb2.RenewResponse:
        peer = peer_of(context)
        try:
            response = self._renew(peer, request)
        except OteError as error:
            self._log.warning("certificate not renewed", member=peer.name, uid=peer.uid, reason=error.reason)
            self._refused(error)
            raise
        self._log.info("certificate renewed for member", member=peer.name, uid=peer.uid)
        self._count("ote_trust_renewals_total", (), 1.0)
        return response

    def _refused(self, error: OteError) -> None:
        self._count("ote_trust_refusals_total", (error.reason.lower(),), 1.0)

    def _renew(self, peer: Peer, request: trust_pb2.RenewRequest) -> trust_pb2.RenewResponse:
        key = pki.public_key_of_csr(request.csr)
        known = self._tree.key_of(peer.uid)
        if key != peer.public_key or (known and known != key):
            raise PermissionDenied("KEY_MISMATCH", "certificates are renewed only on the key on record")
        if request.ca_csr and not peer.parent:
            raise PermissionDenied("CHILDREN_NOT_ALLOWED", "this member may not have children")
        return trust_pb2.RenewResponse(certificates=self._sign(peer.name, peer.uid, request.csr, request.ca_csr))

    def _sign(self, name: str, uid: str, csr: bytes, ca_csr: bytes) -> trust_pb2.Certificates:
        authority = self._membership.authority
        if authority is None:
            raise FailedPrecondition("NOT_A_PARENT", f"{self._membership.member.name} takes no children")
        parent = bool(ca_csr)
        return trust_pb2.Certificates(
            certificate=authority.issue_cluster(csr, name, uid, self._membership.lifetime, parent=parent),
            rejoin_certificate=authority.issue_rejoin(csr, name, uid, parent=parent),
            ca_certificate=authority.issue_ca(ca_csr, name, uid) if parent else b"",
            root_certificate=self._membership.root_certificate,
        )

    # --- tokens ---------------------------------------------------------------------------------------------------

    async def CreateJoinToken(
        self, request: trust_pb2.CreateJoinTokenRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> trust_pb2.CreateJoinTokenResponse:
        authority = self._membership.authority
        if authority is None:
            raise FailedPrecondition(
                "NOT_A_PARENT",
                f"{self._membership.member.name} takes no children: it was enrolled without --advertise",
            )
        ttl = request.ttl.seconds + request.ttl.nanos / 1e9 if request.HasField("ttl") else _TTL
        if not 0 < ttl <= _MAX_TTL:
            raise InvalidArgument("INVALID_TTL", "a token is good for more than nothing and at most a year")
        check_name_pattern(request.name_pattern)
        now = self._clock.wall()
        token = TokenRow(
            id=secrets.token_hex(4),
            created=now,
            expires=now + ttl,
            uses=request.uses,
            name_pattern=request.name_pattern,
            allow_children=request.allow_children,
        )
        chain, key = authority.issue_join(token.id, token.expires + _GRACE)
        await self._disk.commit([*self._forgotten(), Put("tokens", token.id, msgspec.msgpack.encode(token))])
        self._tokens[token.id] = token
        self._log.info("join token created", token_id=token.id, uses=token.uses, names=token.name_pattern)
        advertise = self._tree.advertise()
        secret = pki.encode_token(authority.root_pem, chain, key, self._membership.member.name, advertise)
        return trust_pb2.CreateJoinTokenResponse(token=_shown(token), secret=secret, parent=advertise)

    async def ListJoinTokens(
        self, request: trust_pb2.ListJoinTokensRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> trust_pb2.ListJoinTokensResponse:
        if forgotten := self._forgotten():
            await self._disk.commit(forgotten)
        tokens = sorted(self._tokens.values(), key=_order)
        chosen, next_token = page_of(tokens, _order, size=request.page_size, token=request.page_token)
        return trust_pb2.ListJoinTokensResponse(tokens=[_shown(t) for t in chosen], next_page_token=next_token)

    async def RevokeJoinToken(
        self, request: trust_pb2.RevokeJoinTokenRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> trust_pb2.RevokeJoinTokenResponse:
        token = self._tokens.get(request.id)
        if token is None:
            raise NotFound("TOKEN_UNKNOWN", f"no join token {request.id!r} here; see 'ote-ctl token list'")
        token.revoked = True
        token.ended = token.ended or self._clock.wall()
        await self._disk.commit([Put("tokens", token.id, msgspec.msgpack.encode(token))])
        self._log.info("join token revoked", token_id=token.id)
        return trust_pb2.RevokeJoinTokenResponse(token=_shown(token))

    def _forgotten(self) -> list[Remove]:
        """Drop the tokens that ended long ago; returns what takes their rows from the disk."""
        before = self._clock.wall() - _KEPT
        old = [token.id for token in self._tokens.values() if min(token.ended or token.expires, token.expires) < before]
        for token_id in old:
            del self._tokens[token_id]
        return [Remove("tokens", token_id) for token_id in old]


def _chain_of(context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    """All certificates that the caller has shown, its own first."""
    auth = context.auth_context()
    leaf = next(iter(auth.get("x509_pem_cert", ())), b"")
    chain = b"".join(auth.get("x509_pem_cert_chain", ()))
    return chain if chain.startswith(leaf) else leaf + chain


def _handed(body: bytes) -> tuple[Handed, trust_pb2.EnrolRequest]:
    try:
        handed = msgspec.msgpack.decode(body, type=Handed)
        return handed, trust_pb2.EnrolRequest.FromString(handed.request)
    except (msgspec.MsgspecError, DecodeError) as error:
        raise InvalidArgument("BAD_FRAME", "what was handed on is no Enrol") from error


def _check(request: trust_pb2.EnrolRequest) -> None:
    check_name(request.name)
    if request.name in _RESERVED_NAMES:
        raise InvalidArgument("INVALID_NAME", f"no cluster may be called {request.name!r}: choose another name")
    if len(request.uid) != 32 or not all(c in "0123456789abcdef" for c in request.uid):
        raise InvalidArgument("INVALID_UID", "a uid is 32 hexadecimal digits")
    if request.wants_children and not request.ca_csr:
        raise InvalidArgument("INVALID_CSR", "a cluster that wants children sends a CSR for its CA key")


def _order(token: TokenRow) -> str:
    """Newest first."""
    return f"{10**15 - int(token.created * 1000):016d}/{token.id}"


def _shown(token: TokenRow) -> trust_pb2.JoinToken:
    created, expires = Timestamp(), Timestamp()
    created.FromMilliseconds(int(token.created * 1000))
    expires.FromMilliseconds(int(token.expires * 1000))
    return trust_pb2.JoinToken(
        id=token.id,
        created=created,
        expires=expires,
        uses=token.uses,
        used_by=sorted(name for name, _ in token.used.values()),
        name_pattern=token.name_pattern,
        allow_children=token.allow_children,
        revoked=token.revoked,
    )
