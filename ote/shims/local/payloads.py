"""Keeps the bytes of large commands on disk between PutPayload and Execute. Bounded by size and age."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from ote.model.errors import FailedPrecondition, InvalidArgument, ResourceExhausted

MAX_COMMAND = 16_777_216 + 4_096
"""Largest command in bytes."""
PIECE = 262_144
"""Size in bytes of each piece but the last."""

_MAX_KEPT = 128 << 20
_KEPT_SECONDS = 900.0


class Payloads:
    """Payloads by their hash, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arriving = 0

    async def put(self, sha256: bytes, size: int, pieces: AsyncIterator[bytes]) -> None:
        """Takes a payload. Raises InvalidArgument for a hash or size that does not match, ResourceExhausted."""
        if len(sha256) != 32 or size == 0:
            raise InvalidArgument("INVALID_PAYLOAD", "a payload has a hash of 32 bytes and a size")
        if size > MAX_COMMAND:
            raise ResourceExhausted(
                "COMMAND_TOO_LARGE", f"{size} bytes are too many; at most {MAX_COMMAND} go in a command"
            )
        kept = await asyncio.to_thread(self._expire)
        if kept + self._arriving + size > _MAX_KEPT:
            raise ResourceExhausted("PAYLOADS_FULL", "too many payloads wait for their command", retry_after=5.0)
        self._arriving += size
        try:
            whole = bytearray()
            async for piece in pieces:
                if len(piece) > PIECE or len(whole) + len(piece) > size:
                    raise InvalidArgument("INVALID_PAYLOAD", "a piece is larger than it may be, or than was announced")
                whole += piece
            if len(whole) != size or hashlib.sha256(whole).digest() != sha256:
                raise InvalidArgument("HASH_MISMATCH", "the bytes do not have the size and hash that were announced")
            await asyncio.to_thread(self._write, sha256.hex(), bytes(whole))
        finally:
            self._arriving -= size

    async def take(self, sha256: bytes) -> bytes:
        """The bytes of a payload. Raises FailedPrecondition (PAYLOAD_MISSING)."""
        whole = await asyncio.to_thread(self._read, sha256)
        if whole is None:
            raise FailedPrecondition("PAYLOAD_MISSING", "the payload is not here; put it, then execute again")
        return whole

    def _read(self, sha256: bytes) -> bytes | None:
        """None also for what a machine that lost its power did not write to its end."""
        try:
            whole = (self._folder / sha256.hex()).read_bytes()
        except OSError:
            return None
        return whole if hashlib.sha256(whole).digest() == sha256 else None

    def _write(self, name: str, data: bytes) -> None:
        fresh = self._folder / f".{name}.{os.urandom(4).hex()}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.write_bytes(data)
            fresh.replace(self._folder / name)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise ResourceExhausted("DISK_FULL", f"cannot keep the command: {error.strerror}; make room") from None

    def _expire(self) -> int:
        kept = 0
        for path in self._folder.iterdir() if self._folder.exists() else ():
            with contextlib.suppress(FileNotFoundError):  # it has just been put in its place
                status = path.stat()
                if time.time() - status.st_mtime > _KEPT_SECONDS:
                    path.unlink(missing_ok=True)
                else:
                    kept += status.st_size
        return kept
