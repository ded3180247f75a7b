"""Containers as containers, by `podman kube play`.

Not here: when to start and stop them. The one idea: a pod is played once without being started, with everything
resolved that can be; each attempt is then a `podman start`, which does nothing to a container that runs, so it cannot
run twice. ConfigMaps, Secrets and empty folders are folders of the shim that are mounted, so a change of them shows at
once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ote.model.errors import FailedPrecondition
from ote.shims.local.core.environment import VolumeFile
from ote.shims.local.core.manifest import Needs
from ote.shims.local.core.records import Pod
from ote.shims.local.core.spec import Container
from ote.shims.local.files import LOG_LIMIT, PodFolder
from ote.shims.local.ports import Ended, Plan
from ote.shims.local.processes import gone

_COMMANDS_AT_ONCE = 4
_STOPS_AT_ONCE = 32
"""Each lasts as long as its container takes to end: all else goes on meanwhile."""
_QUICK, _PULLING = 60.0, 1800.0
_PASSED_ON = ("image", "imagePullPolicy", "resources", "workingDir")
_SETTLE_ROUNDS = 100


class _Answer(NamedTuple):
    code: int
    output: bytes
    error: str


class _State(NamedTuple):
    """What podman knows of a container. pid 0: it does not run. started: a text that differs for each start."""

    status: str
    pid: int
    exit_code: int
    started: str


class PodmanDriver:
    """Runs pods through podman, volumes below data_dir. Raises FailedPrecondition (NO_PODMAN) where it is missing."""

    kind = "podman"
    needs: Needs = "image"

    def __init__(self, data_dir: Path) -> None:
        found = shutil.which("podman")
        if found is None:
            raise FailedPrecondition("NO_PODMAN", "podman is not installed: install it, or use --driver process")
        self._podman = found
        self._pods = data_dir / "pods"
        self._quick = ThreadPoolExecutor(_COMMANDS_AT_ONCE, thread_name_prefix="podman")
        self._making = ThreadPoolExecutor(_COMMANDS_AT_ONCE, thread_name_prefix="podman make")
        self._ending = ThreadPoolExecutor(_STOPS_AT_ONCE, thread_name_prefix="podman stop")
        self._turns: dict[str, asyncio.Lock] = {}
        self._held: dict[str, set[int]] = {}
        self._stopping: dict[tuple[str, int], float] = {}

    def base_variables(self, pod: Pod, container: Container, ports: Sequence[int]) -> dict[str, str]:
        """PORT: the first port that the container declares, which podman maps to a free one, or else a free one."""
        port = container.ports[0].container_port if container.ports else ports[0]
        return {"PORT": str(port), "HOSTNAME": pod.name}

    def reach(self, container: Container, ports: Sequence[int], port: int | str) -> int:
        """Declared ports stand for the ports of this machine that they are mapped to."""
        for declared, mapped in zip(container.ports, ports, strict=False):
            if port in (declared.name, declared.container_port):
                return mapped
        return int(port)

    def holds(self, port: int) -> bool:
        """Whether a pod that exists has the port."""
        return any(port in ports for ports in self._held.values())

    async def begin(self, known: Mapping[str, Mapping[str, int]]) -> None:
        """Removes pods that nobody knows any longer."""
        folders = self._pods.iterdir() if self._pods.exists() else ()
        for uid in [path.name for path in folders if path.name not in known]:
            await self.clean(uid)

    async def run(self, plan: Plan, started: Callable[[], None]) -> Ended:
        """Starts the attempt; see Driver."""
        try:
            return await self._start(plan, started)
        finally:
            self._stopping.pop((_container_name(plan), plan.attempt), None)

    async def _start(self, plan: Plan, started: Callable[[], None]) -> Ended:
        key = (_container_name(plan), plan.attempt)
        async with self._turns.setdefault(plan.pod.uid, asyncio.Lock()):
            made = await self._make(plan)
        if made.code:
            return Ended(128, f"podman cannot make the pod: {_brief(made.error)}")
        if key in self._stopping:
            return Ended(None)
        if leading_out := await asyncio.to_thread(self._leading_out, plan):
            return Ended(128, f"the subPath {leading_out!r} leads out of its volume")
        before = await self._state(plan)
        await asyncio.to_thread(self._claim(plan).write_text, before.started if before else "")
        answer = await self._run("start", _container_name(plan))
        if answer.code:
            return Ended(128, f"podman cannot start the container: {_brief(answer.error)}")
        if key in self._stopping:
            await self._stop(key[0], self._stopping[key])
        return await self._watch(plan, before.started if before else "", started)

    async def adopt(self, plan: Plan, started: Callable[[], None]) -> Ended:
        """Watches an attempt that an earlier process started; see Driver."""
        try:
            before = await asyncio.to_thread(self._claim(plan).read_text)
        except FileNotFoundError:
            return Ended(None)
        self._held[plan.pod.uid] = _ports(plan)
        try:
            return await self._watch(plan, before, started)
        finally:
            self._stopping.pop((_container_name(plan), plan.attempt), None)

    async def stop(self, pod: Pod, container: str, attempt: int, grace: float) -> None:
        """Asks the container to end; see Driver."""
        name = f"{_pod_name(pod.uid)}-{container}"
        self._stopping[name, attempt] = grace
        await self._stop(name, grace)

    async def refresh(self, pod: Pod, volumes: Mapping[str, Sequence[VolumeFile] | None]) -> None:
        """Writes the volumes of a pod again."""
        await asyncio.to_thread(PodFolder(self._pods, pod.uid).write_volumes, volumes)

    async def clean(self, uid: str) -> None:
        """Removes the pod and its folder."""
        await self._run("pod", "rm", "--force", "--ignore", "--time", "0", _pod_name(uid))
        self._held.pop(uid, None)
        self._turns.pop(uid, None)
        await asyncio.to_thread(PodFolder(self._pods, uid).remove)

    async def execute(self, plan: Plan, command: Sequence[str], timeout: float) -> str:
        """Runs a probe's command in the container."""
        try:
            answer = await self._run("exec", _container_name(plan), *command, seconds=timeout)
        except TimeoutError:
            return f"{command[0]} took longer than {timeout:g} s"
        return f"{command[0]} exited with code {answer.code}" if answer.code else ""

    async def log(self, pod: Pod, container: str, lines: int, limit: int) -> bytes:
        """The end of the container's log, all attempts together."""
        name = f"{_pod_name(pod.uid)}-{container}"
        answer = await self._run("container", "inspect", "--format", "{{.HostConfig.LogConfig.Path}}", name)
        if answer.code:
            return b""
        return await asyncio.to_thread(_log_end, Path(answer.output.decode().strip()), lines, limit)

    async def _stop(self, name: str, grace: float) -> None:
        stop = ("stop", "--ignore", "--time", str(int(grace)), name)
        await self._run(*stop, seconds=grace + _QUICK, pool=self._ending)

    async def _make(self, plan: Plan) -> _Answer:
        """Plays the pod unless it exists already."""
        uid = plan.pod.uid
        self._held[uid] = _ports(plan)
        if (await self._run("pod", "exists", _pod_name(uid))).code == 0:
            return _Answer(0, b"", "")
        file = await asyncio.to_thread(self._write, plan)
        log = ("--log-driver", "k8s-file", "--log-opt", f"max-size={LOG_LIMIT}")
        play = ("kube", "play", "--quiet", "--start=false", *log, str(file))
        answer = await self._run(*play, seconds=_PULLING, pool=self._making)
        if answer.code:
            self._held.pop(uid, None)
            await self._run("pod", "rm", "--force", "--ignore", "--time", "0", _pod_name(uid))
        return answer

    def _write(self, plan: Plan) -> Path:
        folder = PodFolder(self._pods, plan.pod.uid)
        folder.write_volumes(plan.volumes)
        for one in plan.siblings():
            self._claim(one).parent.mkdir(parents=True, exist_ok=True)
        file = folder.path / "pod.json"
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            json.dump(pod_manifest(plan, folder.path.absolute()), out)
        return file

    def _leading_out(self, plan: Plan) -> str:
        """A part of a volume that containers have turned into a link to somewhere else."""
        volumes = PodFolder(self._pods, plan.pod.uid).path / "volumes"
        for mount in plan.container.volume_mounts:
            volume = (volumes / mount.name).resolve()
            if mount.sub_path and not (volume / mount.sub_path).resolve().is_relative_to(volume):
                return mount.sub_path
        return ""

    def _claim(self, plan: Plan) -> Path:
        return PodFolder(self._pods, plan.pod.uid).container(plan.container.name) / f"claim.{plan.attempt}"

    async def _watch(self, plan: Plan, before: str, started: Callable[[], None]) -> Ended:
        """Waits for the end of the start that came after `before`."""
        told = False
        for _ in range(_SETTLE_ROUNDS):
            state = await self._state(plan)
            if state is None:
                return Ended(137, "the container was removed")
            if state.pid and await self._outlive(state.pid, None if told else started):
                told = True
                continue
            if not state.pid and state.started != before and state.status in ("exited", "stopped"):
                return Ended(state.exit_code, "")
            if not state.pid and state.started == before and state.status in ("created", "configured", "exited"):
                return Ended(None)
            await asyncio.sleep(0.1)
        return Ended(128, "podman does not tell how the container ended")

    async def _outlive(self, pid: int, started: Callable[[], None] | None) -> bool:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            if started is not None:
                started()
            await gone(pidfd)
        finally:
            os.close(pidfd)
        return True

    async def _state(self, plan: Plan) -> _State | None:
        answer = await self._run("container", "inspect", "--format", "{{json .State}}", _container_name(plan))
        if answer.code:
            return None
        state = json.loads(answer.output)
        pid = int(state["Pid"]) if state["Status"] in ("running", "stopping", "paused") else 0
        return _State(state["Status"], pid, int(state["ExitCode"]), str(state["StartedAt"]))

    async def _run(self, *arguments: str, seconds: float = _QUICK, pool: ThreadPoolExecutor | None = None) -> _Answer:
        """Runs podman. Raises TimeoutError."""
        call = functools.partial(_call, [self._podman, *arguments], seconds)
        return await asyncio.get_running_loop().run_in_executor(pool or self._quick, call)


