"""Settings of `ote-clustercontroller`: one documented field per option."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from ote.clustercontroller.core.states import CHANGES
from ote.config.settings import BaseSettings, Duration, DurationOrNever, HostPort, Secret

COMMANDS = CHANGES | {"get", "logs"}
"""What a cluster can be asked to do."""

_LEAST_HEARTBEAT = 0.01
_LEAST_LIFETIME = 1.0
_HOST_PORT = re.compile(r"(\[[0-9a-fA-F:]+\]|[^:/\s]+):\d{1,5}")

_OF_THIS_START = "of this start: give them at every start or in the file. Those of 'ote-ctl cluster {}' are kept."


def _doc(text: str, **extra: object) -> Meta:
    return Meta(description=text, extra=dict(extra)) if extra else Meta(description=text)


class Settings(BaseSettings, frozen=True, kw_only=True):
    """Defaults, then the file of --config, then OTE_* variables, then flags."""

    name: Annotated[
        str,
        _doc("Name of this cluster, unique in the tree: 1 to 63 of a-z, 0-9 and '-'. Needed at the first start only."),
    ] = ""
    data_dir: Annotated[
        Path, _doc("Folder of this controller's identity, store and payloads; made if it does not exist.")
    ]
    listen: Annotated[HostPort, _doc("Where people, programs and children connect; port 0 takes any free one.")] = (
        "127.0.0.1:8287"
    )
    advertise: Annotated[
        HostPort | None,
        _doc(
            "Address under which children reach this controller. Without it, it takes no children "
            "(a root takes its own --listen address)."
        ),
    ] = None
    parent: Annotated[
        HostPort | None,
        _doc(
            "Address of the parent. Without it, and without one on record, a root. Where it does not answer others are "
            "taken meanwhile: 'ote-ctl cluster get NAME' says why."
        ),
    ] = None
    join_token: Annotated[Secret | None, _doc("Join token, or @FILE, for the first start. Not needed after.")] = None
    shim: Annotated[
        str,
        _doc(
            "This cluster's shim: process or podman (built in), unix:/PATH or HOST:PORT (a shim of its own), or none."
        ),
    ] = "none"
    tag: Annotated[
        tuple[str, ...],
        _doc(f"Tags of this cluster, separated by commas or given several times; {_OF_THIS_START.format('tag')}"),
    ] = ()
    label: Annotated[
        dict[str, str],
        _doc(f"Labels of this cluster, separated by commas or given several times; {_OF_THIS_START.format('label')}"),
    ] = {}
    allow: Annotated[
        tuple[str, ...],
        _doc(
            "Commands that this cluster obeys, whoever sends them (apply, delete, get, logs, …), separated by commas "
            "or given several times; all when not given."
        ),
    ] = ()
    metrics_listen: Annotated[
        HostPort | None, _doc("Where /metrics, /healthz and /readyz are served over HTTP; nowhere when not given.")
    ] = None
    heartbeat: Annotated[
        Duration, _doc("Interval of heartbeats, at least 10ms; the whole tree should have the same.")
    ] = 2.0
    dead_after: Annotated[Duration, _doc("Silence after which a link is lost; at least twice the heartbeat.")] = 5.0
    island_after: Annotated[
        Duration,
        _doc("Time without any candidate that is connected to the root after which one that is cut off is taken."),
    ] = 15.0
    leave_cut_off_after: Annotated[
        DurationOrNever,
        _doc("How long a parent that is cut off from the root is kept while connected candidates exist."),
    ] = 30.0
    certificate_lifetime: Annotated[
        Duration,
        _doc("Life of the certificates that this controller gives its children, and of a root's own; at least 1s."),
    ] = 30 * 86400.0
    stop_grace: Annotated[
        Duration,
        _doc(
            "How long SIGTERM waits for the children to move elsewhere (those of a root cannot); a second signal ends "
            "at once."
        ),
    ] = 10.0
    keep_dispatches: Annotated[int, _doc("Settled dispatches that are remembered, at most.")] = 10_000
    keep_settled_for: Annotated[Duration, _doc("How long settled dispatches are remembered, at most.")] = 7 * 86400.0
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _doc("Least level that is logged.")] = "info"
    log_format: Annotated[
        Literal["auto", "json", "plain"], _doc("Form of the log: auto is plain on a terminal, JSON elsewhere.")
    ] = "auto"

    def __post_init__(self) -> None:
        if self.heartbeat < _LEAST_HEARTBEAT:
            raise ValueError("heartbeat is at least 10ms")
        if self.dead_after < 2 * self.heartbeat:
            raise ValueError("dead_after is at least twice the heartbeat, or every late beat is a loss")
        if self.certificate_lifetime < _LEAST_LIFETIME:
            raise ValueError("certificate_lifetime is at least 1s, or certificates end before they are used")
        if self.keep_dispatches < 0:
            raise ValueError("keep_dispatches is 0 or more")
        is_address = self.shim.startswith("unix:/") or _HOST_PORT.fullmatch(self.shim)
        if self.shim not in ("process", "podman", "none") and not is_address:
            raise ValueError(f"shim takes process, podman, none, unix:/PATH or HOST:PORT, not {self.shim!r}")
        if unknown := sorted(set(self.allow) - COMMANDS):
            raise ValueError(f"allow takes {', '.join(sorted(COMMANDS))}; not {', '.join(unknown)}")
        if self.join_token and not self.parent:
            raise ValueError("join_token needs parent: where is the token to be used")
