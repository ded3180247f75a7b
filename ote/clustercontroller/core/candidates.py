"""Who may become the parent: the configured one (home) and the alternates, in which order, and who has to wait.

The one idea (rule 10): classes in a fixed order (home, the parent's siblings, the grandparent, own siblings, the
parent as others reach it), inside a class the order of a hash over (child, candidate), so that a thousand orphans with
the same list do not all knock at the same door. A candidate that said when to come back is passed over until then; one
that drains comes last, and only to an orphan that has found no other.
Not here: dialling (`dialing`), what an answer means (`parents`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable

from ote.clustercontroller.core import records
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.messages import Alternate, Alternates, Welcome

_BELIEVE_DRAINING = 30.0


def key(candidate: Alternate) -> str:
    """What a candidate is known by: its name, or its address while the name is not known."""
    return candidate.name or candidate.address


def same(a: Alternate, b: Alternate) -> bool:
    """Whether both mean one controller."""
    return a.address == b.address or (a.name != "" and a.name == b.name)


class Candidates:
    """Home, alternates (kept on disk) and what is remembered of each candidate."""

    def __init__(self, ctx: Context, home: Alternate | None, alternates: Alternates | None) -> None:
        self._ctx = ctx
        self.home = home
        self.alternates = alternates or Alternates()
        self._wait: dict[str, float] = {}
        self._draining_until: dict[str, float] = {}
        self._first_beat: dict[str, int] = {}

    def told(self, alternates: Alternates) -> bool:
        """The parent's list, in place of the earlier one; whether it is another."""
        if alternates == self.alternates:
            return False
        self.alternates = alternates
        self._ctx.put("self", "alternates", records.AlternatesRow(alternates))
        known = {key(candidate) for candidate in self._all()}
        self._wait = {name: at for name, at in self._wait.items() if name in known}
        self._draining_until = {name: at for name, at in self._draining_until.items() if name in known}
        self._first_beat = {name: beat for name, beat in self._first_beat.items() if name in known}
        return True

    def is_home(self, candidate: Alternate) -> bool:
        return self.home is not None and same(self.home, candidate)

    def kind(self, candidate: Alternate) -> str:
        """Which class a candidate is of, as metrics name it."""
        lists = self.alternates
        if self.is_home(candidate):
            return "home"
        classes = {
            "same": [lists.parent] if lists.parent else [],
            "parent_sibling": lists.uncles,
            "grandparent": [lists.grandparent] if lists.grandparent else [],
            "own_sibling": lists.siblings,
        }
        return next((kind for kind, members in classes.items() if any(same(m, candidate) for m in members)), "other")

    def welcomed(self, candidate: Alternate, welcome: Welcome) -> Alternate:
        """Remember what a candidate said of itself; the candidate with its name and uid."""
        learned = Alternate(welcome.name, welcome.uid, candidate.address)
        if self.is_home(candidate):
            self.home = learned
        self._wait.pop(key(learned), None)
        self.drains(learned, welcome.draining)
        self._first_beat.setdefault(key(learned), welcome.standing.beat)
        return learned

    def advanced(self, candidate: Alternate, beat: int) -> bool:
        """Whether this beat is higher than the first one that this process saw of the candidate."""
        return beat > self._first_beat.get(key(candidate), beat)

    def drains(self, candidate: Alternate, on: bool) -> None:
        """It said whether it drains; believed for a while, then it is asked again."""
        if on:
            self._draining_until[key(candidate)] = self._ctx.now + _BELIEVE_DRAINING
        else:
            self._draining_until.pop(key(candidate), None)

    def wait(self, candidate: Alternate, seconds: float) -> None:
        """Pass over this one for so long."""
        self._wait[key(candidate)] = self._ctx.now + seconds

    def order(self, skip: Container[str], home_last: bool, last_resort: bool) -> list[tuple[Alternate, bool]]:
        """Candidates to try now, best first, each with whether it drains (tried only if `last_resort`).

        `skip`: keys of candidates that are in use. `home_last`: the configured parent is not the first choice.
        """
        willing: list[tuple[Alternate, bool]] = []
        draining: list[tuple[Alternate, bool]] = []
        seen: list[Alternate] = []
        for candidate in self._all(home_last):
            if key(candidate) in skip or any(same(candidate, other) for other in seen):
                continue
            seen.append(candidate)
            if self._wait.get(key(candidate), 0.0) > self._ctx.now:
                continue
            if self._draining_until.get(key(candidate), 0.0) > self._ctx.now:
                draining.append((candidate, True))
            else:
                willing.append((candidate, False))
        return willing + draining if last_resort else willing

    def only_home(self) -> bool:
        """Whether nobody but the configured parent is known."""
        return all(self.is_home(candidate) for candidate in self._all())

    def _all(self, home_last: bool = False) -> Iterable[Alternate]:
        lists = self.alternates
        classes = [
            self._hashed(lists.uncles),
            [lists.grandparent] if lists.grandparent else [],
            self._hashed(lists.siblings),
            [lists.parent] if lists.parent else [],
        ]
        classes.insert(len(classes) if home_last else 0, [self.home] if self.home else [])
        for members in classes:
            for candidate in members:
                if candidate.uid != self._ctx.uid and candidate.name != self._ctx.name:
                    yield candidate

    def _hashed(self, members: list[Alternate]) -> list[Alternate]:
        own = self._ctx.uid
        return sorted(
            members, key=lambda member: hashlib.sha256(f"{own} {member.uid or member.name}".encode()).digest()
        )
