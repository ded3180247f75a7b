"""Objects as Kubernetes shows them: the manifest with what the cluster knows, as plain data for JSON.

Not here: reading and choosing them. What has no equivalent on one machine is left out, never made up.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ote.shims.local.core import records, spec
from ote.shims.local.core.cluster import Cluster
from ote.shims.local.core.names import KINDS, Key
from ote.shims.local.core.records import Container, Pod, Stored

PORT_ANNOTATION = "ote.dev/port"
"""On a pod: the port of its first container."""


def rendered(cluster: Cluster, key: Key) -> dict[str, Any] | None:
    """One object; None where it does not exist."""
    if key.kind == "Pod":
        pod = cluster.pod_named(key.namespace, key.name)
        if pod is not None:
            return _pod(pod, cluster.objects.get(pod.owner))
    stored = cluster.objects.get(key)
    return _stored(cluster, stored) if stored is not None else None


def listed(cluster: Cluster, kind: str, namespace: str | None) -> list[dict[str, Any]]:
    """All objects of a kind in a namespace (None: in all), by name."""
    keys = {key for key in cluster.objects if key.kind == kind}
    if kind == "Pod":
        keys |= {Key("Pod", pod.namespace, pod.name) for pod in cluster.pods.values()}
    chosen = sorted(key for key in keys if namespace is None or not key.namespace or key.namespace == namespace)
    return [found for key in chosen if (found := rendered(cluster, key)) is not None]


def moment(seconds: float) -> str:
    """A time as Kubernetes writes it."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _stored(cluster: Cluster, stored: Stored) -> dict[str, Any]:
    metadata = {**stored.body["metadata"], "uid": stored.uid, "creationTimestamp": moment(stored.created)}
    metadata["generation"] = stored.generation
    body = {**stored.body, "metadata": metadata}
    pods = cluster.pods_of(stored.key)
    if stored.key.kind == "Deployment":
        body["status"] = _deployment_status(stored, pods, cluster)
    elif stored.key.kind == "Job":
        body["status"] = _job_status(stored, pods)
    elif stored.key.kind == "Namespace":
        body["status"] = {"phase": "Active"}
    elif stored.key.kind == "Pod":
        body["status"] = {"phase": "Pending"}
    return body


def _deployment_status(stored: Stored, pods: list[Pod], cluster: Cluster) -> dict[str, Any]:
    live = [pod for pod in pods if not pod.deleting]
    ready = sum(pod.ready for pod in live)
    readiness = cluster.readiness(stored.key)
    wanted = spec.deployment_spec(stored.body).replicas
    available = {"type": "Available", "status": _truth(ready >= wanted), "reason": "MinimumReplicasAvailable"}
    if ready < wanted:
        available |= {"reason": "MinimumReplicasUnavailable", "message": readiness.message}
    return {
        "observedGeneration": stored.generation,
        "replicas": len(live),
        "updatedReplicas": sum(pod.revision == stored.revision for pod in live),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(wanted - ready, 0),
        "conditions": [available],
    }


def _job_status(stored: Stored, pods: list[Pod]) -> dict[str, Any]:
    phases = [pod.phase for pod in pods if not pod.deleting]
    status: dict[str, Any] = {
        "startTime": moment(stored.created),
        "active": sum(phase in ("Pending", "Running") for phase in phases),
        "succeeded": phases.count("Succeeded"),
        "failed": phases.count("Failed"),
    }
    finished = stored.finished
    if finished is not None:
        condition = {"type": "Complete" if finished.complete else "Failed", "status": "True"}
        if finished.complete:
            status["completionTime"] = moment(finished.at)
        else:
            condition |= {"reason": finished.reason, "message": finished.message}
        status["conditions"] = [condition]
    return status


def _pod(pod: Pod, owner: Stored | None) -> dict[str, Any]:
    first = pod.containers[0]
    annotations = dict(pod.metadata.get("annotations", {}))
    if first.ports:
        annotations[PORT_ANNOTATION] = str(first.ports[0])
    metadata: dict[str, Any] = {
        "name": pod.name,
        "namespace": pod.namespace,
        "uid": pod.uid,
        "creationTimestamp": moment(pod.created),
        "labels": pod.metadata.get("labels", {}),
        "annotations": annotations,
    }
    if pod.owner.kind != "Pod":
        reference = {"apiVersion": KINDS[pod.owner.kind].api_version, "kind": pod.owner.kind, "name": pod.owner.name}
        metadata["ownerReferences"] = [{**reference, "uid": owner.uid if owner else "", "controller": True}]
    status: dict[str, Any] = {
        "phase": pod.phase,
        "podIP": "127.0.0.1",
        "hostIP": "127.0.0.1",
        "startTime": moment(pod.created),
        "conditions": [{"type": "Ready", "status": _truth(pod.ready)}],
        "containerStatuses": [_container(pod, container) for container in pod.containers],
    }
    if pod.deleting:
        status["reason"] = "Terminating"
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec, "status": status}


def _container(pod: Pod, container: Container) -> dict[str, Any]:
    declared = pod.typed.container(container.name)
    ports = []
    for index, port in enumerate(container.ports):
        entry: dict[str, Any] = {"hostPort": port, "protocol": "TCP"}
        if index < len(declared.ports):
            entry["containerPort"] = declared.ports[index].container_port
            if declared.ports[index].name:
                entry["name"] = declared.ports[index].name
        ports.append(entry)
    state = _state(container)
    last = {"terminated": _ended(container)} if container.exit_code is not None and "terminated" not in state else {}
    return {
        "name": container.name,
        "image": declared.image,
        "ready": container.ready,
        "started": container.state == records.RUNNING,
        "restartCount": container.restarts,
        "state": state,
        "lastState": last,
        "ports": ports,
    }


def _ended(container: Container) -> dict[str, Any]:
    reason = "Completed" if container.exit_code == 0 else "Error"
    return {"exitCode": container.exit_code, "reason": reason, "finishedAt": moment(container.ended)}


def _state(container: Container) -> dict[str, Any]:
    if container.state == records.RUNNING:
        return {"running": {"startedAt": moment(container.started)}}
    if container.state == records.ENDED and container.reason != "CrashLoopBackOff":
        return {"terminated": _ended(container) | ({"message": container.message} if container.message else {})}
    waiting = {"reason": container.reason or "ContainerCreating"}
    return {"waiting": waiting | ({"message": container.message} if container.message else {})}


def _truth(value: bool) -> str:
    return "True" if value else "False"
