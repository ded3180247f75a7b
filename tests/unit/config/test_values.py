"""Values as people write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ote.config.values import format_duration, parse_bool, parse_duration, parse_pairs, split_host_port
from ote.model.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("2s", 2.0), ("1h", 3600.0), ("1h30m", 5400.0), ("7d", 604800.0), ("0", 0.0), (" 1.5s ", 1.5)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "s", "-1s", "2 s", "1x", "2sec", "1e3s", "inf", "never", "١s"])
def test_what_is_no_duration_is_told_how_to_write_one(text: str) -> None:
    with pytest.raises(InvalidArgument, match="write 500ms, 2s") as caught:
        parse_duration(text)
    assert caught.value.reason == "INVALID_DURATION"


@given(st.integers(0, 10**10))
def test_a_duration_shown_is_the_duration_read(milliseconds: int) -> None:
    assert round(parse_duration(format_duration(milliseconds / 1000)) * 1000) == milliseconds


def test_durations_are_shown_short() -> None:
    assert [format_duration(s) for s in (0, 0.25, 2, 90, 5400, 86400, math.inf)] == [
        "0s",
        "250ms",
        "2s",
        "1m30s",
        "1h30m",
        "1d",
        "never",
    ]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8287", ("127.0.0.1", 8287)),
        ("example.org:0", ("example.org", 0)),
        ("[::1]:80", ("::1", 80)),
    ],
)
def test_addresses_are_read(text: str, address: tuple[str, int]) -> None:
    assert split_host_port(text) == address


@pytest.mark.parametrize(
    "text", ["", ":80", "host", "host:", "host:http", "host:65536", "::1:80", "a b:1", "[]:1", "h:٣"]
)
def test_what_is_no_address_is_told_so(text: str) -> None:
    with pytest.raises(InvalidArgument, match="write HOST:PORT"):
        split_host_port(text)


def test_switches_and_labels_are_read() -> None:
    assert [parse_bool(word) for word in ("true", "Off", "1", "no")] == [True, False, True, False]
    assert parse_pairs(["a=b", "c=d=e", "f="]) == {"a": "b", "c": "d=e", "f": ""}


@pytest.mark.parametrize("items", [["a"], ["=b"], ["a=1", "a=2"]])
def test_what_is_no_label_is_told_so(items: list[str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_pairs(items)
    assert caught.value.reason == "INVALID_LABEL"


def test_what_is_no_switch_is_told_so() -> None:
    with pytest.raises(InvalidArgument):
        parse_bool("maybe")
