"""A minimal HTTP server for /metrics, /healthz and /readyz: standard library only, as aiohttp would cost a leaf 10 MB.

Not here: any other page. GET and HEAD only, one request per connection, at most 8 KiB, 5 s and 32 connections at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from http import HTTPStatus

import structlog

from ote.telemetry.exposition import CONTENT_TYPE, text_of
from ote.telemetry.metrics import Metrics

MAX_REQUEST = 8 * 1024
TIMEOUT = 5.0
MAX_CONNECTIONS = 32

_log = structlog.get_logger("ote.telemetry")

Ready = Callable[[], str | None]
"""None when ready, else what is missing, in a few words."""


class TelemetryServer:
    """Serves until it is cancelled.

    port: 0 for any, `bound` tells which. ready: asked at each /readyz.
    """

    name = "telemetry"

    def __init__(self, host: str, port: int, metrics: Metrics, ready: Ready) -> None:
        self._host = host
        self._port = port
        self._metrics = metrics
        self._ready = ready
        self._open: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Future[tuple[str, int]] | None = None

    async def bound(self) -> tuple[str, int]:
        """(Host, port) once it listens."""
        return await asyncio.shield(self._bound_future())

    async def run(self) -> None:
        """Serves. Raises OSError when the address cannot be bound."""
        server = await asyncio.start_server(self._connected, self._host, self._port, limit=MAX_REQUEST, backlog=64)
        host, port = server.sockets[0].getsockname()[:2]
        self._bound_future().set_result((host, port))
        try:
            async with server:
                await server.serve_forever()
        finally:
            for task in self._open:
                task.cancel()

    def _bound_future(self) -> asyncio.Future[tuple[str, int]]:
        if self._listening is None:
            self._listening = asyncio.get_running_loop().create_future()
        return self._listening

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            writer.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer), name="telemetry request")
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                await self._answer(reader, writer)
        except (TimeoutError, ConnectionError):
            _log.debug("telemetry client went away")
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, TimeoutError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        except asyncio.LimitOverrunError:
            await _send(writer, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, b"request too large\n")
            return
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            await _send(writer, HTTPStatus.BAD_REQUEST, b"not HTTP/1\n")
            return
        if words[0] not in (b"GET", b"HEAD"):
            await _send(writer, HTTPStatus.METHOD_NOT_ALLOWED, b"only GET\n")
            return
        status, body, kind = await self._page(words[1].split(b"?", 1)[0])
        await _send(writer, status, body, kind, with_body=words[0] == b"GET")

    async def _page(self, path: bytes) -> tuple[HTTPStatus, bytes, str]:
        plain = "text/plain; charset=utf-8"
        if path == b"/metrics":
            await self._metrics.prepare()
            return HTTPStatus.OK, text_of(self._metrics), CONTENT_TYPE
        if path == b"/healthz":
            return HTTPStatus.OK, b"ok\n", plain
        if path == b"/readyz":
            missing = self._ready()
            if missing is None:
                return HTTPStatus.OK, b"ready\n", plain
            return HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {missing}\n".encode(), plain
        return HTTPStatus.NOT_FOUND, b"/metrics, /healthz or /readyz\n", plain


async def _send(
    writer: asyncio.StreamWriter,
    status: HTTPStatus,
    body: bytes,
    kind: str = "text/plain; charset=utf-8",
    *,
    with_body: bool = True,
) -> None:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode("ascii") + (body if with_body else b""))
    await writer.drain()
