"""Backup and restore of a controller: its identity, its store, and the payloads of its open dispatches, in one file.

Not here: what lost memory means (the core). The one idea: a restored controller knows that it was set back, so it
begins a new journal and a new incarnation, and nothing that the old ones may have known runs a second time. So what it
had received as a target is over, payloads and all; what it had not sent as an origin goes on, and needs them.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from ote.clustercontroller.core.messages import Payload
from ote.clustercontroller.core.records import Self
from ote.model.errors import FailedPrecondition, InvalidArgument, NotFound
from ote.pki import make_private_dir, write_private
from ote.store.sqlite import Put, Store, copy_database

_STORE = "store.db"
_IDENTITY = "identity"
_PAYLOADS = "payloads"
_FOLDERS = ("", _IDENTITY, _PAYLOADS)
_MAX_FILE = 4 * 1024**3
_AT_ONCE = 1024 * 1024


class _Dispatch(msgspec.Struct):
    """What is read here of a `DispatchRow`."""

    payload: Payload | None = None


def backup(data_dir: Path, file: Path) -> None:
    """Write `file` (mode 0600), also while the controller runs. It holds private keys.

    Errors: NotFound (NO_CONTROLLER), FailedPrecondition (FILE_EXISTS).
    """
    if not (data_dir / _IDENTITY / "member.json").exists():
        raise NotFound("NO_CONTROLLER", f"{data_dir} holds no controller")
    try:
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        raise FailedPrecondition("FILE_EXISTS", f"{file} exists: choose another name, or remove it") from None
    except OSError as error:
        raise FailedPrecondition("FILE_NOT_WRITABLE", f"cannot write {file}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as raw:
            _archive(data_dir, raw, file.parent)
            raw.flush()
            os.fsync(raw.fileno())
    except BaseException as error:
        file.unlink()
        if isinstance(error, OSError):
            raise FailedPrecondition("FILE_NOT_WRITABLE", f"cannot write {file}: {error.strerror or error}") from None
        raise


def _archive(data_dir: Path, raw: IO[bytes], folder: Path) -> None:
    """Write the parts of a controller to `raw`; `folder` takes a copy of its store meanwhile."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".ote-backup-") as scratch:
        copy = Path(scratch) / _STORE
        copy_database(data_dir / _STORE, copy)
        with tarfile.open(fileobj=raw, mode="w") as archive:
            archive.add(copy, _STORE)
            for part in sorted((data_dir / _IDENTITY).iterdir()):
                archive.add(part, f"{_IDENTITY}/{part.name}")
            for name in _named(copy):
                with contextlib.suppress(FileNotFoundError):  # its dispatch has ended, perhaps just now
                    archive.add(data_dir / _PAYLOADS / name, f"{_PAYLOADS}/{name}")


def _named(copy: Path) -> list[str]:
    """Files of the payloads that dispatches of this store name; on disk are those of the open ones."""
    store = Store.open(copy, tables=["dispatches"])
    try:
        rows = (msgspec.msgpack.decode(row, type=_Dispatch) for _, row in store.load("dispatches"))
        return sorted({row.payload.sha256.hex() for row in rows if row.payload is not None})
    finally:
        store.close()


def restore(data_dir: Path, file: Path) -> None:
    """Fill an empty `data_dir` from a backup.

    Errors: FailedPrecondition (NOT_EMPTY), InvalidArgument (NOT_A_BACKUP).
    """
    if data_dir.exists() and any(data_dir.iterdir()):
        raise FailedPrecondition("NOT_EMPTY", f"{data_dir} is not empty: restore into a folder of its own")
    names = {member.name for member, _ in _members(file)}
    if _STORE not in names or f"{_IDENTITY}/member.json" not in names:
        raise InvalidArgument("NOT_A_BACKUP", f"{file} is not a backup of a controller")
    try:
        _fill(data_dir, file)
    except BaseException:
        shutil.rmtree(data_dir, ignore_errors=True)  # it was empty, and half of a controller is none
        raise


def _fill(data_dir: Path, file: Path) -> None:
    make_private_dir(data_dir)
    for member, content in _members(file):
        write_private(data_dir / member.name, _read(file, content))
    store = Store.open(data_dir / _STORE, tables=["self"])
    try:
        rows = dict(store.load("self"))
        own = msgspec.msgpack.decode(rows["self"], type=Self) if "self" in rows else Self()
        own.journal_id = ""
        own.incarnation += 1
        own.had_children = True
        store.commit_now([Put("self", "self", msgspec.msgpack.encode(own))])
    finally:
        store.close()


def _read(file: Path, content: IO[bytes]) -> Iterator[bytes]:
    try:
        while part := content.read(_AT_ONCE):
            yield part
    except tarfile.TarError as error:
        raise InvalidArgument("NOT_A_BACKUP", f"{file} cannot be read as a backup: {error}") from error


def _members(file: Path) -> Iterator[tuple[tarfile.TarInfo, IO[bytes]]]:
    """The parts of a backup, each to be read before the next. Errors: InvalidArgument (NOT_A_BACKUP)."""
    try:
        with tarfile.open(file, mode="r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                if not member.isreg() or folder not in _FOLDERS or name in ("", ".", ".."):
                    raise InvalidArgument("NOT_A_BACKUP", f"{file} holds {member.name!r}, which no backup does")
                if member.size > _MAX_FILE:
                    raise InvalidArgument("NOT_A_BACKUP", f"{file}: {member.name} is too large")
                yield member, archive.extractfile(member) or io.BytesIO()
    except (tarfile.TarError, OSError) as error:
        raise InvalidArgument("NOT_A_BACKUP", f"{file} cannot be read as a backup: {error}") from error
