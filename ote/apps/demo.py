"""`ote-ctl demo`: a real tree on this machine, used, broken and healed before your eyes; every step is checked.

Not here: starting and ending processes (`localtree`). The one idea: what is printed was measured and verified, and
the exit code says whether all of it held.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.apps.localtree import LocalTree, tail, until_online
from ote.client.client import Client, new_dispatch_id
from ote.model.errors import DeadlineExceeded, Internal, OteError

HOME = {
    "region-east": "root",
    "region-west": "root",
    "edge-1": "region-east",
    "edge-2": "region-east",
    "edge-3": "region-west",
    "edge-4": "region-west",
}
"""Every cluster's configured parent."""
EDGES = [name for name in HOME if name.startswith("edge-")]
_REGIONS = ["region-east", "region-west"]
_ORPHANS = ["edge-1", "edge-2"]
_MANIFEST = Path(__file__).resolve().parents[2] / "examples" / "hello.yaml"
_GREETING = "Hello from OTE"
_CHANGED = "Hello while region-east is gone"
_TIMEOUT = 60.0
"""For what a healthy tree does in a second or two, and a busy machine much later."""


class Steps:
    """Prints each step with how long it took."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.number = 0
        self._color = sys.stdout.isatty()

    @contextlib.asynccontextmanager
    async def step(self, title: str) -> AsyncIterator[None]:
        """Errors: DeadlineExceeded when what is in it was not there in time."""
        self.number += 1
        begun = time.monotonic()
        self._line(f"{self.number}. {title} …", end="" if self._color else "\n")
        try:
            yield
        except TimeoutError:
            raise DeadlineExceeded("NOT_THERE", f"step {self.number} did not hold within {_TIMEOUT:.0f} s") from None
        took = time.monotonic() - begun
        done = self._paint("32", "✓")
        if self._color:
            self._line(f"\r\033[K{done} {self.number}. {title}  {took:.1f} s")
        else:
            self._line(f"{done}  {took:.1f} s")

    def say(self, text: str) -> None:
        """Something worth reading below a step."""
        for line in text.splitlines():
            self._line(f"     {line}")

    def fail(self, text: str) -> None:
        self._line(f"\n{self._paint('31', '✗')} {text}")

    def _paint(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._color else text

    def _line(self, text: str, end: str = "\n") -> None:
        print(text, end=end, flush=True)


def main(arguments: Sequence[str] = ()) -> int:
    """Run the demo; returns the exit code. `--keep` leaves the tree up."""
    keep = "--keep" in arguments
    if not _MANIFEST.exists():
        print(f"demo: {_MANIFEST} is missing: run the demo from a checkout", file=sys.stderr)
        return 2
    try:
        return asyncio.run(_main(keep))
    except KeyboardInterrupt:
        return 130


async def _main(keep: bool) -> int:
    folder = Path(tempfile.mkdtemp(prefix="ote-demo-"))
    tree = LocalTree(folder, ("--log-format", "plain"))
    steps = Steps()
    loop = asyncio.get_running_loop()
    interrupt = _Interrupt(asyncio.current_task())
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    left_up = False
    try:
        await _show(tree, steps)
        if keep:
            left_up = True
            steps.say("")
            print(_what_next(tree))
        else:
            async with steps.step("stop everything: no process, no pod, no port is left"):
                await tree.stop()
        print(f"\nAll {steps.number} steps held, in {time.monotonic() - steps.begun:.1f} s.")
        return 0
    except OteError as error:
        steps.fail(f"{error.message}")
        for node in tree.nodes.values():
            if not node.running:
                steps.say(f"--- {node.name}, end of the log\n{tail(node.log)}")
        return 1
    except asyncio.CancelledError:
        steps.fail("stopped by you; cleaning up")
        return 130
    finally:
        if not left_up:
            await tree.stop()
            shutil.rmtree(folder, ignore_errors=True)


class _Interrupt:
    """The first signal ends the demo; later ones only hear that it is being cleaned up."""

    def __init__(self, task: asyncio.Task[Any] | None) -> None:
        self._task = task

    def __call__(self) -> None:
        if self._task is None:
            print("\nstill cleaning up; a moment", flush=True)
        else:
            task, self._task = self._task, None
            task.cancel()


async def _show(tree: LocalTree, steps: Steps) -> None:
    async with steps.step("found a tree: root makes its certificate authority"):
        await tree.start_root("root")
    async with steps.step("join two regions and four edges with tokens, over mutual TLS"):
        await _join(tree)
    async with tree.client() as client:
        clusters = await until_online(client, HOME, _TIMEOUT)
        steps.say(_drawn(clusters))
        async with steps.step("apply examples/hello.yaml to 'edge-*' and fetch a page from each"):
            steps.say(await _apply(client, _MANIFEST.read_text()))
            steps.say(await _pages(client, _GREETING))
        async with steps.step("kill region-east (SIGKILL): its edges attach elsewhere by themselves"):
            tree.kill("region-east")
            begun = time.monotonic()
            await _attached_elsewhere(client)
            took = time.monotonic() - begun
        steps.say(f"edge-1 and edge-2 were reachable again {took:.2f} s after the kill")
        steps.say(_drawn(await client.list_clusters()))
        async with steps.step("apply a change to all four while region-east is gone"):
            steps.say(await _apply(client, _MANIFEST.read_text().replace(_GREETING, _CHANGED)))
            steps.say(await _pages(client, _CHANGED))
        async with steps.step("start region-east again: its edges come home, without a gap"):
            await tree.start("region-east")
            clusters = await until_online(client, HOME, _TIMEOUT)
        steps.say(_drawn(clusters))


async def _join(tree: LocalTree) -> None:
    regions = await tree.token("region-*", children=True, uses=2)
    edges = await tree.token("edge-*", uses=4)
    await asyncio.gather(*(tree.join(name, HOME[name], children=True, token=regions) for name in _REGIONS))
    await asyncio.gather(
        *(
            tree.join(
                name, HOME[name], "--tag", "demo", "--label", f"region={HOME[name][7:]}", shim="process", token=edges
            )
            for name in EDGES
        )
    )
    async with tree.client() as client:
        await until_online(client, HOME, _TIMEOUT)


async def _attached_elsewhere(client: Client) -> None:
    async with asyncio.timeout(_TIMEOUT):
        while True:
            clusters = {cluster.name: cluster for cluster in await client.list_clusters()}
            healed = all(
                clusters[name].state == cluster_pb2.CLUSTER_STATE_ONLINE and clusters[name].parent != "region-east"
                for name in _ORPHANS
            )
            if healed and clusters["region-east"].state == cluster_pb2.CLUSTER_STATE_OFFLINE:
                return
            await asyncio.sleep(0.02)


async def _apply(client: Client, manifests: str) -> str:
    """Apply to all edges and wait for every result. Errors: Internal when a target does not succeed."""
    command = command_pb2.Command(apply=command_pb2.Apply(manifests=manifests.encode()))
    targets = await _dispatch(client, command)
    lines = []
    for target in targets:
        done = ", ".join(
            f"{result.object.kind}/{result.object.name} "
            f"{command_pb2.Action.Name(result.action).removeprefix('ACTION_').lower()}"
            for result in target.objects
        )
        lines.append(f"{target.cluster}: {done}  ({target.latency_ms} ms)")
    return "\n".join(lines)


async def _dispatch(client: Client, command: command_pb2.Command) -> list[route_pb2.Target]:
    request = route_pb2.DispatchRequest(
        dispatch_id=new_dispatch_id(), selector=cluster_pb2.Selector(clusters="edge-*"), command=command
    )
    targets: dict[str, route_pb2.Target] = {}
    async with asyncio.timeout(_TIMEOUT):
        async for event in client.dispatch(request):
            for target in (*event.accepted.targets, *event.changed.targets):
                targets[target.cluster] = target
    failed = [target for target in targets.values() if target.state != route_pb2.TARGET_STATE_SUCCEEDED]
    if failed or sorted(targets) != EDGES:
        why = "; ".join(f"{target.cluster}: {target.reason} {target.message}" for target in failed)
        raise Internal("DEMO_FAILED", f"not every edge succeeded: {why or sorted(targets)}")
    return [targets[name] for name in EDGES]


async def _pages(client: Client, expected: str) -> str:
    """Fetch the page of each edge's pod until it says what is expected."""
    lines = []
    async with asyncio.timeout(_TIMEOUT):
        while True:
            get = command_pb2.Command(get=command_pb2.Get(kind="Pod"))
            lines = [await _page(target) for target in await _dispatch(client, get)]
            if all(expected in line for line in lines):
                return "\n".join(lines)
            await asyncio.sleep(0.1)


