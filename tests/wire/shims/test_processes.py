"""Children of the local shim: whoever starts one and gives up leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import Any

import pytest

from ote.shims.local import commands
from ote.shims.local.processes import spawn

from .conftest import PATIENCE


async def test_a_child_whose_starter_gives_up_meanwhile_is_killed_and_its_pipes_are_closed() -> None:
    before = set(os.listdir("/proc/self/fd"))
    made: list[subprocess.Popen[bytes]] = []
    for _ in range(20):
        starting = asyncio.create_task(spawn(["sleep", "600"], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        await asyncio.sleep(0)
        starting.cancel()
        made += [
            one for one in await asyncio.gather(starting, return_exceptions=True) if isinstance(one, subprocess.Popen)
        ]
    assert not made
    async with asyncio.timeout(PATIENCE):
        while set(os.listdir("/proc/self/fd")) - before:
            await asyncio.sleep(0.02)


async def test_a_check_of_manifests_that_is_given_up_as_it_begins_leaves_no_child_and_no_pipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = set(os.listdir("/proc/self/fd"))
    made: list[subprocess.Popen[bytes]] = []

    async def begin(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        made.append(await spawn(*arguments, **options))
        checking.cancel()
        return made[0]

    monkeypatch.setattr(commands, "spawn", begin)
    checking = asyncio.create_task(commands._check_elsewhere(["sleep", "600"], b"x"))
    with pytest.raises(asyncio.CancelledError):
        await checking
    async with asyncio.timeout(PATIENCE):
        while made[0].returncode is None or set(os.listdir("/proc/self/fd")) - before:
            await asyncio.sleep(0.02)
