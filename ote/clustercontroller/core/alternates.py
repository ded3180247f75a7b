"""Which candidates each child is told for the time when it loses this parent: at most 4 + 1 + 4, chosen per child.

The one idea (rule 10): a thousand children must not all run to the same door, and no list may grow with the number of
siblings. Siblings sit on a ring of hashes; a child looks at a few behind its own place, and orders them by a hash of
both. So a list costs the same beside ten siblings and beside ten thousand, and a newcomer changes few of them.
Not here: sending them (`children`), what is done with them (`parents`).
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterable
from zlib import crc32

from ote.clustercontroller.core.messages import Alternate, Alternates

MOST_UNCLES = 4
MOST_SIBLINGS = 4
_WINDOW = 8
_APART_EACH = 0.005
"""Seconds between two rounds, for each child, up to:"""
_MOST_APART = 5.0
_NEVER = float("inf")


class Candidates:
    """All candidates as they stand now; asked once for each child. Compares equal when it would say the same."""

    def __init__(
        self,
        own: Alternate | None,
        uncles: Iterable[Alternate],
        grandparent: Alternate | None,
        siblings: Iterable[Alternate],
    ) -> None:
        self._own = own
        self._uncles = list(uncles)
        self._grandparent = grandparent
        self._ring = sorted((_hash(sibling.uid), sibling) for sibling in siblings)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidates) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]

    def for_child(self, uid: str) -> Alternates:
        """The lists for one child, each in the order of that child."""
        grandparent = self._grandparent
        return Alternates(
            uncles=_in_order(uid, self._uncles)[:MOST_UNCLES],
            grandparent=None if grandparent is None or grandparent.uid == uid else grandparent,
            siblings=_in_order(uid, self._behind(uid))[:MOST_SIBLINGS],
            parent=self._own,
        )

    def _behind(self, uid: str) -> list[Alternate]:
        ring = self._ring
        start = bisect(ring, _hash(uid), key=lambda place: place[0])
        return [ring[(start + step) % len(ring)][1] for step in range(min(_WINDOW, len(ring)))]


class Rounds:
    """When all children are told their lists anew, `at`: at once where they are few, and never too often where they are
    many. Siblings, who come and go one by one, do not delay what came from above."""

    def __init__(self) -> None:
        self.at = _NEVER
        self._told = self._above_told = -_NEVER

    def siblings_changed(self, now: float, children: int) -> None:
        if self.at == _NEVER:
            self.at = max(now, self._told + _apart(children))

    def above_changed(self, now: float, children: int) -> None:
        self.at = min(self.at, max(now, self._above_told + _apart(children)))

    def told(self, now: float, above: bool) -> None:
        """A round is made; `above`: with news from there."""
        self.at, self._told = _NEVER, now
        if above:
            self._above_told = now


def _apart(children: int) -> float:
    return min(_MOST_APART, _APART_EACH * children)


def _in_order(uid: str, candidates: list[Alternate]) -> list[Alternate]:
    others = [candidate for candidate in candidates if candidate.uid != uid]
    return sorted(others, key=lambda candidate: _hash(f"{uid} {candidate.uid}"))


def _hash(text: str) -> int:
    return crc32(text.encode())
