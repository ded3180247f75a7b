"""What the parent has not been told yet, and what of it may be left out because it was told on this link before."""

from __future__ import annotations

from ote.clustercontroller.core.entries import ClusterEntry
from ote.clustercontroller.core.messages import ClusterRecord


class Telling:
    """Changes are kept by uid, so that only the newest of each is told, however long there was no parent."""

    def __init__(self) -> None:
        self._changed: dict[str, None] = {}
        self._generation = 1

    def __bool__(self) -> bool:
        return bool(self._changed)

    def change(self, uid: str) -> None:
        self._changed[uid] = None

    def forget(self, uid: str) -> None:
        self._changed.pop(uid, None)

    def take(self) -> dict[str, None]:
        """The uids that changed since the last call, in order."""
        changed, self._changed = self._changed, {}
        return changed

    def untell(self, entry: ClusterEntry) -> None:
        """What was to tell of it was not sent after all."""
        entry.told = 0
        self.change(entry.uid)

    def new_link(self) -> None:
        """On this link nothing has been told."""
        self._generation += 1

    def record(self, entry: ClusterEntry, *, full: bool) -> ClusterRecord:
        """The record to be sent now; without facts and status that were sent on this link, unless `full`."""
        record = entry.record
        if not full and entry.told == self._generation:
            if entry.told_facts is entry.facts:
                record.facts = None
            if entry.told_status is entry.status:
                record.status = None
        entry.told, entry.told_facts, entry.told_status = self._generation, entry.facts, entry.status
        return record
