"""Join tokens survive copying, and say what is wrong with those that did not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ote.model.errors import InvalidArgument
from ote.pki import Authority, JoinToken, csr, decode_token, encode_token, new_key

ROOT = Authority.create_root("a" * 32)
CHAIN, KEY = ROOT.issue_join("t1", ROOT.not_after)
TOKEN = encode_token(ROOT.root_pem, CHAIN, KEY, "east", "east.example:8287")


def test_a_token_carries_all_that_enrolling_needs() -> None:
    assert decode_token(TOKEN) == JoinToken(ROOT.root_pem, CHAIN, KEY, "east", "east.example:8287")
    assert len(TOKEN) < 1600


def test_a_token_of_a_region_carries_its_chain() -> None:
    ca_key = new_key()
    east = Authority(ROOT.issue_ca(csr(ca_key, "east"), "east", "b" * 32), ca_key, ROOT.root_pem)
    chain, key = east.issue_join("t2", east.not_after)
    assert decode_token(encode_token(ROOT.root_pem, chain, key, "east")).chain_pem == chain


def test_white_space_of_wrapped_lines_does_not_matter() -> None:
    wrapped = "\n  ".join(TOKEN[i : i + 72] for i in range(0, len(TOKEN), 72))
    assert decode_token(f" {wrapped}\r\n") == decode_token(TOKEN)


def test_a_token_is_never_shown_with_its_key() -> None:
    assert "PRIVATE" not in repr(decode_token(TOKEN))


@pytest.mark.parametrize("kept", [5, 6, 7, 12, 100, -200, -2])
def test_a_token_that_was_cut_off_says_so(kept: int) -> None:
    with pytest.raises(InvalidArgument, match="cut off") as caught:
        decode_token(TOKEN[:kept])
    assert caught.value.reason == "TOKEN_MALFORMED"


@pytest.mark.parametrize("text", ["", "hello", "eyJhbGciOi", "@token.txt", "ote2.abc"])
def test_what_is_no_token_is_told_so(text: str) -> None:
    with pytest.raises(InvalidArgument, match="not a join token"):
        decode_token(text)


def test_a_changed_letter_is_noticed() -> None:
    middle = len(TOKEN) // 2
    letter = "A" if TOKEN[middle] != "A" else "B"
    with pytest.raises(InvalidArgument, match="damaged"):
        decode_token(TOKEN[:middle] + letter + TOKEN[middle + 1 :])


@given(st.text(max_size=300))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        decode_token("ote1." + text)
