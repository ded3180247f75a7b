"""Answers get and logs from what the keeper holds. Reads change nothing and are not remembered."""

from __future__ import annotations

from typing import Any

import msgspec

from ote.api.command.v1 import command_pb2 as pb
from ote.shims.local import replies
from ote.shims.local.core import render
from ote.shims.local.core.names import DEFAULT_NAMESPACE, KINDS, key_of, kind_named
from ote.shims.local.keeper import Keeper
from ote.shims.local.ports import Driver

MAX_OUTPUT = 16 << 20
"""Most bytes of one answer."""

_LINES, _MOST_LINES = 1_000, 100_000
_NAMED = 3


def get(keeper: Keeper, wanted: pb.Get) -> pb.Result:
    """The objects asked for, as a JSON array."""
    kind = kind_named(wanted.kind)
    if kind is None:
        return replies.failed("UNSUPPORTED", f"kind {wanted.kind[:80]!r} is not known; there are {', '.join(KINDS)}")
    if wanted.name and wanted.all_namespaces:
        return replies.failed("INVALID_ARGUMENT", "a name and all namespaces cannot be asked for together")
    if wanted.name:
        key = key_of(kind, wanted.namespace, wanted.name)
        found = render.rendered(keeper.cluster, key)
        if found is None:
            return replies.failed("NOT_FOUND", f"{key} does not exist")
        objects = [found]
    else:
        namespace = None if wanted.all_namespaces else wanted.namespace or DEFAULT_NAMESPACE
        objects = render.listed(keeper.cluster, kind.name, namespace)
    output = msgspec.json.encode(objects)
    if len(output) > MAX_OUTPUT:
        return replies.failed("OUTPUT_TOO_LARGE", _too_large(objects))
    return replies.succeeded([], output)


def _too_large(objects: list[dict[str, Any]]) -> str:
    """How else to ask; nobody can list them to see which are large."""
    largest = sorted(((len(msgspec.json.encode(one)), one["metadata"]) for one in objects), key=lambda one: -one[0])
    named = ", ".join(
        f"{metadata.get('namespace', '')}/{metadata['name']}".lstrip("/") + f" ({size / (1 << 20):.1f} MiB)"
        for size, metadata in largest[:_NAMED]
    )
    what = f"{len(objects)} objects are more than 16 MiB together"
    return f"{what}: ask for one namespace (-n), or for each by its name; the largest are {named}"


async def logs(keeper: Keeper, driver: Driver, wanted: pb.Logs) -> pb.Result:
    """The end of a container's log."""
    namespace = wanted.namespace or DEFAULT_NAMESPACE
    pod = keeper.cluster.pod_named(namespace, wanted.pod)
    if pod is None:
        return replies.failed("NOT_FOUND", f"pod {wanted.pod[:80]!r} does not exist in namespace {namespace!r}")
    names = [container.name for container in pod.containers]
    if not wanted.container and len(names) > 1:
        return replies.failed("INVALID_ARGUMENT", f"pod {pod.name} has containers {', '.join(names)}: name one")
    if wanted.container and wanted.container not in names:
        return replies.failed("NOT_FOUND", f"pod {pod.name} has no container {wanted.container[:80]!r}")
    if wanted.tail_lines < 0:
        return replies.failed("INVALID_ARGUMENT", "tail_lines must not be negative")
    lines = min(wanted.tail_lines or _LINES, _MOST_LINES)
    return replies.succeeded([], await driver.log(pod, wanted.container or names[0], lines, MAX_OUTPUT))
