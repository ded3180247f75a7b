"""Files that only their owner may read. Standard library only."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path


def make_private_dir(path: Path) -> None:
    """Makes a directory, and those above it, with mode 0700; one that exists is narrowed to it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.chmod(0o700)


def write_private(path: Path | str, content: bytes | Iterable[bytes]) -> None:
    """Replaces a file at once or not at all: mode 0600, in a directory of mode 0700, on disk when it returns. What
    comes in parts need not fit into memory."""
    target = Path(path)
    make_private_dir(target.parent)
    replace_private(target, content)


def replace_private(target: Path, content: bytes | Iterable[bytes]) -> None:
    """The same in a directory of any mode, that exists. Raises OSError, which names the file."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.new")
    try:
        try:
            scratch.unlink(missing_ok=True)
            with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(file.fileno())
            scratch.rename(target)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error
