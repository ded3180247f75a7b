"""A call whose channel is closed under it ends with an error of ours, and does not cancel whoever waits for it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
import pytest

from ote.api.route.v1 import route_pb2 as pb
from ote.api.route.v1 import route_pb2_grpc
from ote.model.errors import Unavailable
from ote.rpc.channel import open_channel
from ote.rpc.errors import translated
from tests.wire.rpc.tree import Serve


async def for_ever(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await asyncio.sleep(30)


async def probe(stub: Any) -> None:
    with translated():
        await stub.Probe(pb.ProbeRequest())


async def test_a_waiting_call_is_unavailable(serve: Serve) -> None:
    channel = open_channel(await serve(for_ever))
    call = asyncio.create_task(probe(route_pb2_grpc.RouteServiceStub(channel)))
    await asyncio.sleep(0.1)
    await channel.close()
    with pytest.raises(Unavailable) as caught:
        await call
    assert caught.value.reason == "CONNECTION_FAILED"


async def test_a_call_that_comes_too_late_is_unavailable(serve: Serve) -> None:
    channel = open_channel(await serve())
    await channel.close()
    with pytest.raises(Unavailable) as caught:
        await probe(route_pb2_grpc.RouteServiceStub(channel))
    assert caught.value.reason == "CONNECTION_FAILED"


async def test_who_cancels_the_task_cancels_it(serve: Serve) -> None:
    async with open_channel(await serve(for_ever)) as channel:
        call = asyncio.create_task(probe(route_pb2_grpc.RouteServiceStub(channel)))
        await asyncio.sleep(0.1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
