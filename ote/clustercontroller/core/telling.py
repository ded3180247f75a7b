"""What the parent has not been told yet, and what of it may be left out because it was told on this link before."""

from __future__ import annotations

from ote.clustercontroller.core.entries import ClusterEntry
from ote.clustercontroller.core.messages import ClusterRecord, Status


class Telling:
    """Changes are kept by uid, so that only the newest of each is told, however long there was no parent."""

    def __init__(self) -> None:
        self._changed: dict[str, None] = {}
        self._generation = 1
        self._told_status: Status | None = None
        """Of this cluster, on this link."""

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
        self._told_status = None
        self.change(entry.uid)

    def new_link(self) -> None:
        """On this link nothing has been told."""
        self._generation += 1
        self._told_status = None

    def record(self, entry: ClusterEntry, *, full: bool) -> ClusterRecord:
        """The record to be sent now; without facts that were sent on this link, unless `full`."""
        record = entry.record
        if not full and entry.told == self._generation and entry.told_facts is entry.facts:
            record.facts = None
        entry.told, entry.told_facts = self._generation, entry.facts
        return record

    def own_record(self, entry: ClusterEntry, status: Status | None, *, full: bool) -> ClusterRecord:
        """The same of this cluster itself: its status goes with it, this link and no further."""
        record = self.record(entry, full=full)
        if full or status is not self._told_status:
            record.status = self._told_status = status
        return record
