"""Containers as plain processes of this machine.

Not here: when to start and stop them. The one idea: each attempt runs under a small shell in a session of its own. Its
first act is to claim its number by making a file that must not exist, with its identity in it; its last is to write the
exit code and to end its whole group. So it outlives the shim, is found again by any later one, and a number that
somebody has claimed is never started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ote.shims.local import files, orphans
from ote.shims.local.core.environment import VolumeFile
from ote.shims.local.core.manifest import Needs
from ote.shims.local.core.records import Pod
from ote.shims.local.core.spec import Container
from ote.shims.local.files import PodFolder
from ote.shims.local.ports import Ended, Plan
from ote.shims.local.processes import (
    Identity,
    boot_id,
    gone,
    has_taken_over,
    is_alive,
    parse_stat,
    reap,
    run_quietly,
    signal_group,
)

_SUPERVISOR = """# Runs one container of the local shim: NAME CLAIM EXIT FOLDER COMMAND ...
shift
set -C
(
  read -r boot < /proc/sys/kernel/random/boot_id
  read -r stat < /proc/$$/stat
  echo "$boot $stat"
) > "$1" || exit 125
trap : HUP INT QUIT TERM
(cd "$3" || exit 125; shift 3; exec "$@")
echo "$?" > "$2"
kill -9 0
"""
"""Its own variables would be those of the command, if that has some of their names: they live in a subshell."""
_NAMED = "OTE_NAMED_"
_RENAME = f"""import os, sys
variables = dict(os.environb)
for name in [name for name in variables if name.startswith(b"{_NAMED}")]:
    own, _, value = variables.pop(name).partition(b"=")
    variables[own] = value
