"""Controllers in this loop on real ports, and what attacks them: hand-made certificates and tunnels.

Not here: the attacks (the tests). The one idea: an attacker is whoever holds some key of the tree, so `Raw` speaks the
tunnel with any identity and says whatever it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from ote.api.cluster.v1 import cluster_pb2, cluster_pb2_grpc
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2, route_pb2_grpc, tunnel_pb2
from ote.api.trust.v1 import trust_pb2, trust_pb2_grpc
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import statement
from ote.clustercontroller.node import Node
from ote.clustercontroller.settings import Settings
from ote.clustercontroller.shimserving import BuiltInShim
from ote.clustercontroller.wire.codec import decode_down, write_up
from ote.model.errors import OteError
from ote.pki import Authority, csr, new_key, public_key_of, sign_statement
from ote.rpc.address import reserve
from ote.rpc.channel import open_channel
from ote.rpc.errors import from_rpc_error
from ote.rpc.tls import TlsIdentity
from ote.telemetry.metrics import Metrics

HEARTBEAT = 0.3
DEAD_AFTER = 5.0
PATIENCE = 30.0
"""Seconds for whatever comes at once where nothing is broken: a starved machine has them, too."""


async def no_shim(kind: str, data_dir: Path) -> BuiltInShim:
    """For controllers that have none."""
    raise AssertionError(f"nobody wants a {kind} shim here")


async def until(true: Callable[[], Any], within: float = PATIENCE) -> None:
    """Wait for a condition; a test that waits in vain fails with its text."""
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end, f"not within {within} s"
        await asyncio.sleep(0.01)


class Stubs:
    """The services of one controller as seen by one identity."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.clusters: Any = cluster_pb2_grpc.ClusterServiceStub(channel)
        self.routes: Any = route_pb2_grpc.RouteServiceStub(channel)
        self.trust: Any = trust_pb2_grpc.TrustServiceStub(channel)
        self.channel = channel


