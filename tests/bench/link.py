"""A link with a rate and a delay, between a port of its own and another address."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

_PACKET = 1448
_BUFFER = 8 * 1024
_LATE = 0.01
"""Seconds by which timers may be late without making the link slower."""


@contextlib.asynccontextmanager
async def thin_link(target: str, *, bits_per_second: float, delay: float) -> AsyncIterator[str]:
    """The address of the near end. The rate holds for each direction of a connection, `delay` (seconds) for each way;
    queues are small, so what does not fit waits in the sender."""
    host, _, port = target.rpartition(":")
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far = _small(socket.socket())
            far.setblocking(False)
            await asyncio.get_running_loop().sock_connect(far, (host, int(port)))
            far_reader, far_writer = await asyncio.open_connection(sock=far, limit=_BUFFER)
        except OSError:
            writer.close()
            return
        both = [
            asyncio.create_task(_carry(reader, far_writer, bits_per_second / 8, delay)),
            asyncio.create_task(_carry(far_reader, writer, bits_per_second / 8, delay)),
        ]
        tasks.update(both)
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        tasks.difference_update(both)
        writer.close()
        far_writer.close()

    near = _small(socket.socket())
    near.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(connected, sock=near, limit=_BUFFER)
    try:
        yield f"127.0.0.1:{near.getsockname()[1]}"
    finally:
        server.close()
        ending = list(tasks)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


def _small(raw: socket.socket) -> socket.socket:
    """With the packets of a real link: those of loopback are as large as the buffers, and TCP waits to fill them."""
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _PACKET)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        raw.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    return raw


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rate: float, delay: float) -> None:
    loop = asyncio.get_running_loop()
    free = loop.time()
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(_PACKET):
            free = max(free, loop.time() - _LATE) + len(data) / rate
            loop.call_at(max(free, loop.time()) + delay, _write, writer, data)
            if free > loop.time():
                await asyncio.sleep(free - loop.time())


def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    if not writer.is_closing():
        writer.write(data)
