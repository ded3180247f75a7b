"""The smallest grpc.aio programs there are: a unary call, and a bidirectional echo; and the disk's own fsync.

Their server is `server`, over mutual TLS with certificates of the kind that controllers have. The one idea: what a
controller is compared with is measured in the same run, moments before.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from ote.pki import Authority, csr, new_key
from ote.rpc.address import reserve
from ote.rpc.tls import TlsIdentity, channel_credentials
from tests.bench.processes import Process

_NAME = "bare.ote"
_LIFETIME = 86400.0
_IN_FLIGHT = 64
_BODY = bytes(1024)


@dataclass(frozen=True, slots=True)
class Bare:
    """What this machine does without us. Seconds, or messages per second."""

    unary: float
    """Median of a unary call, one after the other."""
    thousand: float
    """Wall time of 1,000 unary calls, 64 at a time."""
    thousand_cpu: float
    """The caller's CPU of those."""
    echo: float
    """1 KiB messages per second through a bidirectional stream with 64 in flight, none batched."""
    fsync: float
    """Median of appending 4 KiB to a file and fdatasync."""
    server_rss: int
    """Bytes of resident memory of the server after all that."""


@contextlib.asynccontextmanager
async def bare_server(folder: Path) -> AsyncIterator[tuple[Process, grpc.aio.Channel]]:
    """The server's process and a channel to it."""
    address, held = reserve("127.0.0.1")
    identity = _certificates(folder)
    with held:
        async with Process.run("tests.bench.server", str(folder), address) as process:
            options = (("grpc.ssl_target_name_override", _NAME), ("grpc.use_local_subchannel_pool", 1))
            credentials = channel_credentials(identity)
            async with grpc.aio.secure_channel(address, credentials, options=options) as channel:
                await unary_of(channel)(b"", wait_for_ready=True, timeout=10)
                yield process, channel


def unary_of(channel: grpc.aio.Channel) -> Any:
    """The unary call."""
    make: Any = channel.unary_unary
    return make("/bare/Unary")


async def measure_bare(folder: Path) -> Bare:
    """All of it; about two seconds."""
    async with bare_server(folder) as (process, channel):
        call = unary_of(channel)
        unary = await median_of(lambda: call(_BODY), 300)
        cpu, begun = time.process_time(), time.perf_counter()
        await in_flight([lambda: call(_BODY)] * 1000, _IN_FLIGHT)
        thousand, thousand_cpu = time.perf_counter() - begun, time.process_time() - cpu
        echo = await _echo(channel, 5000)
        rss = process.rss
    return Bare(unary, thousand, thousand_cpu, echo, _fsync(folder), rss)


async def median_of(call: Any, times: int) -> float:
    """Median seconds of a call, one after the other, after a few to warm up."""
    for _ in range(20):
        await call()
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        await call()
        taken.append(time.perf_counter() - begun)
    return sorted(taken)[times // 2]


async def in_flight(calls: list[Any], most: int) -> None:
    """Make all calls, so many at a time."""
    waiting = iter(calls)

    async def worker() -> None:
        for call in waiting:
            await call()

    await asyncio.gather(*(worker() for _ in range(most)))


async def _echo(channel: grpc.aio.Channel, messages: int) -> float:
    call: Any = channel.stream_stream("/bare/Echo")()
    room = asyncio.Semaphore(_IN_FLIGHT)

    async def write() -> None:
        for _ in range(messages):
            await room.acquire()
            await call.write(_BODY)
        await call.done_writing()

    begun = time.perf_counter()
    writing = asyncio.create_task(write())
    while await call.read() is not grpc.aio.EOF:
        room.release()
    await writing
    return messages / (time.perf_counter() - begun)


def _fsync(folder: Path) -> float:
    taken = []
    with (folder / "fsync").open("wb") as file:
        for _ in range(100):
            begun = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - begun)
    return sorted(taken)[50]


def _certificates(folder: Path) -> TlsIdentity:
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority.create_root("0" * 32)
    key = new_key()
    chain = authority.issue_cluster(csr(key, "bare"), "bare", "0" * 32, _LIFETIME)
    for name, content in (("chain", chain), ("key", key), ("root", authority.root_pem)):
        (folder / name).write_bytes(content)
    return TlsIdentity(chain, key, authority.root_pem)