def pod_manifest(plan: Plan, folder: Path) -> dict[str, Any]:
    """The pod as podman is given it: one name, no restarts, variables resolved, volumes as folders below `folder`."""
    volumes: list[dict[str, Any]] = []
    containers = []
    for one in plan.siblings():
        raw = next(raw for raw in plan.pod.spec["containers"] if raw["name"] == one.container.name)
        mounts = []
        for mount, raw_mount in zip(one.container.volume_mounts, raw.get("volumeMounts", []), strict=True):
            name = f"v{len(volumes)}"
            path = folder / "volumes" / mount.name / mount.sub_path
            if mount.sub_path and not path.exists():
                with contextlib.suppress(OSError):
                    path.mkdir(parents=True)
            volumes.append({"name": name, "hostPath": {"path": str(path)}})
            # What the shim writes no container may: a link put there would lead its writing to a file of the machine.
            written_by_us = plan.volumes[mount.name] is not None
            read_only = {"readOnly": True} if written_by_us or raw_mount.get("readOnly") else {}
            mounts.append({"name": name, "mountPath": mount.mount_path, **read_only})
        container: dict[str, Any] = {key: raw[key] for key in _PASSED_ON if raw.get(key)}
        container |= {"name": one.container.name, "volumeMounts": mounts, "ports": _mapped(one)}
        container["env"] = [{"name": name, "value": value} for name, value in one.variables.items()]
        if one.container.command:
            container["command"] = list(one.command[: len(one.container.command)])
        if one.container.args:
            container["args"] = list(one.command[len(one.container.command) :])
        containers.append(container)
    labels = {"app": plan.pod.name, "ote.dev/pod": plan.pod.uid, **plan.pod.metadata.get("labels", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": _pod_name(plan.pod.uid), "labels": labels},
        "spec": {"restartPolicy": "Never", "containers": containers, "volumes": volumes},
    }


def _mapped(plan: Plan) -> list[dict[str, Any]]:
    if not plan.container.ports:
        return [{"containerPort": port, "hostPort": port} for port in plan.ports]
    pairs = zip(plan.container.ports, plan.ports, strict=True)
    return [{"containerPort": declared.container_port, "hostPort": port} for declared, port in pairs]


def _ports(plan: Plan) -> set[int]:
    return {port for container in plan.pod.containers for port in container.ports}


def _pod_name(uid: str) -> str:
    return f"ote-{uid}"


def _container_name(plan: Plan) -> str:
    return f"{_pod_name(plan.pod.uid)}-{plan.container.name}"


def _brief(error: str) -> str:
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return lines[-1].removeprefix("Error: ")[:300] if lines else "it does not say why"


def _log_end(path: Path, lines: int, limit: int) -> bytes:
    """The last lines of a file in the format of CRI: time, stream, F or P (the line goes on), text.

    Read here because `podman logs --tail` (4.3) muddles lines that were written in parts.
    """
    try:
        with path.open("rb") as source:
            entries = source.read(2 * LOG_LIMIT).splitlines()
    except FileNotFoundError:
        return b""
    text = bytearray()
    for entry in entries:
        _, _, rest = entry.partition(b" ")
        _, _, rest = rest.partition(b" ")
        kind, _, words = rest.partition(b" ")
        text += words if kind == b"P" else words + b"\n"
    return b"".join(bytes(text).splitlines(keepends=True)[-lines:])[-limit:]


def _call(command: list[str], seconds: float) -> _Answer:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{command[1]} took longer than {seconds:g} s") from None
    return _Answer(done.returncode, done.stdout, done.stderr.decode(errors="replace"))
