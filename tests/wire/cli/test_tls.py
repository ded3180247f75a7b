"""A context with certificates is shown the right controller, or says why not."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ote.api.cluster.v1 import cluster_pb2
from ote.client.contexts import Context, Entry, write_context_file
from ote.pki import Authority
from tests.wire.cli.conftest import Ctl
from tests.wire.cli.fake import FakeController
from tests.wire.cli.test_terminal import environment, program
from tests.wire.rpc.tree import member, person


@pytest.fixture(scope="module")
def tree() -> Authority:
    return Authority.create_root("a" * 32)


@pytest.fixture
def east(tree: Authority) -> Iterator[FakeController]:
    with FakeController("east", tls=member(tree, "east")) as fake:
        yield fake
    assert fake.unused() == {}


def context(authority: Authority, ctl: Ctl, *entries: Entry) -> None:
    shown = person(authority, "admin")
    pem = (shown.root.decode(), shown.certificate_chain.decode(), shown.private_key.decode())
    write_context_file(ctl.config, Context("test", entries, *pem))


def test_a_person_enters_with_the_certificate_of_the_context(
    tree: Authority, east: FakeController, tmp_path: Path
) -> None:
    ctl = Ctl(tmp_path, [])
    context(tree, ctl, Entry(east.address, "east.ote"))
    east.will("GetControllerStatus", cluster_pb2.GetControllerStatusResponse(self=east.me))
    ctl.ok("status")


def test_a_controller_under_another_name_is_refused_and_the_next_entry_tried(
    tree: Authority, east: FakeController, tmp_path: Path
) -> None:
    ctl = Ctl(tmp_path, [])
    context(tree, ctl, Entry(east.address, "root.ote"))
    refused = ctl("status")
    assert refused.exit_code == 5
    assert "has another name than the one expected there" in refused.stderr
    context(tree, ctl, Entry(east.address, "root.ote"), Entry(f"localhost:{east.address.split(':')[1]}", "east.ote"))
    east.will("GetControllerStatus", cluster_pb2.GetControllerStatusResponse(self=east.me))
    ctl.ok("status")


def test_grpc_adds_no_words_of_its_own(tree: Authority, east: FakeController, tmp_path: Path) -> None:
    ctl = Ctl(tmp_path, [])
    context(tree, ctl, Entry(east.address, "root.ote"))
    for verb in (["status"], ["apply", "-f", "-", "--clusters", "a"], ["shim", "info", "localhost:1"]):
        ended = subprocess.run(
            program(*verb), input=b"kind: A\nmetadata: {name: a}", capture_output=True, env=environment(ctl), timeout=45
        )
        assert (ended.returncode, ended.stdout, ended.stderr.count(b"\n")) == (5, b"", 1), ended.stderr


def test_a_certificate_of_another_tree_is_refused(east: FakeController, tmp_path: Path) -> None:
    ctl = Ctl(tmp_path, [])
    context(Authority.create_root("b" * 32), ctl, Entry(east.address, "east.ote"))
    assert ctl("status").exit_code == 5
