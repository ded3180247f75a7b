"""Whole payloads: commands that are too large for a message, on disk, for as long as somebody needs them.

What lives here: the folder, who needs which file, bringing a payload here, taking one from a caller. What does not:
when something is fetched (the core says so), pieces in memory (`pieces`). The one idea: a payload is named by its hash
and lies in a file of that name; beside it lies what has come of it so far, so fetching goes on where it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import ParamSpec, TypeVar

import structlog

from ote.clustercontroller.bulk import PIECE, Uplink
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.pieces import Pieces
from ote.model.errors import InvalidArgument, NotFound, OteError, ResourceExhausted
from ote.pki import write_private

MAX_PAYLOAD = 16 * 1024 * 1024 + 4096
_AHEAD = 8
"""Pieces of one payload that are asked for at once."""
_AT_ONCE = 4
"""Payloads that come here at once; the others wait."""
_KEPT_UNUSED = 3600.0
_MOST_UNUSED = 512 * 1024 * 1024
"""Bytes of payloads that were put, or are being put, and that no dispatch names."""
_PART = ".part"

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class _Coming:
    """A payload on its way here, and for which keys."""

    task: asyncio.Task[None]
    keys: set[str]


class Payloads:
    """All large commands of one controller. `folder` holds whole payloads, one file each, named by hash."""

    def __init__(self, folder: Path, post: Callable[[ev.Event], None], uplink: Uplink) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.pieces = Pieces(self, uplink)
        self._folder = folder
        self._post = post
        self._keys: dict[str, bytes] = {}
        self._holders: dict[bytes, set[str]] = {}
        """Who needs a payload, by its hash: `_keys` the other way round."""
        self._pins = count(1)
        self._kept: set[str] = set()
        """Pins of what nobody put."""
        self._unused: dict[bytes, int] = {}
        """Size of what was put, and that nobody needs (yet), by its hash."""
        self._being_put: dict[Path, int] = {}
        self._coming: dict[bytes, _Coming] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._log = structlog.get_logger("ote.clustercontroller.payloads")

    def path(self, payload: m.Payload) -> Path:
        """The file of a payload that is here."""
        return self._folder / payload.sha256.hex()

    def has(self, payload: m.Payload) -> bool:
        """Whether all of it is here."""
        try:
            return self.path(payload).stat().st_size == payload.size
        except FileNotFoundError:
            return False

    def belongs_here(self, payload: m.Payload) -> bool:
        """Whether a dispatch of this controller names it: then nobody above has it, if it is not here."""
        return any("/" not in key for key in self._holders.get(payload.sha256, ()))

    def serve(self, link: int, payload: m.Payload) -> None:
        """Children on `link` may fetch this payload here."""
        self.pieces.serve(link, payload)

    # --- who needs what -------------------------------------------------------------------------------------------

    def hold(self, key: str, payload: m.Payload) -> None:
        """Keep a payload until `drop`. `key` is the id of a dispatch of this controller, or ORIGIN/ID where it is a
        target."""
        self._release(key)
        self._unused.pop(payload.sha256, None)
        self._keys[key] = payload.sha256
        self._holders.setdefault(payload.sha256, set()).add(key)

    def drop(self, key: str) -> None:
        """`key` needs its payload no more."""
        sha256 = self._release(key)
        if sha256 is None or sha256 in self._holders:
            return
        coming = self._coming.pop(sha256, None)
        if coming is not None:
            coming.task.cancel()
        for name in (sha256.hex(), sha256.hex() + _PART):
            (self._folder / name).unlink(missing_ok=True)

    def pin(self, payload: m.Payload) -> str:
        """Keep a payload until `unpin` of the returned key, and then as one that was put and nobody needs."""
        key = f"pin {next(self._pins)}"
        self.hold(key, payload)
        return key

    def unpin(self, key: str) -> None:
        """It is held by another key now, or was not needed."""
        if key in self._kept:
            self._kept.discard(key)
            self.drop(key)
        elif (sha256 := self._release(key)) is not None and sha256 not in self._holders:
            with contextlib.suppress(FileNotFoundError):
                self._unused[sha256] = (self._folder / sha256.hex()).stat().st_size

    def _release(self, key: str) -> bytes | None:
        sha256 = self._keys.pop(key, None)
        if sha256 is not None:
            holders = self._holders[sha256]
            holders.discard(key)
            if not holders:
                del self._holders[sha256]
        return sha256

    @property
    def unused(self) -> int:
        """Bytes that were put, or are announced by somebody who puts them now, and that nobody needs (yet)."""
        return sum(self._unused.values()) + sum(self._being_put.values())

    async def keep_clean(self) -> None:
        """For ever: remove payloads that were put an hour ago and that no dispatch names."""
        while True:
            await asyncio.sleep(_KEPT_UNUSED / 4)
            self.sweep(_KEPT_UNUSED)

    def sweep(self, unused_for: float) -> None:
        """Remove what nobody needs and was put more than `unused_for` seconds ago; at start after all `hold`: 0."""
        needed = {sha256.hex() for sha256 in self._holders}
        now = time.time()
        for file in self._folder.iterdir():
            with contextlib.suppress(OSError):  # such as that it is gone already
                if file.name.removesuffix(_PART) not in needed and now - file.stat().st_mtime >= unused_for:
                    file.unlink()
        self._unused = {sha256: size for sha256, size in self._unused.items() if (self._folder / sha256.hex()).exists()}

    # --- from a caller --------------------------------------------------------------------------------------------

    async def keep(self, body: bytes) -> tuple[m.Payload, str]:
        """Store a body. Returns its name, and the pin without which nobody needs it: then it goes. Errors:
        ResourceExhausted (DISK_FULL)."""
        payload = await asyncio.to_thread(name_of, body)
        pin = self.pin(payload)
        self._kept.add(pin)
        try:
            if not self.has(payload):
                await asyncio.to_thread(_written, write_private, self.path(payload), body)
        except BaseException:
            self.unpin(pin)
            raise
        return payload, pin

    async def receive(self, payload: m.Payload, data: AsyncIterator[bytes]) -> None:
        """Store a payload that a caller sends. Errors: InvalidArgument (BAD_PAYLOAD), ResourceExhausted
        (TOO_MANY_PAYLOADS, DISK_FULL)."""
        check(payload)
        if self.unused + payload.size > _MOST_UNUSED:
            raise ResourceExhausted(
                "TOO_MANY_PAYLOADS",
                f"{self.unused} bytes were put here that no dispatch names: dispatch them, or wait, for each is removed"
                f" after an hour; no more than {_MOST_UNUSED} are kept",
            )
        part = self._folder / f".{payload.sha256.hex()}.{next(self._pins)}.put"
        at = 0
        self._being_put[part] = payload.size
        try:
            await asyncio.to_thread(_written, _make, part)
            async for piece in data:
                if at + len(piece) > payload.size:
                    raise InvalidArgument("BAD_PAYLOAD", f"more than the {payload.size} bytes that were announced")
                await asyncio.to_thread(_written, _write_at, part, at, piece)
                at += len(piece)
            if at != payload.size:
                raise InvalidArgument("BAD_PAYLOAD", "fewer bytes than were announced")
            await asyncio.to_thread(_written, _complete, part, self.path(payload), payload.sha256)
            if payload.sha256 not in self._holders:
                self._unused[payload.sha256] = payload.size
        finally:
            del self._being_put[part]
            part.unlink(missing_ok=True)

    # --- from above -----------------------------------------------------------------------------------------------

    def fetch(self, key: str, payload: m.Payload) -> None:
        """Bring a payload here for `key`; PayloadReady or PayloadFailed follows."""
        self.hold(key, payload)
        coming = self._coming.get(payload.sha256)
        if coming is not None:
            coming.keys.add(key)
        elif self.has(payload):
            self._post(ev.PayloadReady(key))
        else:
            task = asyncio.get_running_loop().create_task(self._fetch(payload), name=f"fetch payload {key}")
            self._coming[payload.sha256] = coming = _Coming(task, {key})
            task.add_done_callback(lambda _: self._fetched(payload, coming))

    async def stop(self) -> None:
        """End what is on its way here."""
        tasks = [coming.task for coming in self._coming.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.pieces.stop()

    def _fetched(self, payload: m.Payload, coming: _Coming) -> None:
        if self._coming.get(payload.sha256) is coming:
            del self._coming[payload.sha256]
        if coming.task.cancelled():
            return
        failure = coming.task.exception()
        final = isinstance(failure, InvalidArgument | ResourceExhausted)
        if failure is not None and not isinstance(failure, OteError):
            self._log.error("payload not fetched", keys=sorted(coming.keys), exc_info=failure)
        for key in coming.keys & self._keys.keys():
            if failure is None:
                self._post(ev.PayloadReady(key))
            else:
                self._post(ev.PayloadFailed(key, str(failure), final, absent=isinstance(failure, NotFound)))

    async def _fetch(self, payload: m.Payload) -> None:
        check(payload)
        part = self.path(payload).with_suffix(_PART)
        async with self._turns:
            missing = await asyncio.to_thread(_written, _missing, part, payload)
            ahead: deque[asyncio.Task[None]] = deque()
            try:
                for index in missing:
                    ahead.append(asyncio.create_task(self._bring(part, payload, index), name="bring piece"))
                    if len(ahead) == _AHEAD:
                        await ahead.popleft()
                while ahead:
                    await ahead.popleft()
            finally:
                for task in ahead:
                    task.cancel()
                await asyncio.gather(*ahead, return_exceptions=True)
            await asyncio.to_thread(_written, _complete, part, self.path(payload), payload.sha256)

    async def _bring(self, part: Path, payload: m.Payload, index: int) -> None:
        async with self.pieces.held(payload, index) as piece:
            await asyncio.to_thread(_written, _write_at, part, index * PIECE, piece)


def name_of(body: bytes) -> m.Payload:
    """The name of a body."""
    pieces = [hashlib.sha256(body[at : at + PIECE]).digest() for at in range(0, len(body), PIECE)]
    return m.Payload(hashlib.sha256(body).digest(), len(body), pieces)


def check(payload: m.Payload) -> None:
    """Refuse a payload whose name cannot be right. Errors: ResourceExhausted, InvalidArgument (BAD_PAYLOAD)."""
    if payload.size > MAX_PAYLOAD:
        raise ResourceExhausted(
            "PAYLOAD_TOO_LARGE", f"a command takes at most 16 MiB, this one has {payload.size} bytes"
        )
    hashes = [payload.sha256, *payload.pieces]
    if len(payload.pieces) != -(-payload.size // PIECE) or any(len(sha256) != 32 for sha256 in hashes):
        raise InvalidArgument("BAD_PAYLOAD", "size and pieces do not fit, or a hash is not SHA-256")


# --- files; in a thread -----------------------------------------------------------------------------------------------


def _written(write: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Errors: ResourceExhausted (DISK_FULL)."""
    try:
        return write(*arguments, **named)
    except OSError as error:
        raise ResourceExhausted("DISK_FULL", f"cannot keep the payload: {error.strerror}; make room") from None


def _make(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))


def _write_at(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def _missing(part: Path, payload: m.Payload) -> list[int]:
    """Indexes of the pieces that are not in the file yet, which exists from now on."""
    _make(part)
    with part.open("rb") as file:
        return [n for n, sha256 in enumerate(payload.pieces) if hashlib.sha256(file.read(PIECE)).digest() != sha256]


def _complete(part: Path, whole: Path, sha256: bytes) -> None:
    """Put the file in its place if it is right. Errors: InvalidArgument (BAD_PAYLOAD)."""
    with part.open("rb") as file:
        if hashlib.file_digest(file, "sha256").digest() != sha256:
            part.unlink()
            raise InvalidArgument("BAD_PAYLOAD", "the bytes do not have the hash that was announced")
        os.fsync(file.fileno())
    part.rename(whole)
    folder = os.open(whole.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