class Tree:
    """Controllers by name, all in one folder; `close` stops them and every channel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: dict[str, Node] = {}
        self._resources = contextlib.AsyncExitStack()
        self._held: list[socket.socket] = []
        """They keep the addresses for those of this tree, also while they are away."""

    # --- controllers ----------------------------------------------------------------------------------------------

    async def start(
        self, name: str, parent: str = "", *, token: str = "", children: bool = True, address: str = "", **more: Any
    ) -> Node:
        """Start a controller; `parent` is the name of a running one, `token` one of its own making if not given."""
        folder = self.folder / name
        home = address or (self.nodes[parent].address if parent else None)
        if parent and not address and not token and not (folder / "identity" / "certificate.pem").exists():
            token = (await self.token(parent, allow_children=children)).secret
        listen = more.pop("listen", None) or self.address()
        more.setdefault("heartbeat", HEARTBEAT)
        more.setdefault("dead_after", DEAD_AFTER)
        more.setdefault("stop_grace", 0.2)
        settings = Settings(
            name=more.pop("called", name),
            data_dir=folder,
            listen=listen,
            advertise=listen if parent and children else None,
            parent=home,
            join_token=token or None,
            **more,
        )
        node = Node(settings, Metrics(), no_shim)
        await node.start()
        self.nodes[name] = node
        return node

    async def stop(self, name: str) -> None:
        """Stop a controller; its folder stays."""
        await self.nodes.pop(name).stop()

    async def close(self) -> None:
        await self._resources.aclose()
        for name in reversed(list(self.nodes)):
            await self.stop(name)
        for held in self._held:
            held.close()

    def address(self) -> str:
        """HOST:PORT at which nobody else listens as long as the tree is there."""
        address, held = reserve("127.0.0.1")
        self._held.append(held)
        return address

    # --- ways in --------------------------------------------------------------------------------------------------

    def as_(self, at: str, identity: TlsIdentity, server_name: str = "") -> Stubs:
        """The services of the controller `at` for whoever has this identity."""
        node = self.nodes[at]
        channel = open_channel(node.address, tls=identity, server_name=server_name or f"{at}.ote")
        self._resources.push_async_callback(channel.close)
        return Stubs(channel)

    def admin(self, at: str, made_at: str = "") -> Stubs:
        """The services of `at` for an admin made by the authority of `made_at` (itself when not given)."""
        return self.as_(at, self.person("admin", made_at or at))

    def person(self, role: str, made_at: str) -> TlsIdentity:
        authority = self.authority(made_at)
        chain, key = authority.issue_person(role, "p1", 3600.0)
        return TlsIdentity(chain, key, authority.root_pem)

    def authority(self, at: str) -> Authority:
        authority = self.nodes[at].membership.authority
        assert authority is not None
        return authority

    async def token(self, at: str, **wanted: Any) -> trust_pb2.CreateJoinTokenResponse:
        """A join token made at a controller."""
        made_at = at if self.nodes[at].membership.authority is not None else "root"
        request = trust_pb2.CreateJoinTokenRequest(**wanted)
        response: trust_pb2.CreateJoinTokenResponse = await self.admin(at, made_at).trust.CreateJoinToken(request)
        return response

    # --- identities -----------------------------------------------------------------------------------------------

    def stolen(self, name: str) -> TlsIdentity:
        """What a running controller has: its key and certificate."""
        return self.nodes[name].membership.tls

    def uid(self, name: str) -> str:
        return self.nodes[name].membership.member.uid

    def mint(
        self, by: str, name: str, uid: str = "", *, parent: bool = False, key: bytes = b"", lifetime: float = 600.0
    ) -> TlsIdentity:
        """A member's certificate signed with the CA key of the controller `by`, whoever that may be."""
        authority = self.authority(by)
        key = key or new_key()
        chain = authority.issue_cluster(csr(key, name), name, uid or secrets.token_hex(16), lifetime, parent=parent)
        return TlsIdentity(chain, key, authority.root_pem)

    def expired(self, by: str, name: str, *, parent: bool = False) -> bytes:
        """The certificate of a running controller, as `by` might have signed it an hour ago for ten minutes."""
        authority, member = self.authority(by), self.nodes[name].membership
        then = Authority(authority.chain_pem, authority.key_pem, authority.root_pem, now=lambda: time.time() - 3600.0)
        return then.issue_cluster(csr(member.tls.private_key, name), name, self.uid(name), 600.0, parent=parent)


async def write(call: Any, message: Any) -> None:
    """Write to a call, which may have ended: how it ended is then told by whoever reads or awaits it.

    `call.write` puts an INTERNAL of its own in the place of the answer of a server that ends the call meanwhile.
    """
    data = message if isinstance(message, bytes) else message.SerializeToString()
    if not call.done():
        with contextlib.suppress(grpc.aio.AioRpcError, cygrpc.InternalError):
            await call.wait_for_connection()
            await call._cython_call.send_serialized_message(data)


def hello(name: str, uid: str, **more: Any) -> m.Hello:
    """A hello of a fresh process."""
    more.setdefault("instance", secrets.token_hex(8))
    more.setdefault("epoch", 0)
    more.setdefault("best", None)
    return m.Hello(name=name, uid=uid, **more)


def record(
    name: str, uid: str, key: bytes, parent_uid: str, epoch: int = 1, instance: str = "i1", **more: Any
) -> m.ClusterRecord:
    """A record with a good signature of `key`."""
    made = m.ClusterRecord(uid, name, parent_uid, epoch, instance, b"", public_key_of(key), up=True)
    for word, value in more.items():
        setattr(made, word, value)
    made.signature = sign_statement(key, statement(made))
    return made


def encode_up(item: m.UpItem) -> tunnel_pb2.UpItem:
    """What a child sends, as protobuf."""
    return tunnel_pb2.ConnectRequest.FromString(write_up(item)).items[0]


