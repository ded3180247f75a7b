"""Trees for tests: those of `localtree`, with shims that count effects, and words for what tests ask and wait for.

The one idea: a test awaits conditions, never an amount of time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.apps.localtree import LocalTree, Node, tail, until_online
from ote.client.client import Client, new_dispatch_id
from ote.client.connection import Policy
from ote.model.errors import OteError
from ote.rpc.address import reserve
from tests.e2e.counting_shim import Effect, read_effects

ROOT = Path(__file__).parents[2]
HEARTBEAT = 0.3
DEAD_AFTER = 0.9
PATIENT = 60.0
"""Seconds for what a healthy tree does at once, and a starved one much later."""
SLACK = 8.0
"""Seconds that a busy machine may add to what is promised."""
FAST = ("--log-format", "plain", "--heartbeat", "300ms", "--dead-after", "900ms", "--stop-grace", "1s")
STEADY = ("--log-format", "plain", "--heartbeat", "2s", "--dead-after", "20s", "--stop-grace", "10s")
"""For trees in which nobody may be lost by being silent for a moment: what is seen there has another cause."""
POLICY = Policy(dial=20.0, call=PATIENT, patience=PATIENT)
ONLINE = cluster_pb2.CLUSTER_STATE_ONLINE
OFFLINE = cluster_pb2.CLUSTER_STATE_OFFLINE
_POLL = 0.03

Targets = dict[str, route_pb2.Target]


@dataclass(slots=True)
class Tree(LocalTree):
    """A tree whose processes may be stopped, woken, copied and restarted, and whose effects can be counted."""

    sockets: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="ote-e2e-")))
    helpers: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    """Processes beside the controllers: shims by the name of their cluster, and others."""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def client(self, *names: str, policy: Policy | None = None) -> Client:
        """As that of any tree, and patient."""
        return LocalTree.client(self, *names, policy=policy or POLICY)

    async def join_counted(self, name: str, parent: str, *options: str, token: str = "") -> Node:
        """Join a cluster with a counting shim."""
        await self.start_counting(name)
        return await self.join(name, parent, *options, shim=f"unix:{self._socket(name)}", token=token)

    async def start_counting(self, name: str) -> None:
        """Start the counting shim of a cluster, and wait until it listens."""
        self._socket(name).unlink(missing_ok=True)
        await self.start_helper(name, "tests.e2e.counting_shim", str(self._socket(name)), str(self._effects(name)))
        await until(self._socket(name).exists, f"the shim of {name} listens")

    async def start_helper(self, name: str, module: str, *arguments: str) -> None:
        """Start a process beside the controllers; its output is in FOLDER/NAME.helper."""
        with (self.folder / f"{name}.helper").open("ab") as log:
            self.helpers[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, *arguments), cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    async def kill_helper(self, name: str) -> None:
        """End a process beside the controllers at once."""
        process = self.helpers[name]
        if process.returncode is None:
            process.kill()
        await process.wait()

    def effects(self, name: str) -> list[Effect]:
        """What the counting shim of this cluster has done so far, in order."""
        return read_effects(self._effects(name))

    def notes(self, name: str) -> list[str]:
        """What the effects of this cluster say."""
        return [effect.note for effect in self.effects(name)]

    def freeze(self, name: str) -> None:
        """Stop a controller without ending it: its connections stay, and are silent."""
        self.kill(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """Let a stopped controller go on."""
        self.kill(name, signal.SIGCONT)

    async def kill_and_wait(self, *names: str) -> None:
        """End controllers at once."""
        for name in names:
            self.kill(name)
        for name in names:
            await self.wait(name)

    async def restart(self, name: str) -> None:
        """End a controller at once, and start it again."""
        await self.kill_and_wait(name)
        await self.start(name)

    def add_copy(self, name: str, copy: str) -> Node:
        """Another controller on a copy of the data of one that does not run."""
        original = self.nodes[name]
        node = Node(name, self.folder / copy, *reserve("127.0.0.1"), shim=original.shim)
        shutil.copytree(original.data_dir, node.data_dir, ignore=shutil.ignore_patterns("*.sock"))
        self.nodes[copy] = node
        return node

    async def stop(self) -> None:
        """End everything."""
        await asyncio.gather(*(self.kill_helper(name) for name in self.helpers))
        await LocalTree.stop(self)
        shutil.rmtree(self.sockets, ignore_errors=True)

    def logs(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"--- {node.name}\n{tail(node.log, 40)}" for node in self.nodes.values())

    def _socket(self, name: str) -> Path:
        return self.sockets / f"{name}.sock"

    def _effects(self, name: str) -> Path:
        return self.folder / f"{name}.effects"


# --- waiting ----------------------------------------------------------------------------------------------------------


async def until(condition: Callable[[], bool], what: str, seconds: float = PATIENT) -> None:
    """Wait for a condition; the test fails with `what` when it does not come."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.1f} s: {what}"
        await asyncio.sleep(_POLL)


