"""The folders of pods: volumes, what containers see of them, logs, and the marks that an attempt leaves.

    pods/UID/volumes/NAME/            a volume; ConfigMaps and Secrets are written here, again whenever they change
    pods/UID/CONTAINER/root/          the container's own folder ($OTE_POD_DIR): a link to a volume for each mountPath,
                                      relative, so that the folders may be moved
    pods/UID/CONTAINER/log, log.1     what it wrote, the end of what it wrote before
    pods/UID/CONTAINER/claim.N        made by attempt N as its first act, or by a shim that will never start it
    pods/UID/CONTAINER/exit.N         its exit code

Everything here blocks: it is called from worker threads.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ote.shims.local.core.environment import VolumeFile
from ote.shims.local.core.spec import Container

LOG_LIMIT = 8 << 20
"""Size in bytes at which a log is rotated."""
LOG_KEPT = 4 << 20
"""How many bytes of the end are kept as log.1."""


class PodFolder:
    """The folder of one pod."""

    def __init__(self, pods: Path, uid: str) -> None:
        self.path = pods / uid

    def container(self, name: str) -> Path:
        """Where a container's own files lie."""
        return self.path / name

    def root(self, name: str) -> Path:
        """What a container sees as its folder."""
        return self.path / name / "root"

    def write_volumes(self, volumes: Mapping[str, Sequence[VolumeFile] | None]) -> None:
        """Makes volumes; files that are no longer wanted go, changed ones are replaced whole."""
        for name, files in volumes.items():
            folder = self.path / "volumes" / name
            folder.mkdir(parents=True, exist_ok=True)
            if files is not None:
                _write_files(folder, files)

    def write_root(self, container: Container) -> None:
        """Makes a container's folder with a link for each mount; links that lead elsewhere are made anew."""
        root = self.root(container.name)
        root.mkdir(parents=True, exist_ok=True)
        (root / container.working_dir.lstrip("/")).mkdir(parents=True, exist_ok=True)
        for mount in container.volume_mounts:
            target = self.path / "volumes" / mount.name / mount.sub_path
            if mount.sub_path and not target.exists():
                target.mkdir(parents=True)
            link = root / mount.mount_path.strip("/")
            way = os.path.relpath(target, link.parent)
            if link.is_symlink():
                if str(link.readlink()) == way:
                    continue
                link.unlink()
            link.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                link.rmdir()
            link.symlink_to(way)

    def remove(self) -> None:
        """Removes all of it, also folders that a container has closed, as Go does with its cache."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.path.exists():
            _open_folders(self.path)
            shutil.rmtree(self.path, ignore_errors=True)


def _write_files(folder: Path, files: Sequence[VolumeFile]) -> None:
    wanted = {file.path for file in files}
    for old in [path for path in folder.rglob("*") if not path.is_dir()]:
        if str(old.relative_to(folder)) not in wanted:
            old.unlink(missing_ok=True)
    for file in files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.parent / f"..{path.name}"
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(file.content)
        fresh.chmod(file.mode)
        fresh.replace(path)


def _open_folders(path: Path) -> None:
    for folder, names, _ in os.walk(path):
        for inner in [Path(folder, name) for name in names]:
            if not inner.is_symlink():  # which leads elsewhere
                with contextlib.suppress(OSError):
                    inner.chmod(0o700)


def rotate(log: Path) -> None:
    """Keeps a log bounded. Its writers append, so it is emptied in place; lines written in that moment are lost."""
    try:
        size = log.stat().st_size
    except FileNotFoundError:
        return
    if size <= LOG_LIMIT:
        return
    kept = log.with_suffix(".1")
    try:
        with log.open("rb") as source, kept.open("wb") as end:
            source.seek(-LOG_KEPT, os.SEEK_END)
            source.readline()
            shutil.copyfileobj(source, end)
    except OSError:  # such as a full disk, on which the log must not go on growing
        kept.unlink(missing_ok=True)
    os.truncate(log, 0)


def tail(log: Path, lines: int, limit: int) -> bytes:
    """The last lines of a log and of what was rotated away from it, at most limit bytes. Never reads more than that."""
    newest = _end_of(log, limit)
    found = newest
    if newest.count(b"\n") < lines and len(newest) < limit:
        found = _end_of(log.with_suffix(".1"), limit - len(newest)) + newest
    position = len(found) - found.endswith(b"\n")
    for _ in range(lines):
        position = found.rfind(b"\n", 0, position)
        if position < 0:
            return found
    return found[position + 1 :]


def _end_of(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as source:
            size = source.seek(0, os.SEEK_END)
            source.seek(max(size - limit, 0))
            return source.read(limit)
    except FileNotFoundError:
        return b""
