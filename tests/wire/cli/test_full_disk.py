"""Whoever writes a file writes all of it or nothing, and says what is wrong and what next."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ote.api.trust.v1 import trust_pb2
from ote.apps.clustercontroller import main
from ote.client.contexts import Context, Entry, load_contexts, write_context_file
from ote.clustercontroller.membership import Membership
from ote.store.sqlite import Store
from tests.wire.cli.conftest import Ctl
from tests.wire.cli.fake import FakeController


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """No file grows beyond so many bytes, whatever it is. What Python compiles meanwhile it keeps to itself: it would
    leave the first bytes of it in the checkout, where every other process fails on them."""
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        sys.dont_write_bytecode = before


@pytest.fixture
def controller(tmp_path: Path) -> Path:
    """The folder of a root that was founded and is stopped."""
    folder = tmp_path / "root"
    Membership.open(folder, "root", 3600.0).found()
    Store.open(folder / "store.db", tables=["self"]).close()
    return folder


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Exit code and stderr of ote-clustercontroller."""
    monkeypatch.setattr("sys.argv", ["ote-clustercontroller", *map(str, arguments)])
    code = main()
    return code, capsys.readouterr().err


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_contexts_file_that_cannot_be_written_stays_as_it_was(ctl: Ctl, tmp_path: Path) -> None:
    admin = tmp_path / "admin" / "admin.yaml"
    write_context_file(admin, Context("other", (Entry("10.0.0.1:1"),)))
    before = ctl.write_context().read_bytes()
    with files_end_at(20):
        out = ctl("context", "import", str(admin))
    assert (out.exit_code, out.stderr) == (2, f"error: cannot write {ctl.config}: File too large\n")
    assert ctl.config.read_bytes() == before
    assert names(ctl.home) == ["admin", "config.yaml"]


def test_a_contexts_file_behind_a_link_is_written_behind_it(ctl: Ctl, tmp_path: Path) -> None:
    kept = tmp_path / "dotfiles"
    kept.mkdir()
    ctl.write_context().rename(kept / "config.yaml")
    ctl.config.symlink_to(kept / "config.yaml")
    ctl.ok("context", "add-entry", "10.0.0.2:1", "--name", "east")
    assert ctl.config.is_symlink()
    assert len(load_contexts(kept / "config.yaml").get().entries) == 2


def test_a_token_that_cannot_be_kept_is_revoked(root: FakeController, ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "join.token"
    file.write_text("old")
    ctl.write_context()
    made = trust_pb2.JoinToken(id="4f1a")
    root.will("CreateJoinToken", trust_pb2.CreateJoinTokenResponse(token=made, secret="x" * 100))
    root.will("RevokeJoinToken", trust_pb2.RevokeJoinTokenResponse(token=made))
    with files_end_at(20):
        out = ctl("token", "create", "--force", "-o", str(file))
    assert (out.exit_code, out.stdout) == (2, "")
    assert out.stderr == (
        f"error: cannot write {file}: File too large; the token is revoked again, make another with another -o\n"
    )
    assert root.requests["RevokeJoinToken"][0].id == "4f1a"
    assert (file.read_text(), names(tmp_path)) == ("old", ["config.yaml", "join.token"])


@pytest.mark.parametrize(("file", "why"), [("/dev/full", "it is not a file"), ("no/where", "there is no such folder")])
def test_no_token_is_made_for_what_is_no_file(ctl: Ctl, tmp_path: Path, file: str, why: str) -> None:
    out = ctl("token", "create", "-o", str(tmp_path / file))
    assert (out.exit_code, why in out.stderr) == (2, True)


@pytest.mark.parametrize("arguments", [["version"], ["--help"], ["context", "list", "-o", "json"]])
def test_an_output_that_takes_nothing_more_is_told_in_a_line(ctl: Ctl, arguments: list[str]) -> None:
    ctl.write_context()
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "ote.apps.ctl", *arguments],
            env={**os.environ, "OTE_CONFIG": str(ctl.config)},
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (1, b"error: cannot use the output: No space left on device\n")


@pytest.mark.parametrize("limit", [100, 8 * 1024])
def test_a_backup_is_whole_or_not_there(
    controller: Path, tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    with files_end_at(limit):
        code, told = run(monkeypatch, capsys, "backup", "--data-dir", controller, kept)
    assert code == 1
    assert told.count("\n") == 1
    assert names(tmp_path) == ["root"]


def test_a_controller_is_restored_as_a_whole_or_not_at_all(
    controller: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, again = tmp_path / "kept", tmp_path / "again"
    assert run(monkeypatch, capsys, "backup", "--data-dir", controller, kept)[0] == 0
    with files_end_at(1000):
        code, told = run(monkeypatch, capsys, "restore", "--data-dir", again, kept)
    assert (code, told) == (1, f"ote-clustercontroller: cannot use {again / 'store.db'}: File too large\n")
    assert run(monkeypatch, capsys, "restore", "--data-dir", again, kept)[0] == 0


def test_files_for_a_shim_that_cannot_be_written_are_told_in_a_line(
    controller: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with files_end_at(100):
        code, told = run(
            monkeypatch, capsys, "shim-certificate", "--data-dir", controller, "--name", "s", tmp_path / "s"
        )
    assert (code, told) == (1, f"ote-clustercontroller: cannot use {tmp_path / 's' / 'cert.pem'}: File too large\n")
    assert names(tmp_path / "s") == []


def test_a_store_for_which_there_is_no_room_is_not_called_damaged(tmp_path: Path) -> None:
    with files_end_at(100), pytest.raises(Exception, match=r"check the disk|make room"):
        Store.open(tmp_path / "store.db", tables=["self"])


@pytest.mark.parametrize("words", [["admin-context"], ["shim-certificate", "--name", "s", "there"]])
def test_a_folder_without_a_controller_stays_without_one(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = run(monkeypatch, capsys, words[0], "--data-dir", tmp_path, *words[1:])
    assert (code, told) == (1, f"ote-clustercontroller: {tmp_path} holds no controller\n")
    assert names(tmp_path) == []
