"""What ote-ctl shows, as plain values: the stable shapes of its JSON, made from the API's messages.

Not here: printing. The one idea: the API may change beneath; these shapes only grow, and docs/cli.md tells them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.api.shim.v1 import shim_pb2
from ote.api.trust.v1 import trust_pb2

Document = dict[str, Any]


def moment(stamp: Timestamp) -> str | None:
    """RFC 3339 in UTC, with milliseconds; None for a time that was not given, and for one that cannot be."""
    if not stamp.seconds and not stamp.nanos:
        return None
    try:
        time = stamp.ToDatetime(tzinfo=UTC)
    except ValueError:  # a shim's own word, which nobody has looked at
        return None
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def age(since: str | None, now: datetime | None = None) -> str:
    """How long ago a moment was, in one or two units: "45s", "12m", "3h20m", "5d"; empty for None."""
    if since is None:
        return ""
    seconds = int(((now or datetime.now(UTC)) - datetime.fromisoformat(since)).total_seconds())
    if seconds < 0:
        return "0s"
    if seconds < 120:
        return f"{seconds}s"
    minutes, hours = seconds // 60, seconds // 3600
    if minutes < 120:
        return f"{minutes}m"
    if hours < 48:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    return f"{hours // 24}d"


def state_name(cluster: cluster_pb2.Cluster) -> str:
    """ONLINE, OFFLINE, AWAY, NAME_CONFLICT."""
    return _enum_name(cluster_pb2.ClusterState, cluster.state, "CLUSTER_STATE_")


def target_state(target: route_pb2.Target) -> str:
    """PENDING … OUTCOME_UNKNOWN."""
    return _enum_name(route_pb2.TargetState, target.state, "TARGET_STATE_")


def cluster_view(cluster: cluster_pb2.Cluster) -> Document:
    """A cluster in `cluster list`."""
    return {
        "name": cluster.name,
        "uid": cluster.uid,
        "state": state_name(cluster),
        "parent": cluster.parent,
        "configured_parent": cluster.configured_parent,
        "path": list(cluster.path),
        "labels": dict(sorted(cluster.labels.items())),
        "tags": sorted(cluster.tags),
        "epoch": cluster.epoch,
        "shim": _shim_view(cluster.shim) if cluster.HasField("shim") else None,
        "last_seen": moment(cluster.last_seen),
    }


def cluster_detail(cluster: cluster_pb2.Cluster) -> Document:
    """A cluster in `cluster get`: what the list has, and the rest."""
    return cluster_view(cluster) | {
        "state_since": moment(cluster.state_since),
        "away_from_home_since": moment(cluster.away_from_home_since),
        "home_problem": cluster.home_problem,
        "draining": cluster.draining,
        "advertise": cluster.advertise,
        "instance": cluster.instance,
        "version": cluster.version,
        "changed_facts": list(cluster.changed_facts),
        "descendants": cluster.descendants,
        "status": _status_view(cluster.status) if cluster.HasField("status") else None,
        "status_as_of": moment(cluster.status_as_of),
        "status_stale": cluster.status_stale,
        "totals": _totals_view(cluster.totals),
    }


def _shim_view(shim: cluster_pb2.Shim) -> Document:
    return {
        "kind": shim.kind,
        "name": shim.name,
        "version": shim.version,
        "capabilities": list(shim.capabilities),
        "not_answering_since": moment(shim.not_answering_since),
    }


def shim_text(shim: Document) -> str:
    """The kind of a cluster's shim, and that it does not answer."""
    return f"{shim['kind']} (not answering)" if shim["not_answering_since"] else str(shim["kind"])


def _status_view(status: shim_pb2.ClusterStatus) -> Document:
    return {
        "ready": status.ready,
        "message": status.message,
        "capacity": _resources(status.capacity),
        "usage": _resources(status.usage),
        "nodes": status.nodes,
        "nodes_ready": status.nodes_ready,
        "workloads": dict(sorted(status.workloads.items())),
        "pods_running": status.pods_running,
        "pods_failing": status.pods_failing,
        "as_of": moment(status.as_of),
    }


