"""What clusters have and use, as the core adds it up, to and from protobuf."""

from __future__ import annotations

from collections import Counter

from ote.api.cluster.v1 import cluster_pb2
from ote.api.shim.v1 import shim_pb2
from ote.clustercontroller.core import messages as m

_MAX_WORD = 128


def _resources(value: m.Resources) -> shim_pb2.Resources:
    return shim_pb2.Resources(
        cpu_millis=value.cpu_millis, memory_bytes=value.memory_bytes, disk_bytes=value.disk_bytes, pods=value.pods
    )


def _from_resources(value: shim_pb2.Resources) -> m.Resources:
    return m.Resources(value.cpu_millis, value.memory_bytes, value.disk_bytes, value.pods)


def encode_totals(value: m.Totals) -> cluster_pb2.Totals:
    """Sums as ClusterService and tunnels carry them."""
    return cluster_pb2.Totals(
        clusters=value.clusters,
        clusters_ready=value.clusters_ready,
        capacity=_resources(value.capacity),
        usage=_resources(value.usage),
        nodes=value.nodes,
        nodes_ready=value.nodes_ready,
        workloads=value.workloads,
        pods_running=value.pods_running,
        pods_failing=value.pods_failing,
        unwell=value.unwell,
        clusters_silent=value.clusters_silent,
    )


def decode_totals(value: cluster_pb2.Totals) -> m.Totals:
    """The reverse of `encode_totals`."""
    return m.Totals(
        clusters=value.clusters,
        clusters_ready=value.clusters_ready,
        capacity=_from_resources(value.capacity),
        usage=_from_resources(value.usage),
        nodes=value.nodes,
        nodes_ready=value.nodes_ready,
        workloads=dict(value.workloads),
        pods_running=value.pods_running,
        pods_failing=value.pods_failing,
        unwell=list(value.unwell),
        clusters_silent=value.clusters_silent,
    )


def word(text: str) -> str:
    """A stranger's word as the tree may carry it."""
    return "".join(character for character in text[:_MAX_WORD] if character.isprintable())


def totals_of(status: shim_pb2.ClusterStatus) -> m.Totals:
    """The numbers of one cluster, to be summed with those of others."""
    workloads: Counter[str] = Counter()
    for kind, number in status.workloads.items():
        workloads[word(kind)] += number
    return m.Totals(
        clusters=1,
        clusters_ready=int(status.ready),
        capacity=_from_resources(status.capacity),
        usage=_from_resources(status.usage),
        nodes=status.nodes,
        nodes_ready=status.nodes_ready,
        workloads=dict(workloads),
        pods_running=status.pods_running,
        pods_failing=status.pods_failing,
    )
