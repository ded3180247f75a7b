"""Which fields a manifest may have, as a table of checks: every problem is found, and named by its path.

Not here: checks between fields (`manifest`) and against what exists (`cluster`). The one idea: a field that stands in
no table is refused by name, so that nobody believes a promise which this shim would not keep; unless its value asks for
nothing, being empty or Kubernetes' default (`unsupported`). What changes nothing on a single machine may be `anything`.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ote.shims.local.core import names

Check = Callable[[Any, str, list[str]], None]
"""Looks at a value found at a path and appends what is wrong with it to the problems."""


def anything(value: Any, path: str, problems: list[str]) -> None:
    """Accepts all: fields without an effect here."""


def unsupported(hint: str = "") -> Check:
    """Refuses a field, with a hint what to do instead, unless its value asks for nothing."""

    def check(value: Any, path: str, problems: list[str]) -> None:
        default = _DEFAULTS.get(path.rpartition(".")[2])
        if not _is_empty(value) and (type(value), value) != (type(default), default):
            problems.append(f"{path}: not supported" + (f"; {hint}" if hint else " by the local shim"))

    return check


def _is_empty(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_empty, value.values()))
    return value is None or value in ("", [])


def text(rule: Callable[[str], bool] | None = None, what: str = "", most: int = 1 << 20) -> Check:
    """A string that keeps a rule; what describes a good one."""

    def check(value: Any, path: str, problems: list[str]) -> None:
        if not isinstance(value, str):
            problems.append(f"{path}: must be a string, not {shown(value)}; put it in quotes")
        elif "\0" in value or len(value) > most:
            problems.append(f"{path}: must be at most {most} characters without NUL")
        elif rule is not None and not rule(value):
            problems.append(f"{path}: {shown(value)} is not {what}")

    return check


def text_or_empty(rule: Callable[[str], bool], what: str) -> Check:
    """A string that keeps a rule, or an empty one, which counts as absent."""
    return text(lambda value: not value or rule(value), what)


def one_of(*words: str) -> Check:
    """One of a few words."""
    return text(lambda value: value in words, "one of " + ", ".join(filter(None, words)))


def integer(least: int, most: int = 2**31 - 1) -> Check:
    """A whole number within bounds."""

    def check(value: Any, path: str, problems: list[str]) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            problems.append(f"{path}: must be a whole number from {least} to {most}, not {shown(value)}")

    return check


def boolean(value: Any, path: str, problems: list[str]) -> None:
    """true or false."""
    if not isinstance(value, bool):
        problems.append(f"{path}: must be true or false, not {shown(value)}")


def quantity(value: Any, path: str, problems: list[str]) -> None:
    """An amount of a resource: a number, or a string with a unit."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
    if not is_number and not (isinstance(value, str) and _QUANTITY.fullmatch(value)):
        problems.append(f"{path}: {shown(value)} is not a quantity such as 0.5, 500m or 64Mi")


def share(value: Any, path: str, problems: list[str]) -> None:
    """A number of pods, or a percentage of them."""
    if isinstance(value, str):
        if not (value.endswith("%") and value[:-1].isascii() and value[:-1].isdigit() and len(value) <= 4):
            problems.append(f"{path}: must be a whole number or a percentage, not {shown(value)}")
    else:
        integer(0)(value, path, problems)


def port(value: Any, path: str, problems: list[str]) -> None:
    """A port number, or the name of a port of the container."""
    if isinstance(value, str):
        text(names.is_label, "the name of a port")(value, path, problems)
    else:
        integer(1, 65535)(value, path, problems)


def items(check_item: Check, *, least: int = 0) -> Check:
    """A list."""

    def check(value: Any, path: str, problems: list[str]) -> None:
        if not isinstance(value, list) or len(value) < least:
            problems.append(f"{path}: must be a list{' with at least one entry' if least else ''}, not {shown(value)}")
            return
        for index, item in enumerate(value):
            check_item(item, f"{path}[{index}]", problems)

    return check