def _totals_view(totals: cluster_pb2.Totals) -> Document:
    return {
        "clusters": totals.clusters,
        "clusters_ready": totals.clusters_ready,
        "clusters_silent": totals.clusters_silent,
        "capacity": _resources(totals.capacity),
        "usage": _resources(totals.usage),
        "nodes": totals.nodes,
        "nodes_ready": totals.nodes_ready,
        "workloads": dict(sorted(totals.workloads.items())),
        "pods_running": totals.pods_running,
        "pods_failing": totals.pods_failing,
        "unwell": list(totals.unwell),
    }


def totals_text(totals: Document) -> str:
    """Sums over a subtree in a line; empty where nobody has told anything."""
    if not totals["clusters"]:
        return ""
    return (
        f"{totals['clusters_ready']} of {totals['clusters']} clusters ready, "
        f"{totals['pods_running']} pods running, {totals['pods_failing']} failing, "
        f"{usage_text(totals)}"
    )


def usage_text(status: Document) -> str:
    """What is used of the capacity of a cluster, or of those below it."""
    used, whole = status["usage"], status["capacity"]
    return (
        f"{used['cpu_millis'] / 1000:.1f} of {whole['cpu_millis'] / 1000:.0f} cores, "
        f"{size_text(used['memory_bytes'])} of {size_text(whole['memory_bytes'])} memory"
    )


def _resources(resources: shim_pb2.Resources) -> Document:
    return {
        "cpu_millis": resources.cpu_millis,
        "memory_bytes": resources.memory_bytes,
        "disk_bytes": resources.disk_bytes,
        "pods": resources.pods,
    }


def dispatch_view(name: str, command: str, targets: Iterable[route_pb2.Target]) -> Document:
    """A dispatch in `apply`, `delete`, `dispatch get` and `dispatch watch`."""
    shown = [target_view(target) for target in sorted(targets, key=lambda target: target.cluster)]
    return {
        "dispatch": name,
        "origin": name.rpartition("/")[0],
        "command": command,
        "targets": shown,
        "summary": summary([target["state"] for target in shown]),
    }


def target_view(target: route_pb2.Target) -> Document:
    """One target of a dispatch. `message` says what is wrong, with the reason first where there is one."""
    message, state = target.message, target_state(target)
    if target.reason and target.reason not in message and target.reason != state:
        message = f"{target.reason}: {message}" if message else target.reason
    return {
        "cluster": target.cluster,
        "state": state,
        "objects": [object_view(one) for one in target.objects],
        "message": message,
        "attempts": target.attempts,
        "latency_ms": target.latency_ms,
    }


def object_view(result: command_pb2.ObjectResult) -> Document:
    """What happened to one object: created, configured, unchanged, deleted, absent, failed."""
    return {
        "kind": result.object.kind,
        "namespace": result.object.namespace,
        "name": result.object.name,
        "action": _enum_name(command_pb2.Action, result.action, "ACTION_").lower(),
    }


def summary(states: Iterable[str]) -> dict[str, int]:
    """Number of targets by state, in the order of the states."""
    counts: dict[str, int] = {}
    for state in states:
        counts[state] = counts.get(state, 0) + 1
    known = [name.removeprefix("TARGET_STATE_") for name in route_pb2.TargetState.keys()]  # noqa: SIM118 (an enum)
    order = {state: place for place, state in enumerate(known)}
    return {state: counts[state] for state in sorted(counts, key=lambda state: (order.get(state, len(order)), state))}


def dispatch_row(dispatch: route_pb2.Dispatch) -> Document:
    """A dispatch in `dispatch list`."""
    return {
        "dispatch": dispatch.name,
        "origin": dispatch.origin,
        "command": dispatch.command,
        "clusters": dispatch.selector.clusters,
        "labels": dispatch.selector.labels,
        "created": moment(dispatch.created),
        "caller": dispatch.caller,
        "settled": dispatch.settled,
        "summary": dict(sorted(dispatch.states.items())),
    }


