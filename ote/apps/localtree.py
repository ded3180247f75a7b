"""A tree of controllers on this machine, each a process of its own: for the demo, and for trying things out.

Not here: what is shown or checked. The one idea: whoever starts a process here ends it here, pods and ports included.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ote.api.cluster.v1 import cluster_pb2
from ote.api.trust.v1 import trust_pb2
from ote.client.client import Client
from ote.client.connection import Policy
from ote.client.contexts import load_contexts
from ote.model.errors import DeadlineExceeded, Internal, OteError
from ote.rpc.address import reserve

_START_TIMEOUT = 60.0
_STOP_TIMEOUT = 15.0
_POLL = 0.05


@dataclass(slots=True)
class Node:
    """One controller: its folder, its address, and its process while it runs.

    held: the socket that keeps its port for it, also while it does not run.
    """

    name: str
    data_dir: Path
    address: str
    held: socket.socket
    arguments: list[str] = field(default_factory=list)
    shim: str = "none"
    process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> Path:
        return self.data_dir.with_suffix(".log")

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None


@dataclass(slots=True)
class LocalTree:
    """Controllers by name, in the order in which they were started; the first is the root."""

    folder: Path
    options: tuple[str, ...] = ()
    """Flags that every controller gets."""
    nodes: dict[str, Node] = field(default_factory=dict)

    async def start_root(self, name: str = "root", *options: str) -> Node:
        """Found a tree."""
        node = self._add(Node(name, self.folder / name, *reserve("127.0.0.1"), [*options]))
        await self.start(name)
        return node

    async def join(
        self, name: str, parent: str, *options: str, children: bool = False, shim: str = "none", token: str = ""
    ) -> Node:
        """Start a new member below `parent`; a token of the root's is made for it where none is given."""
        if not token:
            token = await self.token(name, children=children)
        address, held = reserve("127.0.0.1")
        extra = ["--parent", self.nodes[parent].address, "--join-token", token, "--shim", shim, *options]
        if children:
            extra += ["--advertise", address]
        node = self._add(Node(name, self.folder / name, address, held, extra, shim))
        await self.start(name)
        return node

    async def token(self, pattern: str = "", *, children: bool = False, uses: int = 0) -> str:
        """A join token of the root's."""
        request = trust_pb2.CreateJoinTokenRequest(name_pattern=pattern, allow_children=children, uses=uses)
        async with self.client() as client:
            return (await client.create_join_token(request)).secret

    def client(self, *names: str, policy: Policy | None = None) -> Client:
        """A client with the root's admin context, entering at these controllers (the root), tried in turn."""
        context = load_contexts(self.admin).get()
        if names:
            entries = [type(context.entries[0])(self.nodes[name].address, f"{name}.ote") for name in names]
            context = type(context)(context.name, tuple(entries), context.ca, context.cert, context.key)
        return Client(context, policy=policy)

    @property
    def admin(self) -> Path:
        """The root's admin.yaml."""
        return next(iter(self.nodes.values())).data_dir / "admin.yaml"

    async def start(self, name: str) -> None:
        """Start a controller's process and wait until it listens. Errors: Internal with the end of its log."""
        node = self.nodes[name]
        with node.log.open("ab") as log:
            node.process = await asyncio.create_subprocess_exec(
                *self.command(node),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                while not await listens(node.address):
                    if node.process.returncode is not None:
                        raise Internal("DID_NOT_START", f"{name} ended at once:\n{tail(node.log)}")
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            raise Internal(
                "DID_NOT_START", f"{name} does not listen after {_START_TIMEOUT:.0f} s:\n{tail(node.log)}"
            ) from None

    def command(self, node: Node) -> list[str]:
        """The command line of a controller."""
        base = [sys.executable, "-m", "ote.apps.clustercontroller", "--name", node.name]
        return [*base, "--data-dir", str(node.data_dir), "--listen", node.address, *self.options, *node.arguments]

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a controller's process."""
        process = self.nodes[name].process
        if process is not None and process.returncode is None:
            process.send_signal(number)

    async def wait(self, name: str) -> int:
        """Wait for a controller's process to end."""
        process = self.nodes[name].process
        return 0 if process is None else await process.wait()

    async def stop(self) -> None:
        """End every process, leaves first, and every pod; safe to call twice."""
        for name in reversed(self.nodes):
            self.kill(name, signal.SIGCONT)
            self.kill(name, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_TIMEOUT):
                await asyncio.gather(*(self.wait(name) for name in self.nodes))
        for name in self.nodes:
            self.kill(name)
            await self.wait(name)
            self.nodes[name].held.close()
        await asyncio.gather(*(self._stop_pods(node) for node in self.nodes.values()))

    async def _stop_pods(self, node: Node) -> None:
        if node.shim == "none" or not (node.data_dir / "shim").exists():
            return
        command = [sys.executable, "-m", "ote.apps.local_shim", "stop", "--data-dir", str(node.data_dir / "shim")]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=None
        )
        await process.wait()

    def _add(self, node: Node) -> Node:
        if node.name in self.nodes:
            self.nodes[node.name].held.close()
        self.nodes[node.name] = node
        return node


async def until_online(
    client: Client, parents: dict[str, str], timeout: float = 60.0, state: int = cluster_pb2.CLUSTER_STATE_ONLINE
) -> list[cluster_pb2.Cluster]:
    """Wait until each cluster is in `state` under the parent named. Errors: DeadlineExceeded, saying what is
    missing."""
    missing = "no answer"
    try:
        async with asyncio.timeout(timeout):
            while True:
                with contextlib.suppress(OteError):
                    clusters = await client.list_clusters()
                    missing = _missing({cluster.name: cluster for cluster in clusters}, parents, state)
                    if not missing:
                        return clusters
                await asyncio.sleep(_POLL)
    except TimeoutError:
        raise DeadlineExceeded("NOT_THERE", f"after {timeout:.0f} s: {missing}") from None


def _missing(clusters: dict[str, cluster_pb2.Cluster], parents: dict[str, str], state: int) -> str:
    wrong = []
    for name, parent in parents.items():
        cluster = clusters.get(name)
        if cluster is None:
            wrong.append(f"{name} is not known")
        elif cluster.state != state or (parent and cluster.parent != parent):
            word = cluster_pb2.ClusterState.Name(cluster.state).removeprefix("CLUSTER_STATE_")
            wrong.append(f"{name} is {word} under {cluster.parent or 'nobody'}")
    return ", ".join(wrong)


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log."""
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(text.splitlines()[-lines:])


async def listens(address: str) -> bool:
    """Whether anybody takes connections there."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
