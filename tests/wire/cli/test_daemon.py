"""What `ote-clustercontroller` says on the command line, without serving anything."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ote.apps.clustercontroller import main
from ote.client.contexts import load_contexts
from ote.clustercontroller.membership import Membership, name_in
from ote.pki import identity_of


@pytest.fixture
def controller(tmp_path: Path) -> Path:
    """The folder of a root that was founded and is stopped; the folder has another name."""
    folder = tmp_path / "folder"
    Membership.open(folder, "root", 3600.0).found()
    return folder


class Program:
    """Runs ote-clustercontroller in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        self._monkeypatch.setattr("sys.argv", ["ote-clustercontroller", *map(str, arguments)])
        code = main()
        out, err = self._capsys.readouterr()
        return code, out, err


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(monkeypatch, capsys)


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_a_lesser_role_is_never_answered_with_the_console(controller: Path, program: Program, role: str) -> None:
    code, out, err = program("admin-context", "--data-dir", controller, "--role", role)
    assert (code, out) == (2, "")
    assert f"--role {role} needs --address" in err


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_a_context_with_an_address_holds_the_role_it_was_asked_for(
    controller: Path, program: Program, tmp_path: Path, role: str
) -> None:
    code, out, _ = program("admin-context", "--data-dir", controller, "--role", role, "--address", "10.0.0.1:8287")
    assert code == 0
    file = tmp_path / "context.yaml"
    file.write_text(out)
    context = load_contexts(file).get()
    assert identity_of(context.cert.encode()).role == role
    assert [entry.address for entry in context.entries] == ["10.0.0.1:8287"]


def test_a_context_can_be_written_for_its_owner_alone(controller: Path, program: Program, tmp_path: Path) -> None:
    file = tmp_path / "admin.yaml"
    code, out, _ = program("admin-context", "--data-dir", controller, "--address", "10.0.0.1:8287", "-o", file)
    assert (code, out) == (0, f"to use it: ote-ctl context import {file}\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert identity_of(load_contexts(file).get().cert.encode()).role == "admin"


def test_without_role_and_address_the_context_is_the_console(controller: Path, program: Program) -> None:
    code, out, _ = program("admin-context", "--data-dir", controller)
    assert code == 0
    assert f"unix:{controller / 'console.sock'}" in out


def test_logs_are_under_the_name_in_the_folder_not_of_the_folder(controller: Path, tmp_path: Path) -> None:
    assert name_in(controller) == "root"
    assert name_in(tmp_path / "nobody") == ""
    (controller / "identity" / "member.json").write_text("{")
    assert name_in(controller) == ""


def test_each_log_line_names_the_controller_also_where_only_its_folder_was_given(controller: Path) -> None:
    words = ("--data-dir", str(controller), "--listen", "127.0.0.1:0", "--stop-grace", "0")
    command = [sys.executable, "-m", "ote.apps.clustercontroller", *words, "--log-format", "json"]
    lines = []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for text in process.stderr:
            lines.append(json.loads(text))
            if lines[-1]["message"] == "serving":
                process.terminate()
    assert process.returncode == 0
    assert {line["cluster"] for line in lines} == {"root"}
    [settings] = [line for line in lines if line["message"] == "settings"]
    assert settings["join_token"] == ""  # "***" stands for one that was given


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--certificate-lifetime", "0"], "certificate_lifetime is at least 1s"),
        (["--certificate-lifetime", "500ms"], "certificate_lifetime is at least 1s"),
        (["--keep-dispatches", "-5"], "keep_dispatches is 0 or more"),
        (["--heartbeat", "1ms", "--dead-after", "2ms"], "heartbeat is at least 10ms"),
        (["--heartbeat", "0"], "heartbeat is at least 10ms"),
        (["--config", "/nonexist/file.yaml"], "cannot read /nonexist/file.yaml: No such file or directory"),
        (["--config", "/"], "cannot read /: Is a directory"),
        (["--nonsense"], "no such option"),
    ],
)
def test_a_setting_that_cannot_work_ends_in_one_line(
    program: Program, tmp_path: Path, words: list[str], said: str
) -> None:
    code, out, err = program("--name", "root", "--data-dir", tmp_path / "root", *words)
    assert (code, out) == (2, "")
    assert said in err.splitlines()[0]
    assert err.startswith("ote-clustercontroller: ")
    assert err.count("\n") == 1
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("verb", ["admin-context", "backup"])
def test_a_folder_that_does_not_exist_ends_in_one_line(program: Program, tmp_path: Path, verb: str) -> None:
    code, _, err = program(verb, "--data-dir", tmp_path / "none", *(["file"] if verb == "backup" else []))
    assert code == 2
    assert err.startswith("ote-clustercontroller: invalid value for '--data-dir'")
    assert err.count("\n") == 1
