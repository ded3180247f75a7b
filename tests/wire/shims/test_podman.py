"""The same objects as real containers, by podman."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ote.api.command.v1 import command_pb2
from ote.model.errors import FailedPrecondition
from ote.shims.local.shim import DriverKind, LocalShim

from .conftest import PATIENCE, Local
from .manifests import config, deployment, job, pod, secret, together

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

IMAGE = "localhost/ote-test-busybox:1"
APPLETS = (
    "sh",
    "sleep",
    "httpd",
    "cat",
    "echo",
    "env",
    "true",
    "false",
    "test",
    "touch",
    "seq",
    "ln",
    "ls",
    "mv",
    "rmdir",
)


@pytest.fixture(scope="module")
def image() -> str:
    """An image of busybox whose entrypoint prints a word and sleeps."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = subprocess.run(["sh", "-c", "command -v busybox"], check=True, capture_output=True, text=True).stdout
        (folder / "busybox").write_bytes(Path(found.strip()).read_bytes())
        (folder / "busybox").chmod(0o755)
        copies = "\n".join(f"COPY busybox /bin/{applet}" for applet in APPLETS)
        start = 'ENTRYPOINT ["/bin/sh", "-c", "echo entered; exec sleep 600"]'
        (folder / "Containerfile").write_text(f"FROM scratch\n{copies}\n{start}\n")
        subprocess.run(
            ["podman", "build", "--quiet", "--tag", IMAGE, name], check=True, capture_output=True, timeout=60
        )
    return IMAGE


@pytest.fixture
def driver(real_part: Callable[[str], str], image: str) -> DriverKind:
    real_part("podman")
    return "podman"


def shell(script: str, **fields: Any) -> dict[str, Any]:
    return {"name": "main", "image": IMAGE, "command": ["/bin/sh", "-c", script], **fields}


WEB = {
    "name": "main",
    "image": IMAGE,
    "command": ["/bin/httpd", "-f"],
    "args": ["-p", "$(PORT)", "-h", "/page"],
    "ports": [{"name": "http", "containerPort": 8000}],
    "readinessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 1},
    "volumeMounts": [{"name": "page", "mountPath": "/page"}],
}


def web(replicas: int = 1) -> str:
    volumes = '"volumes": [{"name": "page", "configMap": {"name": "page"}}], "containers"'
    return deployment("web", WEB, replicas).replace('"containers"', volumes)


