from __future__ import annotations

from collections.abc import Callable

import pytest

from ote.model.errors import InvalidArgument
from ote.model.names import check_label_key, check_label_value, check_name, check_tag, is_name, parse_label


@pytest.mark.parametrize(
    ("check", "good"),
    [
        (check_name, ["a", "edge-1", "0", "a" * 63]),
        (check_label_key, ["tier", "a.b_C-1", "example.com/tier", "a" * 63, "x" * 253 + "/k"]),
        (check_label_value, ["", "gold", "1.2_b-C", "a" * 63]),
        (check_tag, ["gpu", "gpu.a100", "A"]),
    ],
)
def test_what_is_allowed_comes_back_as_it_is(check: Callable[[str], str], good: list[str]) -> None:
    assert [check(text) for text in good] == good


@pytest.mark.parametrize(
    ("check", "bad", "reason"),
    [
        (check_name, ["", "A", "-a", "a-", "a_b", "a" * 64, "a/b", "ä", "a\n"], "INVALID_NAME"),
        (check_label_key, ["", "-a", "a/", "/a", "A.b/c", "a b", "a" * 64, "x" * 254 + "/k", "a\n"], "INVALID_LABEL"),
        (check_label_value, ["-", "a b", "a" * 64, "a\n"], "INVALID_LABEL"),
        (check_tag, ["", "a/b", "+a", "x" * 90], "INVALID_LABEL"),
        (parse_label, ["a", "=b", "a=b c"], "INVALID_LABEL"),
    ],
)
def test_what_is_not_allowed_is_told_with_the_rule(check: Callable[[str], object], bad: list[str], reason: str) -> None:
    for text in bad:
        with pytest.raises(InvalidArgument) as caught:
            check(text)
        assert caught.value.reason == reason
        assert "\n" not in caught.value.message


def test_a_label_is_split_at_its_first_equals_sign() -> None:
    assert parse_label("example.com/tier=gold") == ("example.com/tier", "gold")
    assert parse_label("empty=") == ("empty", "")


def test_is_name_only_asks() -> None:
    assert is_name("edge-1")
    assert not is_name("Edge")
