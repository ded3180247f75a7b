"""Private files are the owner's alone, and whole."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ote.pki import make_private_dir, write_private


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_private_file_and_its_directory_are_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "trust" / "key.pem"
    write_private(path, b"secret")
    assert path.read_bytes() == b"secret"
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)


def test_writing_again_replaces_the_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "trust" / "key.pem"
    write_private(path, b"first, and longer")
    path.chmod(0o644)
    write_private(str(path), b"second")
    assert path.read_bytes() == b"second"
    assert mode(path) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["key.pem"]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "trust" / "key.pem"
    path.mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_private(path, b"x")
    assert [entry.name for entry in path.parent.iterdir()] == ["key.pem"]


def test_a_wide_directory_is_narrowed(tmp_path: Path) -> None:
    wide = tmp_path / "wide"
    wide.mkdir(mode=0o755)
    make_private_dir(wide)
    assert mode(wide) == 0o700