async def until_state(client: Client, name: str, state: int, seconds: float = PATIENT) -> cluster_pb2.Cluster:
    """Wait until this entry shows the cluster in a state."""
    return next(c for c in await until_online(client, {name: ""}, seconds, state) if c.name == name)


async def until_moved(client: Client, away_from: str, names: Iterable[str], seconds: float = PATIENT) -> dict[str, str]:
    """Wait until these clusters are ONLINE under others than one parent. Answers the parent of each."""
    names = list(names)
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OteError):
            clusters = {cluster.name: cluster for cluster in await client.list_clusters()}
            there = [clusters[name] for name in names if name in clusters]
            if all(c.state == ONLINE and c.parent != away_from for c in there) and len(there) == len(names):
                return {cluster.name: cluster.parent for cluster in there}
            waiting = [f"{c.name}: {c.state} under {c.parent}" for c in there if c.parent == away_from or c.state != 1]
            assert time.monotonic() < end, f"not away from {away_from} within {seconds:.1f} s: {waiting[:5]}"
        assert time.monotonic() < end, f"no answer within {seconds:.1f} s"
        await asyncio.sleep(_POLL)


async def until_target(
    client: Client, dispatch: str, states: Iterable[int], seconds: float = PATIENT, cluster: str = ""
) -> route_pb2.Target:
    """Wait until a target of a dispatch is in one of these states."""
    wanted = set(states)
    end = time.monotonic() + seconds
    while True:
        targets = by_name((await client.get_dispatch(dispatch)).targets)
        target = targets[cluster or next(iter(targets))]
        if target.state in wanted:
            return target
        assert time.monotonic() < end, f"{dispatch} is {route_pb2.TargetState.Name(target.state)}: {target.message}"
        await asyncio.sleep(_POLL)


# --- asking -----------------------------------------------------------------------------------------------------------


def apply_of(
    clusters: str,
    note: str,
    *,
    hold: Path | None = None,
    ready: Path | None = None,
    pad: int = 0,
    ttl: float | None = None,
    dispatch_id: str = "",
) -> route_pb2.DispatchRequest:
    """A dispatch for counting shims. pad: bytes to make it large; the others as the shim and the API have them."""
    manifest: dict[str, Any] = {"note": note, "hold": str(hold or ""), "ready": str(ready or ""), "pad": "x" * pad}
    command = command_pb2.Command(apply=command_pb2.Apply(manifests=json.dumps(manifest).encode()))
    return request_of(clusters, command, ttl=ttl, dispatch_id=dispatch_id)


def request_of(
    clusters: str, command: command_pb2.Command, *, ttl: float | None = None, dispatch_id: str = ""
) -> route_pb2.DispatchRequest:
    """A dispatch of any command."""
    request = route_pb2.DispatchRequest(
        dispatch_id=dispatch_id or new_dispatch_id(),
        selector=cluster_pb2.Selector(clusters=clusters),
        command=command,
    )
    if ttl is not None:
        request.ttl.FromMilliseconds(int(ttl * 1000))
    return request


async def accepted(client: Client, request: route_pb2.DispatchRequest) -> str:
    """Send a dispatch and go away once it is accepted. Answers its name."""
    events = client.dispatch(request)
    async with contextlib.aclosing(events):  # type: ignore[type-var]
        async for event in events:
            return event.accepted.dispatch
    raise AssertionError("not accepted")


async def settled(client: Client, request: route_pb2.DispatchRequest, seconds: float = PATIENT) -> Targets:
    """Send a dispatch and wait until all its targets are final."""
    async with asyncio.timeout(seconds):
        return await _last([event async for event in client.dispatch(request)])


async def watched(client: Client, dispatch: str, seconds: float = PATIENT) -> Targets:
    """Wait until all targets of a dispatch are final."""
    async with asyncio.timeout(seconds):
        return await _last([event async for event in client.watch_dispatch(dispatch)])


async def _last(events: list[route_pb2.DispatchResponse]) -> Targets:
    targets: Targets = {}
    for event in events:
        targets |= by_name([*event.accepted.targets, *event.changed.targets])
    return targets


def by_name(targets: Iterable[route_pb2.Target]) -> Targets:
    """Targets by the names of their clusters."""
    return {target.cluster: target for target in targets}


async def ctl(tree: Tree, *arguments: str, seconds: float = PATIENT) -> tuple[int, str, str]:
    """ote-ctl with the root's context: exit code, standard output, standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ote.apps.ctl", "--config", str(tree.admin), *arguments),
        cwd=ROOT,
        env={**os.environ, "NO_COLOR": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), seconds)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, output.decode(), errors.decode()
