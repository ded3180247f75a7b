"""Servers and channels on real sockets, closed after the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import grpc.aio
import pytest

from ote.api.route.v1 import route_pb2_grpc
from ote.pki import Authority
from ote.rpc.channel import open_channel
from ote.rpc.errors import ErrorInterceptor
from ote.rpc.server import Server
from ote.rpc.tls import TlsIdentity
from tests.wire.rpc.tree import ROUTES, Dial, Serve, nothing, routes

add_routes = route_pb2_grpc.add_RouteServiceServicer_to_server


@pytest.fixture(scope="session")
def root() -> Authority:
    return Authority.create_root("a" * 32)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server of Routes and answers its address; stops it after the test."""
    async with AsyncExitStack() as stack:

        async def start(
            behave: Callable[[grpc.aio.ServicerContext[Any, Any]], Awaitable[None]] = nothing,
            *,
            address: str = "127.0.0.1:0",
            tls: TlsIdentity | None = None,
            interceptors: Sequence[grpc.aio.ServerInterceptor] = (ErrorInterceptor(),),
        ) -> str:
            server = Server(address, tls=tls, interceptors=interceptors)
            server.add(add_routes, routes(behave), ROUTES)
            bound = await server.start()
            stack.push_async_callback(server.stop, 0.1)
            return bound

        yield start


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """Opens a channel and answers its stub; closes it after the test."""
    async with AsyncExitStack() as stack:

        def opened(
            address: str, tls: TlsIdentity | None = None, server_name: str | None = None
        ) -> route_pb2_grpc.RouteServiceAsyncStub:
            channel = open_channel(address, tls=tls, server_name=server_name)
            stack.push_async_callback(channel.close)
            return route_pb2_grpc.RouteServiceStub(channel)

        yield opened
