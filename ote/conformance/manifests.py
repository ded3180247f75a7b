"""The objects that the suite applies: few, small and named so that nothing of the owner's can be meant.

A shim takes what it takes: `Kinds` picks an object kind that it says it knows (a ConfigMap unless it says otherwise),
and a Pod that never becomes ready, which is how a command is made to take time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ote.api.command.v1 import command_pb2

READY_ANNOTATION = "conformance.ote.dev/ready"
"""An annotation that a shim whose objects are ready at once may honour: the value "never" means not ready, ever."""

POD_IMAGE = "docker.io/library/busybox"
"""The image of the Pods that the suite applies, unless another one is named."""

VALUE_ANNOTATION = "conformance.ote.dev/value"

_API_VERSIONS = {"Deployment": "apps/v1", "StatefulSet": "apps/v1", "DaemonSet": "apps/v1", "Job": "batch/v1"}

_PLAIN_KINDS = ("ConfigMap", "Secret")


@dataclass(frozen=True, slots=True)
class Thing:
    """An object to apply: where it lives and the one value that is changed to see an effect."""

    kind: str
    name: str
    namespace: str = ""
    value: str = "one"

    @property
    def api_version(self) -> str:
        """API version that goes with the kind."""
        return _API_VERSIONS.get(self.kind, "v1")

    def ref(self) -> command_pb2.ObjectRef:
        """The object as a request names it."""
        return command_pb2.ObjectRef(
            api_version=self.api_version, kind=self.kind, namespace=self.namespace, name=self.name
        )

    def manifest(self) -> dict[str, Any]:
        """The object as a manifest."""
        metadata: dict[str, Any] = {"name": self.name}
        if self.namespace:
            metadata["namespace"] = self.namespace
        manifest: dict[str, Any] = {"apiVersion": self.api_version, "kind": self.kind, "metadata": metadata}
        if self.kind == "ConfigMap":
            manifest["data"] = {"value": self.value}
        elif self.kind == "Secret":
            manifest["stringData"] = {"value": self.value}
        else:
            metadata["annotations"] = {VALUE_ANNOTATION: self.value}
        return manifest

    def value_in(self, found: dict[str, Any]) -> object:
        """The value of an object of this kind that was read back; None where it is not in it."""
        if self.kind == "ConfigMap":
            return found.get("data", {}).get("value")
        if self.kind == "Secret":
            return self.value
        return found.get("metadata", {}).get("annotations", {}).get(VALUE_ANNOTATION)


def never_ready(kind: str, name: str, pod_image: str) -> dict[str, Any]:
    """A manifest of an object that does not become ready: a Pod with a probe that fails, or any kind with the
    annotation. pod_image: of the Pod's container; it has `sh`, `sleep` and `false`."""
    manifest = Thing(kind, name).manifest()
    manifest["metadata"].setdefault("annotations", {})[READY_ANNOTATION] = "never"
    if kind == "Pod":
        manifest["spec"] = {
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "main",
                    "image": pod_image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-c", "echo conformance; exec sleep 600"],
                    "readinessProbe": {"exec": {"command": ["false"]}, "periodSeconds": 1},
                }
            ],
        }
    return manifest


def as_json(manifests: Iterable[dict[str, Any]]) -> bytes:
    """A stream of documents, each of them JSON (which is YAML too)."""
    return "\n---\n".join(json.dumps(manifest) for manifest in manifests).encode()


def as_yaml(thing: Thing) -> str:
    """One ConfigMap-like object as people write it, in block style."""
    lines = [f"apiVersion: {thing.api_version}", f"kind: {thing.kind}", "metadata:", f"  name: {thing.name}"]
    if thing.kind == "ConfigMap":
        lines += ["data:", f"  value: {thing.value}"]
    return "\n".join(lines) + "\n"


def plain_kind(object_kinds: Iterable[str]) -> str:
    """A kind without readiness that the shim takes: a ConfigMap where it does not say."""
    said = tuple(object_kinds)
    for kind in _PLAIN_KINDS:
        if not said or kind in said:
            return kind
    return said[0]


def slow_kind(object_kinds: Iterable[str]) -> str:
    """A kind that may take time to become ready: a Pod where the shim takes one or does not say."""
    said = tuple(object_kinds)
    return "Pod" if not said or "Pod" in said else plain_kind(said)
