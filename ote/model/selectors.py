"""Which clusters are meant: names, globs, paths and regular expressions, and Kubernetes label selectors.

What lives here: the grammar, its errors, and matching. What does not: where clusters come from, and what an empty match
means. The one idea: a selector is compiled once into a few tests over plain attributes; all exact names become one set
and all globs one expression, so that a cluster costs the same however long the selector is.

    clusters   "a,edge-*,eu/*/shop-*,re:x+"
               comma is or; a bare word is an exact name; a glob (* ? [a-c] [!a-c]) matches the name, or any tag, or
               any label's value; a pattern with "/" matches the path below the entry, where "**" stands for any number
               of names (at the end: at least one) and the entry's own name may come first; "re:" is a regular
               expression (see `ote.model.regex`) over the same texts as a glob, or over the path if it has a "/".
               Everything is matched whole, and in its case.
    labels     "region=eu,tier in (gold,silver),!legacy"
               comma is and; KEY, !KEY, =, ==, !=, in (…), notin (…), >, <. A tag is a label with an empty value.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, Protocol, TypeVar

from ote.model import label_selectors
from ote.model.errors import InvalidArgument
from ote.model.names import MAX_NAME, is_name
from ote.model.regex import Regex, RegexError

_GLOB = frozenset("*?[")
_SPACE = re.compile(r"\s*")
_MAX_GLOB = 1_000
_NOTHING = "(?!)"
"""What fnmatch makes of a set that no character is in."""
_MAX_CACHED_TEXTS = 4_096
MAX_PATTERNS = 256
"""Patterns that are not names, in one selector: each is tried on every cluster. Names are without limit."""


class Selectable(Protocol):
    """What a selector looks at. `path` is names from the entry (first) down to the cluster itself (last)."""

    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def tags(self) -> Iterable[str]: ...
    @property
    def path(self) -> Sequence[str]: ...


_Cluster = TypeVar("_Cluster", bound=Selectable)


@dataclass(frozen=True, slots=True)
class _Term:
    """One pattern of the clusters part. `test` says whether it matches, `why` says in words how it does or does not."""

    kind: Literal["name", "glob", "regex", "path"]
    text: str
    test: Callable[[Selectable], bool]
    why: Callable[[Selectable], str]


class Selector:
    """A compiled selector. Immutable for the caller, made by `compile_selector`.

    clusters, labels: the source. everything: there is no condition at all. exact_names: the bare words of the clusters
    part, for telling which of them name nothing.
    """

    def __init__(
        self,
        clusters: str,
        labels: str,
        *,
        exact_names: frozenset[str],
        terms: Sequence[_Term],
        tests: Sequence[Callable[[Selectable], bool]],
        requirements: Sequence[label_selectors.Requirement],
    ) -> None:
        self.clusters = clusters
        self.labels = labels
        self.exact_names = exact_names
        self.everything = not terms and not requirements
        self._terms = terms
        self._tests = tests
        self._requirements = requirements

    def __repr__(self) -> str:
        return f"Selector(clusters={self.clusters!r}, labels={self.labels!r})"

    def matches(self, cluster: Selectable) -> bool:
        """Whether the cluster is meant."""
        if self._tests and not any(test(cluster) for test in self._tests):
            return False
        return all(requirement.test(cluster) for requirement in self._requirements)

    def select(self, clusters: Iterable[_Cluster]) -> list[_Cluster]:
        """The clusters that are meant, in their order."""
        meant = list(clusters)
        for requirement in self._requirements:
            holds = requirement.test
            meant = [cluster for cluster in meant if holds(cluster)]
        if len(self._tests) == 1:
            test = self._tests[0]
            return [cluster for cluster in meant if test(cluster)]
        if self._tests:
            return [cluster for cluster in meant if any(test(cluster) for test in self._tests)]
        return meant

    def explain(self, cluster: Selectable) -> list[str]:
        """Per term, one line that says whether and why it matches. At least one line."""
        lines = [_line(term.text, term.test(cluster), term.why(cluster)) for term in self._terms]
        lines += [_line(one.text, one.test(cluster), one.why(cluster)) for one in self._requirements]
        return lines or ["no condition: every cluster is meant"]


@lru_cache(maxsize=64)
def compile_selector(clusters: str = "", labels: str = "") -> Selector:
    """Compiles both parts; where both are given both must hold, where none is given everything matches.

    A part that is not empty but blank says nothing, and so does not mean everything: it is refused.

    Raises InvalidArgument (INVALID_SELECTOR) that says what is wrong, at which column, and what to write instead.
    """
    terms = [_term(text, column) for text, column in _split(clusters)]
    names = frozenset(term.text for term in terms if term.kind == "name")
    globs = [fnmatch.translate(term.text) for term in terms if term.kind == "glob"]
    tests = [term.test for term in terms if term.kind in ("regex", "path")]
    if len(globs) + len(tests) > MAX_PATTERNS:
        raise _error(1, f"at most {MAX_PATTERNS} patterns, names aside: use a label")
    if globs:
        tests.insert(0, _glob_test("|".join(globs)))
    if names:
        tests.insert(0, _name_test(names))
    requirements = label_selectors.parse(labels)
    return Selector(clusters, labels, exact_names=names, terms=terms, tests=tests, requirements=requirements)


def check_name_pattern(pattern: str) -> str:
    """Returns a glob over names alone. Raises InvalidArgument (INVALID_NAME_PATTERN) where no name can match it."""
    if "," in pattern:
        raise _no_such_name(pattern, "it is one glob, not a list: make a token for each")
    at = shortest = 0
    while at < len(pattern):
        token = _GLOB_TOKEN.match(pattern, at)
        if token is None:
            raise _no_such_name(pattern, f"{pattern[at]!r} at {at + 1}: it takes a-z, 0-9, '-', '*', '?' and '[a-z]'")
        shortest += token[0] != "*"
        at = token.end()
    if pattern.startswith("-") or pattern.endswith("-"):
        raise _no_such_name(pattern, "names begin and end with a letter or digit")
    if shortest > MAX_NAME or len(pattern) > _MAX_GLOB:
        raise _no_such_name(pattern[:80], f"names have at most {MAX_NAME} characters")
    if _NOTHING in fnmatch.translate(pattern):
        raise _no_such_name(pattern, "a set of characters is empty: write '[a-z]', not '[z-a]'")
    return pattern


def _no_such_name(pattern: str, why: str) -> InvalidArgument:
    return InvalidArgument("INVALID_NAME_PATTERN", f"no name can match {pattern!r}: {why}")


def _line(text: str, holds: bool, why: str) -> str:
    return f"{text}: {'yes' if holds else 'no'}, {why}"


def _error(column: int, message: str) -> InvalidArgument:
    return InvalidArgument("INVALID_SELECTOR", f"clusters, column {column}: {message}")


def _split(clusters: str) -> list[tuple[str, int]]:
    """The patterns with their columns, from 1. A comma inside the brackets of a regular expression does not split."""
    if not clusters:
        return []
    if clusters.isspace():
        raise _error(1, f"{label_selectors.shown(clusters)} is blank: name a cluster, or write '*' for all of them")
    parts: list[tuple[str, int]] = []
    start = 0
    while start <= len(clusters):
        begin = _SPACE.match(clusters, start).end()  # type: ignore[union-attr]  # it always matches
        end = _end_of_regex(clusters, begin) if clusters.startswith("re:", begin) else clusters.find(",", begin)
        end = len(clusters) if end < 0 else end
        text = clusters[begin:end].strip()
        if not text:
            raise _error(
                begin + 1,
                f"a pattern is missing in {label_selectors.shown(clusters)}: remove the comma, or name a cluster",
            )
        parts.append((text, begin + 1))
        start = end + 1
    return parts


_REGEX_TOKEN = re.compile(r"\\.?|\[\^?(?:\\.?|.)(?:\\.?|[^\]\\])*(?:\]|\Z)|.", re.DOTALL)
"""A character of a regular expression, an escaped one or a set."""


def _end_of_regex(clusters: str, begin: int) -> int:
    depth = 0
    for token in _REGEX_TOKEN.finditer(clusters, begin):
        if token[0] in ("(", "{"):
            depth += 1
        elif token[0] in (")", "}"):
            depth -= 1
        elif token[0] == "," and depth <= 0:
            return token.start()
    return len(clusters)


def _term(text: str, column: int) -> _Term:
    if text.startswith("re:"):
        return _regex(text, column)
    if "/" in text:
        return _path(text, column)
    if _GLOB.isdisjoint(text):
        return _exact(text, column)
    return _glob(text, column)


def _exact(text: str, column: int) -> _Term:
    if not is_name(text):
        raise _error(
            column,
            f"{text!r} cannot be the name of a cluster; "
            + (
                f"for a label write -l {text}"
                if "=" in text
                else f"for a tag or the value of a label write '*{text}*', or use -l"
            ),
        )
    return _Term("name", text, _name_test(frozenset((text,))), lambda cluster: f"the name is {cluster.name}")


def _name_test(names: frozenset[str]) -> Callable[[Selectable], bool]:
    return lambda cluster: cluster.name in names


def _glob(text: str, column: int) -> _Term:
    _check_glob(text, column)
    source = fnmatch.translate(text)
    return _Term("glob", text, _glob_test(source), _why_any(re.compile(source).match))


def _check_glob(text: str, column: int) -> None:
    if len(text) > _MAX_GLOB:
        raise _error(column, f"a pattern has at most {_MAX_GLOB:,} characters")
    at = text.find("[")
    while at >= 0:
        closing = text.find("]", at + 2 + text.startswith("!", at + 1))
        if closing < 0:
            raise _error(column + at, "'[' is never closed: write a set of characters as in '[0-9]'")
        at = text.find("[", closing)


def _glob_test(source: str) -> Callable[[Selectable], bool]:
    match = re.compile(source).match
    return _any_test(lambda text: match(text) is not None, lambda name: match(name))


class _Verdicts(dict[str, bool]):
    """Whether texts match, remembered: tags and values of labels are shared by many clusters."""

    def __init__(self, matches: Callable[[str], bool]) -> None:
        super().__init__()
        self._matches = matches

    def __missing__(self, text: str) -> bool:
        if len(self) >= _MAX_CACHED_TEXTS:
            self.clear()
        verdict = self[text] = self._matches(text)
        return verdict


def _any_test(matches: Callable[[str], bool], on_name: Callable[[str], object]) -> Callable[[Selectable], bool]:
    verdict = _Verdicts(matches).__getitem__

    def test(cluster: Selectable) -> bool:
        if on_name(cluster.name):
            return True
        return any(map(verdict, cluster.tags)) or any(map(verdict, cluster.labels.values()))

    return test


def _why_any(matches: Callable[[str], object]) -> Callable[[Selectable], str]:
    def why(cluster: Selectable) -> str:
        if matches(cluster.name):
            return f"it matches the name {cluster.name}"
        for tag in sorted(cluster.tags):
            if matches(tag):
                return f"it matches the tag {tag}"
        for key, value in sorted(cluster.labels.items()):
            if matches(value):
                return f"it matches the label {key}={value}"
        return f"neither the name {cluster.name} nor a tag nor the value of a label matches"

    return why


def _compile_regex(source: str, column: int) -> Regex:
    try:
        return Regex(source)
    except RegexError as error:
        raise _error(column + error.position, str(error)) from None


def _regex(text: str, column: int) -> _Term:
    source = text.removeprefix("re:")
    regex = _compile_regex(source, column + 3)
    if not source:
        raise _error(column, "a regular expression is missing after 're:'")
    if "/" in source:
        return _Term("regex", text, lambda cluster: regex.fullmatch("/".join(cluster.path[1:])), _why_path)
    return _Term("regex", text, _any_test(regex.fullmatch, regex.fullmatch), _why_any(regex.fullmatch))


def _path(text: str, column: int) -> _Term:
    names = text.split("/")
    source = ""
    at = column
    for index, name in enumerate(names):
        last = index == len(names) - 1
        if name == "**":
            source += ".+" if last else "(?:[^/]+/)*"
        else:
            source += _path_name(name, at) + ("" if last else "/")
        at += len(name) + 1
    regex = _compile_regex(source, column)
    first = names[0]

    def test(cluster: Selectable) -> bool:
        path = cluster.path
        if regex.fullmatch("/".join(path[1:])):
            return True
        return bool(path) and path[0] == first and regex.fullmatch("/".join(path))

    return _Term("path", text, test, _why_path)


_GLOB_TOKEN = re.compile(r"\*|\?|\[(!?)((?:[a-z0-9]-[a-z0-9]|[a-z0-9-])+)\]|[a-z0-9-]")
_SET_TOKEN = re.compile(r"[a-z0-9]-[a-z0-9]|.")


def _path_name(glob: str, column: int) -> str:
    """A regular expression for one name of a path pattern."""
    if not glob:
        raise _error(column, "a name is missing in the path: a path begins below the entry and has no '//' in it")
    source = ""
    at = 0
    while at < len(glob):
        token = _GLOB_TOKEN.match(glob, at)
        if token is None:
            raise _error(column + at, f"{glob[at]!r} cannot be in a path: it takes names, '*', '?', '[a-z]' and '**'")
        if token[2]:
            members = "".join("\\-" if one == "-" else one for one in _SET_TOKEN.findall(token[2]))
            source += f"[^/{members}]" if token[1] else f"[{members}]"
        else:
            source += {"*": "[^/]*", "?": "[^/]"}.get(token[0], token[0])
        at = token.end()
    return source


def _why_path(cluster: Selectable) -> str:
    return f"the path is {'/'.join(cluster.path)}"
