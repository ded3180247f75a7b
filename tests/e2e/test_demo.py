"""`ote-ctl demo` on this machine: it holds what it shows, and leaves no process, no port and no folder behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
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


def processes_of(folder: Path) -> dict[Path, str]:
    """The processes whose words or environment name the folder, with their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
                if str(folder).encode() in words + (entry / "environ").read_bytes():
                    found[entry] = words.replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
    return found


def listening() -> dict[str, int]:
    """The ports at which somebody on this machine listens, by socket: the kernel never gives that number again."""
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                found[f"socket:[{words[9]}]"] = int(words[1].rpartition(":")[2], 16)
    return found


def listening_of(folder: Path) -> dict[str, int]:
    """Those of the demo's own processes. Others that run now may have been given a port that it had before."""
    held = set()
    for process in processes_of(folder):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    held.add(str(descriptor.readlink()))
    return {name: port for name, port in listening().items() if name in held}


def check_nothing_is_left(folder: Path, sockets: dict[str, int]) -> None:
    assert processes_of(folder) == {}
    assert sockets.keys() & listening().keys() == set()
    assert [path.name for path in folder.iterdir() if path.name.startswith("ote-demo-")] == []


async def test_the_demo_holds_all_its_steps_and_leaves_nothing_behind(tmp_path: Path) -> None:
    process = await start_demo(tmp_path)
    assert process.stdout is not None
    sockets: dict[str, int] = {}
    lines = []
    async for line in process.stdout:
        lines.append(line.decode())
        sockets |= listening_of(tmp_path)
    text = "".join(lines)
    assert await process.wait() == 0, text
    print(text.splitlines()[-1])
    for words in ("join two regions and four edges", "kill region-east", "while region-east is gone", "come home"):
        assert words in text
    assert len(set(sockets.values())) >= 7 + 4
    check_nothing_is_left(tmp_path, sockets)


async def test_a_demo_that_is_interrupted_in_the_middle_leaves_nothing_behind(tmp_path: Path) -> None:
    process = await start_demo(tmp_path)
    assert process.stdout is not None
    sockets: dict[str, int] = {}
    text = ""
    async for line in process.stdout:
        text += line.decode()
        sockets |= listening_of(tmp_path)
        if "fetch a page" in line.decode():
            process.send_signal(signal.SIGINT)
    assert await process.wait() == 130, text
    assert "stopped by you" in text
    assert len(set(sockets.values())) >= 7
    check_nothing_is_left(tmp_path, sockets)