os.execvpe(sys.argv[1], sys.argv[1:], variables)
"""
"""Gives variables back the names that no shell passes on."""
_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ABANDONED = "abandoned"
_CLAIM_SECONDS = 2.0
_TAKE_OVER_SECONDS, _TAKE_OVER_PAUSE = 2.0, 0.005
_ROTATE_SECONDS = 5.0
_KILLED = 128 + signal.SIGKILL
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR")


class ProcessDriver:
    """Runs containers as processes, their files below data_dir."""

    kind = "process"
    needs: Needs = "command"

    def __init__(self, data_dir: Path) -> None:
        self._pods = data_dir / "pods"
        self._supervisor = (data_dir / "supervise.sh").absolute()
        self._running: dict[tuple[str, str, int], asyncio.Event] = {}
        self._graces: dict[tuple[str, str, int], float] = {}
        self._inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}

    def base_variables(self, pod: Pod, container: Container, ports: Sequence[int]) -> dict[str, str]:
        """PORT, a PORT_NAME for each further port, OTE_POD_DIR, HOME, HOSTNAME, and PATH and locale of the shim."""
        root = str(self._folder(pod).root(container.name).absolute())
        variables = {**self._inherited, "HOME": root, "HOSTNAME": pod.name, "OTE_POD_DIR": root}
        for declared, port in zip(container.ports, ports, strict=False):
            name = declared.name or str(declared.container_port)
            variables[f"PORT_{name.upper().replace('-', '_')}"] = str(port)
        variables["PORT"] = str(ports[0])
        return variables

    def reach(self, container: Container, ports: Sequence[int], port: int | str) -> int:
        """Declared ports stand for the free ports that the container got; any other number for itself."""
        for declared, free in zip(container.ports, ports, strict=False):
            if port in (declared.name, declared.container_port):
                return free
        return int(port)

    def holds(self, port: int) -> bool:
        """Never: a port belongs to whoever listens on it."""
        return False

    async def begin(self, known: Mapping[str, Mapping[str, int]]) -> None:
        """Ends attempts and removes folders of pods that nobody knows, and writes the supervisor's script."""
        await asyncio.to_thread(self._write_supervisor)
        await orphans.end_unknown(self._pods, self._supervisor, known)
        folders = self._pods.iterdir() if self._pods.exists() else ()
        for uid in [path.name for path in folders if path.name not in known]:
            await self.clean(uid)

    async def run(self, plan: Plan, started: Callable[[], None]) -> Ended:
        """Starts the attempt; see Driver."""
        key = (plan.pod.uid, plan.container.name, plan.attempt)
        asked = self._running.setdefault(key, asyncio.Event())
        try:
            if asked.is_set():
                return Ended(None)
            try:
                pid = await asyncio.to_thread(self._spawn, plan)
            except FileNotFoundError as error:
                return Ended(127, f"this machine has no command {error.filename!r}")
            except OSError as error:
                return Ended(128, f"cannot be started: {error.strerror}")
            pidfd = _pidfd_of(pid, None)
            try:
                started()
                await self._watch(key, pidfd, pid, plan)
            finally:
                os.close(pidfd)
            signal_group(pid, signal.SIGKILL)  # where the shell was killed its command runs on
            reap(pid)
            return await asyncio.to_thread(self._how_it_ended, plan)
        finally:
            self._forget(key)

    async def adopt(self, plan: Plan, started: Callable[[], None]) -> Ended:
        """Watches an attempt that an earlier process started; see Driver."""
        key = (plan.pod.uid, plan.container.name, plan.attempt)
        self._running.setdefault(key, asyncio.Event())
        try:
            identity = await self._claimed(plan)
            if identity is None:
                return Ended(None)
            try:
                pidfd = _pidfd_of(identity.pid, identity)
            except ProcessLookupError:
                pidfd = -1
            try:
                if pidfd >= 0 and is_alive(identity):
                    started()
                    await self._watch(key, pidfd, identity.pid, plan)
                    signal_group(identity.pid, signal.SIGKILL)
                elif pidfd < 0 and identity.boot == boot_id():
                    signal_group(identity.pid, signal.SIGKILL)
            finally:
                if pidfd >= 0:
                    os.close(pidfd)
            reap(identity.pid)
            return await asyncio.to_thread(self._how_it_ended, plan)
        finally:
            self._forget(key)

    async def stop(self, pod: Pod, container: str, attempt: int, grace: float) -> None:
        """Asks the attempt's whole group to end; see Driver."""
        key = (pod.uid, container, attempt)
        self._graces[key] = grace
        self._running.setdefault(key, asyncio.Event()).set()

    async def refresh(self, pod: Pod, volumes: Mapping[str, Sequence[VolumeFile] | None]) -> None:
        """Writes the volumes of a pod again."""
        await asyncio.to_thread(self._folder(pod).write_volumes, volumes)

    async def clean(self, uid: str) -> None:
        """Removes the pod's folder."""
        await asyncio.to_thread(PodFolder(self._pods, uid).remove)

    async def execute(self, plan: Plan, command: Sequence[str], timeout: float) -> str:
        """Runs a probe's command with the container's variables in its folder."""
        try:
            code = await run_quietly(command, variables=plan.variables, cwd=self._directory(plan), seconds=timeout)
        except TimeoutError:
            return f"{command[0]} took longer than {timeout:g} s"
        except OSError as error:
            return f"{command[0]}: {error.strerror}"
        return f"{command[0]} exited with code {code}" if code else ""

    async def log(self, pod: Pod, container: str, lines: int, limit: int) -> bytes:
        """The end of the container's log, all attempts together."""
        return await asyncio.to_thread(files.tail, self._folder(pod).container(container) / "log", lines, limit)

    def _folder(self, pod: Pod) -> PodFolder:
        return PodFolder(self._pods, pod.uid)

    def _directory(self, plan: Plan) -> Path:
        return self._folder(plan.pod).root(plan.container.name) / plan.container.working_dir.lstrip("/")

    def _mark(self, plan: Plan, word: str) -> Path:
        return (self._folder(plan.pod).container(plan.container.name) / f"{word}.{plan.attempt}").absolute()

    def _spawn(self, plan: Plan) -> int:
        folder = self._folder(plan.pod)
        folder.write_volumes(plan.volumes)
        folder.write_root(plan.container)
        self._check_command(plan)
        self._remove_marks(plan, plan.attempt - 1)
        with (folder.container(plan.container.name) / "log").open("ab") as log:
            marks = [self._mark(plan, "claim").name, self._mark(plan, "exit").name]
            command, variables = _past_the_shell(plan)
            process = subprocess.Popen(
                [
                    "/bin/sh",
                    str(self._supervisor),
                    plan.pod.name,
                    *marks,
                    str(self._directory(plan).absolute()),
                    *command,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=variables,
                cwd=folder.container(plan.container.name),  # where it writes its marks, wherever that is moved to
                start_new_session=True,
            )
        process.returncode = 0  # it may outlive us: `reap` looks after it, Popen must not
        return process.pid

    def _remove_marks(self, plan: Plan, attempt: int) -> None:
        """Removes the marks of an attempt that ended. An abandoned claim stays: whoever comes late must meet it."""
        claim, code = (self._mark(plan, word).with_suffix(f".{attempt}") for word in ("claim", "exit"))
        if claim.exists() and claim.read_text() != f"{_ABANDONED}\n":
            claim.unlink()
            code.unlink(missing_ok=True)

    def _write_supervisor(self) -> None:
        """A new file in place of an old one: shells that run go on reading theirs."""
        fresh = self._supervisor.with_suffix(".new")
        fresh.write_text(_SUPERVISOR)
        fresh.replace(self._supervisor)

    def _check_command(self, plan: Plan) -> None:
        name = plan.command[0]
        path = self._directory(plan) / name if "/" in name else name
        if shutil.which(path, path=plan.variables.get("PATH")) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)

    async def _claimed(self, plan: Plan) -> Identity | None:
        """Who claimed the attempt; None where nobody did, and from now on nobody can."""
        path = self._mark(plan, "claim")
        for _ in range(int(_CLAIM_SECONDS / 0.02)):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("x") as claim:
                    claim.write(f"{_ABANDONED}\n")
                return None
            except FileExistsError:
                text = path.read_text()
            if text.endswith("\n"):
                boot, _, stat = text.strip().partition(" ")
                return None if boot == _ABANDONED else parse_stat(boot, stat)
            await asyncio.sleep(0.02)
        return Identity("", 0, "")

    async def _watch(self, key: tuple[str, str, int], pidfd: int, group: int, plan: Plan) -> None:
        asked = self._running[key]
        ended = asyncio.create_task(gone(pidfd), name=f"pod {plan.pod.name} process")
        stopper = asyncio.create_task(self._stop_when_asked(key, asked, ended, group), name=f"pod {plan.pod.name} stop")
        log = self._folder(plan.pod).container(plan.container.name) / "log"
        try:
            while not (await asyncio.wait([ended], timeout=_ROTATE_SECONDS))[0]:
                with contextlib.suppress(OSError):  # whatever the disk says, the container runs
                    await asyncio.to_thread(files.rotate, log)
        finally:
            ended.cancel()
            stopper.cancel()

    async def _stop_when_asked(
        self, key: tuple[str, str, int], asked: asyncio.Event, ended: asyncio.Task[None], group: int
    ) -> None:
        await asked.wait()
        for _ in range(int(_TAKE_OVER_SECONDS / _TAKE_OVER_PAUSE)):
            if ended.done() or has_taken_over(group):
                break
            await asyncio.wait([ended], timeout=_TAKE_OVER_PAUSE)  # before that the shell's trap swallows the signal
        signal_group(group, signal.SIGTERM)
        await asyncio.wait([ended], timeout=self._graces[key])
        if not ended.done():
            signal_group(group, signal.SIGKILL)

    def _how_it_ended(self, plan: Plan) -> Ended:
        try:
            code = self._mark(plan, "exit").read_text().strip()
        except FileNotFoundError:
            code = ""
        if code:
            return Ended(int(code))
        if not self._mark(plan, "claim").exists():
            return Ended(128, "cannot be started: is the disk full?")
        return Ended(_KILLED, "killed")

    def _forget(self, key: tuple[str, str, int]) -> None:
        self._running.pop(key, None)
        self._graces.pop(key, None)


def _pidfd_of(pid: int, identity: Identity | None) -> int:
    """A descriptor of a child, or of whoever has this identity. Who cannot be watched, as when too many files are open,
    is ended: it would soon run twice. Raises OSError."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        if identity is None or is_alive(identity):
            signal_group(pid, signal.SIGKILL)
        raise


def _past_the_shell(plan: Plan) -> tuple[list[str], dict[str, str]]:
    """Command and variables for the supervisor: a shell drops variables whose names it could not have, such as a.b."""
    variables = {name: value for name, value in plan.variables.items() if _SHELL_NAME.fullmatch(name)}
    others = [f"{name}={value}" for name, value in plan.variables.items() if name not in variables]
    if not others:
        return list(plan.command), variables
    variables |= {f"{_NAMED}{number}": other for number, other in enumerate(others)}
    return [sys.executable, "-I", "-S", "-c", _RENAME, *plan.command], variables
