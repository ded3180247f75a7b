"""`ote-local-shim` as people run it: a process that may be killed at any moment, pods that do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

import ote
from ote.api.command.v1 import command_pb2
from ote.api.shim.v1 import shim_pb2, shim_pb2_grpc
from ote.pki import Authority, csr, new_key
from ote.rpc.channel import open_channel
from ote.rpc.tls import TlsIdentity

PROGRAM = [sys.executable, "-m", "ote.apps.local_shim"]
PATIENT = 60.0
"""Seconds for what a healthy program does at once, and a starved machine much later."""


class Program:
    """`ote-local-shim` with its standard error in a file."""

    def __init__(self, folder: Path, *options: str, listen: str = "") -> None:
        self.folder = folder
        self.data = folder / "data"
        self.listen = listen or f"unix:{folder}/s"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "stderr").open("wb") as stderr:
            self._process = subprocess.Popen(
                [*PROGRAM, "--listen", self.listen, "--data-dir", str(self.data), *self._options], stderr=stderr
            )

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(PATIENT)

    def terminate(self) -> int:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(PATIENT)

    async def address(self) -> str:
        """Where it listens, from its log."""
        async with asyncio.timeout(PATIENT):
            while not (found := re.search(r'"listen": "([^"]+)", "driver"', (self.folder / "stderr").read_text())):
                await asyncio.sleep(0.02)
        return found.group(1)

    @contextlib.asynccontextmanager
    async def dialled(self) -> AsyncIterator[shim_pb2_grpc.ShimServiceAsyncStub]:
        async with open_channel(self.listen) as channel:
            await asyncio.wait_for(channel.channel_ready(), PATIENT)
            yield shim_pb2_grpc.ShimServiceStub(channel)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ote-") as name:
        yield Path(name)


@pytest.fixture
def program(folder: Path) -> Iterator[Program]:
    program = Program(folder)
    program.start()
    yield program
    program.kill()
    stop(program.data)


def stop(data: Path) -> str:
    done = subprocess.run([*PROGRAM, "stop", "--data-dir", str(data)], capture_output=True, timeout=PATIENT, check=True)
    return done.stdout.decode()


async def execute(
    stub: shim_pb2_grpc.ShimServiceAsyncStub, command: command_pb2.Command, dispatch_id: str
) -> command_pb2.Result:
    last = command_pb2.Result()
    async for response in stub.Execute(shim_pb2.ExecuteRequest(dispatch_id=dispatch_id, command=command)):
        last = response.result
    return last


def is_over(pid: int) -> bool:
    """Whether a process has ended; its parent may not have heard of it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def applying(manifest: dict[str, Any]) -> command_pb2.Command:
    return command_pb2.Command(apply=command_pb2.Apply(manifests=json.dumps(manifest).encode()))


def workload(kind: str, name: str, script: str) -> dict[str, Any]:
    spec = {"containers": [{"name": "main", "command": ["sh", "-c", script]}], "terminationGracePeriodSeconds": 1}
    if kind == "Job":
        spec = {"template": {"spec": {**spec, "restartPolicy": "Never"}}}
    version = "batch/v1" if kind == "Job" else "v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}


async def test_killed_at_any_moment_it_starts_nothing_twice_and_loses_nothing(program: Program, folder: Path) -> None:
    chance = random.Random(seed := random.randrange(10**6))
    print(f"seed {seed}")
    effects = folder / "effects"
    numbers = itertools.count()
    waiting: dict[str, dict[str, Any]] = {}

    async def apply_unless_it_is_gone(dispatch_id: str, manifest: dict[str, Any]) -> None:
        async with open_channel(program.listen) as channel:
            with contextlib.suppress(grpc.aio.AioRpcError):
                result = await execute(shim_pb2_grpc.ShimServiceStub(channel), applying(manifest), dispatch_id)
                assert result.outcome == command_pb2.OUTCOME_SUCCEEDED, result
                del waiting[dispatch_id]

    for _ in range(5):
        for number in itertools.islice(numbers, 4):
            script = f'sleep 0.{chance.randrange(4)}; echo {number} >> "{effects}"'
            waiting[f"d{number}"] = workload("Job", f"j{number}", script)
        async with program.dialled():
            pass
        sending = [asyncio.create_task(apply_unless_it_is_gone(*one)) for one in waiting.items()]
        await asyncio.sleep(chance.uniform(0.0, 0.5))
        program.kill()
        await asyncio.gather(*sending)
        program.start()
    async with program.dialled():
        pass
    for one in list(waiting.items()):
        await apply_unless_it_is_gone(*one)
    assert waiting == {}
    done = sorted(int(line) for line in effects.read_text().split())
    assert done == list(range(next(numbers)))


