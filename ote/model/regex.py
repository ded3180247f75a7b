"""Regular expressions without backtracking: a pattern becomes an automaton that reads each character once.

What lives here: a documented subset of the usual syntax, matched against a whole text of ASCII characters, in time
linear in the text whatever the pattern. What does not: searching, groups to read back, look-around, back references:
these are what makes an engine backtrack, so they are refused.

The subset: characters, `.`, `[a-z]`, `[^a-z]`, `\\d \\w \\s` and their capitals, `\\` before punctuation, `|`, `( )`,
`(?: )`, `* + ? {m} {m,} {m,n}` (a following `?` changes nothing about a whole match), `^` first and `$` last.

The one idea: Thompson's construction, with the deterministic states made when a text first needs them.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

from ote.model.errors import InvalidArgument

MAX_LENGTH = 1_000
"""Characters in a pattern."""
MAX_NODES = 2_000
"""States of the automaton after repetitions are written out."""
MAX_WORK = 3_000_000
"""Nodes visited while deterministic states are made, in the life of a pattern: about a second. An everyday pattern
makes a handful of states and is done with it; one that makes new ones for every text would keep a controller busy."""
_MAX_DEPTH = 40
_MAX_REPEAT = 1_000
_MAX_CACHED_STATES = 1_000

_ASCII = frozenset(map(chr, range(128)))
_CLASSES = {
    "d": frozenset(string.digits),
    "w": frozenset(string.ascii_letters + string.digits + "_"),
    "s": frozenset(string.whitespace),
}
_CLASSES |= {name.upper(): _ASCII - members for name, members in _CLASSES.items()}


class RegexError(InvalidArgument):
    """The pattern is not in the subset, or takes too much work (INVALID_SELECTOR).

    `position` counts characters from 0; the message says what next.
    """

    def __init__(self, message: str, position: int) -> None:
        super().__init__("INVALID_SELECTOR", message)
        self.position = position


@dataclass(frozen=True)
class _Char:
    members: frozenset[str]


@dataclass(frozen=True)
class _Sequence:
    parts: Sequence[_Node]


@dataclass(frozen=True)
class _Choice:
    parts: Sequence[_Node]


@dataclass(frozen=True)
class _Repeat:
    part: _Node
    least: int
    most: int | None


_Node = _Char | _Sequence | _Choice | _Repeat


class _Parser:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0
        self._depth = 0

    def parse(self) -> _Node:
        if len(self._text) > MAX_LENGTH:
            raise RegexError(f"it is longer than {MAX_LENGTH:,} characters", MAX_LENGTH)
        self._accept("^")
        node = self._choice()
        if self._at < len(self._text):
            raise RegexError("')' without '(': remove it, or write '\\)'", self._at)
        return node

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _accept(self, token: str) -> bool:
        if self._text.startswith(token, self._at):
            self._at += len(token)
            return True
        return False

    def _choice(self) -> _Node:
        parts = [self._sequence()]
        while self._accept("|"):
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else _Choice(parts)

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self._peek() not in ("", "|", ")"):
            if self._peek() == "$" and self._at == len(self._text) - 1:
                self._at += 1
                break
            parts.append(self._repeated())
        return _Sequence(parts)

    def _repeated(self) -> _Node:
        node = self._atom()
        while True:
            start = self._at
            if self._accept("*"):
                least, most = 0, None
            elif self._accept("+"):
                least, most = 1, None
            elif self._accept("?"):
                least, most = 0, 1
            elif self._peek() == "{":
                least, most = self._counts()
            else:
                return node
            if self._peek() == "+":
                raise RegexError("possessive repetition is not supported: remove the second '+'", self._at)
            self._accept("?")
            if isinstance(node, _Repeat):
                raise RegexError("a repetition of a repetition: put the first into brackets '(…)'", start)
            node = _Repeat(node, least, most)

    def _counts(self) -> tuple[int, int | None]:
        start = self._at
        end = self._text.find("}", start)
        low, comma, high = self._text[start + 1 : end].partition(",") if end > 0 else ("", "", "")
        if not low.isdecimal() or (high and not high.isdecimal()):
            raise RegexError("'{' begins a repetition: write {2}, {2,} or {2,5}, or '\\{' for the character", start)
        least = int(low)
        most = (int(high) if high else None) if comma else least
        if max(least, most or 0) > _MAX_REPEAT:
            raise RegexError(f"a repetition goes up to {_MAX_REPEAT:,}", start)
        if most is not None and most < least:
            raise RegexError("the second number of a repetition is the larger one", start)
        self._at = end + 1
        return least, most

    def _atom(self) -> _Node:
        start = self._at
        char = self._peek()
        if char == "(":
            return self._group()
        if char == "[":
            return _Char(self._set())
        if char == "\\":
            return _Char(self._escape())
        self._at += 1
        if char == ".":
            return _Char(_ASCII)
        if char in "*+?{":
            raise RegexError(f"nothing to repeat before {char!r}: write '.{char}', or '\\{char}'", start)
        if char in "^$":
            raise RegexError(f"{char!r} stands only at the ends: the whole text is matched anyway", start)
        return _Char(self._literal(char, start))

    def _group(self) -> _Node:
        start = self._at
        self._at += 1
        if self._peek() == "?" and not self._accept("?:"):
            raise RegexError("only '(…)' and '(?:…)' are supported: no look-around, flags or names", start)
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise RegexError(f"brackets are nested deeper than {_MAX_DEPTH}", start)
        node = self._choice()
        if not self._accept(")"):
            raise RegexError("'(' is never closed", start)
        self._depth -= 1
        return node

    def _set(self) -> frozenset[str]:
        start = self._at
        self._at += 1
        negated = self._accept("^")
        members: set[str] = set()
        first = True
        while first or self._peek() != "]":
            first = False
            low = self._set_member(start)
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in ("", "]"):
                dash = self._at
                self._at += 1
                high = self._set_member(start)
                if len(low) != 1 or len(high) != 1 or min(low) > min(high):
                    raise RegexError("not a range of characters: write the smaller one first, as in 'a-z'", dash)
                low = frozenset(map(chr, range(ord(min(low)), ord(min(high)) + 1)))
            members |= low
        self._at += 1
        return _ASCII - members if negated else frozenset(members)

    def _set_member(self, start: int) -> frozenset[str]:
        char = self._peek()
        if not char:
            raise RegexError("'[' is never closed", start)
        if char == "\\":
            return self._escape()
        self._at += 1
        return self._literal(char, self._at - 1)

    def _escape(self) -> frozenset[str]:
        start = self._at
        char = self._text[start + 1 : start + 2]
        self._at += 2
        if char in _CLASSES:
            return _CLASSES[char]
        if not char or char.isalnum():
            raise RegexError(f"'\\{char}' is not supported: \\d, \\w, \\s and punctuation are", start)
        return self._literal(char, start)

    @staticmethod
    def _literal(char: str, position: int) -> frozenset[str]:
        if char not in _ASCII:
            raise RegexError(f"{char!r} matches nothing: names, tags and labels are ASCII", position)
        return frozenset(char)


class _Machine:
    """The automaton: node i reads a character of `reads[i]` on its way to `then[i][0]`, or splits into `then[i]`."""

    def __init__(self) -> None:
        self.reads: list[frozenset[str] | None] = []
        self.then: list[tuple[int, ...]] = []

    def add(self, reads: frozenset[str] | None, then: tuple[int, ...]) -> int:
        if len(self.reads) >= MAX_NODES:
            raise RegexError("it is too large: use smaller repetitions", 0)
        self.reads.append(reads)
        self.then.append(then)
        return len(self.reads) - 1

    def build(self, node: _Node, after: int) -> int:
        """Adds what matches the node and goes on at `after`; returns where it begins."""
        if isinstance(node, _Char):
            return self.add(node.members, (after,))
        if isinstance(node, _Sequence):
            for part in reversed(node.parts):
                after = self.build(part, after)
            return after
        if isinstance(node, _Choice):
            return self.add(None, tuple(self.build(part, after) for part in node.parts))
        return self._build_repeat(node, after)

    def _build_repeat(self, node: _Repeat, after: int) -> int:
        part = node.part
        if node.most is None:
            loop = self.add(None, ())
            self.then[loop] = (self.build(part, loop), after)
            after = loop
        else:
            end = after
            for _ in range(node.most - node.least):
                after = self.add(None, (self.build(part, after), end))
        for _ in range(node.least):
            before = self.build(part, after)
            if before == after:
                break
            after = before
        return after

    def closure(self, nodes: Sequence[int]) -> frozenset[int]:
        """All nodes reached without reading, as far as they read or end."""
        seen: set[int] = set()
        waiting = list(nodes)
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                if self.reads[node] is None:
                    waiting.extend(self.then[node])
        return frozenset(node for node in seen if self.reads[node] is not None or not self.then[node])


class _State(dict[str, "_State"]):
    """A deterministic state: a set of nodes, and by character the states after it as far as they are known."""

    __slots__ = ("accepting", "nodes", "pattern")

    def __init__(self, pattern: Regex, nodes: frozenset[int]) -> None:
        self.pattern = pattern
        self.nodes = nodes
        self.accepting = 0 in nodes

    def __missing__(self, char: str) -> _State:
        return self.pattern._step(self, char)


class Regex:
    """A compiled pattern. Raises RegexError when the pattern is not in the subset.

    So does matching, once the pattern has taken MAX_WORK.
    """

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self._machine = _Machine()
        self._end = self._machine.add(None, ())
        start = self._machine.build(_Parser(pattern).parse(), self._end)
        self._states: dict[frozenset[int], _State] = {}
        self._work = 0
        self._start = _State(self, self._machine.closure([start]))

    def fullmatch(self, text: str) -> bool:
        """Whether the whole text matches."""
        state = self._start
        for char in text:
            state = state[char]
            if not state.nodes:
                return False
        return state.accepting

    def _step(self, state: _State, char: str) -> _State:
        machine = self._machine
        reached = [machine.then[node][0] for node in state.nodes if char in (machine.reads[node] or ())]
        nodes = machine.closure(reached)
        self._work += len(state.nodes) + len(nodes) + 1
        if self._work > MAX_WORK:
            raise RegexError(f"the regular expression {self.pattern!r} takes too long: use fewer repetitions", 0)
        following = self._states.get(nodes)
        if following is None:
            if len(self._states) >= _MAX_CACHED_STATES:
                self._forget()
            following = self._states[nodes] = _State(self, nodes)
        state[char] = following
        return following

    def _forget(self) -> None:
        for state in self._states.values():
            state.clear()
        self._states.clear()
        self._start.clear()
