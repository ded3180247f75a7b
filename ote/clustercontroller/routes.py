"""RouteService: the tunnel's door, dispatches, payloads, routes. Thin: parse, hand to the part whose business it is,
show."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, TypeVar

import grpc.aio

from ote.api.route.v1 import route_pb2, route_pb2_grpc, tunnel_pb2
from ote.clustercontroller.bulkserving import BulkServing
from ote.clustercontroller.clusters import by_name, find
from ote.clustercontroller.core.entries import ClusterEntry
from ote.clustercontroller.core.origin_state import OriginDispatch
from ote.clustercontroller.core.records import TargetRow
from ote.clustercontroller.dispatches import CANCEL_DISPATCH, GET_DISPATCH, Dispatches, is_final
from ote.clustercontroller.many import Many
from ote.clustercontroller.membership import LOOK
from ote.clustercontroller.outputs import Outputs
from ote.clustercontroller.payloads import Payloads
from ote.clustercontroller.shell import Shell
from ote.clustercontroller.tunnel import ChildLink, add_connect
from ote.clustercontroller.wire import views
from ote.model.errors import (
    FailedPrecondition,
    OteError,
    ResourceExhausted,
    Unavailable,
)
from ote.rpc.paging import page_of
from ote.rpc.peer import Peer, Role, peer_of

PING = "ping"
_PROBE_BYTES = 4096
_TRACE_TIMEOUT = 3.0
_MAX_TUNNELS = 8
"""Of one member at once: one, two while it moves, and those whose end has not been noticed yet."""
_EVENT_BYTES = 256 * 1024
"""An event of changed targets is full with so many."""

Context = grpc.aio.ServicerContext[Any, Any]
T = TypeVar("T")


class RouteServicer(route_pb2_grpc.RouteServiceServicer):
    """`refusal` says why this controller takes no children, nothing when it does."""

    def __init__(
        self,
        shell: Shell,
        dispatches: Dispatches,
        payloads: Payloads,
        outputs: Outputs,
        refusal: Callable[[], str],
    ) -> None:
        self._shell = shell
        self._core = shell.core
        self._dispatches = dispatches
        self._payloads = payloads
        self._bulk = BulkServing(shell, payloads, outputs)
        self._refusal = refusal

    # --- between controllers --------------------------------------------------------------------------------------

    async def Connect(  # type: ignore[override]  # reads and writes by itself
        self, request_iterator: Any, context: Context
    ) -> None:
        peer = peer_of(context)
        if why := self._refusal():
            raise FailedPrecondition("NOT_A_PARENT", why)
        if len(self._shell.links_of(peer.uid)) >= _MAX_TUNNELS:
            raise ResourceExhausted("TOO_MANY_TUNNELS", f"{peer.name} has {_MAX_TUNNELS} tunnels open", retry_after=5.0)
        link = self._shell.child_link(peer)
        expiry = _Expiry(link, peer.not_after)
        try:
            await link.serve(context)
        finally:
            expiry.cancel()
            self._shell.forget_link(link.number)
            self._payloads.pieces.forget(link.number)

    async def Probe(self, request: route_pb2.ProbeRequest, context: Context) -> route_pb2.ProbeResponse:
        parents = self._shell.look().parents
        standing = parents.standing
        return route_pb2.ProbeResponse(
            name=self._core.ctx.name,
            uid=self._core.ctx.uid,
            standing=tunnel_pb2.Standing(beat=standing.beat, depth=standing.depth),
            connected=parents.connected,
            draining=self._core.children.draining,
            children=len(self._core.registry.children(self._core.ctx.uid)),
            padding=bytes(_PROBE_BYTES),
        )

    async def FetchPieces(  # type: ignore[override]  # reads and writes by itself
        self, request_iterator: Any, context: Context
    ) -> None:
        await self._bulk.send_pieces(peer_of(context), context)

    async def PushOutput(  # type: ignore[override]  # reads and writes by itself
        self, request_iterator: Any, context: Context
    ) -> None:
        await self._bulk.take_output(peer_of(context), context)

    # --- dispatches -----------------------------------------------------------------------------------------------

    async def Dispatch(
        self, request: route_pb2.DispatchRequest, context: Context
    ) -> AsyncIterator[route_pb2.DispatchResponse]:
        dispatch_id = await self._dispatches.submit(request, peer_of(context))
        async for response in self._watch(dispatch_id, route_pb2.DispatchResponse):
            yield response

    async def _watch(self, dispatch_id: str, response: Callable[..., T]) -> AsyncIterator[T]:
        """A dispatch of this origin until it is settled: accepted, targets that change, summary."""
        all_rows: list[TargetRow] | None = None
        async for rows in self._dispatches.changes(dispatch_id):
            if all_rows is None:
                all_rows = rows
                name = f"{self._core.ctx.name}/{dispatch_id}"
                targets, rows = self._dispatches.targets(dispatch_id, rows, _EVENT_BYTES)
                yield response(accepted=route_pb2.Accepted(dispatch=name, targets=targets))
            for batch in _in_messages(self._dispatches.target(dispatch_id, row) for row in rows):
                yield response(changed=route_pb2.Targets(targets=batch))
        yield response(summary=route_pb2.Summary(states=views.count(all_rows or ())))

    async def DispatchMany(  # type: ignore[override]  # reads and writes by itself
        self, request_iterator: Any, context: Context
    ) -> None:
        await Many(self._dispatches, self._core, peer_of(context), context).run()

    async def PutPayload(self, request_iterator: Any, context: Context) -> route_pb2.PutPayloadResponse:
        await self._bulk.take_payload(peer_of(context), context)
        return route_pb2.PutPayloadResponse()

    async def GetDispatch(
        self, request: route_pb2.GetDispatchRequest, context: Context
    ) -> route_pb2.GetDispatchResponse:
        origin, dispatch_id = self._dispatches.split(request.dispatch)
        if origin == self._core.ctx.uid:
            response = route_pb2.GetDispatchResponse(dispatch=self._dispatches.get(dispatch_id))
        else:
            asked = route_pb2.GetDispatchRequest(dispatch=dispatch_id)
            response = route_pb2.GetDispatchResponse.FromString(
                await self._ask_origin(origin, GET_DISPATCH, asked.SerializeToString())
            )
        if not _may_read(peer_of(context), response.dispatch.caller):
            _hide_outputs(response.dispatch.targets)
        return response

    async def ListDispatches(
        self, request: route_pb2.ListDispatchesRequest, context: Context
    ) -> route_pb2.ListDispatchesResponse:
        kept = self._core.origin.newest()
        page, token = page_of(
            [
                dispatch
                for dispatch in kept
                if not (request.unsettled_only and dispatch.settled) and (dispatch.change or not request.changes_only)
            ],
            _newest_first,
            size=request.page_size,
            token=request.page_token,
            scope=f"{request.unsettled_only} {request.changes_only}",
            default=50,
            most=500,
        )
        dispatches = [self._dispatches.summary(dispatch) for dispatch in page]
        return route_pb2.ListDispatchesResponse(dispatches=dispatches, next_page_token=token)

    async def WatchDispatch(
        self, request: route_pb2.WatchDispatchRequest, context: Context
    ) -> AsyncIterator[route_pb2.WatchDispatchResponse]:
        origin, dispatch_id = self._dispatches.split(request.dispatch)
        peer = peer_of(context)
        if origin != self._core.ctx.uid:
            async for response in self._follow(origin, dispatch_id, peer):
                yield response
            return
        dispatch = self._core.origin.dispatch(dispatch_id)
        hidden = dispatch is not None and not _may_read(peer, dispatch.row.caller)
        async for response in self._watch(dispatch_id, route_pb2.WatchDispatchResponse):
            if hidden:
                _hide_outputs(response.accepted.targets or response.changed.targets)
            yield response

    async def _follow(
        self, origin: str, dispatch_id: str, peer: Peer
    ) -> AsyncIterator[route_pb2.WatchDispatchResponse]:
        known: dict[str, route_pb2.Target] | None = None
        async for dispatch in self._dispatches.follow(origin, dispatch_id):
            if not _may_read(peer, dispatch.caller):
                _hide_outputs(dispatch.targets)
            if known is None:
                accepted = route_pb2.Accepted(dispatch=dispatch.name, targets=dispatch.targets)
                yield route_pb2.WatchDispatchResponse(accepted=accepted)
                known = {}
            else:
                for batch in _in_messages(target for target in dispatch.targets if known.get(target.uid) != target):
                    yield route_pb2.WatchDispatchResponse(changed=route_pb2.Targets(targets=batch))
            known = {target.uid: target for target in dispatch.targets}
            if all(is_final(target) for target in dispatch.targets):
                yield route_pb2.WatchDispatchResponse(summary=route_pb2.Summary(states=dispatch.states))
                return

    async def CancelDispatch(
        self, request: route_pb2.CancelDispatchRequest, context: Context
    ) -> route_pb2.CancelDispatchResponse:
        origin, dispatch_id = self._dispatches.split(request.dispatch)
        if origin == self._core.ctx.uid:
            return route_pb2.CancelDispatchResponse(dispatch=await self._dispatches.cancel(dispatch_id))
        if not self._core.registry.is_below(origin):
            raise Unavailable("ORIGIN_UNREACHABLE", "cancel it at its origin, or at a controller above the origin")
        asked = route_pb2.CancelDispatchRequest(dispatch=dispatch_id)
        return route_pb2.CancelDispatchResponse.FromString(
            await self._ask_origin(origin, CANCEL_DISPATCH, asked.SerializeToString())
        )

    async def _ask_origin(self, origin: str, method: str, body: bytes) -> bytes:
        try:
            return await self._dispatches.ask(origin, method, body)
        except Unavailable as error:
            raise Unavailable(
                "ORIGIN_UNREACHABLE", f"the dispatch's origin does not answer: {error.message}"
            ) from error

    # --- routes ---------------------------------------------------------------------------------------------------

    async def ListRoutes(self, request: route_pb2.ListRoutesRequest, context: Context) -> route_pb2.ListRoutesResponse:
        registry = self._core.registry
        below = set(registry.descendants(self._core.ctx.uid))
        entries = [entry for entry in registry.in_order() if entry.uid in below]
        page, token = page_of(
            entries, by_name, size=request.page_size, token=request.page_token, default=500, most=5000
        )
        return route_pb2.ListRoutesResponse(routes=[self._route(entry) for entry in page], next_page_token=token)

    def _route(self, entry: ClusterEntry) -> route_pb2.Route:
        registry = self._core.registry
        hop = registry.get(registry.via(entry.uid) or "")
        return route_pb2.Route(
            cluster=entry.name,
            next_hop=hop.name if hop else "",
            path=entry.path,
            up=registry.next_hop(entry.uid) is not None,
        )

    async def TraceRoute(self, request: route_pb2.TraceRouteRequest, context: Context) -> route_pb2.TraceRouteResponse:
        entry = find(self._core, request.cluster)
        registry, me = self._core.registry, self._core.ctx
        way: list[ClusterEntry] = []
        step: ClusterEntry | None = entry
        while step is not None and step.uid != me.uid:
            way.append(step)
            step = registry.get(step.parent_uid)
        hops = [route_pb2.Hop(cluster=me.name, rtt_ms=0.0)]
        last, reason, message = me.name, "", ""
        for hop in reversed(way):
            up = registry.is_up(hop.uid)
            rtt = await self._ping(hop.uid) if up else -1.0
            hops.append(route_pb2.Hop(cluster=hop.name, rtt_ms=rtt))
            if rtt >= 0:
                last = hop.name
            elif not up and not reason:
                reason, message = "NO_ROUTE", f"{hop.name} is {registry.state(hop.uid)}: the way ends at {last}"
            elif not reason:
                reason, message = "NO_ANSWER", f"{hop.name} did not answer: the way ends at {last}"
        return route_pb2.TraceRouteResponse(hops=hops, reason=reason, message=message)

    async def _ping(self, uid: str) -> float:
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(_TRACE_TIMEOUT):
                await self._dispatches.ask(uid, PING, b"")
        except (OteError, TimeoutError):
            return -1.0
        return (time.perf_counter() - begun) * 1000


class _Expiry:
    """Ends a link with the certificate that it was opened with."""

    def __init__(self, link: ChildLink, not_after: float) -> None:
        self._link = link
        self._not_after = not_after
        self._wait(not_after - time.time())

    def cancel(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        left = self._not_after - time.time()
        if left <= 0:
            self._link.end("CERTIFICATE_EXPIRED")
        else:
            self._wait(left)

    def _wait(self, left: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(min(max(0.0, left), LOOK), self._look)


def add_routes(servicer: RouteServicer, server: grpc.aio.Server) -> None:
    """Serve RouteService, its tunnels as bytes, and batches of events as bytes."""
    route_pb2_grpc.add_RouteServiceServicer_to_server(servicer, server)
    add_connect(servicer.Connect, server)
    many: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
        servicer.DispatchMany, request_deserializer=route_pb2.DispatchManyRequest.FromString
    )
    server.add_registered_method_handlers("ote.api.route.v1.RouteService", {"DispatchMany": many})


def _in_messages(targets: Iterable[route_pb2.Target]) -> Iterator[list[route_pb2.Target]]:
    """Targets in few messages, none of which is larger than gRPC takes."""
    batch: list[route_pb2.Target] = []
    room = _EVENT_BYTES
    for target in targets:
        room -= target.ByteSize()
        batch.append(target)
        if room <= 0:
            yield batch
            batch, room = [], _EVENT_BYTES
    if batch:
        yield batch


def _may_read(peer: Peer, caller: str) -> bool:
    """Whether somebody may see what clusters answered to a caller: a viewer what they answered to itself."""
    return peer.role is not Role.VIEWER or caller == f"{peer.role}/{peer.name}"


def _hide_outputs(targets: Iterable[route_pb2.Target]) -> None:
    for target in targets:
        target.ClearField("output")


def _newest_first(dispatch: OriginDispatch) -> str:
    """Sorts as the core has them: numbers count acceptances."""
    return f"{10**18 - dispatch.row.number:019d}"
