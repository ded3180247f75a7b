"""The small HTTP server: three pages, and nothing that a stranger can break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from ote.telemetry import http
from ote.telemetry.http import TelemetryServer
from ote.telemetry.metrics import Metrics


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@dataclass
class Running:
    address: tuple[str, int]
    missing: str | None = None

    async def ask(self, request: bytes) -> tuple[int, str]:
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(request)
        answer = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(30):
                answer = await reader.read()
        await close(writer)
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]) if head else 0, body.decode()

    async def get(self, path: str) -> tuple[int, str]:
        return await self.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    found = Running(("", 0))
    server = TelemetryServer("127.0.0.1", 0, Metrics(process=False), lambda: found.missing)
    task = asyncio.create_task(server.run())
    found.address = await server.bound()
    yield found
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_the_three_pages(running: Running) -> None:
    assert await running.get("/healthz") == (200, "ok\n")
    assert await running.get("/readyz?verbose") == (200, "ready\n")
    status, text = await running.get("/metrics")
    assert (status, "# TYPE ote_tunnel_sent_bytes_total counter" in text) == (200, True)


async def test_not_ready_says_what_is_missing_and_is_still_alive(running: Running) -> None:
    running.missing = "no parent yet"
    assert await running.get("/readyz") == (503, "not ready: no parent yet\n")
    assert await running.get("/healthz") == (200, "ok\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 9\r\n\r\n", 405),
        (b"GET /secret HTTP/1.1\r\n\r\n", 404),
        (b"GET / HTTP/1.0\r\n\r\n", 404),
        (b"\x16\x03\x01garbage\r\n\r\n", 400),
        (b"GET /metrics HTTP/2\r\n\r\n", 400),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 431),
    ],
)
async def test_other_requests_are_refused(running: Running, request_: bytes, status: int) -> None:
    assert (await running.ask(request_))[0] == status
    assert await running.get("/healthz") == (200, "ok\n")


async def test_head_has_no_body(running: Running) -> None:
    assert await running.ask(b"HEAD /healthz HTTP/1.1\r\n\r\n") == (200, "")


async def test_peers_that_say_nothing_are_closed_and_disturb_nobody(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "TIMEOUT", 2)
    silent = [await asyncio.open_connection(*running.address) for _ in range(20)]
    assert await running.get("/healthz") == (200, "ok\n")
    async with asyncio.timeout(30):
        assert await asyncio.gather(*(reader.read() for reader, _ in silent)) == [b""] * 20
    for _, writer in silent:
        await close(writer)


async def test_more_connections_than_allowed_are_closed_at_once(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "TIMEOUT", 30)
    held = [await asyncio.open_connection(*running.address) for _ in range(http.MAX_CONNECTIONS)]
    assert await running.get("/healthz") == (0, "")
    for _, writer in held:
        await close(writer)
    async with asyncio.timeout(30):
        while await running.get("/healthz") != (200, "ok\n"):
            await asyncio.sleep(0.01)
