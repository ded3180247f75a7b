"""Controllers as processes for tests that look at a tree from outside, and `ote-ctl` to look with."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from ote.apps.localtree import listens

ROOT = Path(__file__).parents[2]
START_SECONDS = STOP_SECONDS = 60.0


@asynccontextmanager
async def controller(name: str, directory: Path, *arguments: str) -> AsyncIterator[Path]:
    """A controller on a free port of loopback; answers its data directory. What it logs is in `log` beside it."""
    data = directory / name
    command = [sys.executable, "-m", "ote.apps.clustercontroller", "--name", name, "--data-dir", str(data)]
    with (directory / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, "--listen", "127.0.0.1:0", *arguments, cwd=ROOT, stdout=log, stderr=log
        )
    try:
        yield data
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()


async def until_entered(data: Path) -> str:
    """Wait until a root can be entered; its address."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            if (data / "admin.yaml").exists():
                context = yaml.safe_load((data / "admin.yaml").read_text())["contexts"][0]
                address = str(context["entries"][0]["address"])
                if await listens(address):
                    return address
            await asyncio.sleep(0.05)


async def ctl(data: Path, *arguments: str) -> tuple[int, str, str]:
    """ote-ctl with the context of this root: exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(str(ROOT / "cmd" / "ote-ctl" / "main.py"), "--config", str(data / "admin.yaml"), *arguments),
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), START_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, output.decode(), errors.decode()


async def ctl_json(data: Path, *arguments: str) -> Any:
    """The JSON that ote-ctl prints; the test fails when it ends with anything but 0."""
    code, output, errors = await ctl(data, *arguments, "-o", "json")
    assert code == 0, f"ote-ctl {' '.join(arguments)}: {code}\n{output}{errors}"
    return json.loads(output)


async def until_online(data: Path, name: str) -> dict[str, Any]:
    """Wait until the root shows this cluster ONLINE with a shim; how it shows it."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            clusters = (await ctl_json(data, "cluster", "list"))["clusters"]
            for cluster in clusters:
                if cluster["name"] == name and cluster["state"] == "ONLINE" and cluster["shim"]:
                    return dict(cluster)
            await asyncio.sleep(0.2)
