"""One cluster as the registry holds it: flat, and sharing what can be shared, for fleets of a hundred thousand.

What lives here: the entry, and the sharing of equal strings and lists between entries. What does not: where the entry
stands in the tree, and its state; both are read off the chain of parents by `chains`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ote.clustercontroller.core.messages import ClusterRecord, Facts

if TYPE_CHECKING:
    from ote.clustercontroller.core.chains import Chains

NO_FACTS = Facts()
"""Facts of a cluster that has not told any yet; their version is 0."""

_MAX_SHARED = 10_000


@dataclass(slots=True, eq=False)
class ClusterEntry:
    """What is known of a cluster. Read only outside `registry`; `labels`, `tags` and `path` serve the selectors."""

    registry: Chains
    uid: str
    name: str
    parent_uid: str
    epoch: int
    instance: str
    signature: bytes
    public_key: bytes
    up: bool
    """The link from its parent to it is up, as its parent told last. Says nothing of the links above."""
    first_seen: int
    changed_at: float
    """When its own link or attachment last changed, as seen here (clock of the core)."""
    heard_at: float
    """When it was last heard of; counts only while a link on its chain is down."""
    facts: Facts = field(default_factory=lambda: NO_FACTS)
    away: int = 0
    """The epoch of an attachment elsewhere, 0 for none; it is away while this is not below `epoch`."""
    away_parent: str = ""
    """Name of the parent there, where it is known."""
    told: int = 0
    """The link to our own parent, by generation, on which `told_facts` were sent last."""
    told_facts: Facts | None = None

    @property
    def is_away(self) -> bool:
        return 0 < self.away >= self.epoch

    @property
    def known_epoch(self) -> int:
        """The highest epoch heard of, here or elsewhere."""
        return max(self.epoch, self.away)

    def is_superseded_by(self, record: ClusterRecord) -> bool:
        """Whether a record is of a later attachment. Of two of one epoch, as clones make them, that is the one for
        which this one ended."""
        if record.epoch == self.epoch == self.away:
            return (record.parent_uid, record.instance) != (self.parent_uid, self.instance)
        return record.epoch > self.epoch and record.epoch >= self.away

    @property
    def labels(self) -> dict[str, str]:
        return self.facts.labels

    @property
    def tags(self) -> list[str]:
        return self.facts.tags

    @property
    def path(self) -> list[str]:
        """Names from this controller down to the cluster."""
        return self.registry.path(self.uid)

    @property
    def record(self) -> ClusterRecord:
        """All that is known, as it would be told now; without status."""
        facts = self.facts
        silent = 0.0 if self.up else self.registry.ctx.now - self.heard_at
        return ClusterRecord(
            uid=self.uid,
            name=self.name,
            parent_uid=self.parent_uid,
            epoch=self.epoch,
            instance=self.instance,
            signature=self.signature,
            public_key=self.public_key,
            up=self.up,
            silent_ms=max(0, round(silent * 1000)),
            facts=None if facts is NO_FACTS else facts,
        )


class Sharing:
    """Equal words and lists become one object, as facts repeat over a fleet."""

    def __init__(self) -> None:
        self._lists: dict[tuple[str, ...], list[str]] = {}

    def facts(self, facts: Facts) -> Facts:
        """An equal `Facts` whose parts are shared with those of other clusters."""
        intern = sys.intern
        return Facts(
            version=facts.version,
            labels={intern(key): intern(value) for key, value in facts.labels.items()},
            tags=self._list(facts.tags),
            configured_parent=intern(facts.configured_parent),
            advertise=facts.advertise,
            draining=facts.draining,
            shim_kind=intern(facts.shim_kind),
            shim_name=intern(facts.shim_name),
            shim_version=intern(facts.shim_version),
            capabilities=self._list(facts.capabilities),
            software=intern(facts.software),
            journal_id=facts.journal_id,
            changed=self._list(facts.changed),
            draining_since_ms=facts.draining_since_ms,
            shim_silent_since_ms=facts.shim_silent_since_ms,
            clones=facts.clones,
        )

    def _list(self, words: list[str]) -> list[str]:
        key = tuple(words)
        shared = self._lists.get(key)
        if shared is None:
            if len(self._lists) >= _MAX_SHARED:
                self._lists.clear()
            shared = self._lists[key] = [sys.intern(word) for word in words]
        return shared
