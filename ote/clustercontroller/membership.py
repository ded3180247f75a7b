"""Who this controller is: its name, uid, keys and certificates on disk, and the connections made with them.

What lives here: founding a tree, joining one, renewing, dialling members by the name they must prove. What does not:
taking others in (`trust`). The one idea: the identity folder is written before it is used, so that a joiner that is
killed and started again asks for the same membership again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import grpc.aio
import msgspec
import structlog

from ote import pki
from ote.api.trust.v1 import trust_pb2, trust_pb2_grpc
from ote.clustercontroller.core.messages import Alternate
from ote.model.errors import FailedPrecondition, InvalidArgument, NotFound, OteError
from ote.pki import Identity, apart, decode_token, public_key_of, write_private
from ote.rpc.channel import open_channel
from ote.rpc.errors import from_rpc_error
from ote.rpc.tls import TlsIdentity

PARENT_SERVER_NAME = "parent.ote"
"""Expected of a parent whose name is not known yet, and after the name of one that is: every member that may have
children can prove it, nobody else."""

_ENROL_TIMEOUT = 15.0
_ENROL_RETRY = (0.5, 1.0, 2.0, 5.0)
_PASSING = frozenset({"CONNECTION_FAILED", "DEADLINE_EXCEEDED", "TOKEN_MAKER_UNREACHABLE", "NO_ROUTE", "NO_ANSWER"})
"""Reasons for which joining is tried again, for as long as it takes."""
LOOK = 3600.0
"""Seconds after which the end of a certificate is looked at again: meanwhile the clock may be set, or the machine
sleep, which no timer counts."""
_RENEW_TIMEOUT = 10.0
_RENEW_AT = 2 / 3
"""Fraction of a certificate's life after which it is renewed."""
_RENEW_RETRY = 1 / 30
"""Fraction of a certificate's life between two attempts, at most 60 s."""


def console_of(data_dir: Path) -> Path:
    """The socket on which whoever may read the data directory is admin of its controller."""
    return data_dir.resolve() / "console.sock"


def name_in(data_dir: Path) -> str:
    """Name of the controller in a folder; empty where there is none, or none that can be read."""
    try:
        return msgspec.json.decode(_Files(data_dir / "identity").read("member.json"), type=Member).name
    except (OSError, msgspec.MsgspecError):
        return ""


class Member(msgspec.Struct, kw_only=True):
    """`member.json`: who this is. `parent_*` is the configured parent as it was at the last start or join."""

    name: str
    uid: str
    parent_address: str = ""
    parent_name: str = ""
    parent_uid: str = ""


class _Read(msgspec.Struct):
    """`certificate.json`: what the certificate says, so that it need not be read at each start."""

    sha256: str
    """Of `certificate.pem`, hexadecimal."""
    identity: Identity


@dataclass(slots=True)
class _Files:
    """The identity folder."""

    folder: Path

    def read(self, name: str) -> bytes:
        path = self.folder / name
        return path.read_bytes() if path.exists() else b""

    def write(self, name: str, content: bytes) -> None:
        write_private(self.folder / name, content)