def mapping(check_key: Callable[[str], bool], what: str, check_value: Check) -> Check:
    """A mapping of free keys that keep a rule."""

    def check(value: Any, path: str, problems: list[str]) -> None:
        if not isinstance(value, dict):
            problems.append(f"{path}: must be a mapping, not {shown(value)}")
            return
        for key, item in value.items():
            if not check_key(key):
                problems.append(f"{path}: {shown(key)} is not {what}")
            check_value(item, f"{path}.{key[:80]}", problems)

    return check


def fields(table: Mapping[str, Check], *, required: Iterable[str] = (), exactly_one: Iterable[str] = ()) -> Check:
    """A mapping of known keys; others are unsupported. A key whose value is null counts as absent, as in Kubernetes."""

    def check(value: Any, path: str, problems: list[str]) -> None:
        if not isinstance(value, dict):
            problems.append(f"{path or 'object'}: must be a mapping, not {shown(value)}")
            return
        dot = f"{path}." if path else ""
        present = {key for key, item in value.items() if item is not None}
        for key, item in value.items():
            if item is not None:
                table.get(key, _UNKNOWN)(item, f"{dot}{key[:80]}", problems)
        problems.extend(f"{dot}{key}: missing" for key in required if key not in present)
        choice = tuple(exactly_one)
        if choice and len(present.intersection(choice)) != 1:
            problems.append(f"{path}: needs exactly one of {', '.join(choice)}")

    return check