class Raw:
    """A tunnel by hand. `items` are what the parent said; `error` how the call ended, once it has."""

    def __init__(self, stubs: Stubs) -> None:
        self.channel = stubs.channel
        self.call: Any = stubs.routes.Connect()
        self.items: list[m.DownItem] = []
        self.error: OteError | None = None
        self.ended = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self.deaf = False
        """It reads, and does not look at what it reads."""

    async def __aenter__(self) -> Raw:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.cancel()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def read(self) -> None:
        """Begin to read."""
        self._reading = asyncio.create_task(self._read(), name="raw read")

    async def _read(self) -> None:
        try:
            while (frame := await self.call.read()) is not grpc.aio.EOF:
                if self.deaf:
                    continue
                self.items += [item for raw in frame.items if (item := decode_down(raw)) is not None]
            code = await self.call.code()
            if code != grpc.StatusCode.OK:
                self.error = from_rpc_error(
                    grpc.aio.AioRpcError(
                        code,
                        await self.call.initial_metadata(),
                        await self.call.trailing_metadata(),
                        await self.call.details(),
                    )
                )
        except grpc.aio.AioRpcError as error:
            self.error = from_rpc_error(error)
        finally:
            self.ended.set()

    async def say(self, *items: m.UpItem) -> None:
        """One frame; that the call has ended meanwhile is told by `end`."""
        async with self._writing:
            await write(self.call, tunnel_pb2.ConnectRequest(items=[encode_up(item) for item in items]))

    async def heard(self, kind: type[Any], within: float = PATIENCE) -> Any:
        """The first item of a kind, waiting for it."""
        await until(lambda: any(isinstance(item, kind) for item in self.items) or self.ended.is_set(), within)
        found = [item for item in self.items if isinstance(item, kind)]
        assert found, f"no {kind.__name__} came: {self.items} {self.error}"
        return found[0]

    async def end(self, within: float = PATIENCE) -> OteError | None:
        """How the call ended."""
        async with asyncio.timeout(within):
            await self.ended.wait()
        return self.error


@contextlib.asynccontextmanager
async def attached(
    tree: Tree, at: str, identity: TlsIdentity, name: str, uid: str, *, epoch: int = 1, **facts: Any
) -> AsyncIterator[Raw]:
    """A child made by hand, attached to the controller `at`."""
    async with attach(tree.as_(at, identity), tree.uid(at), identity, name, uid, epoch=epoch, **facts) as raw:
        yield raw


@contextlib.asynccontextmanager
async def attach(
    stubs: Stubs, parent_uid: str, identity: TlsIdentity, name: str, uid: str, *, epoch: int = 1, **facts: Any
) -> AsyncIterator[Raw]:
    """The same to the controller of these stubs."""
    async with Raw(stubs) as raw:
        raw.read()
        opening = hello(name, uid)
        await raw.say(opening)
        await raw.heard(m.Welcome)
        own = record(name, uid, identity.private_key, parent_uid, epoch, opening.instance)
        own.facts = m.Facts(version=1, journal_id="j1", **facts)
        await raw.say(m.Attach(own, m.Digest(0, 0)))
        await raw.heard(m.Attached)
        beating = asyncio.create_task(_beat(raw), name="raw heartbeat")
        try:
            yield raw
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)


async def _beat(raw: Raw) -> None:
    while not raw.ended.is_set():
        await raw.say(m.Heartbeat(0, m.Digest(0, 0)))
        await asyncio.sleep(HEARTBEAT)


async def refused(work: Awaitable[Any]) -> OteError:
    """The error that a call ends with."""
    try:
        answer = await work
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error)
    except OteError as error:
        return error
    raise AssertionError(f"it was allowed: {answer}")


async def dispatch(stubs: Stubs, clusters: str, *, within: float = PATIENCE, **more: Any) -> dict[str, str]:
    """Send a no-op and follow it to the end; {cluster: state}."""
    command = more.pop("command", None) or command_pb2.Command(noop=command_pb2.Noop())
    request = route_pb2.DispatchRequest(
        dispatch_id=secrets.token_hex(16),
        selector=cluster_pb2.Selector(clusters=clusters),
        command=command,
        **more,
    )
    states: dict[str, str] = {}
    async for response in stubs.routes.Dispatch(request, timeout=within):
        for target in (*response.accepted.targets, *response.changed.targets):
            states[target.cluster] = route_pb2.TargetState.Name(target.state).removeprefix("TARGET_STATE_")
    return states
