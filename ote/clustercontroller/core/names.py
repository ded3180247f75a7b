"""Who holds which name, and the order of all names.

Of several clusters with one name the one seen first holds it, the others are in conflict. Clashes come only from a cut:
while connected, a name is reserved at the root before a certificate is made (rule 15).
"""

from __future__ import annotations

from collections.abc import Sequence


class NameIndex:
    """Names of all known clusters, also of those offline or away: a name is free again only after an eviction."""

    def __init__(self) -> None:
        self._holders: dict[str, str] = {}
        self._rivals: dict[str, list[str]] = {}
        self._order: list[str] | None = None

    def add(self, name: str, uid: str) -> None:
        """Called in order of first sight, so the first caller holds the name."""
        self._order = None
        holder = self._holders.setdefault(name, uid)
        if holder != uid:
            self._rivals.setdefault(name, []).append(uid)

    def remove(self, name: str, uid: str) -> str | None:
        """Returns the uid that holds the name from now on, if it was a rival until now."""
        self._order = None
        rivals = self._rivals.get(name, [])
        if self._holders[name] != uid:
            rivals.remove(uid)
            heir = None
        elif rivals:
            heir = self._holders[name] = rivals.pop(0)
        else:
            heir = None
            del self._holders[name]
        if not rivals:
            self._rivals.pop(name, None)
        return heir

    def holder(self, name: str) -> str | None:
        return self._holders.get(name)

    def all(self, name: str) -> list[str]:
        """Uids of all with this name, the holder first."""
        holder = self._holders.get(name)
        return [] if holder is None else [holder, *self._rivals.get(name, [])]

    def in_order(self) -> Sequence[str]:
        """Uids of all, by name; those of one name by uid."""
        if self._order is None:
            self._order = [uid for name in sorted(self._holders) for uid in sorted(self.all(name))]
        return self._order
