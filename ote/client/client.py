"""The typed client of a controller: every call of ClusterService, RouteService and TrustService that people make.

What lives here: calls in, answers out, pages joined, watches and dispatches resumed. What does not: dialling and the
retry of calls (`connection`), the shim's contract (`shims`). The one idea: who iterates sees one unbroken story; a lost
connection shows only as time.
"""

from __future__ import annotations

import secrets
import time
from asyncio import Event, sleep, wait_for
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from types import TracebackType

import ote.rpc  # noqa: F401 - before grpc, whose C library it keeps from writing to stderr

# isort: split
import grpc.aio

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.api.trust.v1 import trust_pb2
from ote.client.connection import Connection, Link, Policy, is_lost, is_passing
from ote.client.contexts import Context
from ote.client.payloads import MAX_INLINE_BYTES, payload_ref, pieces_of
from ote.model.errors import NotFound, OteError, OutOfRange, ResourceExhausted, Unavailable
from ote.rpc.errors import from_rpc_error

_PAGE = 1000
_PAYLOAD_TIMEOUT = 300.0
_ANSWER_SECONDS = 10.0
"""How long the name of a payload goes alone at most, where a refusal of it was lost among the pieces: on a link of
64 kbit/s its answer waits some 8 s for what was sent before."""
_RESUMABLE = (NotFound, ResourceExhausted, Unavailable)
"""Ends of a stream that do not end its story: a slow reader, a lost controller, one that has not heard of it yet."""


def new_dispatch_id() -> str:
    """128 random bits as 32 hexadecimal digits."""
    return secrets.token_hex(16)


