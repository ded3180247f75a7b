"""What the cluster and all below it have and use: details go one link up, beyond that there are sums (rule 15).

The one idea: a hundred thousand clusters must not cost a hundred thousand messages. Each controller adds what its own
shim says to the sums of its direct children that can be reached, and tells its parent when that has changed, at most
every `status_interval`, or sooner where the number of clusters is another. Who wants to know more of one cluster asks
that cluster (`clusters`).
Not here: how a status travels (the own record, as facts do), and what is kept of it (`registry.details`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.events import ShimStatus
from ote.clustercontroller.core.messages import Resources, Status, Totals
from ote.clustercontroller.core.registry import Details, Registry

MOST_UNWELL = 5
_SOON = 2.0
"""Seconds between two tellings where the number of clusters changes."""
_LOOK_INTERVAL = 1.0
"""Seconds between two looks at all children, however often they change."""
_MOST_KINDS = 64
_OTHER_KINDS = "other"
_MOST = 1 << 53
"""No sum is larger: whatever a child claims, the message can be made, and JSON can show it."""
_MOST_PODS = (1 << 32) - 1
_COUNTS = ("clusters", "clusters_ready", "clusters_silent", "nodes", "nodes_ready", "pods_running", "pods_failing")


class Load:
    """Wakes when there is something to be told. `publish` takes the status and the sums into the own record."""

    def __init__(self, ctx: Context, registry: Registry, publish: Callable[[bytes, Totals], None]) -> None:
        self._ctx = ctx
        self._registry = registry
        self._publish = publish
        self._own: ShimStatus | None = None
        self._heard = ctx.now
        self._told: tuple[bytes, Totals] = (b"", Totals())
        self._told_at = self._looked_at = float("-inf")
        self._changed = self._soon = False
        self._unwell_since: float | None = None

    def shim_status(self, event: ShimStatus) -> None:
        """The shim says how its cluster does."""
        first = self._own is None
        self._own, self._heard = event, self._ctx.now
        self.changed(clusters=first)

    def changed(self, clusters: bool = False) -> None:
        """The sums may be others now; `clusters` when they may be of another number of clusters, which is told soon."""
        self._changed = True
        self._soon = self._soon or clusters

    def next_wake(self) -> float | None:
        """When `wake` is wanted, None for never."""
        if not self._changed:
            return None
        now = self._ctx.now
        interval = _SOON if self._soon else self._ctx.settings.status_interval
        return max(self._told_at + interval, self._looked_at + _LOOK_INTERVAL, now)

    def wake(self) -> None:
        """Tell, if there is news."""
        now = self._ctx.now
        self._changed, self._soon, self._looked_at = False, False, now
        told = (self._own.cluster_status if self._own else b"", self.totals())
        unwell = is_unwell(told[1])
        self._unwell_since = (self._unwell_since or now) if unwell else None
        if told == self._told:
            return
        if told[1].clusters == self._told[1].clusters and now < self._told_at + self._ctx.settings.status_interval:
            self._changed = True
            return
        self._told, self._told_at = told, now
        self._publish(*told)

    def totals(self) -> Totals:
        """Of this cluster and all below it that can be reached."""
        registry, me = self._registry, self._ctx.uid
        parts = [self._own_totals()] if self._own else []
        for uid in registry.children(me):
            details = registry.details.get(uid)
            if details is not None and registry.next_hop(uid) is not None:
                parts.append(details.status.totals)
        return add_up(parts)

    def details(self, uid: str) -> Details | None:
        """What is known of this cluster, as it is now, or of a direct child, as it told last."""
        if uid != self._ctx.uid:
            return self._registry.details.get(uid)
        status = Status(0, self._own.cluster_status if self._own else b"", self.totals())
        return Details(status, self._heard if self._own else self._ctx.now)

    @property
    def unwell_since(self) -> float:
        """Since when some cluster of the subtree does not do well, as far as it was told here."""
        return self._ctx.now if self._unwell_since is None else self._unwell_since

    def _own_totals(self) -> Totals:
        assert self._own is not None
        own = self._own.totals
        return replace(own, unwell=[self._ctx.name]) if is_unwell(own) else own


def is_unwell(totals: Totals) -> bool:
    """Whether something in them does not work."""
    return totals.pods_failing > 0 or not_ready(totals) > 0


def not_ready(totals: Totals) -> int:
    """How many clusters say that they are not ready; those whose shim is silent say nothing."""
    return totals.clusters - totals.clusters_ready - totals.clusters_silent


def add_up(parts: Iterable[Totals]) -> Totals:
    """The sum, within bounds."""
    total = Totals()
    for part in parts:
        for name in _COUNTS:
            setattr(total, name, min(_MOST, getattr(total, name) + getattr(part, name)))
        total.capacity = _add(total.capacity, part.capacity)
        total.usage = _add(total.usage, part.usage)
        for kind, count in part.workloads.items():
            known = kind in total.workloads or len(total.workloads) < _MOST_KINDS
            key = kind if known else _OTHER_KINDS
            total.workloads[key] = min(_MOST, total.workloads.get(key, 0) + count)
        total.unwell += part.unwell[: MOST_UNWELL - len(total.unwell)]
    return total


def _add(a: Resources, b: Resources) -> Resources:
    cpu, memory, disk = (min(_MOST, x + y) for x, y in zip(a[:3], b[:3], strict=True))
    return Resources(cpu, memory, disk, min(_MOST_PODS, a.pods + b.pods))
