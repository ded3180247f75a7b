"""ote-ctl as a process of its own: on a terminal, under ctrl-C, into a closed pipe."""

from __future__ import annotations

import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import pytest

from ote.api.cluster.v1 import cluster_pb2
from tests.wire.cli.conftest import Ctl
from tests.wire.cli.fake import HANG, FakeController, cluster, done, story, target

CHECKOUT = Path(__file__).parents[3]
SECONDS = 45


def environment(ctl: Ctl) -> dict[str, str]:
    ours = ("NO_COLOR", "OTE_CONTEXT", "COLUMNS", "LINES")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | {"OTE_CONFIG": str(ctl.write_context()), "PYTHONPATH": str(CHECKOUT), "TERM": "xterm"}


def program(*arguments: str) -> list[str]:
    return [sys.executable, str(CHECKOUT / "cmd" / "ote-ctl" / "main.py"), *arguments]


def on_a_terminal(ctl: Ctl, *arguments: str, columns: int = 100) -> tuple[int, str]:
    """Exit code and all that appears."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(program(*arguments), stdout=theirs, stderr=theirs, stdin=theirs, env=environment(ctl))
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    return process.wait(SECONDS), seen.decode()


@pytest.fixture
def hello(tmp_path: Path) -> str:
    file = tmp_path / "hello.yaml"
    file.write_text("kind: Deployment\nmetadata: {name: hello}\n")
    return str(file)


def test_a_terminal_shows_each_cluster_live_and_then_once_for_good(root: FakeController, ctl: Ctl, hello: str) -> None:
    end = target("a", "SUCCEEDED", objects=[done("Deployment", "hello")])
    root.will(
        "Dispatch", story([target("a", "PENDING"), target("b", "QUEUED", "offline")], end, target("b", "FAILED", "no"))
    )
    code, seen = on_a_terminal(ctl, "apply", "-f", hello, "--clusters", "*")
    assert code == 3
    assert "\x1b[?25l" in seen
    assert "deployment/hello created" in seen
    assert seen.count("deployment/hello created") == 1
    assert "2 targets: 1 SUCCEEDED, 1 FAILED" in seen


def test_a_terminal_shows_counts_above_twenty_clusters(root: FakeController, ctl: Ctl, hello: str) -> None:
    ends = [target(f"edge-{number:02}", "FAILED" if number < 22 else "SUCCEEDED") for number in range(30)]
    root.will("Dispatch", story(ends))
    code, seen = on_a_terminal(ctl, "apply", "-f", hello, "--clusters", "*")
    assert code == 3
    assert "30 targets: 8 SUCCEEDED, 22 FAILED" in seen
    assert "edge-29" not in seen
    assert "… and 2 more that did not succeed" in seen


def test_a_narrow_terminal_is_never_overrun(root: FakeController, ctl: Ctl) -> None:
    clusters = [cluster(f"shop-{number}-with-a-long-name", tags=["gpu", "prod"]) for number in range(3)]
    root.will("ListClusters", cluster_pb2.ListClustersResponse(clusters=clusters))
    code, seen = on_a_terminal(ctl, "cluster", "list", columns=40)
    plain = seen.replace("\x1b[32m", "").replace("\x1b[0m", "")
    assert code == 0
    assert max(map(len, plain.splitlines())) <= 40


def test_ctrl_c_stops_the_waiting_only_and_says_how_to_go_on(root: FakeController, ctl: Ctl, hello: str) -> None:
    root.will("Dispatch", story([target("a", "RUNNING", "0 of 1")], HANG))
    process = subprocess.Popen(
        program("apply", "-f", hello, "--clusters", "a"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(ctl),
        text=True,
    )
    assert process.stderr is not None
    name = process.stderr.readline().split()[1]
    assert process.stderr.readline() == "a  RUNNING  0 of 1\n"
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert rest.splitlines() == [
        f"stopped waiting, the dispatch goes on; to follow: ote-ctl dispatch watch {name}",
        f"to end it: ote-ctl dispatch cancel {name}",
    ]


def test_ctrl_c_while_the_program_is_loaded_ends_it_without_a_word() -> None:
    code = """if True:
        import builtins, ote.apps.ctl
        real = builtins.__import__
        def interrupted(name, *rest, **more):
            if name == "ote.cli.main":
                raise KeyboardInterrupt
            return real(name, *rest, **more)
        builtins.__import__ = interrupted
        raise SystemExit(ote.apps.ctl.main())
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_ends_a_watch_without_a_word(root: FakeController, ctl: Ctl) -> None:
    root.will("WatchClusters", [cluster_pb2.WatchClustersResponse(put=cluster("a")), HANG])
    process = subprocess.Popen(
        program("cluster", "watch"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(ctl), text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "a  ONLINE  under root\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (130, "")


def test_a_reader_that_has_seen_enough_is_no_fault(root: FakeController, ctl: Ctl) -> None:
    clusters = [cluster(f"edge-{number}") for number in range(5000)]
    root.will("ListClusters", cluster_pb2.ListClustersResponse(clusters=clusters))
    listing = subprocess.Popen(
        program("cluster", "list"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(ctl)
    )
    assert listing.stdout is not None
    assert listing.stderr is not None
    listing.stdout.readline()
    listing.stdout.close()
    assert listing.stderr.read() == b""
    listing.stderr.close()
    listing.wait(SECONDS)


def test_importing_the_program_is_quick() -> None:
    code = "import time; t = time.process_time(); import ote.cli.main; print(time.process_time() - t)"
    best = min(
        float(
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, cwd=CHECKOUT, check=True
            ).stdout
        )
        for _ in range(2)
    )
    assert best < 0.3
