"""One connection to one of several entries, and the one policy for what happens when it is lost.

What lives here: which entry, when to dial again, what counts as lost. What does not: the calls (`client`). The one
idea: an entry is taken when it has answered a first question, so what is sent after that goes to a controller that is
known by name, and only what may be repeated is ever sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import grpc.aio

from ote.api.cluster.v1 import cluster_pb2, cluster_pb2_grpc
from ote.api.route.v1 import route_pb2_grpc
from ote.api.trust.v1 import trust_pb2_grpc
from ote.client.contexts import Context, Entry
from ote.model.errors import Cancelled, DeadlineExceeded, FailedPrecondition, OteError, Unavailable
from ote.rpc.channel import open_channel
from ote.rpc.errors import from_rpc_error
from ote.rpc.tls import TlsIdentity
from ote.runtime.backoff import backoff

if TYPE_CHECKING:
    from ote.api.cluster.v1.cluster_pb2_grpc import ClusterServiceAsyncStub
    from ote.api.route.v1.route_pb2_grpc import RouteServiceAsyncStub
    from ote.api.trust.v1.trust_pb2_grpc import TrustServiceAsyncStub

CHANNEL_OPTIONS = (("grpc.max_receive_message_length", 64 * 1024 * 1024),)
"""An output of a read is up to 16 MiB, and an answer may carry several."""
WATCHFUL = (("grpc.keepalive_time_ms", 3_000), ("grpc.http2.ping_timeout_ms", 10_000))
"""While calls wait: a controller from which nothing comes, not even the answer to a ping, is lost after 13 s. On a link
of 64 kbit/s that answer waits some 8 s for what was sent before. Controllers allow so many pings (`ote.rpc.server`),
servers of others may not. Without the second option gRPC gives it a minute."""

_LOST = frozenset({"CONNECTION_FAILED", "TLS_FAILED", "SHUTTING_DOWN", "CANCELLED"})
"""CANCELLED is how gRPC tells that a server stopped under a call; a cancellation of ours is no answer at all."""

_BACK_CAP = 30.0
"""Seconds between two looks at a first entry that stays away."""

_Event = TypeVar("_Event", covariant=True)
_Request = TypeVar("_Request", contravariant=True)
_Answer = TypeVar("_Answer")
_Response = TypeVar("_Response", covariant=True)


@dataclass(frozen=True)
class Policy:
    """How hard a client tries; all in seconds.

    dial: for the first answer of an entry. call: for a unary call. patience: how long a lost connection is dialled
    again, over all entries, before the call that needs it fails. base, cap: of the jittered delay between attempts.
    back: after so long a watch that is not at the first entry looks whether that one answers again; later less often.
    """

    dial: float = 5.0
    call: float = 30.0
    patience: float = 30.0
    base: float = 0.2
    cap: float = 5.0
    back: float = 5.0

    def delays(self) -> Iterator[float]:
        """Full jitter under a doubling limit."""
        return backoff(self.base, self.cap, 2.0, random.Random())


class _Unary(Protocol[_Request, _Response]):
    """A unary method of an asynchronous stub."""

    def __call__(self, request: _Request, /, *, timeout: float | None = None) -> Awaitable[_Response]: ...


class _Stream(Protocol[_Event]):
    """A call of an asynchronous stub whose answers are a stream; `read` gives grpc.aio.EOF at its end."""

    def __aiter__(self) -> AsyncIterator[_Event]: ...
    def read(self) -> Awaitable[Any]: ...


@dataclass(frozen=True)
class Link:
    """A connection that has answered. controller: the controller's own entry in its registry."""

    entry: Entry
    channel: grpc.aio.Channel
    controller: cluster_pb2.Cluster
    clusters: ClusterServiceAsyncStub
    routes: RouteServiceAsyncStub
    trust: TrustServiceAsyncStub


def is_lost(error: OteError) -> bool:
    """The connection is gone, or was never there; another may work."""
    return error.reason in _LOST


def is_passing(error: OteError) -> bool:
    """Trying again after a while makes sense."""
    return is_lost(error) or error.retry_after is not None


