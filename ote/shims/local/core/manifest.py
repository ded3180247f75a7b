"""From parsed documents to checked objects, or to the list of everything that is wrong with them.

Not here: reading YAML or JSON (`documents` of the shell) and checks against what exists (`cluster`). The one idea:
nothing is applied unless everything is right, and one answer names every problem, so that nobody repairs them one by
one.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from ote.shims.local.core import names, schema
from ote.shims.local.core.names import KINDS, Key

MAX_OBJECTS = 10_000
"""Most objects of one command."""
MAX_PROBLEMS = 50
"""Most problems that one answer names."""

Needs = Literal["command", "image"]
"""What every container must have: a command of this machine, or an image."""

_SERVER_META = ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink")


class InvalidManifest(Exception):
    """The manifests cannot be applied; problems has one line for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        more = len(self.problems) - MAX_PROBLEMS
        return "; ".join(self.problems[:MAX_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")


class Manifest(msgspec.Struct, frozen=True):
    """One object to be applied: its key and its body in the form in which it is kept and compared."""

    key: Key
    body: dict[str, Any]


def check(documents: Iterable[Any], *, needs: Needs) -> list[Manifest]:
    """The objects of documents, lists unpacked, in an order in which what is needed comes first.

    needs: what the driver cannot do without.
    Raises InvalidManifest.
    """
    problems: list[str] = []
    found: dict[Key, Manifest] = {}
    for label, document in _flatten(documents, problems):
        manifest = _check_one(label, document, needs, problems)
        if manifest is None:
            continue
        if manifest.key in found:
            problems.append(f"{manifest.key}: stands in the manifests twice")
        found[manifest.key] = manifest
    if not found and not problems:
        problems.append("there is no object in the manifests")
    if problems:
        raise InvalidManifest(problems)
    order = list(KINDS)
    return sorted(found.values(), key=lambda manifest: order.index(manifest.key.kind))


def references(documents: Iterable[Any]) -> list[Key]:
    """The keys of the objects in documents; nothing but kind, namespace and name counts.

    Raises InvalidManifest.
    """
    problems: list[str] = []
    keys: dict[Key, None] = {}
    for label, document in _flatten(documents, problems):
        key = _key(label, document, problems)
        if key is not None:
            keys[key] = None
    if problems:
        raise InvalidManifest(problems)
    return list(keys)


def _flatten(documents: Iterable[Any], problems: list[str]) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for number, document in enumerate(documents, 1):
        kind = document.get("kind") if isinstance(document, dict) else None
        if isinstance(document, dict) and isinstance(kind, str) and kind.endswith("List"):
            inner = document.get("items") or []
            if isinstance(inner, list):
                flat.extend((f"document {number} item {index}", item) for index, item in enumerate(inner, 1))
            else:
                problems.append(f"document {number}: items must be a list")
        elif document is not None:
            flat.append((f"document {number}", document))
    if len(flat) > MAX_OBJECTS:
        problems.append(f"there are {len(flat)} objects in the manifests; at most {MAX_OBJECTS} go in one command")
        return []
    return flat


def _key(label: str, document: Any, problems: list[str]) -> Key | None:
    if not isinstance(document, dict):
        problems.append(f"{label}: must be an object with apiVersion, kind and metadata, not {schema.shown(document)}")
        return None
    kind_name, metadata = document.get("kind"), document.get("metadata")
    if not isinstance(kind_name, str) or not kind_name:
        problems.append(f"{label}: kind is missing")
        return None
    kind = KINDS.get(kind_name)
    if kind is None:
        known = ", ".join(KINDS)
        problems.append(f"{label}: kind {schema.shown(kind_name)} is not supported; the local shim takes {known}")
        return None
    if document.get("apiVersion") != kind.api_version:
        version = schema.shown(document.get("apiVersion"))
        problems.append(f"{label}: apiVersion of a {kind.name} must be {kind.api_version!r}, not {version}")
        return None
    if not isinstance(metadata, dict):
        problems.append(f"{label} ({kind.name}): metadata with a name is missing")
        return None
    before = len(problems)
    named = {name: metadata[name] for name in ("name", "namespace", "generateName") if name in metadata}
    schema.OBJECT_META(named, f"{label} ({kind.name}): metadata", problems)
    if len(problems) > before:
        return None
    return names.key_of(kind, metadata.get("namespace") or "", metadata["name"])


def _check_one(label: str, document: Any, needs: Needs, problems: list[str]) -> Manifest | None:
    key = _key(label, document, problems)
    if key is None:
        return None
    found: list[str] = []
    schema.OBJECTS[key.kind](document, "", found)
    if not found:
        template = _pod_of(key.kind, document)
        if template is not None:
            _check_pod(key.kind, *template, needs, found)
        if key.kind in ("Deployment", "Job") and document["spec"].get("selector"):
            _check_selector(document["spec"], found)
        if key.kind == "Namespace" and not names.is_label(key.name):
            found.append("metadata.name: must be at most 63 lower-case letters, digits and '-'")
    problems.extend(f"{key}: {problem}" for problem in found)
    return None if found else Manifest(key, _normal(key, document))


def _pod_of(kind: str, document: dict[str, Any]) -> tuple[dict[str, Any], str] | None:
    if kind == "Pod":
        return document["spec"], "spec"
    if kind in names.WORKLOADS:
        return document["spec"]["template"]["spec"], "spec.template.spec"
    return None


def _check_pod(kind: str, spec: dict[str, Any], path: str, needs: Needs, problems: list[str]) -> None:
    policy = spec.get("restartPolicy") or "Always"
    if kind == "Deployment" and policy != "Always":
        problems.append(f"{path}.restartPolicy: must be Always in a Deployment")
    if kind == "Job" and policy == "Always":
        problems.append(f"{path}.restartPolicy: must be OnFailure or Never in a Job")
    volumes = [volume["name"] for volume in spec.get("volumes") or []]
    _check_unique(volumes, f"{path}.volumes", problems)
    containers = spec["containers"]
    _check_unique([container["name"] for container in containers], f"{path}.containers", problems)
    for index, container in enumerate(containers):
        _check_container(container, f"{path}.containers[{index}]", volumes, needs, problems)


def _check_container(
    container: dict[str, Any], path: str, volumes: list[str], needs: Needs, problems: list[str]
) -> None:
    if needs == "image" and not container.get("image"):
        problems.append(f"{path}.image: missing; the podman driver runs images")
    if needs == "command" and not container.get("command"):
        problems.append(
            f"{path}.command: missing; the process driver runs commands of this machine, an image's own entrypoint "
            "needs the podman driver (--driver podman)"
        )
    mounts = container.get("volumeMounts") or []
    for number, mount in enumerate(mounts):
        if mount["name"] not in volumes:
            problems.append(f"{path}.volumeMounts[{number}].name: the pod has no volume {mount['name']!r}")
    paths = sorted(mount["mountPath"].rstrip("/") + "/" for mount in mounts)
    for first, second in itertools.pairwise(paths):
        if second.startswith(first):
            problems.append(f"{path}.volumeMounts: {second[:-1]} lies within {first[:-1]}")
    for number, variable in enumerate(container.get("env") or []):
        if variable.get("value") and variable.get("valueFrom"):
            problems.append(f"{path}.env[{number}]: has both value and valueFrom")
    ports = [port["name"] for port in container.get("ports") or [] if port.get("name")]
    _check_unique(ports, f"{path}.ports", problems)
    for name in ("readinessProbe", "livenessProbe"):
        probe = container.get(name) or {}
        target = (probe.get("httpGet") or probe.get("tcpSocket") or {}).get("port")
        if isinstance(target, str) and target not in ports:
            problems.append(f"{path}.{name}: the container has no port named {target!r}")


def _check_unique(found: list[str], path: str, problems: list[str]) -> None:
    for name in sorted({name for name in found if found.count(name) > 1}):
        problems.append(f"{path}: the name {name!r} stands there twice")


def _check_selector(spec: dict[str, Any], problems: list[str]) -> None:
    labels = (spec["template"].get("metadata") or {}).get("labels") or {}
    wanted = spec["selector"]["matchLabels"]
    if not wanted or any(labels.get(key) != value for key, value in wanted.items()):
        problems.append("spec.selector.matchLabels: must not be empty, and spec.template.metadata.labels must have all")


def _normal(key: Key, document: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = _without_nulls({name: value for name, value in document.items() if name != "status"})
    metadata = {name: value for name, value in body["metadata"].items() if name not in _SERVER_META}
    if key.namespace:
        metadata["namespace"] = key.namespace
    else:
        metadata.pop("namespace", None)
    body["metadata"] = metadata
    if key.kind == "Secret":
        plain = body.pop("stringData", {})
        encoded = {name: base64.b64encode(value.encode()).decode() for name, value in plain.items()}
        body["data"] = {**body.get("data", {}), **encoded}
    return body


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
