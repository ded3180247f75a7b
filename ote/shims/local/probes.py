"""Asks a container how it is: by HTTP, by connecting, by a command.

Not here: what the answers mean (`core.cluster` counts them). One loop per probe, which ends with the attempt it belongs
to.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable

from ote.shims.local.core.spec import HttpGet, Probe
from ote.shims.local.ports import Driver, Plan

_EAGER_SECONDS = 0.05
_MOST_OF_ANSWER = 8192


async def ask_for_ever(driver: Driver, plan: Plan, probe: Probe, answer: Callable[[str], None], *, eager: bool) -> None:
    """Asks at the probe's pace and hands over each answer: what was wrong, or nothing.

    Until the first good answer it asks sooner, if bad ones do no harm (eager): most containers are ready in no time.
    """
    await asyncio.sleep(probe.initial_delay_seconds)
    pause = _EAGER_SECONDS if eager else probe.period_seconds
    while True:
        try:
            wrong = await ask(driver, plan, probe)
        except (
            OSError,
            ValueError,
            RuntimeError,
        ) as error:  # no threads left, a host that cannot be one: it asks again
            wrong = f"cannot be asked: {error}"
        answer(wrong)
        pause = min(pause * 1.5, probe.period_seconds) if wrong else probe.period_seconds
        await asyncio.sleep(pause)


async def ask(driver: Driver, plan: Plan, probe: Probe) -> str:
    """Asks once; returns what was wrong in one line, empty when all is well."""
    if probe.exec is not None:
        return await driver.execute(plan, probe.exec.command, probe.timeout_seconds)
    target = probe.http_get or probe.tcp_socket
    if target is None:
        return "the probe has no way to ask"
    host, port = target.host or "127.0.0.1", driver.reach(plan.container, plan.ports, target.port)
    try:
        async with asyncio.timeout(probe.timeout_seconds):
            if probe.http_get is not None:
                return await _http(host, port, probe.http_get)
            await _connect(host, port)
            return ""
    except TimeoutError:
        return f"no answer from {host}:{port} within {probe.timeout_seconds} s"
    except OSError as error:
        return f"{host}:{port}: {os.strerror(error.errno) if error.errno else error}"


async def _connect(host: str, port: int) -> None:
    _, writer = await asyncio.open_connection(host, port)
    await _close(writer)


async def _http(host: str, port: int, target: HttpGet) -> str:
    reader, writer = await asyncio.open_connection(host, port, limit=_MOST_OF_ANSWER)
    try:
        headers = {"Host": f"{host}:{port}", "User-Agent": "ote-probe", "Connection": "close"}
        headers |= {header.name: header.value for header in target.http_headers}
        path = target.path if target.path.startswith("/") else f"/{target.path}"
        lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode())
        try:
            status = (await reader.readline()).split()
            code = int(status[1])
        except (ValueError, IndexError):
            return f"{host}:{port} does not answer in HTTP"
        return "" if 200 <= code < 400 else f"{path} answered {code}"
    finally:
        await _close(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