def tls_identity(context: Context) -> TlsIdentity | None:
    """What the context shows and trusts; None for a context without TLS."""
    if not (context.ca or context.cert or context.key):
        return None
    return TlsIdentity(context.cert.encode(), context.key.encode(), context.ca.encode())


class Connection:
    """The link to an entry of a context, dialled when it is first needed and again when it was lost.

    For one task at a time per dial; calls may run side by side.
    """

    def __init__(self, context: Context, policy: Policy, warn: Callable[[str], None] | None = None) -> None:
        self._context = context
        self._warn = warn
        self._policy = policy
        self._link: Link | None = None
        self._first = 0
        self._lost: Entry | None = None
        self._told = context.entries[0] if context.entries else None
        """Who answers, as people know it."""
        self._was_up = False
        self._dialling = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def link(self) -> Link:
        """The link that stands, or a new one to the first entry that answers.

        Raises Unavailable (CONTROLLER_UNREACHABLE) that says what each entry answered; at once when there never was a
        link, after `patience` when there was. Other errors of the first question come as they are.
        """
        async with self._dialling:
            if self._link is None:
                self._link = await self._dial_patiently() if self._was_up else await self._dial_all()
                self._was_up = True
            return self._link

    async def drop(self, link: Link) -> None:
        """The link is lost; the next `link` dials, beginning with the entry after it."""
        if self._link is link:
            self._lost = link.entry
        await self.leave(link)

    async def leave(self, link: Link) -> None:
        """Go on at the entry after it, although the link stands, because another may know more."""
        if self._link is link:
            self._link = None
            self._first = self._context.entries.index(link.entry) + 1
        await link.channel.close()

    def sees(self, link: Link, path: Iterable[str]) -> bool:
        """Whether this entry can tell that the cluster of this path is gone: the first can, others of what is below."""
        return link.entry == self._context.entries[0] or link.controller.name in path

    async def redial(self, link: Link) -> Link:
        """The same entry again, for what no other controller may be asked. Raises as `link`, at once."""
        if self._link is link:
            self._link = None
        await link.channel.close()
        async with self._dialling:
            self._link = await self._dial(link.entry)
            return self._link

    async def close(self) -> None:
        """Ends the link."""
        link, self._link = self._link, None
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        if link is not None:
            await link.channel.close()

    async def events(self, link: Link, call: _Stream[_Event], *, go_back: bool = True) -> AsyncGenerator[_Event]:
        """The events of a watch on this link. Where that is not the first entry they end once the first answers again,
        which is the link then. Close it when it is not read to its end."""
        first: asyncio.Task[Link] | None = None
        if go_back and link.entry != self._context.entries[0]:
            first = asyncio.create_task(self._first_again(), name="first entry")
        try:
            while True:
                event = await (call.read() if first is None else _unless(first, call))
                if event is None and first is not None:
                    self._go_back(first.result())
                    first = None
                    return
                if event is None or event is grpc.aio.EOF:
                    return
                yield event
        finally:
            if first is not None:
                await _not_back(first)

    async def _first_again(self) -> Link:
        for delay in backoff(self._policy.back, _BACK_CAP, 2.0, random.Random(), "equal"):
            await asyncio.sleep(delay)
            with contextlib.suppress(OteError):
                return await self._dial(self._context.entries[0])
        raise AssertionError("delays never end")

    def _go_back(self, first: Link) -> None:
        """Take the first entry again. What else runs on the old link goes on for as long as a call may take."""
        old, self._link, self._first = self._link, first, 0
        if old is not None:
            task = asyncio.create_task(old.channel.close(self._policy.call), name="old entry")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        self._tell(first, [])

    def _tell(self, link: Link, failures: list[str]) -> None:
        """Say who answers, once, where that is another than was told last."""
        is_home = link.entry == self._context.entries[0]
        if self._warn is None or link.entry == self._told or not (is_home or failures):
            return
        self._told = link.entry
        name = link.controller.name
        self._warn(
            f"{link.entry.address}: {name} answers again"
            if is_home
            else f"{'; '.join(failures)}; {name} answers instead, for itself and what is below it"
        )

    async def call(
        self,
        method: Callable[[Link], _Unary[_Request, _Answer]],
        request: _Request,
        *,
        repeat: bool = True,
        timeout: float | None = None,
    ) -> _Answer:
        """One unary call, repeated while it may be and `patience` lasts. Raises the error of the last attempt."""
        until = time.monotonic() + self._policy.patience
        for delay in self._policy.delays():
            link = await self.link()
            try:
                return await method(link)(request, timeout=timeout or self._policy.call)
            except grpc.aio.AioRpcError as rpc_error:
                error = from_rpc_error(rpc_error)
            if is_lost(error):
                await self.drop(link)
            wait = max(delay, error.retry_after or 0)
            if not repeat or not is_passing(error) or time.monotonic() + wait > until:
                raise error
            await asyncio.sleep(wait)
        raise AssertionError("delays never end")

    async def _dial_patiently(self) -> Link:
        until = time.monotonic() + self._policy.patience
        told = False
        for delay in self._policy.delays():
            try:
                return await self._dial_all()
            except Unavailable as error:
                if time.monotonic() + delay > until:
                    raise
                if self._warn is not None and not told:
                    told = True
                    self._warn(f"{error.message}; dialling again for {self._policy.patience:g} s")
            await asyncio.sleep(delay)
        raise AssertionError("delays never end")

    async def _dial_all(self) -> Link:
        entries = self._context.entries
        if not entries:
            raise FailedPrecondition(
                "NO_ENTRY", f"context {self._context.name} has no entry: ote-ctl context add-entry HOST:PORT"
            )
        failures: list[str] = []
        for number in range(len(entries)):
            try:
                link = await self._dial(entries[(self._first + number) % len(entries)])
            except Unavailable as error:
                failures.append(error.message)
                continue
            lost, self._lost = self._lost, None
            if lost is not None and lost != link.entry and not failures:
                failures.append(f"{lost.address}: the connection was lost")
            self._tell(link, failures)
            return link
        raise Unavailable("CONTROLLER_UNREACHABLE", "; ".join(failures))

    async def _dial(self, entry: Entry) -> Link:
        channel = open_channel(
            entry.address,
            tls=tls_identity(self._context),
            server_name=entry.server_name or None,
            options=(*CHANNEL_OPTIONS, *WATCHFUL),
        )
        clusters = cluster_pb2_grpc.ClusterServiceStub(channel)
        try:
            answer = await clusters.GetCluster(cluster_pb2.GetClusterRequest(name="."), timeout=self._policy.dial)
        except grpc.aio.AioRpcError as rpc_error:
            await channel.close()
            error = from_rpc_error(rpc_error)
            message = f"{entry.address}: {error.message}"
            if isinstance(error, (Cancelled, DeadlineExceeded, Unavailable)):
                raise Unavailable("CONNECTION_FAILED", message) from None
            raise type(error)(error.reason, message, metadata=error.metadata) from None
        except BaseException:
            await channel.close()
            raise
        return Link(
            entry=entry,
            channel=channel,
            controller=answer.cluster,
            clusters=clusters,
            routes=route_pb2_grpc.RouteServiceStub(channel),
            trust=trust_pb2_grpc.TrustServiceStub(channel),
        )


async def _unless(first: asyncio.Task[Link], call: _Stream[_Event]) -> Any:
    """The next event, or the end of the stream; None, and the call is over, where the first entry answered before."""
    reading = asyncio.ensure_future(call.read())
    try:
        await asyncio.wait((reading, first), return_when=asyncio.FIRST_COMPLETED)
        return reading.result() if reading.done() else None
    finally:
        reading.cancel()


async def _not_back(first: asyncio.Task[Link]) -> None:
    """Nobody waits for the first entry any more, which may have answered just now."""
    first.cancel()
    [found] = await asyncio.gather(first, return_exceptions=True)
    if isinstance(found, Link):
        await found.channel.close()