def shown(value: Any) -> str:
    """A value as it appears in a message: short, whatever came in."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, float) and not math.isfinite(value):
        return "a number without bounds"
    brief = repr(value) if not isinstance(value, int) or abs(value) < 10**40 else "a very large number"
    return brief if len(brief) <= 80 else brief[:76] + "...'"


def is_inside(path: str) -> bool:
    """Whether a relative path stays where it is put."""
    return bool(path) and not path.startswith("/") and all(part not in ("", ".", "..") for part in path.split("/"))


def is_mount_path(path: str) -> bool:
    """Whether a path is absolute, below the root and plain."""
    return path.startswith("/") and is_inside(path[1:].removesuffix("/")) and ":" not in path


def is_base64(value: str) -> bool:
    """Whether value is base64, line breaks allowed."""
    try:
        base64.b64decode(value.replace("\n", "").replace("\r", ""), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def is_integer_up_to_mode(value: Any, path: str, problems: list[str]) -> None:
    """Permission bits of a file."""
    integer(0, 0o777)(value, path, problems)


_DEFAULTS: dict[str, Any] = {
    "hostIPC": False,
    "hostNetwork": False,
    "hostPID": False,
    "hostPort": 0,
    "hostUsers": True,
    "manualSelector": False,
    "minReadySeconds": 0,
    "mountPropagation": "None",
    "paused": False,
    "podReplacementPolicy": "TerminatingOrFailed",
    "preemptionPolicy": "PreemptLowerPriority",
    "priority": 0,
    "recursiveReadOnly": "Disabled",
    "serviceAccount": "default",
    "serviceAccountName": "default",
    "setHostnameAsFQDN": False,
    "shareProcessNamespace": False,
    "stdin": False,
    "stdinOnce": False,
    "suspend": False,
    "tty": False,
}
"""What Kubernetes does where an unsupported field is not given, and so does this shim."""
_UNKNOWN = unsupported()
_QUANTITY = re.compile(r"\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+|[numkMGTPE]|[KMGTPE]i)?", re.ASCII)

NAME = text(names.is_subdomain, "a name (at most 253 lower-case letters, digits, '-' and '.')")
_LABEL_NAME = "a name (at most 63 lower-case letters, digits and '-')"
LABEL_NAME = text(names.is_label, _LABEL_NAME)
DATA_KEY = text(names.is_data_key, "a key (letters, digits, '-', '_' and '.')")
STRINGS = items(text())
LABELS = mapping(
    names.is_label_key,
    "a label key",
    text(names.is_label_value, "a label value (at most 63 letters, digits, '-', '_', '.')"),
)
ANNOTATIONS = mapping(names.is_label_key, "an annotation key", text())
MODE: Check = is_integer_up_to_mode

_SERVER_SIDE = dict.fromkeys(
    ("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"), anything
)
OBJECT_META = fields(
    {
        "name": NAME,
        "namespace": text_or_empty(names.is_label, _LABEL_NAME),
        "labels": LABELS,
        "annotations": ANNOTATIONS,
        "generateName": unsupported("give a name, so that applying twice is one object"),
        **_SERVER_SIDE,
    },
    required=["name"],
)
TEMPLATE_META = fields(
    {"labels": LABELS, "annotations": ANNOTATIONS, "name": anything, "creationTimestamp": anything},
)

_KEY_REF = fields({"name": NAME, "key": DATA_KEY, "optional": boolean}, required=["name", "key"])
_FIELD_REF = fields(
    {
        "apiVersion": anything,
        "fieldPath": one_of("metadata.name", "metadata.namespace", "metadata.uid", "status.podIP"),
    },
    required=["fieldPath"],
)
_VALUE_SOURCES = {"configMapKeyRef": _KEY_REF, "secretKeyRef": _KEY_REF, "fieldRef": _FIELD_REF}
_ENV = fields(
    {
        "name": text(names.is_env_name, "a variable name"),
        "value": text(),
        "valueFrom": fields(_VALUE_SOURCES, exactly_one=_VALUE_SOURCES),
    },
    required=["name"],
)
_SOURCE_REF = fields({"name": NAME, "optional": boolean}, required=["name"])
_ENV_SOURCES = {"configMapRef": _SOURCE_REF, "secretRef": _SOURCE_REF}
_ENV_FROM = fields({"prefix": text(names.is_env_name, "a prefix"), **_ENV_SOURCES}, exactly_one=_ENV_SOURCES)
_PORT = fields(
    {
        "name": text_or_empty(names.is_label, _LABEL_NAME),
        "containerPort": integer(1, 65535),
        "protocol": one_of("TCP"),
        "hostPort": unsupported("every container gets a free port as $PORT, and status.containerStatuses tells it"),
    },
    required=["containerPort"],
)
_MOUNT = fields(
    {
        "name": LABEL_NAME,
        "mountPath": text(is_mount_path, "an absolute path below / without '..' or ':'"),
        "subPath": text_or_empty(is_inside, "a relative path without '..'"),
        "readOnly": boolean,
    },
    required=["name", "mountPath"],
)
_HEADER = fields(
    {
        "name": text(lambda name: name.isascii() and name.replace("-", "").isalnum(), "a header name"),
        "value": text(lambda value: value.isprintable(), "a header value"),
    },
    required=["name", "value"],
)
_PROBES: dict[str, Check] = {
    "httpGet": fields(
        {
            "path": text(lambda path: path.isprintable() and " " not in path, "a path"),
            "port": port,
            "host": text(lambda host: host.isprintable() and " " not in host, "a host"),
            "scheme": one_of("HTTP"),
            "httpHeaders": items(_HEADER),
        },
        required=["port"],
    ),
    "tcpSocket": fields({"port": port, "host": text()}, required=["port"]),
    "exec": fields({"command": items(text(), least=1)}, required=["command"]),
}
_PROBE = fields(
    {
        **_PROBES,
        "initialDelaySeconds": integer(0),
        "periodSeconds": integer(1),
        "timeoutSeconds": integer(1),
        "successThreshold": integer(1),
        "failureThreshold": integer(1),
    },
    exactly_one=_PROBES,
)
_AMOUNTS = mapping(names.is_label_key, "the name of a resource", quantity)
CONTAINER = fields(
    {
        "name": LABEL_NAME,
        "image": text(),
        "command": STRINGS,
        "args": STRINGS,
        "workingDir": text_or_empty(lambda path: path == "/" or is_mount_path(path), "an absolute path without '..'"),
        "env": items(_ENV),
        "envFrom": items(_ENV_FROM),
        "ports": items(_PORT),
        "volumeMounts": items(_MOUNT),
        "readinessProbe": _PROBE,
        "livenessProbe": _PROBE,
        "resources": fields({"limits": _AMOUNTS, "requests": _AMOUNTS}),
        "imagePullPolicy": one_of("Always", "IfNotPresent", "Never", ""),
        "terminationMessagePath": anything,
        "terminationMessagePolicy": anything,
    },
    required=["name"],
)
_ITEM = fields(
    {"key": DATA_KEY, "path": text(is_inside, "a relative path without '..'"), "mode": MODE}, required=["key", "path"]
)
_VOLUME_SOURCES: dict[str, Check] = {
    "configMap": fields(
        {"name": NAME, "items": items(_ITEM), "optional": boolean, "defaultMode": MODE}, required=["name"]
    ),
    "secret": fields(
        {"secretName": NAME, "items": items(_ITEM), "optional": boolean, "defaultMode": MODE}, required=["secretName"]
    ),
    "emptyDir": fields({"medium": anything, "sizeLimit": quantity}),
}
_VOLUME = fields({"name": LABEL_NAME, **_VOLUME_SOURCES}, required=["name"], exactly_one=_VOLUME_SOURCES)
POD_SPEC = fields(
    {
        "containers": items(CONTAINER, least=1),
        "volumes": items(_VOLUME),
        "restartPolicy": one_of("Always", "OnFailure", "Never"),
        "terminationGracePeriodSeconds": integer(0, 86_400),
        "initContainers": unsupported("do the preparation in the container's command"),
        "dnsPolicy": anything,
        "schedulerName": anything,
        "enableServiceLinks": anything,
        "automountServiceAccountToken": anything,
    },
    required=["containers"],
)
TEMPLATE = fields({"metadata": TEMPLATE_META, "spec": POD_SPEC}, required=["spec"])
_SELECTOR = fields({"matchLabels": LABELS}, required=["matchLabels"])
_STRATEGY = fields(
    {
        "type": one_of("RollingUpdate", "Recreate"),
        "rollingUpdate": fields({"maxSurge": share, "maxUnavailable": share}),
    }
)


def _object(extra: Mapping[str, Check], required: Iterable[str] = ()) -> Check:
    base: dict[str, Check] = {"apiVersion": anything, "kind": anything, "metadata": OBJECT_META, "status": anything}
    return fields({**base, **extra}, required=["metadata", *required])


OBJECTS: dict[str, Check] = {
    "Namespace": _object({"spec": anything}),
    "ConfigMap": _object(
        {
            "data": mapping(names.is_data_key, "a key (letters, digits, '-', '_' and '.')", text(most=1 << 25)),
            "binaryData": mapping(names.is_data_key, "a key", text(is_base64, "base64", most=1 << 25)),
            "immutable": anything,
        }
    ),
    "Secret": _object(
        {
            "data": mapping(names.is_data_key, "a key", text(is_base64, "base64", most=1 << 25)),
            "stringData": mapping(names.is_data_key, "a key", text(most=1 << 25)),
            "type": text(),
            "immutable": anything,
        }
    ),
    "Pod": _object({"spec": POD_SPEC}, ["spec"]),
    "Deployment": _object(
        {
            "spec": fields(
                {
                    "replicas": integer(0, 1000),
                    "selector": _SELECTOR,
                    "template": TEMPLATE,
                    "strategy": _STRATEGY,
                    "revisionHistoryLimit": anything,
                    "progressDeadlineSeconds": anything,
                },
                required=["selector", "template"],
            )
        },
        ["spec"],
    ),
    "Job": _object(
        {
            "spec": fields(
                {
                    "template": TEMPLATE,
                    "completions": integer(1, 100_000),
                    "parallelism": integer(0, 1000),
                    "backoffLimit": integer(0),
                    "activeDeadlineSeconds": integer(1),
                    "ttlSecondsAfterFinished": integer(0),
                    "completionMode": one_of("NonIndexed"),
                    "selector": _SELECTOR,
                },
                required=["template"],
            )
        },
        ["spec"],
    ),
}
"""The check of each kind."""
