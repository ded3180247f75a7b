"""What the API shows: registry entries and dispatches of the core as the messages of ClusterService and
RouteService."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import TypeVar

from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.api.shim.v1 import shim_pb2
from ote.clustercontroller.core import states
from ote.clustercontroller.core.entries import ClusterEntry
from ote.clustercontroller.core.messages import PathStep
from ote.clustercontroller.core.records import DispatchRow, TargetRow
from ote.clustercontroller.core.registry import Details, Registry
from ote.clustercontroller.wire.totals import encode_totals

_CLUSTER_STATE = {
    state: cluster_pb2.ClusterState.Value(f"CLUSTER_STATE_{state}")
    for state in (states.ONLINE, states.OFFLINE, states.AWAY, states.NAME_CONFLICT)
}
TARGET_STATE = {name.removeprefix("TARGET_STATE_"): number for name, number in route_pb2.TargetState.items()}
"""Number of a target's state by its name."""


_Said = TypeVar("_Said", command_pb2.Result, command_pb2.Progress)


_LAST = 253_402_300_799.0
"""The end of the year 9999: no time of protobuf is later."""


def timestamp(seconds: float) -> Timestamp:
    """Seconds since 1970 as protobuf has it. What cannot be, as a peer may tell it, becomes the nearest that can."""
    seconds = min(max(seconds, 0.0), _LAST)
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return Timestamp(seconds=whole, nanos=milliseconds * 1_000_000)


class ClusterViews:
    """Makes `Cluster` messages. `wall` turns a time of the core's clock into seconds since 1970."""

    def __init__(
        self,
        registry: Registry,
        details: Callable[[str], Details | None],
        wall: Callable[[float], float],
        above: Callable[[], list[PathStep]],
    ) -> None:
        self._registry = registry
        self._details = details
        self._wall = wall
        self._above = above

    def cluster(self, entry: ClusterEntry) -> cluster_pb2.Cluster:
        """One cluster as seen from here now."""
        registry = self._registry
        facts = entry.facts
        parent = registry.get(entry.parent_uid)
        steps = self._above()
        above = [step.name for step in steps[:-1]]
        state = registry.state(entry.uid)
        name = entry.name
        if parent is not None:
            parent_name = parent.name
        else:
            parent_name = next((step.name for step in steps if step.uid == entry.parent_uid), entry.away_parent)
        view = cluster_pb2.Cluster(
            name=name,
            uid=entry.uid,
            state=_CLUSTER_STATE[state],
            state_since=timestamp(self._wall(registry.since(entry.uid))),
            parent=entry.away_parent if state == states.AWAY else parent_name,
            configured_parent=facts.configured_parent,
            path=[*above, *registry.path(entry.uid)],
            labels=facts.labels,
            tags=facts.tags,
            epoch=entry.known_epoch,
            last_seen=timestamp(self._wall(registry.heard(entry.uid))),
            draining=facts.draining,
            advertise=facts.advertise,
            instance=entry.instance,
            version=facts.software,
            changed_facts=facts.changed,
            descendants=sum(1 for _ in registry.descendants(entry.uid)) if registry.children(entry.uid) else 0,
        )
        if facts.shim_name:
            view.shim.CopyFrom(
                cluster_pb2.Shim(
                    kind=facts.shim_kind,
                    name=facts.shim_name,
                    version=facts.shim_version,
                    capabilities=facts.capabilities,
                )
            )
            if facts.shim_silent_since_ms:
                view.shim.not_answering_since.CopyFrom(timestamp(facts.shim_silent_since_ms / 1000))
        details = self._details(entry.uid)
        if details is not None:
            status = details.status
            stale = not registry.is_up(entry.uid)
            self.show_details(view, status.cluster_status, encode_totals(status.totals), at=details.at, stale=stale)
        return view

    def moment(self, at: float) -> Timestamp:
        """A time of the core's clock as people see it."""
        return timestamp(self._wall(at))

    def show_details(
        self, view: cluster_pb2.Cluster, status: bytes, totals: cluster_pb2.Totals, *, at: float, stale: bool
    ) -> None:
        """Fill in what the cluster told; `at` is of the core's clock."""
        with contextlib.suppress(DecodeError):  # a stranger's words: nobody else is to suffer from them
            if status:
                view.status.CopyFrom(shim_pb2.ClusterStatus.FromString(status))
        view.totals.CopyFrom(totals)
        view.status_as_of.CopyFrom(timestamp(self._wall(at)))
        view.status_stale = stale


def target(row: TargetRow, output: bytes = b"") -> route_pb2.Target:
    """One target of a dispatch, with what the cluster itself said: a Result once it has ended, a Progress before."""
    message, reason = row.message, row.reason
    said: command_pb2.Result | command_pb2.Progress | None = None
    if row.body and row.state in states.FINAL:
        said = result = _read(command_pb2.Result, row.body)
        output, message, reason = output or result.output, message or result.message, reason or result.reason
        if row.state == states.EXPIRED and reason == states.CANCELLED:
            reason, message = states.EXPIRED, "its time was over before it took effect"
    elif row.body:
        said = progress = _read(command_pb2.Progress, row.body)
        message = progress.message or message
    view = route_pb2.Target(
        cluster=row.name,
        uid=row.uid,
        state=TARGET_STATE[row.state],
        message=message,
        reason=reason,
        attempts=row.attempts,
        latency_ms=row.latency_ms,
        journal_number=row.journal_number,
        output=output,
    )
    if said is not None and said.objects:
        view.objects.extend(said.objects)
    if row.since:
        since, milliseconds = view.since, round(row.since * 1000)
        since.seconds, since.nanos = milliseconds // 1000, milliseconds % 1000 * 1_000_000
    return view


def _read(kind: type[_Said], body: bytes) -> _Said:
    """What a cluster said; nothing where it cannot be read: nobody else is to suffer from it."""
    try:
        return kind.FromString(body)
    except DecodeError:
        return kind()


def count(rows: Iterable[TargetRow]) -> dict[str, int]:
    """Targets by state."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + 1
    return counts


def dispatch(origin: str, row: DispatchRow, rows: Iterable[TargetRow]) -> route_pb2.Dispatch:
    """A dispatch without its targets."""
    counts = count(rows)
    return route_pb2.Dispatch(
        name=f"{origin}/{row.id}",
        origin=origin,
        command=row.command,
        selector=cluster_pb2.Selector(clusters=row.clusters, labels=row.labels),
        created=timestamp(row.created),
        caller=row.caller,
        settled=all(state in states.FINAL for state in counts),
        states=counts,
    )
