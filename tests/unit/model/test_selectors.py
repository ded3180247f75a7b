from __future__ import annotations

import fnmatch
import re
import sys
import time
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ote.model.errors import InvalidArgument
from ote.model.selectors import Selector, check_name_pattern, compile_selector


@dataclass(frozen=True)
class Cluster:
    name: str
    labels: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    path: tuple[str, ...] = ()


def cluster(path: str, *tags: str, **labels: str) -> Cluster:
    names = tuple(path.split("/"))
    return Cluster(names[-1], labels, tags, names)


ROOT = cluster("root")
EU = cluster("root/eu", role="region")
SHOP_1 = cluster("root/eu/de/shop-1", "gpu-a100", region="eu", tier="gold")
SHOP_2 = cluster("root/eu/de/shop-2", "legacy", region="eu", tier="silver", size="12")
SHOP_3 = cluster("root/us/shop-3", region="us")
TREE = [ROOT, EU, SHOP_1, SHOP_2, SHOP_3]


def names(clusters: str = "", labels: str = "") -> str:
    selector = compile_selector(clusters, labels)
    meant = selector.select(TREE)
    assert meant == [one for one in TREE if selector.matches(one)]
    return " ".join(one.name for one in meant)


@pytest.mark.parametrize(
    ("clusters", "meant"),
    [
        ("", "root eu shop-1 shop-2 shop-3"),
        ("*", "root eu shop-1 shop-2 shop-3"),
        ("shop-1", "shop-1"),
        ("shop-1 , eu", "eu shop-1"),
        ("shop", ""),
        ("shop-*", "shop-1 shop-2 shop-3"),
        ("shop-[12]", "shop-1 shop-2"),
        ("shop-[!12]", "shop-3"),
        ("shop-?", "shop-1 shop-2 shop-3"),
        ("*gpu*", "shop-1"),
        ("gol*", "shop-1"),
        ("root,*gpu*,sil*", "root shop-1 shop-2"),
        ("eu/**", "shop-1 shop-2"),
        ("root/eu/**", "shop-1 shop-2"),
        ("eu/*/shop-*", "shop-1 shop-2"),
        ("*/shop-*", "shop-3"),
        ("**/shop-*", "shop-1 shop-2 shop-3"),
        ("eu/**/shop-1", "shop-1"),
        ("eu/de/**/shop-1", "shop-1"),
        ("**/de/*[2-9]", "shop-2"),
        ("**/[!s-z]*/shop-[!1-]", "shop-2"),
        ("root/**", "eu shop-1 shop-2 shop-3"),
        ("**/**", "eu shop-1 shop-2 shop-3"),
        ("re:shop-[12]", "shop-1 shop-2"),
        ("re:go?ld|us", "shop-1 shop-3"),
        ("re:(e,?u|x{1,2}),root", "root shop-1 shop-2 eu"),
        ("re:eu/.*/shop-\\d", "shop-1 shop-2"),
        ("re:a\\,b,root", "root"),
        ("re:[(,],root", "root"),
        ("re:[^]],re:shop-[\\]1]", "shop-1"),
    ],
)
def test_patterns_mean_these_clusters(clusters: str, meant: str) -> None:
    assert sorted(names(clusters).split()) == sorted(meant.split())


@pytest.mark.parametrize(
    ("labels", "meant"),
    [
        ("region=eu", "shop-1 shop-2"),
        ("region==eu,tier=gold", "shop-1"),
        ("region!=eu", "root eu shop-3"),
        ("region", "shop-1 shop-2 shop-3"),
        ("!region", "root eu"),
        ("legacy", "shop-2"),
        ("!legacy,region", "shop-1 shop-3"),
        ("legacy=", "shop-2"),
        ("legacy=x", ""),
        ("tier in (gold, silver)", "shop-1 shop-2"),
        ("tier notin (gold),region=eu", "shop-2"),
        ("legacy in ()", "shop-2"),
        ("size>11", "shop-2"),
        ("size<12", ""),
        ("tier>1", ""),
        ("region = eu , tier in(gold)", "shop-1"),
    ],
)
def test_label_expressions_mean_these_clusters(labels: str, meant: str) -> None:
    assert names(labels=labels) == meant


def test_both_parts_must_hold() -> None:
    assert names("shop-*,root", "region=eu") == "shop-1 shop-2"


