"""A link with a rate and a delay, between a port of its own and another address."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

_CHUNK = 1500
_BUFFER = 8 * 1024


@contextlib.asynccontextmanager
async def thin_link(target: str, *, bits_per_second: float, delay: float) -> AsyncIterator[str]:
    """The address of the near end. The rate holds for each direction, `delay` (seconds) for each way; queues are
    small, so what does not fit waits in the sender."""
    host, _, port = target.rpartition(":")
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, int(port), limit=_BUFFER)
        for near in (writer, far_writer):
            _small(near)
        both = [
            asyncio.create_task(_carry(reader, far_writer, bits_per_second / 8, delay)),
            asyncio.create_task(_carry(far_reader, writer, bits_per_second / 8, delay)),
        ]
        tasks.update(both)
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        writer.close()
        far_writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=_BUFFER)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()


def _small(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        raw.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: float, delay: float) -> None:
    loop = asyncio.get_running_loop()
    free = loop.time()
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_CHUNK):
            free = max(free, loop.time()) + len(data) / rate
            await asyncio.sleep(free - loop.time())
            loop.call_later(delay, _write, writer, data)


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if not writer.is_closing():
        writer.write(data)