async def _page(target: route_pb2.Target) -> str:
    for pod in json.loads(target.output):
        address = _address(pod)
        if not address:
            continue
        try:
            text = await asyncio.to_thread(_fetch, address)
        except OSError:
            continue
        return f"{target.cluster}: GET {address} → {text}"
    return f"{target.cluster}: no pod answers yet"


def _address(pod: dict[str, Any]) -> str:
    port = pod["metadata"].get("annotations", {}).get("ote.dev/port")
    return f"http://127.0.0.1:{port}/" if port else ""


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=2.0) as answer:
        page = answer.read().decode()
    greeting: str = page.partition("<h1>")[2].partition("</h1>")[0]
    return greeting


def _drawn(clusters: Sequence[cluster_pb2.Cluster]) -> str:
    """The tree as text."""
    below: dict[str, list[cluster_pb2.Cluster]] = {}
    for cluster in clusters:
        below.setdefault(cluster.parent, []).append(cluster)
    lines: list[str] = []

    def draw(cluster: cluster_pb2.Cluster, first: str, rest: str) -> None:
        state = cluster_pb2.ClusterState.Name(cluster.state).removeprefix("CLUSTER_STATE_")
        lines.append(f"{first}{cluster.name}{'' if state == 'ONLINE' else f'  {state}'}")
        children = sorted(below.get(cluster.name, []), key=lambda child: child.name)
        for child in children:
            last = child is children[-1]
            draw(child, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))

    for root in below.get("", []):
        draw(root, "", "")
    return "\n".join(lines)


def _what_next(tree: LocalTree) -> str:
    processes = " ".join(str(node.process.pid) for node in tree.nodes.values() if node.process is not None)
    shims = [str(node.data_dir / "shim") for node in tree.nodes.values() if node.shim != "none"]
    return "\n".join(
        [
            "The tree is up. Try:",
            f"  export PATH={Path(sys.executable).parent}:$PATH OTE_CONFIG={tree.admin}",
            "  ote-ctl tree",
            "  ote-ctl get pods --clusters 'edge-*'",
            "  ote-ctl apply -f examples/hello.yaml --clusters edge-1",
            "  ote-ctl cluster label edge-1 tier=gold",
            "  ote-ctl status",
            f"Logs: {tree.folder}/*.log",
            "Stop it:",
            f"  kill {processes}; sleep 3",
            f"  for shim in {' '.join(shims)}; do ote-local-shim stop --data-dir $shim; done; rm -r {tree.folder}",
        ]
    )