class Client:
    """A client of the tree below the entries of a context. Use it with `async with`; nothing is dialled before a call.

    warn: takes a line for people when an entry does not answer and another one does, which may know less of the tree.
    Every method raises `ote.model.errors`: what the controller answered, or Unavailable (CONTROLLER_UNREACHABLE).
    """

    def __init__(
        self, context: Context, *, policy: Policy | None = None, warn: Callable[[str], None] | None = None
    ) -> None:
        self._policy = policy or Policy()
        self._connection = Connection(context, self._policy, warn)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._connection.close()

    async def controller(self) -> cluster_pb2.Cluster:
        """The controller that answers, as it was when the connection was made."""
        return (await self._connection.link()).controller

    async def address(self) -> str:
        """HOST:PORT of the entry that answers."""
        return (await self._connection.link()).entry.address

    # Clusters

    async def get_cluster(self, name: str) -> cluster_pb2.Cluster:
        """One cluster, by name, uid, or "." for the controller itself."""
        request = cluster_pb2.GetClusterRequest(name=name)
        return (await self._connection.call(lambda link: link.clusters.GetCluster, request)).cluster

    async def list_clusters(self, selector: cluster_pb2.Selector | None = None) -> list[cluster_pb2.Cluster]:
        """All clusters that match, by name."""
        found: list[cluster_pb2.Cluster] = []
        request = cluster_pb2.ListClustersRequest(selector=selector, page_size=_PAGE)
        while True:
            page = await self._connection.call(lambda link: link.clusters.ListClusters, request)
            found += page.clusters
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def watch_clusters(
        self, selector: cluster_pb2.Selector | None = None
    ) -> AsyncIterator[cluster_pb2.WatchClustersResponse]:
        """Every cluster that matches as put, a bookmark, then changes, for ever.

        After a loss it resumes. Where that is not possible, as at another controller, it lists again: what is as it was
        told last is not told again, what is gone by then comes as removed, and a bookmark ends it. Away from the first
        entry it goes back once that answers again, and until then what is not below its entry is not told to be gone.
        """
        token = ""
        known: dict[str, cluster_pb2.Cluster] = {}
        listed: set[str] | None = set()
        until = 0.0
        delays = self._policy.delays()
        while True:
            request = cluster_pb2.WatchClustersRequest(selector=selector, resume_token=token)
            link = await self._connection.link()
            try:
                async with aclosing(self._connection.events(link, link.clusters.WatchClusters(request))) as events:
                    async for event in events:
                        until, delays = 0.0, self._policy.delays()
                        token = event.resume_token or token
                        kind = event.WhichOneof("event")
                        if kind == "put":
                            before = known.get(event.put.uid)
                            known[event.put.uid] = event.put
                            if listed is not None:
                                listed.add(event.put.uid)
                                if before is not None and _is_same(before, event.put):
                                    continue
                        elif kind == "removed":
                            known.pop(event.removed, None)
                        elif listed is not None:
                            for uid in sorted(known.keys() - listed):
                                if not self._connection.sees(link, known[uid].path):
                                    continue
                                del known[uid]
                                yield cluster_pb2.WatchClustersResponse(removed=uid, resume_token=token)
                            listed = None
                        yield event
                if await self._connection.link() is not link:
                    token, listed = "", set()
                    continue
                error: OteError = Unavailable("CONNECTION_FAILED", "the controller ended the watch")
            except grpc.aio.AioRpcError as rpc_error:
                error = from_rpc_error(rpc_error)
            if isinstance(error, OutOfRange) and token:
                token, listed = "", set()
                continue
            if listed is not None:
                token, listed = "", set()
            until = until or time.monotonic() + self._policy.patience
            await self._recover(
                link, error, until, next(delays), also=isinstance(error, (ResourceExhausted, Unavailable))
            )

    async def update_cluster(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        remove_labels: Iterable[str] = (),
        tags: Iterable[str] = (),
        remove_tags: Iterable[str] = (),
    ) -> cluster_pb2.UpdateClusterResponse:
        """Changes labels and tags."""
        request = cluster_pb2.UpdateClusterRequest(
            name=name, labels=labels, remove_labels=remove_labels, tags=tags, remove_tags=remove_tags
        )
        return await self._connection.call(lambda link: link.clusters.UpdateCluster, request)

    async def evict_cluster(self, name: str) -> cluster_pb2.EvictClusterResponse:
        """Ends a cluster's membership."""
        request = cluster_pb2.EvictClusterRequest(name=name)
        return await self._connection.call(lambda link: link.clusters.EvictCluster, request)

    async def status(self) -> cluster_pb2.GetControllerStatusResponse:
        """How the controller that answers does."""
        request = cluster_pb2.GetControllerStatusRequest()
        return await self._connection.call(lambda link: link.clusters.GetControllerStatus, request)

    # Dispatches

    async def dispatch(self, request: route_pb2.DispatchRequest) -> AsyncIterator[route_pb2.DispatchResponse]:
        """Sends a command and tells what becomes of it: accepted, changes of targets, the summary.

        A command over 1 MiB goes ahead as a payload. After a loss, accepted comes again with all targets as they are.
        Until it is accepted only one controller is asked, because two could each accept it; when that one stays away,
        or is lost once and then too busy, Unavailable (ACCEPTANCE_UNKNOWN) names the dispatch to look for. After any
        other error but Internal nothing was accepted.
        """
        payload = b""
        if request.HasField("command") and request.command.ByteSize() > MAX_INLINE_BYTES:
            payload = request.command.SerializeToString()
            request = _with_payload(request, payload)
            await self.put_payload(payload)
        link = await self._connection.link()
        name = ""
        until = 0.0
        delays = self._policy.delays()
        settled = in_doubt = False
        while not name:
            try:
                async for event in link.routes.Dispatch(request):
                    name = name or event.accepted.dispatch
                    settled = settled or event.HasField("summary")
                    yield event
                if settled:
                    return
                error: OteError = Unavailable("CONNECTION_FAILED", "the controller ended the call")
            except grpc.aio.AioRpcError as rpc_error:
                if settled:
                    return
                error = from_rpc_error(rpc_error)
            if payload and error.reason == "PAYLOAD_MISSING":
                payload = await self._put_again(link, request, payload)
                continue
            if not is_passing(error) and not (name and isinstance(error, _RESUMABLE)):
                raise error
            if not name:
                until = until or time.monotonic() + self._policy.patience
                in_doubt = in_doubt or is_lost(error)
                link = await self._stay(link, request.dispatch_id, error, until, delays, in_doubt=in_doubt)
        async for again in self.watch_dispatch(name, exists=True):
            yield again

    async def watch_dispatch(self, name: str, *, exists: bool = False) -> AsyncIterator[route_pb2.DispatchResponse]:
        """What becomes of a dispatch: accepted with all targets as they are, then changes, then the summary.

        After a loss accepted comes again. exists: it is known to exist, so an entry that cannot tell of it (yet) makes
        way for the next one while `patience` lasts. Away from the first entry it goes back once that answers again,
        unless that one has said that it does not know the dispatch.
        """
        request = route_pb2.WatchDispatchRequest(dispatch=name)
        until = 0.0
        go_back = True
        delays = self._policy.delays()
        while True:
            link = await self._connection.link()
            try:
                call = link.routes.WatchDispatch(request)
                async with aclosing(self._connection.events(link, call, go_back=go_back)) as events:
                    async for event in events:
                        exists, until, delays = True, 0.0, self._policy.delays()
                        yield _as_dispatch_event(event)
                        if event.HasField("summary"):
                            return
                if await self._connection.link() is not link:
                    continue
                error: OteError = Unavailable("CONNECTION_FAILED", "the controller ended the call")
            except grpc.aio.AioRpcError as rpc_error:
                error = from_rpc_error(rpc_error)
            until = until or time.monotonic() + self._policy.patience
            go_back = go_back and not isinstance(error, NotFound)
            elsewhere = exists and isinstance(error, (Unavailable, NotFound))
            await self._recover(link, error, until, next(delays), also=exists and isinstance(error, _RESUMABLE))
            if elsewhere:
                await self._connection.leave(link)

    async def put_payload(self, data: bytes) -> command_pb2.PayloadRef:
        """Sends bytes ahead of the dispatch that names them. Raises ResourceExhausted (PAYLOAD_TOO_LARGE)."""
        ref = payload_ref(data)
        until = time.monotonic() + self._policy.patience
        for delay in self._policy.delays():
            link = await self._connection.link()
            try:
                await _put(link, ref, data)
            except grpc.aio.AioRpcError as rpc_error:
                await self._recover(link, from_rpc_error(rpc_error), until, delay)
            else:
                break
        return ref

    async def get_dispatch(self, name: str) -> route_pb2.Dispatch:
        """A dispatch with its targets."""
        request = route_pb2.GetDispatchRequest(dispatch=name)
        return (await self._connection.call(lambda link: link.routes.GetDispatch, request)).dispatch

    async def list_dispatches(
        self, *, unsettled_only: bool = False, changes_only: bool = False, limit: int = 50
    ) -> list[route_pb2.Dispatch]:
        """The newest dispatches of the controller that answers, without targets."""
        found: list[route_pb2.Dispatch] = []
        request = route_pb2.ListDispatchesRequest(unsettled_only=unsettled_only, changes_only=changes_only)
        while True:
            request.page_size = min(500, limit - len(found))
            page = await self._connection.call(lambda link: link.routes.ListDispatches, request)
            found += page.dispatches
            if not page.next_page_token or len(found) >= limit:
                return found[:limit]
            request.page_token = page.next_page_token

    async def cancel_dispatch(self, name: str) -> route_pb2.Dispatch:
        """Asks to end every target that is not final; the dispatch as it is then."""
        request = route_pb2.CancelDispatchRequest(dispatch=name)
        return (await self._connection.call(lambda link: link.routes.CancelDispatch, request)).dispatch

    # Routes

    async def list_routes(self) -> list[route_pb2.Route]:
        """The next hop of each cluster, by name."""
        found: list[route_pb2.Route] = []
        request = route_pb2.ListRoutesRequest(page_size=_PAGE)
        while True:
            page = await self._connection.call(lambda link: link.routes.ListRoutes, request)
            found += page.routes
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def trace_route(self, cluster: str) -> route_pb2.TraceRouteResponse:
        """The controllers on the way to a cluster and their round trips, and why it ends where it does."""
        request = route_pb2.TraceRouteRequest(cluster=cluster)
        return await self._connection.call(lambda link: link.routes.TraceRoute, request)

    # Trust

    async def create_join_token(self, request: trust_pb2.CreateJoinTokenRequest) -> trust_pb2.CreateJoinTokenResponse:
        """Makes a join token; never repeated."""
        return await self._connection.call(lambda link: link.trust.CreateJoinToken, request, repeat=False)

    async def list_join_tokens(self) -> list[trust_pb2.JoinToken]:
        """The tokens of the controller that answers, newest first."""
        found: list[trust_pb2.JoinToken] = []
        request = trust_pb2.ListJoinTokensRequest()
        while True:
            page = await self._connection.call(lambda link: link.trust.ListJoinTokens, request)
            found += page.tokens
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def revoke_join_token(self, token_id: str) -> trust_pb2.JoinToken:
        """Ends a token."""
        request = trust_pb2.RevokeJoinTokenRequest(id=token_id)
        return (await self._connection.call(lambda link: link.trust.RevokeJoinToken, request)).token

    # What happens after a loss

    async def _recover(self, link: Link, error: OteError, until: float, delay: float, *, also: bool = False) -> None:
        """Returns when trying again makes sense, else raises the error. also: count this error as passing."""
        delay = max(delay, error.retry_after or 0)
        if not (also or is_passing(error)) or time.monotonic() + delay > until:
            raise error
        if is_lost(error):
            await self._connection.drop(link)
        await sleep(delay)

    async def _stay(
        self,
        link: Link,
        dispatch_id: str,
        error: OteError,
        until: float,
        delays: Iterable[float],
        *,
        in_doubt: bool,
    ) -> Link:
        """Dials the same entry again until it answers as the same controller. in_doubt: it may have accepted."""
        uid, origin, address = link.controller.uid, link.controller.name, link.entry.address
        for delay in delays:
            delay = max(delay, error.retry_after or 0)
            if time.monotonic() + delay > until:
                break
            await sleep(delay)
            if not is_lost(error):
                return link
            try:
                link = await self._connection.redial(link)
            except Unavailable as still:
                error = still
                continue
            if link.controller.uid == uid:
                return link
            break
        if not in_doubt:
            raise error
        raise Unavailable(
            "ACCEPTANCE_UNKNOWN",
            f"lost {origin} at {address} before it answered; to see: ote-ctl dispatch get {origin}/{dispatch_id}",
        )

    async def _put_again(self, link: Link, request: route_pb2.DispatchRequest, payload: bytes) -> bytes:
        """Puts the payload where the dispatch goes to; returns nothing to put a third time."""
        try:
            await _put(link, request.payload, payload)
        except grpc.aio.AioRpcError as rpc_error:
            raise from_rpc_error(rpc_error) from None
        return b""


