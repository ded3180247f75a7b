"""Order-free sums over the subtrees of a tree, kept up at each change in time that grows with depth, not with size.

The sum of a subtree covers the *active* attachments in it, without its root: those whose own link is up, as told by
the parent at its other end. A link that is down above them does not matter, so one record takes a branch down at both
ends of a tunnel alike. What lies below a cluster that is away is not counted anywhere above that cluster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from functools import lru_cache

from ote.clustercontroller.core.entries import ClusterEntry
from ote.clustercontroller.core.messages import Digest

MODULUS = 1 << 64


def mark(entry: ClusterEntry, status: int = 0) -> int:
    """An active attachment's part of the sum: 8 bytes of SHA-256 over "uid:epoch:facts version:status version:1".

    status: its version in the child's own part, 0 in all others, for status goes one link only.
    """
    return _mark(entry.uid, entry.epoch, entry.facts.version, status)


@lru_cache(maxsize=2048)
def _mark(uid: str, epoch: int, facts: int, status: int) -> int:
    """Kept, because a child's own is compared at each of its heartbeats."""
    return int.from_bytes(hashlib.sha256(f"{uid}:{epoch}:{facts}:{status}:1".encode()).digest()[:8])


class Sums:
    """The sum below each cluster that has, or had, something below it."""

    def __init__(self, root: str, entries: dict[str, ClusterEntry]) -> None:
        self._root = root
        self._entries = entries
        self._sums: dict[str, list[int]] = {}

    def load(self, entries: list[ClusterEntry], children: Mapping[str, Collection[str]]) -> None:
        """Enter parents before children, so that each is counted once: an entered one brings what is below it."""
        order = [self._root, *sorted({entry.parent_uid for entry in entries} - self._entries.keys())]
        for uid in order:
            order.extend(children.get(uid, ()))
        for uid in order:
            entry = self._entries.get(uid)
            if entry is not None and uid != self._root:
                self.enter(entry)

    def enter(self, entry: ClusterEntry) -> None:
        """Count an entry and all below it in the sums above it."""
        self._shift(entry, 1)

    def leave(self, entry: ClusterEntry) -> None:
        """Undo `enter`: called before anything that its mark or its place depends on is changed."""
        self._shift(entry, -1)

    def below(self, uid: str) -> Digest:
        return Digest(*self._sums.get(uid, (0, 0)))

    def forget(self, uid: str) -> None:
        """Nothing is below this cluster any more."""
        self._sums.pop(uid, None)

    def _shift(self, entry: ClusterEntry, sign: int) -> None:
        if entry.is_away:
            return
        count, total = self._sums.get(entry.uid, (0, 0))
        if entry.up:
            count += 1
            total += mark(entry)
        if not count:
            return
        uid = entry.parent_uid
        while True:
            sums = self._sums.setdefault(uid, [0, 0])
            sums[0] += sign * count
            sums[1] = (sums[1] + sign * total) % MODULUS
            above = self._entries.get(uid)
            if uid == self._root or above is None or above.is_away:
                return
            uid = above.parent_uid
