"""Logs are bounded, and their end can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from ote.shims.local import files


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(files, "LOG_LIMIT", 1000)
    monkeypatch.setattr(files, "LOG_KEPT", 500)
    return tmp_path / "log"


def lines(first: int, last: int) -> bytes:
    return b"".join(b"line %d\n" % number for number in range(first, last))


def test_a_small_log_stays_as_it_is(log: Path) -> None:
    files.rotate(log)
    log.write_bytes(lines(0, 100))
    files.rotate(log)
    assert log.read_bytes() == lines(0, 100)


def test_a_large_log_is_emptied_in_place_and_its_end_is_kept(log: Path) -> None:
    writer = log.open("ab", buffering=0)
    with writer:
        writer.write(lines(0, 200))
        files.rotate(log)
        writer.write(b"after\n")
    assert log.read_bytes() == b"after\n"
    kept = log.with_suffix(".1").read_bytes()
    assert len(kept) <= 500
    assert lines(0, 200).endswith(b"\n" + kept)
    assert files.tail(log, 2, 1000) == b"line 199\nafter\n"


def test_a_large_log_is_emptied_also_where_there_is_no_room_for_its_end(log: Path) -> None:
    log.write_bytes(lines(0, 200))
    log.with_suffix(".1").symlink_to("/dev/full")
    files.rotate(log)
    assert log.read_bytes() == b""
    assert files.tail(log, 9, 1000) == b""


@pytest.mark.parametrize(
    ("content", "count", "end"),
    [
        (b"", 5, b""),
        (b"a\nb\nc\n", 2, b"b\nc\n"),
        (b"a\nb\nc", 2, b"b\nc"),
        (b"a\nb\n", 9, b"a\nb\n"),
        (b"\n\n\n", 1, b"\n"),
    ],
)
def test_the_last_lines_are_the_last_lines(log: Path, content: bytes, count: int, end: bytes) -> None:
    log.write_bytes(content)
    assert files.tail(log, count, 1000) == end


def test_no_more_is_read_than_may_be_answered(log: Path) -> None:
    log.write_bytes(lines(0, 100))
    assert files.tail(log, 100, 50) == lines(0, 100)[-50:]


def test_a_log_that_does_not_exist_is_empty(log: Path) -> None:
    assert files.tail(log, 10, 1000) == b""
