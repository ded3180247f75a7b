"""Which candidates each child is told."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from ote.clustercontroller.core.alternates import MOST_SIBLINGS, MOST_UNCLES, Candidates
from ote.clustercontroller.core.messages import Alternate


def named(count: int, prefix: str = "c") -> list[Alternate]:
    return [Alternate(f"{prefix}{number}", f"{prefix}{number}", f"{prefix}{number}:1") for number in range(count)]


@given(st.integers(0, 40), st.integers(0, 10))
def test_lists_are_short_and_never_name_the_child_itself(siblings: int, uncles: int) -> None:
    candidates = Candidates(None, named(uncles, "u"), None, named(siblings))
    for child in named(siblings):
        lists = candidates.for_child(child.uid)
        assert len(lists.siblings) == min(MOST_SIBLINGS, siblings - 1)
        assert len(lists.uncles) == min(MOST_UNCLES, uncles)
        assert child not in lists.siblings
        assert len(set(lists.siblings)) == len(lists.siblings)


def test_a_thousand_children_do_not_all_knock_at_the_same_door() -> None:
    candidates = Candidates(None, named(4, "u"), None, named(20))
    first_uncle: Counter[str] = Counter()
    first_sibling: Counter[str] = Counter()
    for child in named(1000, "child"):
        lists = candidates.for_child(child.uid)
        first_uncle[lists.uncles[0].uid] += 1
        first_sibling[lists.siblings[0].uid] += 1
    assert max(first_uncle.values()) < 400
    assert max(first_sibling.values()) < 250


def test_a_newcomer_changes_few_lists() -> None:
    children = named(1000, "child")
    before, after = Candidates(None, (), None, named(200)), Candidates(None, (), None, named(201))
    changed = [child for child in children if before.for_child(child.uid) != after.for_child(child.uid)]
    assert len(changed) < 150
    assert before != after
    assert before != "something else"


def test_nobody_is_its_own_grandparent() -> None:
    grandparent = Alternate("g", "g", "g:1")
    candidates = Candidates(None, (), grandparent, ())
    assert candidates.for_child("g").grandparent is None
    assert candidates.for_child("x").grandparent == grandparent
