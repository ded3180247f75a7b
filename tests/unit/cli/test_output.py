from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Sequence

import pytest

from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.cli.output import Column, print_table
from ote.cli.reporting import target_line

COLUMNS = [Column("NAME"), Column("STATE"), Column("LABELS", optional=True)]
ROWS = [["shop-1-with-a-long-name", "ONLINE", "region=eu"], ["b", "OFFLINE", ""]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(width: int, rows: Sequence[Sequence[str]], monkeypatch: pytest.MonkeyPatch, **env: str) -> list[str]:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((width, 24)))
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    print_table(COLUMNS, rows)
    return terminal.getvalue().splitlines()


def test_a_table_that_goes_into_a_file_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(COLUMNS, ROWS)
    assert capsys.readouterr().out.splitlines() == [
        "NAME                     STATE    LABELS",
        "shop-1-with-a-long-name  ONLINE   region=eu",
        "b                        OFFLINE  -",
    ]


def test_a_narrow_terminal_loses_optional_columns_first_and_then_the_ends_of_long_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert printed(35, ROWS, monkeypatch, NO_COLOR="1")[1] == "shop-1-with-a-long-name  ONLINE"
    assert printed(20, ROWS, monkeypatch, NO_COLOR="1") == [
        "NAME         STATE",
        "shop-1-wit…  ONLINE",
        "b            OFFLINE",
    ]
    assert len(printed(5, ROWS, monkeypatch, NO_COLOR="1")[1]) <= 18


def test_states_have_their_colours_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[32mONLINE" in printed(80, ROWS, monkeypatch)[1]
    assert "\x1b" not in "".join(printed(80, ROWS, monkeypatch, TERM="dumb"))
    assert "\x1b" not in "".join(printed(80, ROWS, monkeypatch, NO_COLOR="1"))


def test_what_would_move_the_cursor_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in "".join(printed(80, [["a\x1b[2J", "x\ny", ""]], monkeypatch))


def test_what_a_cluster_says_stays_in_its_own_line() -> None:
    words = "no\nshop-2  SUCCEEDED\x1b[2J"
    target = route_pb2.Target(cluster="shop-1", state=route_pb2.TARGET_STATE_FAILED, message=words)
    target.objects.append(command_pb2.ObjectResult(object=command_pb2.ObjectRef(kind="Pod", name=words)))
    line = target_line(target)
    assert line.isprintable()
    assert line.count("shop-2  SUCCEEDED") == 2