async def test_asked_to_end_it_exits_0_and_its_pods_go_on_until_stop(program: Program, folder: Path) -> None:
    async with program.dialled() as stub:
        await execute(stub, applying(workload("Pod", "p", f'echo $$$$ > "{folder}/pid"; exec sleep 600')), "a")
    async with asyncio.timeout(PATIENT):
        while not (folder / "pid").exists() or not (folder / "pid").read_text():
            await asyncio.sleep(0.02)
    pid = int((folder / "pid").read_text())
    assert program.terminate() == 0
    os.kill(pid, 0)
    assert stop(program.data) == "stopped: 1 objects deleted, no pod is left\n"
    async with asyncio.timeout(PATIENT):
        while not is_over(pid):
            await asyncio.sleep(0.02)
    assert list((program.data / "pods").iterdir()) == []
    program.start()
    async with program.dialled():
        pass


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--listen", "127.0.0.1:0"], "needs tls_cert, tls_key and tls_ca"),
        (["--listen", "0.0.0.0:0", "--insecure"], "insecure works on loopback only"),
        (["--listen", "127.0.0.1:0", "--tls-cert", "a"], "given together or not at all"),
        (["--listen", "unix:/x", "--driver", "docker"], "docker"),
        (["--driver", "process"], "--listen"),
        (["stop", "--data-dir", "/"], "is not the folder of a local shim"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(folder: Path, options: list[str], said: str) -> None:
    data = [] if "stop" in options else ["--data-dir", str(folder / "data")]
    done = subprocess.run([*PROGRAM, *options, *data], capture_output=True, timeout=PATIENT, check=False, text=True)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_help_and_version_tell_what_it_is() -> None:
    told = subprocess.run([*PROGRAM, "--help"], capture_output=True, timeout=PATIENT, check=True, text=True).stdout
    assert "--data-dir PATH" in told
    assert "Example: ote-local-shim" in told
    told = subprocess.run([*PROGRAM, "--version"], capture_output=True, timeout=PATIENT, check=True, text=True).stdout
    assert told == f"ote-local-shim {ote.__version__}\n"


async def test_over_tcp_it_serves_the_controllers_it_was_told_and_nobody_else(folder: Path) -> None:
    authority = Authority.create_root("root")
    chain, key = authority.issue_shim("shim-1", 600.0)
    for name, content in (("cert", chain), ("key", key), ("ca", authority.root_pem)):
        (folder / name).write_bytes(content)
    files = [word for name in ("cert", "key", "ca") for word in (f"--tls-{name}", str(folder / name))]
    program = Program(folder, *files, "--client", "edge-1", listen="127.0.0.1:0")
    program.start()
    try:
        address = await program.address()

        async def ask(tls: TlsIdentity) -> grpc.StatusCode:
            async with open_channel(address, tls=tls, server_name="shim-1.shim.ote") as channel:
                stub = shim_pb2_grpc.ShimServiceStub(channel)
                try:
                    await stub.GetShimInfo(shim_pb2.GetShimInfoRequest(), timeout=PATIENT)
                except grpc.aio.AioRpcError as error:
                    return error.code()
                return grpc.StatusCode.OK

        assert await ask(member(authority, "edge-1")) == grpc.StatusCode.OK
        assert await ask(member(authority, "edge-2")) == grpc.StatusCode.PERMISSION_DENIED
        person, person_key = authority.issue_person("viewer", "v", 600.0)
        assert await ask(TlsIdentity(person, person_key, authority.root_pem)) == grpc.StatusCode.PERMISSION_DENIED
        stranger = Authority.create_root("other")
        identity = member(stranger, "edge-1")
        assert await ask(TlsIdentity(identity.certificate_chain, identity.private_key, authority.root_pem)) == (
            grpc.StatusCode.UNAVAILABLE
        )
    finally:
        program.kill()


def member(authority: Authority, name: str) -> TlsIdentity:
    key = new_key()
    chain = authority.issue_cluster(csr(key, name), name, "c" * 32, 600.0)
    return TlsIdentity(chain, key, authority.root_pem)
