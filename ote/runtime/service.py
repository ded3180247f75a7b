"""Services and how a process runs several of them. Not here: what they do.

The one idea: services are started in the order of their list and stopped in the reverse order, one after another, all
within one grace, so that a server is gone before the store that it writes to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

import structlog

_log = structlog.get_logger("ote.runtime")


class Service(Protocol):
    """A long-lived thing. Its constructor stores arguments and starts nothing."""

    @property
    def name(self) -> str:
        """Short, for logs and the name of its task."""
        ...

    async def run(self) -> None:
        """Runs until it is cancelled, and cleans up then without waiting for others; an exception ends the process."""
        ...


async def supervise(services: Sequence[Service], *, grace: float, stop: asyncio.Event | None = None) -> list[str]:
    """Runs services until one fails, `stop` is set, all have ended, or this is cancelled; then stops the rest.

    grace: seconds for stopping all of them together. Returns the names of those that outlived it; they are logged and
    left behind, for the process is to end now. Raises what the first failed service of the list raised, once the others
    were stopped; what else failed is logged.
    """
    tasks: list[asyncio.Task[None]] = []
    stopping = asyncio.create_task(_wait(stop), name="stop")
    try:
        for service in services:
            tasks.append(asyncio.create_task(service.run(), name=service.name))
            await asyncio.sleep(0)
        waiting = {*tasks, stopping}
        while waiting - {stopping}:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if stopping in done or any(_failed(task) for task in done):
                break
    finally:
        stopping.cancel()
        outlived = await _stop_all(tasks, grace)
    failures = [task for task in tasks if _failed(task)]
    for task in failures[1:]:
        _log.error("service failed", service=task.get_name(), exc_info=task.exception())
    if failures:
        await failures[0]
    return outlived


async def _wait(stop: asyncio.Event | None) -> None:
    await (stop or asyncio.Event()).wait()


def _failed(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


async def _stop_all(tasks: Sequence[asyncio.Task[None]], grace: float) -> list[str]:
    loop = asyncio.get_running_loop()
    end = loop.time() + grace
    outlived: list[str] = []
    for task in reversed(tasks):
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=max(0.0, end - loop.time()))
        if not task.done():
            outlived.append(task.get_name())
            _log.error("service outlived its grace", service=task.get_name(), grace=grace)
    return outlived
