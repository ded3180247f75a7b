"""The typed client of a shim, for people who look at one. What runs the conformance suite is `ote.conformance`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import ote.rpc  # noqa: F401 - before grpc, whose C library it keeps from writing to stderr

# isort: split
import grpc
import grpc.aio

from ote.api.shim.v1 import shim_pb2, shim_pb2_grpc
from ote.client.connection import CHANNEL_OPTIONS, tls_identity
from ote.client.contexts import Context
from ote.model.errors import FailedPrecondition
from ote.rpc.address import is_local
from ote.rpc.channel import open_channel
from ote.rpc.errors import from_rpc_error

_TIMEOUT = 10.0


@asynccontextmanager
async def open_shim(
    address: str, *, context: Context | None = None, server_name: str | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the shim at HOST:PORT or unix:/PATH.

    One on this machine is dialled without TLS unless a server name is expected; any other with the context's identity.
    """
    tls = tls_identity(context) if context is not None and (server_name or not is_local(address)) else None
    channel = open_channel(address, tls=tls, server_name=server_name, options=CHANNEL_OPTIONS)
    try:
        yield channel
    finally:
        await channel.close()


async def get_shim_info(channel: grpc.aio.Channel) -> shim_pb2.GetShimInfoResponse:
    """Who the shim is and what it can do. Raises FailedPrecondition (NOT_A_SHIM) where something else listens."""
    stub = shim_pb2_grpc.ShimServiceStub(channel)
    try:
        return await stub.GetShimInfo(shim_pb2.GetShimInfoRequest(protocol_version="v1"), timeout=_TIMEOUT)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise FailedPrecondition("NOT_A_SHIM", "what listens there is no shim: it serves no ShimService") from None
        raise from_rpc_error(error) from None
