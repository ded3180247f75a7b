"""Signals end a real process: gently first, then at once."""

from __future__ import annotations

import asyncio
import signal
import sys
import textwrap

import pytest

PROGRAM = textwrap.dedent(
    """
    import asyncio, sys
    from ote.telemetry.logs import set_up_logs
    from ote.runtime.main import run_main, stop_on_signals

    async def main():
        set_up_logs()
        stop = stop_on_signals()
        print(type(asyncio.get_running_loop()).__module__.split(".")[0], flush=True)
        await stop.wait()
        print("stopping", flush=True)
        if "slow" in sys.argv:
            await asyncio.sleep(60)
        return 7

    sys.exit(run_main(main()))
    """
)


async def start(*arguments: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).strip() == b"uvloop"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_stops_gently(number: signal.Signals) -> None:
    process = await start()
    process.send_signal(number)
    async with asyncio.timeout(40):
        out, _ = await process.communicate()
    assert (out, process.returncode) == (b"stopping\n", 7)


async def test_the_second_signal_ends_at_once() -> None:
    process = await start("slow")
    assert process.stdout is not None
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(40):
        await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        await process.communicate()
    assert process.returncode == 128 + signal.SIGINT
