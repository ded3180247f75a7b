"""Pages go on where the last one ended, whatever happened to the list in between."""

from __future__ import annotations

import pytest

from ote.model.errors import InvalidArgument
from ote.rpc.paging import decode_page_token, encode_page_token, page_of, page_size


def page(names: list[str], size: int, token: str, scope: str = "") -> tuple[list[str], str]:
    return page_of(sorted(names), lambda name: name, size=size, token=token, scope=scope)


def test_pages_are_the_whole_list_in_order() -> None:
    names = [f"edge-{i:03}" for i in range(25)]
    seen: list[str] = []
    token = ""
    for expected in (10, 10, 5):
        got, token = page(names, 10, token)
        assert len(got) == expected
        seen += got
    assert (seen, token) == (names, "")


def test_a_full_last_page_has_no_next() -> None:
    assert page(["a", "b"], 2, "") == (["a", "b"], "")
    assert page([], 2, "") == ([], "")


def test_removing_what_the_token_names_loses_nothing() -> None:
    _, token = page(["a", "b", "c", "d"], 2, "")
    assert page(["a", "c", "d"], 2, token) == (["c", "d"], "")


def test_a_token_of_another_request_or_of_nobody_is_refused() -> None:
    for token in (encode_page_token("a", "labels=x"), "garbage!", "AAAA", "é"):
        with pytest.raises(InvalidArgument) as caught:
            decode_page_token(token, "labels=y")
        assert caught.value.reason == "INVALID_PAGE_TOKEN"


def test_sizes_have_a_default_and_an_end() -> None:
    assert (page_size(0), page_size(7), page_size(10**6)) == (100, 7, 1000)
    with pytest.raises(InvalidArgument):
        page_size(-1)
