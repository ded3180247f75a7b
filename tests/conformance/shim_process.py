"""A shim as a process of its own, killed and started again the way the suite wants it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio

from ote.conformance import SuiteReport, run_suite
from ote.conformance.manifests import POD_IMAGE
from ote.rpc.channel import open_channel

START_SECONDS = STOP_SECONDS = 60.0

RECONNECT = (("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500))


class ShimProcess:
    """A shim's command line; "ADDRESS" in it stands for where it shall listen."""

    def __init__(self, command: Sequence[str], address: str, environment: Mapping[str, str] | None = None) -> None:
        self.address = address
        self._command = [address if word == "ADDRESS" else word for word in command]
        self._environment = {**os.environ, **(environment or {})}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it listens."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command, env=self._environment, stderr=asyncio.subprocess.DEVNULL
        )
        async with open_channel(self.address, options=RECONNECT) as channel:
            await asyncio.wait_for(channel.channel_ready(), START_SECONDS)

    async def restart(self) -> None:
        """Kill it without warning and start it again."""
        await self._end(signal.SIGKILL)
        await self.start()

    async def stop(self) -> int:
        """Ask it to stop; its exit code."""
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> int:
        process = self._process
        if process is None:
            return 0
        if process.returncode is None:
            process.send_signal(number)
        try:
            return await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            return await process.wait()


@asynccontextmanager
async def running(
    command: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[ShimProcess]:
    """This shim on a unix socket in a short directory, stopped in the end, which it must do with exit code 0."""
    shim = ShimProcess(command, f"unix:{directory / 's'}", environment)
    await shim.start()
    try:
        yield shim
    except BaseException:
        await shim.stop()
        raise
    code = await shim.stop()
    assert code == 0, f"SIGTERM must end a shim with 0, it ended with {code}"


async def suite(shim: ShimProcess, *only: str, pod_image: str = POD_IMAGE) -> SuiteReport:
    """The suite against this shim."""
    channel: grpc.aio.Channel
    async with open_channel(shim.address, options=RECONNECT) as channel:
        return await run_suite(
            channel, restart=shim.restart, on_check=lambda result: None, only=only, pod_image=pod_image
        )
