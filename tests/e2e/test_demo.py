"""`ote-ctl demo` on this machine: it holds what it shows, and leaves no process, no port and no folder behind."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


async def start_demo(folder: Path) -> asyncio.subprocess.Process:
    """The demo, with its data in this folder."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ote.apps.ctl", "demo"),
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


def processes_of(folder: Path) -> list[str]:
    """The command lines of processes whose words or environment name the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
                if str(folder).encode() in words + (entry / "environ").read_bytes():
                    found.append(words.replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return found


def ports_of(folder: Path) -> set[int]:
    """The ports that the demo's controllers and pods have been given, as their logs and pages tell."""
    text = "".join(log.read_text() for log in folder.glob("*/*.log"))
    return {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", text)}


def is_free(port: int) -> bool:
    """Whether nobody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def check_nothing_is_left(folder: Path, ports: set[int]) -> None:
    assert processes_of(folder) == []
    assert [port for port in ports if not is_free(port)] == []
    assert [path.name for path in folder.iterdir() if path.name.startswith("ote-demo-")] == []


async def test_the_demo_holds_all_its_steps_and_leaves_nothing_behind(tmp_path: Path) -> None:
    process = await start_demo(tmp_path)
    assert process.stdout is not None
    ports: set[int] = set()
    lines = []
    async for line in process.stdout:
        lines.append(line.decode())
        ports |= ports_of(tmp_path) | {int(port) for port in re.findall(r"http://127\.0\.0\.1:(\d+)", lines[-1])}
    text = "".join(lines)
    assert await process.wait() == 0, text
    print(text.splitlines()[-1])
    for words in ("join two regions and four edges", "kill region-east", "while region-east is gone", "come home"):
        assert words in text
    assert len(ports) >= 7 + 4
    check_nothing_is_left(tmp_path, ports)


async def test_a_demo_that_is_interrupted_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    process = await start_demo(tmp_path)
    assert process.stdout is not None
    ports: set[int] = set()
    text = ""
    async for line in process.stdout:
        text += line.decode()
        ports |= ports_of(tmp_path)
        if "fetch a page" in line.decode():
            process.send_signal(signal.SIGINT)
    assert await process.wait() == 130, text
    assert "stopped by you" in text
    assert len(ports) >= 7
    check_nothing_is_left(tmp_path, ports)
