"""What a channel or a server is given takes the place of its default, and does not stand beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ote.rpc.channel import open_channel
from ote.rpc.server import Server

_LARGE = 6 * 1024 * 1024
_LIMIT = (("grpc.max_receive_message_length", 8 * 1024 * 1024),)


async def test_a_larger_limit_replaces_the_default_on_both_sides(tmp_path: Path) -> None:
    server = Server(f"unix:{tmp_path}/s", options=_LIMIT)
    address = await server.start()
    request = health_pb2.HealthCheckRequest(service="x" * _LARGE)
    try:
        async with open_channel(address, options=_LIMIT) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Check(request)
            assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    finally:
        await server.stop(0)