def objects_view(targets: Iterable[route_pb2.Target]) -> Document:
    """What `get` read: the objects of all clusters, and the clusters that did not answer."""
    items: list[Document] = []
    errors: list[Document] = []
    for target in sorted(targets, key=lambda target: target.cluster):
        if target_state(target) != "SUCCEEDED":
            shown = target_view(target)
            errors.append({key: shown[key] for key in ("cluster", "state", "message")})
            continue
        try:
            found = json.loads(target.output or b"[]")
        except ValueError:
            errors.append({"cluster": target.cluster, "state": "SUCCEEDED", "message": "its answer is not JSON"})
            continue
        found = found if isinstance(found, list) else [found]
        items += [{"cluster": target.cluster, "object": one} for one in found]
    once = {tuple(error.values()): error for error in errors}  # of several kinds one cluster often says the same
    return {"items": items, "errors": list(once.values())}


def route_view(route: route_pb2.Route) -> Document:
    """A route in `route list`."""
    return {"cluster": route.cluster, "next_hop": route.next_hop, "path": list(route.path), "up": route.up}


def token_view(token: trust_pb2.JoinToken) -> Document:
    """A join token in `token list`; its secret is never shown again."""
    return {
        "id": token.id,
        "created": moment(token.created),
        "expires": moment(token.expires),
        "uses": token.uses,
        "used_by": list(token.used_by),
        "name_pattern": token.name_pattern,
        "allow_children": token.allow_children,
        "revoked": token.revoked,
    }


def status_view(status: cluster_pb2.GetControllerStatusResponse) -> Document:
    """How a controller does, in `status`."""
    return {
        "self": cluster_view(status.self),
        "version": status.self.version,
        "connected": status.connected,
        "connected_since": moment(status.connected_since),
        "beat": status.beat,
        "depth": status.depth,
        "problems": [
            {
                "reason": problem.reason,
                "message": problem.message,
                "since": moment(problem.since),
                "cluster": problem.cluster,
            }
            for problem in status.problems
        ],
        "tunnels": [_tunnel_view(tunnel) for tunnel in status.tunnels],
        "clusters": dict(sorted(status.clusters.items())),
        "totals": _totals_view(status.totals),
        "alternates": list(status.alternates),
        "unsettled_dispatches": status.unsettled_dispatches,
        "oldest_unsettled": moment(status.oldest_unsettled),
        "started": moment(status.started),
        "certificate_expires": moment(status.certificate_expires),
    }


def _tunnel_view(tunnel: cluster_pb2.Tunnel) -> Document:
    return {
        "peer": tunnel.peer,
        "direction": "parent" if tunnel.up else "child",
        "since": moment(tunnel.since),
        "sent_bytes": dict(sorted(tunnel.sent_bytes.items())),
        "received_bytes": tunnel.received_bytes,
        "queued_bytes": tunnel.queued_bytes,
        "refused_items": tunnel.refused_items,
        "silent_ms": tunnel.silent_ms,
        "bulk_streams": tunnel.bulk_streams,
    }


def shim_info_view(info: shim_pb2.GetShimInfoResponse) -> Document:
    """What a shim tells about itself, in `shim info`."""
    return {
        "name": info.name,
        "kind": info.kind,
        "version": info.version,
        "protocol_version": info.protocol_version,
        "capabilities": list(info.capabilities),
        "instance_id": info.instance_id,
        "memory": _enum_name(shim_pb2.Memory, info.memory, "MEMORY_"),
        "max_command_bytes": info.max_command_bytes,
        "object_kinds": list(info.object_kinds),
    }


def mapping_text(mapping: Mapping[str, str]) -> str:
    """Labels in one cell: "region=eu,tier=gold"."""
    return ",".join(f"{key}={value}" for key, value in sorted(mapping.items()))


def size_text(count: int) -> str:
    """Bytes for people: "512 B", "3.4 kB", "1.2 MB"."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _enum_name(enum: Any, value: int, prefix: str) -> str:
    """The name of a value without its prefix; a value newer than this program is shown as its number."""
    return enum.Name(value).removeprefix(prefix) if value in enum.values() else f"UNKNOWN_{value}"
