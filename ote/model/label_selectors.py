"""Kubernetes label selectors: the grammar and its tests. A tag counts as a label with an empty value.

What lives here: the labels part of a selector. What does not: the clusters part (`selectors`).
As in Kubernetes, `!=` and `notin` hold also for a cluster without the label.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from ote.model.errors import InvalidArgument
from ote.model.names import check_label_key, check_label_value


class Labelled(Protocol):
    """What a requirement looks at."""

    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def tags(self) -> Iterable[str]: ...


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition. `test` says whether it holds."""

    text: str
    key: str
    test: Callable[[Labelled], bool]

    def why(self, cluster: Labelled) -> str:
        """What the cluster has under the key, in words."""
        value = cluster.labels.get(self.key)
        if value is not None:
            return f"the label {self.key} is {value!r}"
        return f"the tag {self.key} is there" if self.key in cluster.tags else f"there is no label or tag {self.key}"


MAX_REQUIREMENTS = 256
"""Conditions in one selector: each is tried on every cluster."""

_MAX_SHOWN = 60

_TOKEN = re.compile(r"\s*(?:(?P<word>[A-Za-z0-9_./-]+)|(?P<sign>==|!=|[=!<>(),])|(?P<end>$)|(?P<bad>.))", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    is_word: bool
    column: int
    end: int


def parse(source: str) -> list[Requirement]:
    """The requirements of a label selector; none for an empty one. Raises InvalidArgument (INVALID_SELECTOR).

    One that is not empty but blank is refused: it says nothing, and so does not mean everything.
    """
    if source.isspace():
        raise _error(1, f"{shown(source)} is blank: write as in 'region=eu,!legacy'")
    return _Parser(source).parse() if source else []


def shown(source: str) -> str:
    """A selector as it was written, quoted, for a message."""
    return repr(source if len(source) <= _MAX_SHOWN else f"{source[:_MAX_SHOWN]}…")


def _error(column: int, message: str) -> InvalidArgument:
    return InvalidArgument("INVALID_SELECTOR", f"labels, column {column}: {message}")


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = _tokens(source)
        self._next = 0

    def parse(self) -> list[Requirement]:
        requirements = [self._requirement()]
        while self._accept(","):
            if len(requirements) == MAX_REQUIREMENTS:
                raise _error(self._tokens[self._next].column, f"at most {MAX_REQUIREMENTS} conditions")
            requirements.append(self._requirement())
        token = self._tokens[self._next]
        if token.text:
            raise _error(token.column, f"{token.text!r} is not expected here: write ',' between conditions")
        return requirements

    def _accept(self, text: str) -> bool:
        token = self._tokens[self._next]
        if token.text != text:
            return False
        self._next += 1
        return True

    def _requirement(self) -> Requirement:
        start = self._tokens[self._next].column
        negated = self._accept("!")
        key = self._word("a label's key or a tag", check_label_key)
        test = _present(key, expected=False) if negated else self._condition(key)
        return Requirement(self._source[start - 1 : self._tokens[self._next - 1].end], key, test)

    def _condition(self, key: str) -> Callable[[Labelled], bool]:
        if self._accept("=") or self._accept("=="):
            return _one_of(key, frozenset((self._value(),)), expected=True)
        if self._accept("!="):
            return _one_of(key, frozenset((self._value(),)), expected=False)
        if self._accept("in"):
            return _one_of(key, self._values(), expected=True)
        if self._accept("notin"):
            return _one_of(key, self._values(), expected=False)
        if self._accept(">"):
            return _compared(key, self._number(), greater=True)
        if self._accept("<"):
            return _compared(key, self._number(), greater=False)
        return _present(key, expected=True)

    def _word(self, what: str, check: Callable[[str], str]) -> str:
        token = self._tokens[self._next]
        if not token.is_word:
            found = repr(token.text) if token.text else "the end"
            raise _error(token.column, f"{what} is expected, {found} found")
        try:
            check(token.text)
        except InvalidArgument as error:
            raise _error(token.column, error.message) from None
        self._next += 1
        return token.text

    def _value(self) -> str:
        """A value; nothing before the next sign is the empty one."""
        return self._word("a value", check_label_value) if self._tokens[self._next].is_word else ""

    def _values(self) -> frozenset[str]:
        opening = self._tokens[self._next]
        if not self._accept("("):
            raise _error(opening.column, "values in brackets are expected, as in 'tier in (gold,silver)'")
        values = {self._value()}
        while self._accept(","):
            values.add(self._value())
        token = self._tokens[self._next]
        if not self._accept(")"):
            raise _error(token.column, f"',' or ')' is expected: the brackets of column {opening.column} are open")
        return frozenset(values)

    def _number(self) -> int:
        token = self._tokens[self._next]
        number = _integer(self._word("a whole number", str))
        if number is None:
            raise _error(token.column, f"{token.text!r} is not a whole number of at most 18 digits")
        return number


def _tokens(source: str) -> list[_Token]:
    """Words and signs with their columns, from 1; an empty token marks the end."""
    tokens: list[_Token] = []
    at = 0
    while not tokens or tokens[-1].text:
        found = cast("re.Match[str]", _TOKEN.match(source, at))  # its last branch takes any character
        kind = found.lastgroup or ""
        token = _Token(found[kind], kind == "word", found.start(kind) + 1, found.end())
        if kind == "bad":
            raise _error(token.column, f"{token.text!r} cannot be in a label selector: write as in 'region=eu,!legacy'")
        tokens.append(token)
        at = token.end
    return tokens


def _effective(cluster: Labelled, key: str) -> str | None:
    value = cluster.labels.get(key)
    return "" if value is None and key in cluster.tags else value


def _present(key: str, *, expected: bool) -> Callable[[Labelled], bool]:
    return lambda cluster: (key in cluster.labels or key in cluster.tags) is expected


def _one_of(key: str, values: frozenset[str], *, expected: bool) -> Callable[[Labelled], bool]:
    return lambda cluster: (_effective(cluster, key) in values) is expected


def _integer(text: str | None) -> int | None:
    if text is None or len(text) > 19 or not re.fullmatch(r"-?[0-9]{1,18}", text):
        return None
    return int(text)


def _compared(key: str, limit: int, *, greater: bool) -> Callable[[Labelled], bool]:
    def test(cluster: Labelled) -> bool:
        number = _integer(cluster.labels.get(key))
        return number is not None and (number > limit if greater else number < limit)

    return test
