"""What follows from who stands below whom: next hop, path, state and ages of every known cluster.

Not here: how entries come, change and end (`registry`). The one idea (rule 14): nothing of this is stored; it is read
off the chain of parents when it is asked for, from the cluster up to this controller.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.entries import ClusterEntry
from ote.clustercontroller.core.names import NameIndex
from ote.clustercontroller.core.states import AWAY, NAME_CONFLICT, OFFLINE, ONLINE


class Chains:
    """The reading side of the registry, which alone puts entries here."""

    own: ClusterEntry
    """This cluster's entry."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.entries: dict[str, ClusterEntry] = {}
        """All known clusters by uid, this one included. Read only elsewhere."""
        self._me = ctx.uid
        self._children: dict[str, dict[str, None]] = {}
        """By uid of the parent, also of one that is not known; in the order in which they came, so that a history can
        be played again."""
        self._links: dict[str, int] = {}
        """Of direct children that are up."""
        self._names = NameIndex()
        self._clashed_at: dict[str, float] = {}
        """Since when those in conflict are (clock of the core)."""

    def get(self, uid: str) -> ClusterEntry | None:
        return self.entries.get(uid)

    def find(self, text: str) -> ClusterEntry | None:
        """By name, uid, name@first digits of the uid, or "." for this cluster."""
        if text == ".":
            return self.own
        name, _, digits = text.partition("@")
        if digits:
            uids = [uid for uid in self._names.all(name) if uid.startswith(digits)]
            return self.entries[uids[0]] if len(uids) == 1 else None
        return self.entries.get(self._names.holder(text) or text)

    def name_holder(self, name: str) -> str | None:
        """Uid of the cluster that holds this name."""
        return self._names.holder(name)

    def in_order(self) -> list[ClusterEntry]:
        """All entries, by name."""
        return [self.entries[uid] for uid in self._names.in_order()]

    def children(self, uid: str) -> Collection[str]:
        """Uids of those whose last known parent this is."""
        return self._children.get(uid, frozenset())

    def descendants(self, uid: str) -> Iterator[str]:
        """Uids of all below a cluster, parents first; without those that are away, and what is below them."""
        return self._below(uid, with_away=False)

    def known_epoch(self, uid: str) -> int:
        """The highest epoch heard of, 0 for a cluster never heard of."""
        entry = self.entries.get(uid)
        return entry.known_epoch if entry else 0

    def next_hop(self, uid: str) -> int | None:
        """The link on which to send what is for `uid`; None while it cannot be reached from here."""
        entry = self.entries.get(uid)
        while entry is not None and entry.up and entry is not self.own:
            if entry.parent_uid == self._me:
                return self._links.get(entry.uid)
            entry = self.entries.get(entry.parent_uid)
        return None

    def reaches_parent_of(self, entry: ClusterEntry) -> bool:
        """Whether the parent that has the cluster, or had it last, is this controller or can be reached from here."""
        return entry.parent_uid == self._me or self.next_hop(entry.parent_uid) is not None

    def via(self, uid: str) -> str | None:
        """The direct child on the chain, up or not; None if the cluster is not below."""
        entry = self.entries.get(uid)
        while entry is not None and not entry.is_away and entry is not self.own:
            if entry.parent_uid == self._me:
                return entry.uid
            entry = self.entries.get(entry.parent_uid)
        return None

    def is_at_or_below(self, uid: str, above: str) -> bool:
        entry = self.entries.get(uid)
        return entry is not None and any(other.uid == above for other in self._chain(entry))

    def left_with(self, uid: str) -> ClusterEntry | None:
        """The cluster itself, or the next above it, that has attached outside of what is below here, if one has."""
        return next((other for other in self._chain(self.entries[uid]) if other.is_away), None)

    def is_below(self, uid: str) -> bool:
        return self.via(uid) is not None

    def state(self, uid: str) -> str:
        """ONLINE, OFFLINE, AWAY or NAME_CONFLICT. A cluster whose chain ends at one that is away is away with it."""
        entry = self.entries.get(uid)
        if entry is None:
            return OFFLINE
        if self._names.holder(entry.name) != uid:
            return NAME_CONFLICT
        broken = self._broken(entry)
        if any(other.is_away for other in broken):
            return AWAY
        return OFFLINE if broken else ONLINE

    def since(self, uid: str) -> float:
        """When the state became what it is, as seen here and as far as is known (clock of the core)."""
        clashed_at = self._clashed_at.get(uid)
        if clashed_at is not None:
            return clashed_at
        entry = self.entries[uid]
        broken = self._broken(entry)
        if broken:
            away = [other for other in broken if other.is_away]
            return min(other.changed_at for other in away or broken)
        return max(other.changed_at for other in self._chain(entry))

    def heard(self, uid: str) -> float:
        """When it was last heard of: now, if it is online."""
        broken = self._broken(self.entries[uid])
        return min((other.heard_at for other in broken), default=self.ctx.now)

    def is_up(self, uid: str) -> bool:
        """Whether every link down to it counts as up. There may be no way all the same, while it moves."""
        entry = self.entries.get(uid)
        return entry is not None and not self._broken(entry)

    def path(self, uid: str) -> list[str]:
        """Names from this controller down to the cluster, along its last known chain."""
        chain = self._chain(self.entries[uid])
        return [entry.name for entry in reversed(chain)]

    # --- along the chains -------------------------------------------------------------------------------------------

    def _chain(self, entry: ClusterEntry) -> list[ClusterEntry]:
        """The cluster, its parents, this one last; it ends before a parent that is not known."""
        chain = [entry]
        current: ClusterEntry | None = entry
        while current is not self.own and (current := self.entries.get(chain[-1].parent_uid)) is not None:
            chain.append(current)
        return chain

    def _broken(self, entry: ClusterEntry) -> list[ClusterEntry]:
        """Those on the chain that have no link from their parent: it is down, or nobody knows that parent."""
        chain = self._chain(entry)
        broken = [other for other in chain if not other.up]
        if chain[-1] is not self.own and chain[-1].up:
            broken.append(chain[-1])
        return broken

    def _below(self, uid: str, with_away: bool) -> Iterator[str]:
        waiting = list(self._children.get(uid, ()))
        while waiting:
            below = waiting.pop()
            if with_away or not self.entries[below].is_away:
                yield below
                waiting.extend(self._children.get(below, ()))

    def _in_ring(self, entry: ClusterEntry) -> bool:
        seen = set()
        uid = entry.uid
        while uid != self._me and uid in self.entries:
            if uid in seen:
                return True
            seen.add(uid)
            uid = self.entries[uid].parent_uid
        return False

    def _parent_name(self, entry: ClusterEntry) -> str:
        parent = self.entries.get(entry.parent_uid)
        return entry.away_parent if entry.is_away or parent is None else parent.name
