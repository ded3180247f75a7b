"""A link between a child and its parent that swallows bytes on purpose, either way, while its connections stay."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

_CHUNK = 64 * 1024


class CutLink:
    """A TCP relay in front of `target`. While `up` (`down`) is False, what the child (the parent) sends is lost."""

    def __init__(self, target: str) -> None:
        self.up = self.down = True
        self.address = ""
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._relays: set[asyncio.Task[None]] = set()

    def mend(self) -> None:
        """Carry again. Connections that have lost bytes are reset: no stream goes on after a hole."""
        self.up = self.down = True
        for relay in self._relays:
            relay.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        relay = asyncio.current_task()
        assert relay is not None
        self._relays.add(relay)
        far_writer: asyncio.StreamWriter | None = None
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry("up", reader, far_writer))
                both.create_task(self._carry("down", far_reader, writer))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # the end of either side, or of the link, is the end of the relay
        finally:
            self._relays.discard(relay)
            for end in (writer, far_writer):
                if end is not None:
                    end.transport.abort()

    async def _carry(self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            if getattr(self, way):
                writer.write(data)
                await writer.drain()
        raise ConnectionResetError


@contextlib.asynccontextmanager
async def cut_link(target: str) -> AsyncIterator[CutLink]:
    """A link to `target` whose near end is `address`."""
    link = CutLink(target)
    server = await asyncio.start_server(link._connected, "127.0.0.1", 0)
    link.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield link
    finally:
        server.close()
        link.mend()