@pytest.mark.parametrize(
    ("clusters", "labels", "message"),
    [
        ("a,,b", "", "clusters, column 3: a pattern is missing in 'a,,b'"),
        ("a, ,b", "", "clusters, column 4: a pattern is missing in 'a, ,b'"),
        ("a, ", "", "clusters, column 4: a pattern is missing in 'a, '"),
        (",", "", "clusters, column 1: a pattern is missing in ','"),
        (f"{'a' * 70},", "", f"clusters, column 72: a pattern is missing in '{'a' * 60}…'"),
        (" ", "", "clusters, column 1: ' ' is blank: name a cluster, or write '*' for all of them"),
        ("\t\u2003", "", "clusters, column 1: '\\t\\u2003' is blank"),
        (" ", "region=eu", "clusters, column 1: ' ' is blank"),
        ("", "\t", "labels, column 1: '\\t' is blank: write as in 'region=eu,!legacy'"),
        ("*", "  ", "labels, column 1: '  ' is blank"),
        ("", ",", "labels, column 1: a label's key or a tag is expected, ',' found"),
        ("", "a, ,b", "labels, column 4: a label's key or a tag is expected, ',' found"),
        ("ok,Shop", "", "clusters, column 4: 'Shop' cannot be the name of a cluster"),
        ("n=1", "", "clusters, column 1: 'n=1' cannot be the name of a cluster; for a label write -l n=1"),
        ("a,b[1-", "", "clusters, column 4: '[' is never closed"),
        ("*" * 1001, "", "clusters, column 1: a pattern has at most 1,000 characters"),
        ("/eu", "", "clusters, column 1: a name is missing in the path"),
        ("a,eu//x", "", "clusters, column 6: a name is missing in the path"),
        ("eu/X", "", "clusters, column 4: 'X' cannot be in a path"),
        ("*/" * 200 + "a", "", "clusters, column 1001: it is longer than 1,000 characters"),
        ("a,re:", "", "clusters, column 3: a regular expression is missing"),
        ("re:(?=x)", "", "clusters, column 4: only '(…)' and '(?:…)' are supported"),
        ("a,re:x)", "", "clusters, column 7: ')' without '('"),
        (",".join(["a*"] * 200 + ["b/c"] * 57), "", "clusters, column 1: at most 256 patterns"),
        ("", ",".join(["a"] * 257), "labels, column 513: at most 256 conditions"),
        ("", "=x", "labels, column 1: a label's key or a tag is expected, '=' found"),
        ("", "a,", "labels, column 3: a label's key or a tag is expected, the end found"),
        ("", "a b", "labels, column 3: 'b' is not expected here"),
        ("", "a in b", "labels, column 6: values in brackets are expected"),
        ("", "a in (b", "labels, column 8: ',' or ')' is expected"),
        ("", "a>x", "labels, column 3: 'x' is not a whole number"),
        ("", "a>", "labels, column 3: a whole number is expected, the end found"),
        ("", "a~b", "labels, column 2: '~' cannot be in a label selector"),
        ("", "-a=b", "labels, column 1: '-a' cannot be the key of a label"),
        ("", "a=-b", "labels, column 3: '-b' cannot be the value of a label"),
    ],
)
def test_what_is_wrong_is_told_with_its_column(clusters: str, labels: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        compile_selector(clusters, labels)
    assert caught.value.reason == "INVALID_SELECTOR"
    assert caught.value.message.startswith(message)


def test_explain_tells_term_by_term_why() -> None:
    selector = compile_selector("shop-1,*us*,*gpu*,gol*,sh*,eu/**,re:x", "region=eu,!legacy,legacy")
    assert selector.explain(SHOP_1) == [
        "shop-1: yes, the name is shop-1",
        "*us*: no, neither the name shop-1 nor a tag nor the value of a label matches",
        "*gpu*: yes, it matches the tag gpu-a100",
        "gol*: yes, it matches the label tier=gold",
        "sh*: yes, it matches the name shop-1",
        "eu/**: yes, the path is root/eu/de/shop-1",
        "re:x: no, neither the name shop-1 nor a tag nor the value of a label matches",
        "region=eu: yes, the label region is 'eu'",
        "!legacy: yes, there is no label or tag legacy",
        "legacy: no, there is no label or tag legacy",
    ]
    assert compile_selector("", "legacy").explain(SHOP_2) == ["legacy: yes, the tag legacy is there"]
    assert compile_selector().explain(ROOT) == ["no condition: every cluster is meant"]


def test_a_selector_tells_what_it_is() -> None:
    selector = compile_selector("a,b-*", "x=y")
    assert repr(selector) == "Selector(clusters='a,b-*', labels='x=y')"
    assert selector.exact_names == {"a"}
    assert not selector.everything
    assert compile_selector().everything


def test_many_different_values_are_not_remembered_without_bound() -> None:
    selector = compile_selector("*x")
    clusters = [Cluster(f"c{number}", {"site": f"site-{number}"}) for number in range(10_000)]
    assert selector.select(clusters) == []
    assert selector.matches(Cluster("c", {"site": "site-x"}))


def test_ten_thousand_names_are_no_burden() -> None:
    clusters = [Cluster(f"shop-{number}") for number in range(20_000)]
    begun = time.process_time()
    selector = compile_selector(",".join(one.name for one in clusters[::2]))
    assert selector.select(clusters) == clusters[::2]
    assert time.process_time() - begun < (1 if sys.gettrace() is None else 5)


def test_a_hundred_thousand_clusters_match_in_no_time() -> None:
    clusters = [
        Cluster(
            f"shop-{number}",
            {"region": f"r{number % 10}", "tier": "gold" if number % 3 else "silver"},
            ("gpu", "prod") if number % 7 == 0 else ("prod",),
        )
        for number in range(100_000)
    ]
    selectors = [
        compile_selector("*7*x,shop-1*"),
        compile_selector("", "region=r3,tier in (gold,silver),!gpu"),
        compile_selector("", "gpu"),
    ]
    limit = 0.3 if sys.gettrace() is None else 2.0  # counting covered lines costs time
    for selector in selectors:
        assert min(_seconds(selector, clusters) for _ in range(3)) < limit


def _seconds(selector: Selector, clusters: list[Cluster]) -> float:
    begun = time.process_time()
    selector.select(clusters)
    return time.process_time() - begun


words = st.text("abc", min_size=1, max_size=4)
clusters_strategy = st.builds(
    Cluster,
    words,
    st.dictionaries(words, words, max_size=2),
    st.lists(words, max_size=2).map(tuple),
)
globs = st.text("abc*?", min_size=1, max_size=5)
conditions = st.one_of(
    st.builds("{}={}".format, words, words),
    st.builds("{}!={}".format, words, words),
    words,
    st.builds("!{}".format, words),
    st.builds("{} in ({},{})".format, words, words, words),
    st.builds("{} notin ({})".format, words, words),
)


def _naive(one: Cluster, patterns: list[str], requirements: list[str]) -> bool:
    def pattern_matches(pattern: str) -> bool:
        if not set(pattern) & set("*?"):
            return one.name == pattern
        return any(fnmatch.fnmatchcase(text, pattern) for text in (one.name, *one.tags, *one.labels.values()))

    def holds(requirement: str) -> bool:
        parts = re.fullmatch(r"(!?)(\w+)(?:(!?=)(\w+)| (in|notin) \(([\w,]*)\))?", requirement)
        assert parts is not None
        key = parts[2]
        value = one.labels.get(key, "" if key in one.tags else None)
        if parts[3]:
            return (value == parts[4]) == (parts[3] == "=")
        if parts[5]:
            return (value in parts[6].split(",")) == (parts[5] == "in")
        return (value is None) == bool(parts[1])

    return (not patterns or any(map(pattern_matches, patterns))) and all(map(holds, requirements))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(clusters_strategy, max_size=8),
    st.lists(globs, max_size=3),
    st.lists(conditions.filter(lambda text: not text.startswith("in ")), max_size=3),
)
def test_selecting_does_what_reading_the_rules_aloud_does(
    tree: list[Cluster], patterns: list[str], requirements: list[str]
) -> None:
    selector = compile_selector(",".join(patterns), ",".join(requirements))
    assert selector.select(tree) == [one for one in tree if _naive(one, patterns, requirements)]


