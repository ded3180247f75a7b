from __future__ import annotations

import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ote.model.regex import Regex, RegexError


@pytest.mark.parametrize(
    ("pattern", "texts", "others"),
    [
        ("", [""], ["a"]),
        ("abc", ["abc"], ["ab", "abcd"]),
        ("^abc$", ["abc"], ["abcd"]),
        ("a.c", ["abc", "a-c"], ["ac", "aéc"]),
        ("a|bc|", ["a", "bc", ""], ["b"]),
        ("(a|b)*c", ["c", "ababc"], ["ab"]),
        ("(?:ab)+", ["ab", "abab"], ["", "aba"]),
        ("ab?", ["a", "ab"], ["abb"]),
        ("a{3}", ["aaa"], ["aa", "aaaa"]),
        ("a{2,}", ["aa", "aaaaa"], ["a"]),
        ("a{1,2}", ["a", "aa"], ["", "aaa"]),
        ("a{0}b", ["b"], ["ab"]),
        ("a*?b+?c??", ["b", "aabbc"], ["a"]),
        ("[a-c5]", ["b", "5"], ["d"]),
        ("[^a-c]", ["d", "-"], ["a"]),
        ("[]a]", ["]", "a"], ["b"]),
        ("[a-]", ["a", "-"], ["b"]),
        (r"[\d_]+", ["12_"], ["a"]),
        (r"[\-\]]", ["-", "]"], ["a"]),
        (r"\d\w\s", ["1a "], ["aa "]),
        (r"\D\W\S", ["a-b"], ["1-b"]),
        (r"a\.b", ["a.b"], ["axb"]),
        ("(){5}(a*)*", ["", "aaa"], ["b"]),
    ],
)
def test_a_pattern_matches_whole_texts(pattern: str, texts: list[str], others: list[str]) -> None:
    regex = Regex(pattern)
    assert [text for text in texts if not regex.fullmatch(text)] == []
    assert [text for text in others if regex.fullmatch(text)] == []


@pytest.mark.parametrize(
    ("pattern", "position", "message"),
    [
        ("a)", 1, "')' without '('"),
        ("(a", 0, "'(' is never closed"),
        ("[a", 0, "'[' is never closed"),
        ("[", 0, "'[' is never closed"),
        ("*a", 0, "nothing to repeat"),
        ("a**", 2, "a repetition of a repetition"),
        ("a*+", 2, "possessive"),
        ("a{x}", 1, "'{' begins a repetition"),
        ("a{1,x}", 1, "'{' begins a repetition"),
        ("a{1", 1, "'{' begins a repetition"),
        ("a{2000}", 1, "a repetition goes up to 1,000"),
        ("a{3,2}", 1, "the second number"),
        ("a^", 1, "'^' stands only at the ends"),
        ("a$b", 1, "'$' stands only at the ends"),
        (r"(a)\1", 3, r"'\1' is not supported"),
        ("a\\", 1, "'\\' is not supported"),
        ("(?<n>a)", 0, "only '(…)'"),
        ("[z-a]", 2, "not a range"),
        (r"[\d-z]", 3, "not a range"),
        (r"[a-\d]", 2, "not a range"),
        ("é", 0, "'é' matches nothing"),
        ("a" * 1001, 1000, "it is longer"),
        ("(" * 41, 40, "brackets are nested"),
        ("(a{100}){100}", 0, "it is too large"),
    ],
)
def test_what_is_not_supported_is_refused_with_its_place(pattern: str, position: int, message: str) -> None:
    with pytest.raises(RegexError) as caught:
        Regex(pattern)
    assert str(caught.value).startswith(message)
    assert caught.value.position == position


@pytest.mark.parametrize("pattern", ["(a*)*b", "(a|a)*b", "(a|aa)+$", "(.*a){12}b", "((){1000}){1000}a"])
def test_no_pattern_takes_more_than_time_linear_in_the_text(pattern: str) -> None:
    regex = Regex(pattern)
    begun = time.perf_counter()
    assert not regex.fullmatch("a" * 2000 + "c")
    assert time.perf_counter() - begun < 2


def test_states_are_forgotten_before_they_are_too_many() -> None:
    regex = Regex("(a|b)*a(a|b){11}")
    texts = [f"{number:b}".replace("0", "a").replace("1", "b").rjust(14, "a") for number in range(2**13)]
    assert [regex.fullmatch(text) for text in texts] == [text[-12] == "a" for text in texts]


def test_a_pattern_that_makes_ever_new_states_is_stopped() -> None:
    regex = Regex(".*a.{300}")
    generator = random.Random(1)
    texts = ("".join(generator.choices("ab", k=60)) for _ in range(100_000))
    begun = time.process_time()
    with pytest.raises(RegexError, match="takes too long"):
        any(map(regex.fullmatch, texts))
    assert time.process_time() - begun < 10


pieces = st.recursive(
    st.sampled_from(["a", "b", ".", "[ab]", "[^a]", "\\d"]),
    lambda inner: st.one_of(
        st.builds("({}|{})".format, inner, inner),
        st.builds("{}{}".format, inner, inner),
        st.builds("({})*".format, inner),
        st.builds("({})+".format, inner),
        st.builds("({})?".format, inner),
        st.builds("({}){{1,2}}".format, inner),
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(pieces, st.text("ab1", max_size=8))
def test_it_agrees_with_the_engine_of_the_standard_library(pattern: str, text: str) -> None:
    assert Regex(pattern).fullmatch(text) == (re.fullmatch(pattern, text, re.DOTALL) is not None)
