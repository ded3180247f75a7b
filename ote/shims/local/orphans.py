"""What the store of a shim does not know any more, because it was set back, and that runs on: found, and ended.

Not here: attempts that are known (`process` adopts them). The one idea: only what certainly was started by a shim of
this folder is ended. A claim has the identity of the process that wrote it; where the claims are gone, too, a
supervisor still stands in a folder of this shim that does not exist any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import structlog

from ote.shims.local.processes import Identity, boot_id, gone, is_alive, parse_stat, reap, signal_group

_GRACE = 10.0
"""Seconds between asking and insisting: what the pod itself would grant is not known any more."""
_DELETED = " (deleted)"
_log = structlog.get_logger("ote.shims.local")


class _Claim(NamedTuple):
    """An attempt that somebody began or gave up, by its file. who: None where nobody is to be found by it."""

    file: Path
    attempt: int
    who: Identity | None


async def end_unknown(pods: Path, supervisor: Path, known: Mapping[str, Mapping[str, int]]) -> None:
    """End attempts beyond what is known, and those whose folders are gone. `known` has the last attempt of each
    container of each pod: a shim remembers one before it begins, so later ones are of a state that was lost."""
    claims = await asyncio.to_thread(_unknown_claims, pods, known)
    lost = await asyncio.to_thread(_without_folder, pods, supervisor)
    await asyncio.gather(*map(_end, lost | {claim.who for claim in claims if claim.who is not None}))
    for claim in claims:  # their numbers are given again
        claim.file.unlink(missing_ok=True)
        claim.file.with_name(f"exit.{claim.attempt}").unlink(missing_ok=True)


def _unknown_claims(pods: Path, known: Mapping[str, Mapping[str, int]]) -> list[_Claim]:
    claims = []
    for file in pods.glob("*/*/claim.*"):
        attempt = file.suffix.removeprefix(".")
        pod, container = file.parent.parent.name, file.parent.name
        if attempt.isdecimal() and int(attempt) > known.get(pod, {}).get(container, 0):
            claims.append(_Claim(file, int(attempt), _claimant(file)))
    return claims


def _claimant(file: Path) -> Identity | None:
    try:
        boot, _, stat = file.read_text().strip().partition(" ")
        who = parse_stat(boot, stat)
    except (OSError, ValueError, IndexError):  # half a line, or an attempt that a shim gave up
        return None
    return who if who.pid > 1 else None


def _without_folder(pods: Path, supervisor: Path) -> set[Identity]:
    """Supervisors of this shim that stand in a folder below `pods` which somebody has removed."""
    found = set()
    boot, below = boot_id(), f"{pods.resolve()}/"
    for process in _processes():
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended, or is none of ours
            place = os.readlink(process / "cwd")
            if not (place.startswith(below) and place.endswith(_DELETED)):
                continue
            command = (process / "cmdline").read_bytes().split(b"\0")
            ours = command[1] == os.fsencode(supervisor) and process.stat().st_uid == os.geteuid()
            # Of another mount namespace a path says nothing.
            if ours and (process / "ns/mnt").readlink() == Path("/proc/self/ns/mnt").readlink():
                found.add(parse_stat(boot, (process / "stat").read_text()))
    return found


def _processes() -> Iterator[Path]:
    return (path for path in Path("/proc").iterdir() if path.name.isdecimal())


async def _end(who: Identity) -> None:
    try:
        pidfd = os.pidfd_open(who.pid)
    except ProcessLookupError:
        if who.boot == boot_id():
            signal_group(who.pid, signal.SIGKILL)  # where the shell was killed its command runs on
        return
    except OSError:  # such as too many open files
        if is_alive(who):
            signal_group(who.pid, signal.SIGKILL)
        return
    try:
        if not is_alive(who) or os.getsid(who.pid) != who.pid:
            return  # its number is somebody else's by now, or it is no supervisor
        _log.warning("ending a container that nobody knows any more", pid=who.pid)
        signal_group(who.pid, signal.SIGTERM)
        ended = asyncio.create_task(gone(pidfd), name=f"orphan {who.pid}")
        await asyncio.wait([ended], timeout=_GRACE)
        signal_group(who.pid, signal.SIGKILL)
        await asyncio.wait([ended], timeout=_GRACE)
        ended.cancel()
        await asyncio.wait([ended])
    finally:
        os.close(pidfd)
    reap(who.pid)
