"""Makes a restart for the suite out of a shell command ("systemctl restart my-shim")."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ote.model.errors import FailedPrecondition

RESTART_SECONDS = 60.0


def restart_with(command: str) -> Callable[[], Awaitable[None]]:
    """A restart that runs this shell command and waits for its end, at most 60 s. It raises FailedPrecondition when the
    command fails or takes longer: nothing that the suite says afterwards would mean anything."""

    async def restart() -> None:
        process = await asyncio.create_subprocess_shell(command, stdin=asyncio.subprocess.DEVNULL)
        try:
            status = await asyncio.wait_for(process.wait(), RESTART_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise FailedPrecondition(
                "RESTART_FAILED", f"the restart command did not end within {RESTART_SECONDS:g} s"
            ) from None
        if status != 0:
            raise FailedPrecondition("RESTART_FAILED", f"the restart command ended with status {status}")

    return restart
