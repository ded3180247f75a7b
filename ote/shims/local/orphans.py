"""What a shim's store that was set back does not know any more, and that runs on: found by its claims, and ended.

Not here: attempts that are known (`process` adopts them). The one idea: a claim has the identity of the process that
wrote it, so whoever is ended here was started by a shim of this folder, and by nobody else.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import structlog

from ote.shims.local.processes import Identity, boot_id, gone, is_alive, parse_stat, reap, signal_group

_GRACE = 10.0
"""Seconds between asking and insisting: what the pod itself would grant is not known any more."""
_log = structlog.get_logger("ote.shims.local")


class Claim(NamedTuple):
    """An attempt that somebody began or gave up, by its file. who: None where nobody is to be found by it."""

    file: Path
    pod: str
    container: str
    attempt: int
    who: Identity | None


def unknown_claims(pods: Path, known: Mapping[str, Mapping[str, int]]) -> list[Claim]:
    """Claims beyond what is known: `known` has the last attempt of each container of each pod. A shim remembers an
    attempt before it begins, so those are of a later state of its store."""
    return [claim for claim in _claims(pods) if claim.attempt > known.get(claim.pod, {}).get(claim.container, 0)]


async def end(claims: list[Claim]) -> None:
    """End all that runs by these claims, and remove the marks: their numbers will be given again."""
    await asyncio.gather(*(_end(claim.who, claim) for claim in claims if claim.who is not None))
    for claim in claims:
        claim.file.unlink(missing_ok=True)
        claim.file.with_name(f"exit.{claim.attempt}").unlink(missing_ok=True)


def _claims(pods: Path) -> Iterator[Claim]:
    for file in pods.glob("*/*/claim.*"):
        attempt = file.suffix.removeprefix(".")
        if attempt.isdecimal():
            container = file.parent
            yield Claim(file, container.parent.name, container.name, int(attempt), _claimant(file))


def _claimant(file: Path) -> Identity | None:
    try:
        boot, _, stat = file.read_text().strip().partition(" ")
        who = parse_stat(boot, stat)
        return who if who.pid > 1 else None
    except (OSError, ValueError, IndexError):  # half a line, or an attempt that a shim gave up
        return None


async def _end(who: Identity, claim: Claim) -> None:
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
        _log.warning("ending a container that is not known", pod=claim.pod, container=claim.container, pid=who.pid)
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
