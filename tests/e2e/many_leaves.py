"""Many leaf controllers in one process, each whole: `python -m tests.e2e.many_leaves FOLDER PARENT TOKEN COUNT FLAGS…`.

For tests that need fifty children on a small machine. They are called leaf-1, leaf-2, …; FLAGS are settings that every
one of them gets, as `heartbeat=300ms`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import NoReturn

from ote.clustercontroller.node import Node
from ote.clustercontroller.settings import Settings
from ote.config.load import load
from ote.pki import apart
from ote.runtime.main import run_main, stop_on_signals
from ote.telemetry.logs import set_up_logs
from ote.telemetry.metrics import Metrics

_AT_ONCE = 8


async def serve(folder: Path, parent: str, token: str, count: int, flags: dict[str, str]) -> int:
    """Join all, run until a signal."""
    set_up_logs(level="info", fmt="plain", cluster="leaves")
    apart.load()
    stopping = stop_on_signals()
    turns = asyncio.Semaphore(_AT_ONCE)

    async def start(number: int) -> Node:
        name = f"leaf-{number}"
        own = {"name": name, "data_dir": str(folder / name), "listen": "127.0.0.1:0", "parent": parent}
        settings = load(Settings, file=None, env={}, flags={**own, "join_token": token, **flags})
        async with turns:
            node = Node(settings, Metrics(process=False), _no_shim)
            await node.start()
            return node

    nodes = await asyncio.gather(*(start(number + 1) for number in range(count)))
    await stopping.wait()
    await asyncio.gather(*(node.stop() for node in nodes))
    return 0


async def _no_shim(kind: str, data_dir: Path) -> NoReturn:
    raise AssertionError("leaves have no shim")


if __name__ == "__main__":
    where, above, secret, number, *rest = sys.argv[1:]
    raise SystemExit(run_main(serve(Path(where), above, secret, int(number), dict(flag.split("=") for flag in rest))))