def _is_same(before: cluster_pb2.Cluster, now: cluster_pb2.Cluster) -> bool:
    """Whether nothing has changed but that it was heard of, which is now for all that are online."""
    compared = [cluster_pb2.Cluster(), cluster_pb2.Cluster()]
    for copy, one in zip(compared, (before, now), strict=True):
        copy.CopyFrom(one)
        copy.ClearField("last_seen")
    return compared[0] == compared[1]


def _with_payload(request: route_pb2.DispatchRequest, payload: bytes) -> route_pb2.DispatchRequest:
    changed = route_pb2.DispatchRequest()
    changed.CopyFrom(request)
    changed.payload.CopyFrom(payload_ref(payload))
    return changed


async def _put(link: Link, ref: command_pb2.PayloadRef, data: bytes) -> None:
    over = Event()

    async def parts(alone: float = 0.0) -> AsyncIterator[route_pb2.PutPayloadRequest]:
        yield route_pb2.PutPayloadRequest(payload=ref)
        if alone:
            with suppress(TimeoutError):
                await wait_for(over.wait(), alone)
                return
        for piece in pieces_of(data):
            yield route_pb2.PutPayloadRequest(data=piece)

    try:
        await link.routes.PutPayload(parts(), timeout=_PAYLOAD_TIMEOUT)
    except grpc.aio.AioRpcError as error:
        if from_rpc_error(error).reason != "INTERNAL":
            raise
        # Bare INTERNAL: gRPC lost the answer of a server that ended the call while we were still sending.
        try:
            await link.routes.PutPayload(parts(_ANSWER_SECONDS), timeout=_PAYLOAD_TIMEOUT)
        finally:
            over.set()


def _as_dispatch_event(event: route_pb2.WatchDispatchResponse) -> route_pb2.DispatchResponse:
    match event.WhichOneof("event"):
        case "accepted":
            return route_pb2.DispatchResponse(accepted=event.accepted)
        case "changed":
            return route_pb2.DispatchResponse(changed=event.changed)
        case _:
            return route_pb2.DispatchResponse(summary=event.summary)
