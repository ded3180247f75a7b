"""Whether a child and its parent count the same below it, as the digests of heartbeats tell.

The one idea: news that is on its way makes short differences, so a full account is asked for only after one that lasts,
and ever later where it has not helped. Not here: what is counted (`digest`), and asking (`children`).
"""

from __future__ import annotations

from ote.clustercontroller.core.messages import Digest

_SAME = 2
"""Heartbeats in a row with one and the same difference after which a full account is asked for."""
_ANY = 8
"""The same for any differences."""
_MOST_PATIENCE = 256


class Agreement:
    """With one child."""

    __slots__ = ("_difference", "_different", "_patience", "_same")

    def __init__(self) -> None:
        self._difference: tuple[Digest, Digest] | None = None
        self._same = self._different = 0
        self._patience = 1
        """Doubled by each full account that did not help."""

    def broken(self, theirs: Digest, ours: Digest) -> bool:
        """Take in a heartbeat; whether a full account has to mend it."""
        if theirs == ours:
            self._difference, self._same, self._different, self._patience = None, 0, 0, 1
            return False
        difference = (theirs, ours)
        self._same = self._same + 1 if difference == self._difference else 1
        self._different += 1
        self._difference = difference
        return self._same >= _SAME * self._patience or self._different >= _ANY * self._patience

    def asked(self) -> None:
        """A full account is on its way."""
        self._difference, self._same, self._different = None, 0, 0
        self._patience = min(_MOST_PATIENCE, self._patience * 2)