path_names = st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=4)
path_patterns = st.lists(st.sampled_from(["a", "b", "*", "a*", "?", "**"]), min_size=2, max_size=4)


def _path_matches(names: list[str], pattern: list[str]) -> bool:
    if not pattern:
        return not names
    if pattern[0] == "**":
        least = 1 if len(pattern) == 1 else 0
        return any(_path_matches(names[at:], pattern[1:]) for at in range(least, len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], pattern[0]) and _path_matches(names[1:], pattern[1:])


@settings(max_examples=150, deadline=None)
@given(path_names, path_patterns)
def test_a_path_pattern_matches_name_by_name(below: list[str], pattern: list[str]) -> None:
    one = Cluster(below[-1], path=("entry", *below))
    assert compile_selector("/".join(pattern)).matches(one) == _path_matches(below, pattern)


@pytest.mark.parametrize("pattern", ["", "*", "shop-*", "shop-[0-9]?", "[!a]*", "a" * 63, "*-*", "[a-c-]x"])
def test_a_pattern_of_names_that_some_name_matches_is_taken(pattern: str) -> None:
    assert check_name_pattern(pattern) == pattern


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("[", "'[' at 1"),
        ("Foo/*", "'F' at 1"),
        ("shop/*", "'/' at 5"),
        ("shop-[A-Z]", "'[' at 6"),
        ("-*", "begin and end"),
        ("shop-", "begin and end"),
        ("?" * 64 + "*", "at most 63 characters"),
        ("*" * 1001, "at most 63 characters"),
        ("shop-[9-0]", "a set of characters is empty"),
        ("edge-*,shop-*", "make a token for each"),
    ],
)
def test_a_pattern_that_no_name_can_match_is_refused_with_the_reason(pattern: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(why)) as caught:
        check_name_pattern(pattern)
    assert caught.value.reason == "INVALID_NAME_PATTERN"
