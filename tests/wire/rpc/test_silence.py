"""A call that waits is given up soon when its server says nothing at all, and never when there is only no news."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio
import pytest

from ote.api.route.v1 import route_pb2 as pb
from ote.api.route.v1 import route_pb2_grpc
from ote.client.connection import WATCHFUL
from ote.model.errors import Unavailable
from ote.rpc.address import split_host_port
from ote.rpc.channel import open_channel
from ote.rpc.errors import translated
from tests.wire.rpc.tree import Serve


async def no_news(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await asyncio.sleep(30)


class Wire:
    """Passes bytes on to a server until it is `cut`; both ends stay open."""

    def __init__(self, address: str) -> None:
        self._to = split_host_port(address)
        self.cut = False
        self._passing: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return "{}:{}".format(*self._server.sockets[0].getsockname())

    async def stop(self) -> None:
        self._server.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._to)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            self._passing.add(asyncio.create_task(self._pass(source, sink)))

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if not self.cut:
                    sink.write(data)
        finally:
            sink.close()


async def test_a_server_that_falls_silent_is_lost_within_seconds(serve: Serve) -> None:
    asked = asyncio.Event()

    async def silence(context: grpc.aio.ServicerContext[Any, Any]) -> None:
        asked.set()
        await no_news(context)

    wire = Wire(await serve(silence))
    hasty = [(name, ms // 5) for name, ms in WATCHFUL]
    async with open_channel(await wire.start(), options=hasty) as channel:
        call = asyncio.create_task(_probe(route_pb2_grpc.RouteServiceStub(channel)))
        await asked.wait()
        wire.cut = True
        async with asyncio.timeout(25):  # without either of the two options it takes more than 30 s
            with pytest.raises(Unavailable):
                await call
    await wire.stop()


async def test_a_server_without_news_allows_that_it_is_asked_whether_it_lives(serve: Serve) -> None:
    eager = (("grpc.keepalive_time_ms", 1_100), *WATCHFUL[1:])
    async with open_channel(await serve(no_news), options=eager) as channel:
        call = asyncio.create_task(_probe(route_pb2_grpc.RouteServiceStub(channel)))
        done, _ = await asyncio.wait((call,), timeout=5)
        assert not done
        call.cancel()


async def _probe(stub: Any) -> None:
    with translated():
        await stub.Probe(pb.ProbeRequest())