async def page(local: Local) -> set[str]:
    def read(port: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return str(answer.read().decode())

    pods = await local.get("Pod")
    return {await asyncio.to_thread(read, one["metadata"]["annotations"]["ote.dev/port"]) for one in pods}


def pods_of_podman() -> list[str]:
    told = subprocess.run(["podman", "pod", "ls", "--format", "{{.Name}}"], capture_output=True, check=True, text=True)
    return told.stdout.split()


async def test_replicas_serve_on_ports_of_their_own_and_a_changed_page_shows(local: Local) -> None:
    manifests = together(config("page", **{"index.html": "one"}), web(2))
    assert await local.applied(manifests) == ["CREATED", "CREATED"]
    assert await local.applied(manifests) == ["UNCHANGED", "UNCHANGED"]
    assert await page(local) == {"one"}
    names = {f"ote-{one['metadata']['uid']}" for one in await local.get("Pod")}
    assert names <= set(pods_of_podman())
    await local.applied(config("page", **{"index.html": "two"}))
    async with asyncio.timeout(PATIENCE):
        while await page(local) != {"two"}:
            await asyncio.sleep(0.05)
    await local.delete("Deployment/web")
    async with asyncio.timeout(PATIENCE):
        while names & set(pods_of_podman()):
            await asyncio.sleep(0.1)


async def test_an_images_own_entrypoint_runs_and_its_log_is_kept(local: Local) -> None:
    await local.applied(pod("p", {"name": "main", "image": IMAGE}))
    async with asyncio.timeout(PATIENCE):
        while await local.log("p") != "entered\n":
            await asyncio.sleep(0.05)
    result = await local.apply(pod("q", {"name": "main", "command": ["true"]}))
    assert "the podman driver runs images" in result.message


async def test_a_job_has_its_variables_and_volumes_and_says_how_it_ended(local: Local) -> None:
    one = shell(
        'echo "$A $B"; cat /s/pw; echo; touch /job/x && exit 3',
        env=[{"name": "A", "value": "a"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pw"}}}],
        volumeMounts=[{"name": "s", "mountPath": "/s", "readOnly": True}, {"name": "w", "mountPath": "/job"}],
    )
    volumes = '"volumes": [{"name": "s", "secret": {"secretName": "s"}}, {"name": "w", "emptyDir": {}}], "containers"'
    manifest = job("j", one, backoffLimit=0).replace('"containers"', volumes)
    result = await local.apply(together(secret("s", pw="s3"), manifest), seconds=30)
    assert "BackoffLimitExceeded" in result.message
    found = await local.pod()
    assert found["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    assert await local.log(found["metadata"]["name"]) == "a s3\ns3\n"


async def test_pods_survive_the_shim_and_are_adopted(local: Local) -> None:
    probe = {"exec": {"command": ["/bin/test", "-e", "/started"]}, "periodSeconds": 1}
    await local.applied(pod("p", shell("touch /started; exec sleep 600", readinessProbe=probe)))
    uid = (await local.pod())["metadata"]["uid"]

    def started() -> str:
        command = ["podman", "inspect", "--format", "{{.State.StartedAt}} {{.State.Pid}}", f"ote-{uid}-main"]
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout

    before = started()
    await local.restart()
    await local.until(lambda pods: pods[0]["status"]["containerStatuses"][0]["ready"])
    assert started() == before
    kill = ["podman", "kill", f"ote-{uid}-main"]
    await asyncio.to_thread(subprocess.run, kill, check=True, capture_output=True)
    await local.until(lambda pods: pods[0]["status"]["containerStatuses"][0]["restartCount"] == 1)
    assert started() != before


async def test_what_ended_while_the_shim_was_away_is_found_with_its_exit_code(local: Local) -> None:
    wait = "until test -e /job/go; do sleep 0.1; done; exit 5"
    one = shell(wait, volumeMounts=[{"name": "w", "mountPath": "/job"}])
    await local.applied(pod("p", one, volumes=[{"name": "w", "emptyDir": {}}], restartPolicy="Never"))
    uid = (await local.pod())["metadata"]["uid"]
    await local.stop()
    (local.data / "pods" / uid / "volumes" / "w" / "go").touch()
    await asyncio.to_thread(subprocess.run, ["podman", "wait", f"ote-{uid}-main"], check=True, capture_output=True)
    await local.start()
    (found,) = await local.until(lambda pods: pods[0]["status"]["phase"] == "Failed")
    assert found["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 5


async def test_what_the_shim_writes_no_container_can_turn_into_a_link_out_of_it(local: Local) -> None:
    outside = local.folder / "outside"
    outside.mkdir()
    script = f"mv /c/x /c/y; ln -s {outside} /c/x; echo tried; exec sleep 600"
    one = shell(script, volumeMounts=[{"name": "c", "mountPath": "/c"}])
    volume = {"name": "c", "configMap": {"name": "c", "items": [{"key": "k", "path": "x/k"}]}}
    await local.applied(together(config("c", k="one"), pod("p", one, volumes=[volume])))
    async with asyncio.timeout(PATIENCE):
        while "tried\n" not in await local.log("p"):  # what the two commands say may come before or after it
            await asyncio.sleep(0.02)
    await local.applied(config("c", k="two"))
    file = local.data / "pods" / (await local.pod())["metadata"]["uid"] / "volumes" / "c" / "x" / "k"
    async with asyncio.timeout(PATIENCE):
        while not file.exists() or file.read_text() != "two":
            await asyncio.sleep(0.02)
    assert not list(outside.iterdir())


async def test_a_part_of_a_volume_that_became_a_link_is_not_mounted_again(local: Local) -> None:
    outside = local.folder / "outside"
    outside.mkdir()
    (outside / "private").touch()
    script = f"ls /part; rmdir /all/part && ln -s {outside} /all/part; exit 1"
    mounts = [{"name": "w", "mountPath": "/all"}, {"name": "w", "mountPath": "/part", "subPath": "part"}]
    volumes = [{"name": "w", "emptyDir": {}}]
    result = await local.apply(pod("p", shell(script, volumeMounts=mounts), volumes=volumes), seconds=6)
    assert "leads out of its volume" in result.message
    assert "private" not in await local.log("p")


async def test_pods_that_take_long_to_end_hold_up_nothing_else(local: Local) -> None:
    stubborn = shell("trap '' TERM; while :; do sleep 1; done")
    many = [pod(f"p{number}", stubborn, terminationGracePeriodSeconds=8) for number in range(4)]
    await local.applied(together(pod("other", shell("echo here; exec sleep 600")), *many))
    ending = asyncio.create_task(local.delete(*(f"Pod/p{number}" for number in range(4))))
    await asyncio.sleep(1)
    async with asyncio.timeout(4):
        assert await local.log("other") == "here\n"
    assert not ending.done()
    await ending


async def test_an_image_that_is_not_there_is_named(local: Local) -> None:
    missing = {"name": "main", "image": "localhost/ote-test-none:1", "imagePullPolicy": "Never"}
    result = await local.apply(pod("p", missing), seconds=3)
    assert result.outcome == command_pb2.OUTCOME_FAILED
    assert "podman cannot make the pod" in result.message


async def test_without_podman_the_driver_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FailedPrecondition, match="podman is not installed"):
        await LocalShim("podman", folder / "other").start()
