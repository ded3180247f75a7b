"""The uids that are members no more: a set that only grows, merged both ways at every attach (rule 23)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from ote.clustercontroller.core.messages import Evictions

_AT_ONCE = 500


class EvictedSet(set[str]):
    """A set of uids with a digest that is equal for equal sets. Grows by `add` only."""

    def __init__(self) -> None:
        super().__init__()
        self._sum = 0

    def add(self, uid: str) -> None:
        if uid not in self:
            super().add(uid)
            self._sum ^= int.from_bytes(hashlib.sha256(uid.encode()).digest()[:16])

    def digest(self) -> bytes:
        """16 bytes; empty for the empty set."""
        return self._sum.to_bytes(16) if self else b""


def in_messages(uids: Sequence[str]) -> Iterator[Evictions]:
    """Evictions as they are told, each message small enough for a frame."""
    for start in range(0, len(uids), _AT_ONCE):
        yield Evictions(list(uids[start : start + _AT_ONCE]))
