"""How the controller does: what `ote-ctl status`, /readyz and the metrics show.

What lives here: reading the parts and naming what is wrong, worst first. What does not: mending it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ote.api.cluster.v1 import cluster_pb2
from ote.clustercontroller.core.controller import Controller
from ote.clustercontroller.core.load import is_unwell, not_ready
from ote.clustercontroller.core.states import AWAY, NAME_CONFLICT, OFFLINE, ONLINE
from ote.clustercontroller.lanes import Lane
from ote.clustercontroller.membership import Membership
from ote.clustercontroller.shell import Shell
from ote.clustercontroller.tunnel import Link
from ote.clustercontroller.wire.totals import encode_totals
from ote.clustercontroller.wire.views import ClusterViews, timestamp
from ote.runtime.clock import Clock

_MAX_PROBLEMS = 100
_NAMED = 5
"""How many clusters a problem names."""
_EXPIRING = 0.2
"""A certificate with less than this part of its life left should have been renewed."""


class ShimHealth(Protocol):
    """The way to the shim."""

    error: str
    """Empty while the shim answers, or when there is none."""
    failed_at: float
    """Seconds since 1970."""


@dataclass(slots=True)
class StatusReport:
    """Reads the controller when it is asked."""

    shell: Shell
    membership: Membership
    views: ClusterViews
    clock: Clock
    wall: Callable[[float], float]
    shim: ShimHealth
    started: float

    @property
    def core(self) -> Controller:
        return self.shell.core

    def not_ready(self) -> str | None:
        """Why this controller should get no requests; None when it is ready. Being cut off is no reason."""
        if self.shell.commit_error:
            return f"cannot write to disk: {self.shell.commit_error}"
        return None

    def response(self) -> cluster_pb2.GetControllerStatusResponse:
        """All of it."""
        core = self.shell.look()
        connected = core.parents.connected
        oldest = core.origin.oldest_unsettled
        response = cluster_pb2.GetControllerStatusResponse(
            self=self.views.cluster(core.registry.own),
            connected=connected,
            connected_since=timestamp(self.wall(core.connected_since)),
            beat=core.parents.standing.beat,
            depth=core.parents.depth,
            tunnels=self._tunnels(),
            problems=self._problems(connected),
            unsettled_dispatches=core.origin.unsettled,
            clusters=self.counts(),
            alternates=self._alternates(),
            started=timestamp(self.started),
            certificate_expires=timestamp(self.membership.expires),
            totals=encode_totals(core.load.totals()),
        )
        if oldest is not None:
            response.oldest_unsettled.CopyFrom(timestamp(oldest.row.created))
        return response

    def counts(self) -> dict[str, int]:
        """Clusters of the subtree by state."""
        registry = self.core.registry
        counts: dict[str, int] = {}
        for uid in registry.entries:
            state = registry.state(uid)
            counts[state] = counts.get(state, 0) + 1
        return counts

    def _alternates(self) -> list[str]:
        told = self.core.parents.alternates
        grandparent = [told.grandparent] if told.grandparent else []
        return [f"{one.name}={one.address}" for one in (*told.uncles, *grandparent, *told.siblings)]

    def _tunnels(self) -> list[cluster_pb2.Tunnel]:
        links = sorted(self.shell.links.values(), key=lambda link: (not link.is_up, link.peer))
        return [self._tunnel(link) for link in links]

    def _tunnel(self, link: Link) -> cluster_pb2.Tunnel:
        lanes = link.lanes
        now = self.clock.now()
        return cluster_pb2.Tunnel(
            peer=link.peer,
            up=link.is_up,
            since=timestamp(self.wall(link.since)),
            sent_bytes={lane.value: lanes.counters.sent[lane] for lane in Lane},
            received_bytes=link.received_bytes,
            queued_bytes=lanes.queued_bytes,
            refused_items=lanes.counters.refused,
            silent_ms=max(0, int((now - link.heard) * 1000)),
            bulk_streams=self.shell.budget.traffic.bulk_streams["" if link.is_up else link.peer_uid],
        )

    def _problems(self, connected: bool) -> list[cluster_pb2.Problem]:
        core = self.core
        me = core.ctx.name
        found: list[cluster_pb2.Problem] = []

        def add(reason: str, message: str, since: float, cluster: str = me) -> None:
            found.append(cluster_pb2.Problem(reason=reason, message=message, since=timestamp(since), cluster=cluster))

        if self.shell.commit_error:
            failed_at = self.wall(self.shell.commit_failed_at)
            add("DISK", f"cannot write to disk, and accepts nothing: {self.shell.commit_error}", failed_at)
        refused = core.parents.refused
        if refused is not None:
            add(refused.reason, refused.message, self.wall(core.connected_since))
        if not connected:
            add(
                "CUT_OFF",
                "no beat of the root arrives; this controller and what is below it go on alone",
                self.wall(core.connected_since),
            )
        parent, home = core.parents.parent, core.parents.home
        if parent is not None and home is not None and parent.uid != home.uid:
            name = f"{home.name} at {home.address}" if home.name else home.address
            since, problem = core.parents.away_from_home or (core.connected_since, "")
            told = f"attached to {parent.name} until {name} is back"
            add("NOT_AT_HOME", f"{told}; tried last: {problem}" if problem else told, self.wall(since))
        if self.shim.error:
            add("SHIM_UNAVAILABLE", f"the shim does not answer: {self.shim.error}", self.shim.failed_at)
        left = self.membership.expires - self.clock.wall()
        if left < self.membership.lifetime * _EXPIRING:
            due = self.membership.expires - self.membership.lifetime * _EXPIRING
            add("CERTIFICATE_EXPIRING", f"the certificate ends in {left:.0f} s and was not renewed", due)
        self._workload_problems(add)
        self._cluster_problems(found)
        summed = [
            problem for problem in (self._clones(), self._silent_shims(), self._elsewhere()) if problem is not None
        ]
        return [*found[: _MAX_PROBLEMS - len(summed)], *summed]

    def _workload_problems(self, add: Callable[[str, str, float, str], None]) -> None:
        """What does not work in the clusters of the subtree, told as one: names are few, `get` shows the rest."""
        totals = self.core.load.totals()
        if not is_unwell(totals):
            return
        what = []
        if totals.pods_failing:
            what.append(f"{totals.pods_failing} pods fail or restart again and again")
        if not_ready(totals) > 0:
            what.append(f"{not_ready(totals)} of {totals.clusters} clusters are not ready")
        names = ",".join(totals.unwell)
        message = f"{' and '.join(what)}, in {names or 'clusters below'}"
        if totals.pods_failing and names:
            message += f": 'ote-ctl get pods --clusters {names}'"
        cluster = totals.unwell[0] if len(totals.unwell) == 1 else self.core.ctx.name
        add("WORKLOADS_FAILING", message, self.wall(self.core.load.unwell_since), cluster)

    def _elsewhere(self) -> cluster_pb2.Problem | None:
        """The clusters below that hang under another parent than their own, told as one."""
        away: list[tuple[str, str, float]] = []
        registry = self.core.registry
        for entry in registry.entries.values():
            home, parent = entry.facts.configured_parent, registry.get(entry.parent_uid)
            if home and parent is not None and parent.name != home and registry.state(entry.uid) == ONLINE:
                told = f"{entry.name} is below {parent.name}, its home is {home}"
                away.append((told, entry.name, self.wall(entry.changed_at)))
        return self._as_one("NOT_AT_HOME", away)

    def _clones(self) -> cluster_pb2.Problem | None:
        """The clusters that ran twice lately, since the later of the two is here, told as one."""
        registry = self.core.registry
        names = {name for entry in registry.entries.values() for name in entry.facts.clones}
        seen = [entry for name in names if (entry := registry.find(name)) is not None]
        told = (
            "two processes ran as {0} and one was ended: has its data folder been copied? See 'ote-ctl cluster get {0}'"
        )
        return self._as_one(
            "CLUSTER_CLONED", [(told.format(one.name), one.name, self.wall(one.changed_at)) for one in seen]
        )

    def _silent_shims(self) -> cluster_pb2.Problem | None:
        """The clusters below that can be reached and whose shim does not answer them, told as one."""
        silent: list[tuple[str, str, float]] = []
        registry = self.core.registry
        for entry in registry.entries.values():
            since = entry.facts.shim_silent_since_ms
            if since and entry is not registry.own and registry.state(entry.uid) == ONLINE:
                silent.append((f"the shim of {entry.name} does not answer", entry.name, since / 1000))
        return self._as_one("SHIM_UNAVAILABLE", silent)

    def _as_one(self, reason: str, told: list[tuple[str, str, float]]) -> cluster_pb2.Problem | None:
        """What is wrong with several clusters (what, its name, since when) as one problem, the longest first."""
        if not told:
            return None
        told.sort(key=lambda one: (one[2], one[1]))
        shown = told[:_NAMED]
        more = f" and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
        return cluster_pb2.Problem(
            reason=reason,
            message="; ".join(text for text, _, _ in shown) + more,
            since=timestamp(told[0][2]),
            cluster=told[0][1] if len(told) == 1 else self.core.ctx.name,
        )

    def _cluster_problems(self, found: list[cluster_pb2.Problem]) -> None:
        registry = self.core.registry
        for entry in registry.entries.values():
            if len(found) >= _MAX_PROBLEMS:
                return
            state = registry.state(entry.uid)
            since = self.wall(registry.since(entry.uid))
            if state == OFFLINE:
                reason, message = "CHILD_OFFLINE", f"{entry.name} is not reachable"
            elif state == NAME_CONFLICT:
                reason = "NAME_CONFLICT"
                message = f"{entry.name}@{entry.uid[:8]} has a name that another holds: evict one of them"
            elif entry.facts.draining and state != AWAY:
                reason, message = "DRAINING", f"{entry.name} is draining: 'ote-ctl cluster drain {entry.name} --off'"
                since = entry.facts.draining_since_ms / 1000 or since
            else:
                continue
            found.append(
                cluster_pb2.Problem(
                    reason=reason,
                    message=message,
                    since=timestamp(since),
                    cluster=entry.name,
                )
            )
