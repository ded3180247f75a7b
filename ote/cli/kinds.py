"""Kinds of objects as people type them ("deploy", "pods") and as manifests say them ("Deployment")."""

from __future__ import annotations

from ote.api.command.v1 import command_pb2
from ote.model.errors import InvalidArgument

_SHORT = {
    "cm": "ConfigMap",
    "cj": "CronJob",
    "crd": "CustomResourceDefinition",
    "deploy": "Deployment",
    "ds": "DaemonSet",
    "ep": "Endpoints",
    "ev": "Event",
    "hpa": "HorizontalPodAutoscaler",
    "ing": "Ingress",
    "netpol": "NetworkPolicy",
    "no": "Node",
    "ns": "Namespace",
    "po": "Pod",
    "pdb": "PodDisruptionBudget",
    "pv": "PersistentVolume",
    "pvc": "PersistentVolumeClaim",
    "rs": "ReplicaSet",
    "sa": "ServiceAccount",
    "sts": "StatefulSet",
    "svc": "Service",
}
_KNOWN = {
    kind.lower(): kind
    for kind in (
        *_SHORT.values(),
        "ClusterRole",
        "ClusterRoleBinding",
        "Job",
        "Role",
        "RoleBinding",
        "Secret",
        "StorageClass",
    )
}

_ALL = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Service", "Pod")


def kind_of(text: str) -> str:
    """The kind as a manifest says it; one that is not known stays as it was typed."""
    word = text.lower()
    if word in _SHORT:
        return _SHORT[word]
    for singular in (word, word.removesuffix("s"), word.removesuffix("es"), word.removesuffix("ies") + "y"):
        if singular in _KNOWN:
            return _KNOWN[singular]
    return text


def kinds_of(text: str) -> list[str]:
    """The kinds of "deploy,jobs"; "all" stands for the usual ones. Raises InvalidArgument (INVALID_REFERENCE)."""
    if text == "all":
        return list(_ALL)
    words = [word.strip() for word in text.split(",")]
    if not all(words):
        raise InvalidArgument("INVALID_REFERENCE", f"{text!r} has an empty kind: write them as in deploy,pods")
    return list(dict.fromkeys(map(kind_of, words)))


def split_reference(text: str) -> tuple[str, str]:
    """("Deployment", "web") of "deploy/web". Raises InvalidArgument (INVALID_REFERENCE)."""
    kind, slash, name = text.partition("/")
    if not kind or not slash or not name or "/" in name:
        raise InvalidArgument("INVALID_REFERENCE", f"{text!r} does not name an object: write KIND/NAME")
    return kind_of(kind), name


def object_ref(text: str, namespace: str) -> command_pb2.ObjectRef:
    """The reference that "deploy/web" stands for."""
    kind, name = split_reference(text)
    return command_pb2.ObjectRef(kind=kind, name=name, namespace=namespace)
