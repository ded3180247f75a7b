"""Feeds the metrics of a controller: what is told is counted, what stands somewhere is read when somebody looks.

What lives here: which number comes from where. What does not: names and meanings (`telemetry.catalog`), what the core
alone knows (it counts by its effect `Count`, which ends in `Metrics.count`). The one idea: nothing here runs when a
message passes; totals that others keep anyway are copied at a scrape, and of the states of clusters only those are
looked up that changed since the last one, a few at a time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ote.api.command.v1 import command_pb2
from ote.clustercontroller.bulk import Uplink
from ote.clustercontroller.core.registry import Registry
from ote.clustercontroller.core.states import AWAY, NAME_CONFLICT, OFFLINE, ONLINE
from ote.clustercontroller.dispatches import Dispatches
from ote.clustercontroller.lanes import Lane
from ote.clustercontroller.membership import Membership
from ote.clustercontroller.payloads import Payloads
from ote.clustercontroller.shell import Shell
from ote.telemetry.metrics import Metrics

_AT_ONCE = 1000
"""States looked up before the loop may do something else."""
_STATES = (ONLINE, OFFLINE, AWAY, NAME_CONFLICT)
_COMMANDS = frozenset(field.name for field in command_pb2.Command.DESCRIPTOR.oneofs_by_name["kind"].fields)
_OTHER = "other"


class Census:
    """How many clusters are in which state, kept up by looking again at those that changed."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._states: dict[str, str] = {}
        self._changed: dict[str, None] = dict.fromkeys(registry.entries)
        self.counts: Counter[str] = Counter()

    def changed(self, uids: Iterable[str]) -> None:
        """The states of these may be others."""
        self._changed.update(dict.fromkeys(uids))

    async def take(self) -> None:
        """Bring the counts up to date."""
        while self._changed:
            for _ in range(min(_AT_ONCE, len(self._changed))):
                self._look(self._changed.popitem()[0])
            if self._changed:
                await asyncio.sleep(0)

    def _look(self, uid: str) -> None:
        old = self._states.pop(uid, None)
        if old is not None:
            self.counts[old] -= 1
        if uid in self._registry.entries:
            state = self._states[uid] = self._registry.state(uid)
            self.counts[state] += 1


@dataclass(slots=True)
class Sources:
    """What is read at a scrape. `watchers`: open watches of clusters; `shim_error`: None without a shim, empty while
    it answers."""

    shell: Shell
    membership: Membership
    payloads: Payloads
    uplink: Uplink
    dispatches: Dispatches
    watchers: Callable[[], int]
    shim_error: Callable[[], str | None]
    now: Callable[[], float]


class Observer:
    """Tells the metrics of one controller. `scraped`: whether anybody can look at all."""

    def __init__(self, metrics: Metrics, *, scraped: bool) -> None:
        self._metrics = metrics
        self._scraped = scraped
        self._census: Census | None = None
        self.count = metrics.count

    def watch(self, sources: Sources) -> None:
        """Read these from now on, whenever the metrics are asked for."""
        if not self._scraped:
            return
        census = self._census = Census(sources.shell.core.registry)

        async def read() -> None:
            await census.take()
            self._read_tree(sources, census)
            self._read_tunnels(sources)
            self._read_dispatches(sources)
            self._read_trust(sources)

        self._metrics.before_scrape(read)

    # --- told as it happens ---------------------------------------------------------------------------------------

    def clusters_changed(self, uids: Iterable[str]) -> None:
        """These entries of the registry changed."""
        if self._census is not None:
            self._census.changed(uids)

    def shim_restarted(self) -> None:
        """The shim came back as another instance."""
        self.count("ote_shim_restarts_total", (), 1.0)

    def shim_call(self, command: str, outcome: str, seconds: float) -> None:
        """A call of the shim has ended."""
        kind = command if command in _COMMANDS else _OTHER
        self.count("ote_shim_executions_total", (kind, outcome), 1.0)
        if outcome != "lost":
            self.count("ote_shim_execution_seconds", (), seconds)

    # --- read at a scrape -----------------------------------------------------------------------------------------

    def _read_tree(self, sources: Sources, census: Census) -> None:
        gauge, core = self._metrics.gauge, sources.shell.look()
        for state in _STATES:
            gauge("ote_registry_clusters", state).set(census.counts[state])
        gauge("ote_registry_watchers").set(sources.watchers() + sources.dispatches.watchers)
        gauge("ote_failover_beat_age_seconds").set(core.parents.beat_age)
        gauge("ote_failover_depth").set(core.parents.depth)

    def _read_tunnels(self, sources: Sources) -> None:
        gauge, counter, shell = self._metrics.gauge, self._metrics.counter, sources.shell
        core, traffic = shell.core, shell.budget.traffic
        gauge("ote_tunnel_sessions", "up").set(core.parents.active_link is not None)
        gauge("ote_tunnel_sessions", "down").set(sum(1 for _ in core.children.links()))
        queued: dict[Lane, int] = {lane: 0 for lane in Lane if lane is not Lane.BEAT}
        for link in shell.links.values():
            for lane in queued:
                queued[lane] += link.lanes.queued_in(lane)
        for lane, size in queued.items():
            gauge("ote_tunnel_queue_bytes", lane).set(size)
        for lane, size in traffic.sent.items():
            counter("ote_tunnel_sent_bytes_total", lane).set(size)
        counter("ote_tunnel_sent_bytes_total", "bulk").set(traffic.bulk_sent)
        counter("ote_tunnel_received_bytes_total", "tunnel").set(traffic.received)
        counter("ote_tunnel_received_bytes_total", "bulk").set(traffic.bulk_received)
        counter("ote_tunnel_frames_total", "sent").set(traffic.frames_sent)
        counter("ote_tunnel_frames_total", "received").set(traffic.frames_received)
        for lane, items in traffic.refused.items():
            counter("ote_tunnel_refused_total", lane).set(items)
        gauge("ote_tunnel_bulk_streams").set(traffic.bulk_streams.total())
        gauge("ote_tunnel_bulk_credit_bytes").set(sources.uplink.credit.bytes)
        gauge("ote_tunnel_bulk_round_trip_seconds").set(sources.uplink.credit.round_trip)

    def _read_dispatches(self, sources: Sources) -> None:
        gauge, origin = self._metrics.gauge, sources.shell.core.origin
        oldest, error = origin.oldest_unsettled, sources.shim_error()
        gauge("ote_dispatch_unsettled").set(origin.unsettled)
        gauge("ote_dispatch_oldest_unsettled_seconds").set(sources.now() - oldest.begun if oldest is not None else 0.0)
        gauge("ote_dispatch_piece_cache_bytes").set(sources.payloads.pieces.in_memory)
        gauge("ote_dispatch_unused_payload_bytes").set(sources.payloads.unused)
        gauge("ote_shim_connected").set(error == "")

    def _read_trust(self, sources: Sources) -> None:
        gauge = self._metrics.gauge
        gauge("ote_trust_certificate_expiry_seconds").set(sources.membership.expires)
        gauge("ote_trust_evicted").set(len(sources.shell.core.registry.evicted))
