"""A tree's certificates, and a servicer that does what the test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio

from ote.api.route.v1 import route_pb2 as pb
from ote.api.route.v1 import route_pb2_grpc
from ote.api.route.v1 import tunnel_pb2 as tunnel
from ote.pki import Authority, csr, new_key
from ote.rpc.tls import TlsIdentity

ROUTES = "ote.api.route.v1.RouteService"
EDGE_UID = "c" * 32

Serve = Callable[..., Awaitable[str]]
Dial = Callable[..., "route_pb2_grpc.RouteServiceAsyncStub"]


def member(authority: Authority, name: str, *, uid: str = EDGE_UID, lifetime: float = 600.0) -> TlsIdentity:
    key = new_key()
    return TlsIdentity(authority.issue_cluster(csr(key, name), name, uid, lifetime), key, authority.root_pem)


def person(authority: Authority, role: str) -> TlsIdentity:
    chain, key = authority.issue_person(role, f"{role}-1", 600.0)
    return TlsIdentity(chain, key, authority.root_pem)


def below(authority: Authority, name: str, uid: str) -> Authority:
    key = new_key()
    return Authority(authority.issue_ca(csr(key, name), name, uid), key, authority.root_pem)


class Routes(route_pb2_grpc.RouteServiceServicer):
    """Does what the test says, in one method of each kind."""

    def __init__(self, behave: Callable[[grpc.aio.ServicerContext[Any, Any]], Awaitable[None]]) -> None:
        self._behave = behave

    async def Probe(self, request: pb.ProbeRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.ProbeResponse:
        await self._behave(context)
        return pb.ProbeResponse(name="served")

    async def Dispatch(
        self, request: pb.DispatchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.DispatchResponse]:
        yield pb.DispatchResponse()
        await self._behave(context)
        yield pb.DispatchResponse()

    async def PutPayload(
        self, requests: AsyncIterator[pb.PutPayloadRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.PutPayloadResponse:
        async for _ in requests:
            pass
        await self._behave(context)
        return pb.PutPayloadResponse()

    async def Connect(  # type: ignore[override]
        self, requests: AsyncIterator[tunnel.ConnectRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        async for _ in requests:
            await context.write(tunnel.ConnectResponse())
            await self._behave(context)


async def nothing(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """A servicer's behaviour that is all well."""


def routes(behave: Callable[[grpc.aio.ServicerContext[Any, Any]], Awaitable[None]]) -> Routes:
    """A servicer; the methods that it leaves out answer UNIMPLEMENTED."""
    return Routes(behave)  # type: ignore[abstract]
