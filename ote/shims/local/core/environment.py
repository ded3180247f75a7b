"""What a container is started with: its variables, its command with references resolved, and the files of its volumes.

Not here: the process (`process`) and its folders (`files`). The one idea: everything comes from the pod, its ports and
the ConfigMaps and Secrets as they are at this moment, so it can be computed again at any time.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ote.shims.local.core import spec
from ote.shims.local.core.names import Key

Lookup = Callable[[Key], dict[str, Any] | None]
"""The body of an object that exists."""

_REFERENCE = re.compile(r"\$(?:\$|\(([^()\s]*)\))")


class VolumeFile(msgspec.Struct, frozen=True):
    """One file of a volume: where it lies in it, what is in it and who may read it."""

    path: str
    content: bytes
    mode: int


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Kubernetes' expansion: $(NAME) becomes the variable's value, $$ a dollar sign; an unknown name stays as it is."""

    def value(match: re.Match[str]) -> str:
        whole, name = match.group(0), match.group(1)
        if name is None:
            return "$"
        return variables.get(name, whole)

    return _REFERENCE.sub(value, text)


def content(kind: str, body: dict[str, Any]) -> dict[str, bytes]:
    """The keys and values of a ConfigMap or Secret."""
    if kind == "Secret":
        return {key: base64.b64decode(value) for key, value in (body.get("data") or {}).items()}
    plain = {key: value.encode() for key, value in (body.get("data") or {}).items()}
    return plain | {key: base64.b64decode(value) for key, value in (body.get("binaryData") or {}).items()}


def sources(pod: spec.PodSpec, namespace: str) -> dict[Key, set[str]]:
    """The ConfigMaps and Secrets a pod cannot start without, each with the keys that it must have."""
    needed: dict[Key, set[str]] = {}

    def need(kind: str, name: str, keys: set[str]) -> None:
        needed.setdefault(Key(kind, namespace, name), set()).update(keys)

    for volume in pod.volumes:
        config_map, secret = volume.config_map, volume.secret
        if config_map is not None and not config_map.optional:
            need("ConfigMap", config_map.name, {item.key for item in config_map.items or ()})
        if secret is not None and not secret.optional:
            need("Secret", secret.secret_name, {item.key for item in secret.items or ()})
    for container in pod.containers:
        for source in container.env_from:
            for kind, reference in (("ConfigMap", source.config_map_ref), ("Secret", source.secret_ref)):
                if reference is not None and not reference.optional:
                    need(kind, reference.name, set())
        for variable in container.env:
            origin = variable.value_from or spec.ValueFrom()
            for kind, key in (("ConfigMap", origin.config_map_key_ref), ("Secret", origin.secret_key_ref)):
                if key is not None and not key.optional:
                    need(kind, key.name, {key.key})
    return needed


def references(pod: spec.PodSpec, namespace: str) -> set[Key]:
    """The ConfigMaps and Secrets whose content shows up in the pod's volumes."""
    keys = {Key("ConfigMap", namespace, volume.config_map.name) for volume in pod.volumes if volume.config_map}
    return keys | {Key("Secret", namespace, volume.secret.secret_name) for volume in pod.volumes if volume.secret}


def missing(pod: spec.PodSpec, namespace: str, lookup: Lookup) -> str:
    """What a pod waits for before it can start, in one line; empty when nothing is missing."""
    for key, wanted in sources(pod, namespace).items():
        body = lookup(key)
        if body is None:
            return f"{key.kind} {key.name!r} does not exist in namespace {namespace!r}"
        lacking = wanted - (body.get("data") or {}).keys() - (body.get("binaryData") or {}).keys()
        if lacking:
            return f"{key.kind} {key.name!r} has no key {min(lacking)!r}"
    return ""


def variables(
    container: spec.Container, fields: Mapping[str, str], base: Mapping[str, str], namespace: str, lookup: Lookup
) -> dict[str, str]:
    """The variables of a container.

    fields: values of fieldRef paths. base: what the shim hands to each container (PORT, OTE_POD_DIR …); the manifest's
    own come after it and win.
    """
    result = dict(base)
    for source in container.env_from:
        for kind, reference in (("ConfigMap", source.config_map_ref), ("Secret", source.secret_ref)):
            body = lookup(Key(kind, namespace, reference.name)) if reference is not None else None
            for key, value in content(kind, body).items() if body is not None else ():
                result[source.prefix + key] = _text(value)
    for variable in container.env:
        value_from = variable.value_from
        found = expand(variable.value, result) if value_from is None else _value(value_from, fields, namespace, lookup)
        if found is not None:
            result[variable.name] = found
    return result


def _value(source: spec.ValueFrom, fields: Mapping[str, str], namespace: str, lookup: Lookup) -> str | None:
    if source.field_ref is not None:
        return fields[source.field_ref.field_path]
    for kind, reference in (("ConfigMap", source.config_map_key_ref), ("Secret", source.secret_key_ref)):
        body = lookup(Key(kind, namespace, reference.name)) if reference is not None else None
        if reference is not None and body is not None and reference.key in (values := content(kind, body)):
            return _text(values[reference.key])
    return None


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape").replace("\0", "")


def volume_files(volume: spec.Volume, namespace: str, lookup: Lookup) -> list[VolumeFile] | None:
    """The files of a ConfigMap or Secret volume as they are now; None for a volume that belongs to the containers."""
    if volume.config_map is not None:
        key, items, mode = volume.config_map.name, volume.config_map.items, volume.config_map.default_mode
        kind = "ConfigMap"
    elif volume.secret is not None:
        key, items, mode = volume.secret.secret_name, volume.secret.items, volume.secret.default_mode
        kind = "Secret"
    else:
        return None
    body = lookup(Key(kind, namespace, key))
    values = content(kind, body) if body is not None else {}
    if items is None:
        return [VolumeFile(name, value, mode) for name, value in sorted(values.items())]
    return [
        VolumeFile(item.path, values[item.key], mode if item.mode is None else item.mode)
        for item in items
        if item.key in values
    ]