class Membership:
    """The identity in `data_dir`; made by `open`, which founds nothing and dials nobody."""

    def __init__(self, files: _Files, member: Member, lifetime: float) -> None:
        self._files = files
        self.member = member
        self.lifetime = lifetime
        self.key = files.read("key.pem")
        self.authority: pki.Authority | None = None
        """Signs for children; None for a member that may have none."""
        self.changed: Callable[[], None] = lambda: None
        """Called when there is another certificate, by whatever way it came."""
        self._log = structlog.get_logger("ote.clustercontroller.trust")
        self._load()

    @classmethod
    def open(cls, data_dir: Path, name: str, lifetime: float) -> Membership:
        """The identity in `data_dir`, or a new uid and key for `name`.

        Errors: FailedPrecondition (NAME_MISMATCH) when the folder belongs to another name, NotFound (NO_CONTROLLER)
        when there is nobody in it and no name is given.
        """
        files = _Files(data_dir / "identity")
        raw = files.read("member.json")
        if raw:
            member = msgspec.json.decode(raw, type=Member)
            if name and member.name != name:
                raise FailedPrecondition(
                    "NAME_MISMATCH",
                    f"{data_dir} belongs to the cluster {member.name!r}, not to {name!r}: "
                    "start it with its own name, or take another --data-dir",
                )
        elif not name:
            raise NotFound("NO_CONTROLLER", f"{data_dir} holds no controller")
        else:
            member = Member(name=name, uid=secrets.token_hex(16))
            key, request = apart.new_member(name)
            files.write("request.der", request)
            files.write("key.pem", key)
            files.write("member.json", msgspec.json.encode(member))
        return cls(files, member, lifetime)

    # --- what we are ----------------------------------------------------------------------------------------------

    @property
    def joined(self) -> bool:
        return bool(self._chain)

    @property
    def tls(self) -> TlsIdentity:
        return TlsIdentity(self._chain, self.key, self._root)

    @property
    def expires(self) -> float:
        """When the certificate ends, in seconds since 1970."""
        return self._own.not_after

    @property
    def host(self) -> str:
        """The authority whose people count here: our own, or the one that vouched for us."""
        return self.authority.host if self.authority is not None else self._own.host

    @property
    def public_key(self) -> bytes:
        return public_key_of(self.key)

    @property
    def root_certificate(self) -> bytes:
        return self._root

    def home(self) -> Alternate | None:
        """The configured parent; None for a root."""
        member = self.member
        if not member.parent_address:
            return None
        return Alternate(member.parent_name, member.parent_uid, member.parent_address)

    def set_home(self, address: str, name: str = "", uid: str = "") -> None:
        """Remember the configured parent."""
        member = self.member
        changed = address != member.parent_address
        name = name or ("" if changed else member.parent_name)
        uid = uid or ("" if changed else member.parent_uid)
        if (address, name, uid) != (member.parent_address, member.parent_name, member.parent_uid):
            member.parent_address, member.parent_name, member.parent_uid = address, name, uid
            self._files.write("member.json", msgspec.json.encode(member))

    # --- becoming a member ----------------------------------------------------------------------------------------

    def found(self) -> None:
        """Become the root of a new tree."""
        authority = pki.Authority.create_root(self.member.uid)
        self._files.write("root.pem", authority.root_pem)
        self._files.write("ca-key.pem", authority.key_pem)
        self._files.write("ca.pem", authority.chain_pem)
        self.authority = authority
        self.renew_self()

    def renew_self(self) -> None:
        """A root's own certificate."""
        if self.authority is None:
            raise FailedPrecondition("NOT_A_PARENT", "only a root renews its own certificate")
        member = self.member
        chain = self.authority.issue_cluster(self._request(), member.name, member.uid, self.lifetime, parent=True)
        self._files.write("certificate.pem", chain)
        self._load()
        self.changed()

    async def join(self, parent: str, token_text: str, *, wants_children: bool) -> None:
        """Enrol with a join token at `parent`, and remember it as the configured parent.

        Errors: those of TrustService.Enrol, InvalidArgument (INVALID_TOKEN), Unavailable.
        """
        token = decode_token(token_text)
        ca_key = b""
        if wants_children:
            ca_key = self._files.read("ca-key.pem") or pki.new_key()
            self._files.write("ca-key.pem", ca_key)
        request = trust_pb2.EnrolRequest(
            name=self.member.name,
            uid=self.member.uid,
            csr=self._request(),
            wants_children=wants_children,
            ca_csr=pki.csr(ca_key, self.member.name) if wants_children else b"",
        )
        tls = TlsIdentity(token.chain_pem, token.key_pem, token.ca_pem)
        response = await self._enrol(parent, tls, request)
        await self._keep(response.certificates, token.ca_pem)
        self.set_home(parent, response.parent_name)

    async def _enrol(self, parent: str, tls: TlsIdentity, request: trust_pb2.EnrolRequest) -> trust_pb2.EnrolResponse:
        """Ask until somebody can answer: a whole site may be starting at once."""
        for wait in chain(_ENROL_RETRY, repeat(_ENROL_RETRY[-1])):
            async with open_channel(parent, tls=tls, server_name=PARENT_SERVER_NAME) as channel:
                stub: Any = trust_pb2_grpc.TrustServiceStub(channel)
                try:
                    response: trust_pb2.EnrolResponse = await stub.Enrol(request, timeout=_ENROL_TIMEOUT)
                except grpc.aio.AioRpcError as error:
                    ours = from_rpc_error(error)
                    if ours.reason not in _PASSING:
                        raise await _explain(ours, tls.certificate_chain, parent) from error
                    self._log.warning(
                        "cannot join yet", parent=parent, reason=ours.reason, error=ours.message, again_in_s=wait
                    )
                else:
                    return response
            await asyncio.sleep(wait)
        raise AssertionError("repeat has no end")

    async def _keep(self, certificates: trust_pb2.Certificates, root: bytes) -> None:
        """Keep what leads to `root`, which is known from the token on: no parent puts another in its place."""
        leaf = await asyncio.to_thread(apart.verify_chain, certificates.certificate, root)
        rejoin = await asyncio.to_thread(apart.verify_chain, certificates.rejoin_certificate, root)
        for one in (leaf, rejoin):
            if one.uid != self.member.uid or one.public_key != self.public_key:
                raise InvalidArgument("INVALID_CERTIFICATE", "the parent answered with somebody else's certificate")
        if certificates.ca_certificate:
            pki.Authority(certificates.ca_certificate, self._files.read("ca-key.pem"), root)  # or it cannot be loaded
        self._files.write("root.pem", root)
        if certificates.ca_certificate:
            self._files.write("ca.pem", certificates.ca_certificate)
        self._files.write("rejoin.pem", certificates.rejoin_certificate)
        self._files.write("certificate.pem", certificates.certificate)
        self._remember(certificates.certificate, leaf)
        self._load()
        self.changed()

    def _request(self) -> bytes:
        return self._files.read("request.der") or apart.csr(self.key, self.member.name)

    def _load(self) -> None:
        self._chain = self._files.read("certificate.pem")
        if self._chain:
            self._own = self._read_own()
        self._root = self._files.read("root.pem")
        self._rejoin = self._files.read("rejoin.pem")
        ca, ca_key = self._files.read("ca.pem"), self._files.read("ca-key.pem")
        self.authority = pki.Authority(ca, ca_key, self._root) if ca and ca_key and self._root else None

    def _read_own(self) -> Identity:
        with contextlib.suppress(msgspec.MsgspecError):
            read = msgspec.json.decode(self._files.read("certificate.json"), type=_Read)
            if read.sha256 == hashlib.sha256(self._chain).hexdigest():
                return read.identity
        return self._remember(self._chain, apart.identity_of(self._chain))

    def _remember(self, chain: bytes, identity: Identity) -> Identity:
        read = _Read(hashlib.sha256(chain).hexdigest(), identity)
        self._files.write("certificate.json", msgspec.json.encode(read))
        return identity

    # --- staying one ----------------------------------------------------------------------------------------------

    async def renew(self, channel: grpc.aio.Channel) -> None:
        """Ask the controller at the other end for fresh certificates. Errors: those of TrustService.Renew."""
        stub: Any = trust_pb2_grpc.TrustServiceStub(channel)
        ca_key = self._files.read("ca-key.pem") if self.authority is not None else b""
        request = trust_pb2.RenewRequest(
            csr=await asyncio.to_thread(self._request), ca_csr=pki.csr(ca_key, self.member.name) if ca_key else b""
        )
        try:
            response = await stub.Renew(request, timeout=_RENEW_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        await self._keep(response.certificates, self._root)
        self._log.info("certificate renewed", expires=datetime.fromtimestamp(self.expires, UTC).isoformat())

    async def keep_fresh(self, parent: Callable[[], Alternate | None], renewed: Callable[[], None]) -> None:
        """Renew for ever, long before the end; `parent` is the live parent, `renewed` is told of each success."""
        while True:
            begun = time.time()
            life = max(1.0, min(self.lifetime, self.expires - begun))
            left = life * _RENEW_AT
            while left > 0:
                await asyncio.sleep(min(left, LOOK))
                left = begun + life * _RENEW_AT - time.time()
            while self.expires - time.time() < life * (1 - _RENEW_AT) * 1.5:
                if await self._renew_once(parent()):
                    renewed()
                    break
                await asyncio.sleep(min(60.0, life * _RENEW_RETRY))

    async def _renew_once(self, parent: Alternate | None) -> bool:
        try:
            if self.member.parent_address == "":
                self.renew_self()
                return True
            if parent is None:
                return False
            async with await self.connect(parent) as channel:
                await self.renew(channel)
        except OteError as error:
            self._log.warning("certificate not renewed", reason=error.reason, error=error.message)
            return False
        except OSError as error:  # such as a full disk: the certificate in use is good for a while yet
            self._log.warning("certificate not renewed", reason="DISK", error=str(error))
            return False
        return True

    # --- dialling -------------------------------------------------------------------------------------------------

    async def connect(self, candidate: Alternate) -> grpc.aio.Channel:
        """A channel to a member; TLS refuses anybody else at that address. An expired member renews there first.

        Errors: those of TrustService.Renew.
        """
        server_name = f"{candidate.name}.{PARENT_SERVER_NAME}" if candidate.name else PARENT_SERVER_NAME
        if self.expires <= time.time():
            rejoin = TlsIdentity(self._rejoin, self.key, self._root)
            async with open_channel(candidate.address, tls=rejoin, server_name=server_name) as channel:
                await self.renew(channel)
        return open_channel(candidate.address, tls=self.tls, server_name=server_name)


async def _explain(error: OteError, token_chain: bytes, parent: str) -> OteError:
    """TLS refuses without a reason: say what the token itself tells, and what else it can be."""
    if error.reason != "TLS_FAILED":
        return error
    if (await asyncio.to_thread(apart.identity_of, token_chain)).not_after <= time.time():
        return FailedPrecondition("TOKEN_EXPIRED", "the join token has expired: ask for another")
    return FailedPrecondition(
        "PARENT_REFUSED",
        f"no connection with {parent}: {error.message}; either the token is of another tree, "
        "or the controller there takes no children (it needs --advertise, and a token made with --allow-children)",
    )
