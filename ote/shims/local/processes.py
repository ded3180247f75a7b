"""Processes as the kernel knows them: who is it, does it still run, tell me when it is gone.

The one idea: a number alone is nobody. A process is its number, the tick at which it started and the boot it started
in, and it is watched through a pidfd, which cannot turn into another process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Identity(NamedTuple):
    """One process for ever. started: clock ticks after boot, field 22 of /proc/PID/stat."""

    boot: str
    pid: int
    started: str


def boot_id() -> str:
    """The kernel's name for this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def parse_stat(boot: str, stat: str) -> Identity:
    """The identity from a line of /proc/PID/stat, whose second field may hold anything."""
    return Identity(boot, int(stat.split(" ", 1)[0]), stat.rpartition(")")[2].split()[19])


def is_alive(identity: Identity) -> bool:
    """Whether exactly this process exists and is not a zombie."""
    if identity.boot != boot_id():
        return False
    try:
        stat = Path(f"/proc/{identity.pid}/stat").read_text()
    except OSError:
        return False
    return parse_stat(identity.boot, stat) == identity and stat.rpartition(")")[2].split()[0] != "Z"


def has_taken_over(shell: int) -> bool:
    """Whether the one command that a shell runs is itself by now, no longer the shell's fork; also where none tells."""
    proc = Path(f"/proc/{shell}")
    try:
        own = (proc / "cmdline").read_bytes()
        children = (proc / "task" / str(shell) / "children").read_text().split()
        return any(Path(f"/proc/{child}/cmdline").read_bytes() != own for child in children)
    except OSError:
        return True


async def gone(pidfd: int) -> None:
    """Returns when the process of a pidfd has ended."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        loop.remove_reader(pidfd)
        if not ended.done():
            ended.set_result(None)

    loop.add_reader(pidfd, wake)
    try:
        await ended
    finally:
        loop.remove_reader(pidfd)


def signal_group(group: int, number: signal.Signals) -> None:
    """Sends a signal to a process group, which may be gone already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def reap(pid: int) -> None:
    """Takes the status of a child that has ended; nothing happens where it is not, or no longer, our child."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


async def spawn(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Starts a child in a session of its own, off the loop. One whose caller is cancelled meanwhile is killed."""

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(list(command), start_new_session=True, **options)

    starting = asyncio.ensure_future(asyncio.to_thread(start))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        starting.add_done_callback(_discard)
        raise


def _discard(starting: asyncio.Future[subprocess.Popen[bytes]]) -> None:
    if not starting.cancelled() and starting.exception() is None:
        with starting.result() as process:
            signal_group(process.pid, signal.SIGKILL)


async def finish(process: subprocess.Popen[bytes], seconds: float | None) -> int:
    """Waits for a child and returns its code; kills its group when it takes longer than that (None: no limit).

    Raises TimeoutError then. The child must lead a session of its own.
    """
    pidfd = os.pidfd_open(process.pid)
    try:
        async with asyncio.timeout(seconds):
            await gone(pidfd)
    finally:
        os.close(pidfd)
        if process.poll() is None:
            signal_group(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode


async def run_quietly(
    command: Sequence[str], *, variables: Mapping[str, str] | None, cwd: str | Path | None, seconds: float
) -> int:
    """Runs a command without input and output; returns its code. Raises OSError, TimeoutError."""
    process = await spawn(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=variables,
        cwd=cwd,
    )
    return await finish(process, seconds)
