"""Logs: one line each, for machines or people, and never a secret."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from ote.telemetry.logs import LogFormat, is_secret_name, looks_secret, set_up_logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = before
    root.setLevel(level)


def logged(fmt: LogFormat = "json") -> io.StringIO:
    stream = io.StringIO()
    set_up_logs(fmt=fmt, stream=stream, cluster="edge-1")
    return stream


def test_a_line_for_machines_has_message_fields_and_time() -> None:
    stream = logged()
    structlog.get_logger("x").info("child joined", child="edge-2", session=3)
    [line] = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert line.pop("timestamp").endswith("Z")
    assert line == {"message": "child joined", "child": "edge-2", "session": 3, "cluster": "edge-1", "level": "info"}


def test_where_nobody_looks_logs_are_for_machines() -> None:
    stream = logged("auto")
    structlog.get_logger().info("x")
    assert json.loads(stream.getvalue())["message"] == "x"


def test_a_line_for_people_is_one_line() -> None:
    stream = logged("plain")
    structlog.get_logger().warning("child left", child="edge-2")
    assert stream.getvalue().count("\n") == 1
    assert "child left" in stream.getvalue()
    assert "child=edge-2" in stream.getvalue()


@pytest.mark.parametrize("fmt", ["json", "plain"])
def test_a_peers_words_are_no_lines_of_their_own_and_do_not_move_the_cursor(fmt: LogFormat) -> None:
    stream = logged(fmt)
    structlog.get_logger().warning("refused", detail="no\n2026-01-01 [info] all is well\x1b[2J")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b[2J" not in stream.getvalue()


@pytest.mark.parametrize("fmt", ["json", "plain"])
def test_secrets_are_masked_by_name_and_by_look(fmt: LogFormat) -> None:
    stream = logged(fmt)
    structlog.get_logger().info(
        "x",
        join_token="hidden-1",
        note="see ote1.hidden-2",
        pem=b"-----BEGIN PRIVATE KEY-----\nhidden-3",
        settings={"password": "hidden-4", "inner": {"secret": "hidden-5"}},
        resume_token="shown",
        password="",
    )
    assert "hidden" not in stream.getvalue()
    assert stream.getvalue().count("***") == 5
    assert "shown" in stream.getvalue()


def test_names_of_secrets_are_told_from_names_of_tokens_that_are_none() -> None:
    assert all(is_secret_name(name) for name in ("join_token", "TOKEN", "db_password", "key_pem", "client_secret"))
    assert not any(is_secret_name(name) for name in ("resume_token", "page_token", "token_id", "key", "name"))
    assert not looks_secret("a certificate")
    assert not looks_secret(7)


def test_a_traceback_shows_no_values_of_variables() -> None:
    stream = logged()
    hidden = "a value of a variable"
    try:
        raise ValueError(len(hidden))
    except ValueError:
        structlog.get_logger().exception("it failed")
    line = json.loads(stream.getvalue())
    assert "ValueError: 21" in line["exception"]
    assert hidden not in line["exception"].replace(f'hidden = "{hidden}"', "")


def test_what_libraries_log_takes_the_same_way() -> None:
    stream = logged()
    logging.getLogger("asyncio").warning("slow callback %s", "x")
    logging.getLogger("asyncio").info("not this")
    [line] = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert (line["message"], line["library"], line["text"], line["level"]) == (
        "log of a library",
        "asyncio",
        "slow callback x",
        "warning",
    )


def test_levels_are_kept() -> None:
    stream = io.StringIO()
    set_up_logs(level="error", fmt="json", stream=stream)
    structlog.get_logger().warning("no")
    structlog.get_logger().error("yes")
    assert json.loads(stream.getvalue())["message"] == "yes"
