"""What the local shim runs: real processes, real ports, real files."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from ote.api.command.v1 import command_pb2
from ote.shims.local import files, process
from ote.shims.local.ports import Plan
from ote.shims.local.process import ProcessDriver
from ote.shims.local.processes import Identity

from .conftest import PATIENCE, Local
from .manifests import SERVER, config, container, deployment, job, pod, secret, shell, together

PROBE = {"httpGet": {"port": "http"}, "periodSeconds": 1}
WEB = container(
    sys.executable, "-c", SERVER, "$(POD)", ports=[{"name": "http", "containerPort": 80}], readinessProbe=PROBE,
    env=[{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
)  # fmt: skip
HELLO = Path(__file__).parents[3] / "examples" / "hello.yaml"


def port_of(found: dict[str, Any]) -> int:
    return int(found["metadata"]["annotations"]["ote.dev/port"])


async def fetch(port: int, path: str = "/") -> str:
    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(read)


def restarts(found: dict[str, Any]) -> int:
    return int(found["status"]["containerStatuses"][0]["restartCount"])


def is_ready(found: dict[str, Any]) -> bool:
    return bool(found["status"]["containerStatuses"][0]["ready"])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def words(path: Path) -> list[str]:
    """Those of a file that its writer has ended with a line."""
    text = path.read_text() if path.exists() else ""
    return text.split() if text.endswith("\n") else []


async def test_the_example_serves_its_page_and_a_changed_page_shows_at_once(local: Local) -> None:
    text = HELLO.read_text()
    assert await local.applied(text) == ["CREATED", "CREATED"]
    assert await local.applied(text) == ["UNCHANGED", "UNCHANGED"]
    port = port_of(await local.pod())
    assert "Hello from OTE" in await fetch(port)
    assert await local.applied(text.replace("Hello from OTE", "Changed")) == ["CONFIGURED", "UNCHANGED"]
    async with asyncio.timeout(PATIENCE):
        while "Changed" not in await fetch(port):
            await asyncio.sleep(0.02)


async def test_replicas_coexist_on_ports_of_their_own(local: Local) -> None:
    await local.applied(deployment("web", WEB, replicas=3))
    pods = await local.get("Pod")
    assert len({port_of(one) for one in pods}) == 3
    for one in pods:
        await fetch(port_of(one))
        assert await local.log(one["metadata"]["name"], 1) != ""
        assert f"serving {port_of(one)} {one['metadata']['name']}\n" in await local.log(one["metadata"]["name"])
    (found,) = await local.get("deploy")
    assert found["status"]["readyReplicas"] == 3


async def test_a_changed_deployment_rolls_without_an_unready_moment(local: Local) -> None:
    await local.applied(deployment("web", WEB))
    before = {one["metadata"]["name"] for one in await local.get("Pod")}
    least = 1

    async def look() -> None:
        nonlocal least
        while True:
            (found,) = await local.get("Deployment")
            least = min(least, found["status"]["readyReplicas"])
            await asyncio.sleep(0.01)

    looking = asyncio.create_task(look())
    await local.applied(deployment("web", {**WEB, "args": ["v2"]}))
    looking.cancel()
    after = {one["metadata"]["name"] for one in await local.until(lambda pods: len(pods) == 1)}
    assert least == 1
    assert not before & after


async def test_variables_come_from_everywhere_and_nothing_of_the_shims_own_leaks(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTE_JOIN_TOKEN", "never")
    one = shell(
        'env; echo "arg $0 $1"',
        args=["$(A)", "$$(A)"],
        env=[
            {"name": "A", "value": "a"},
            {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
            {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pw"}}},
        ],
        envFrom=[{"prefix": "P_", "configMapRef": {"name": "c"}}],
    )
    await local.applied(together(config("c", k="v"), secret("s", pw="s3cret"), job("j", one)))
    lines = set((await local.log((await local.pod())["metadata"]["name"])).splitlines())
    assert {"A=a", "B=v", "C=s3cret", "P_k=v", "arg a $(A)"} <= lines
    assert not any("OTE_JOIN_TOKEN" in line for line in lines)


async def test_volumes_appear_below_the_pods_folder_and_containers_share_them(local: Local) -> None:
    mounts = [
        {"name": "c", "mountPath": "/etc/app"},
        {"name": "s", "mountPath": "/secret/pw", "subPath": "pw"},
        {"name": "e", "mountPath": "/shared"},
    ]
    writer = shell(
        'cat etc/app/x/y secret/pw; stat -Lc %a secret/pw; echo "$PWD" > shared/w; sleep 60', volumeMounts=mounts
    )
    reader = shell(
        'until test -s "$OTE_POD_DIR/mnt/w"; do sleep 0.05; done; sleep 60',
        name="reader",
        workingDir="/job/here",
        volumeMounts=[{"name": "e", "mountPath": "/mnt"}],
        readinessProbe={"exec": {"command": ["sh", "-c", "test -s ../../mnt/w"]}, "periodSeconds": 1},
    )
    volumes = [
        {"name": "c", "configMap": {"name": "c", "items": [{"key": "k", "path": "x/y"}]}},
        {"name": "s", "secret": {"secretName": "s"}},
        {"name": "e", "emptyDir": {}},
    ]
    manifests = together(
        config("c", k="from config\n"), secret("s", pw="pw\n"), pod("p", writer, reader, volumes=volumes)
    )
    await local.applied(manifests)
    assert await local.log("p", container="main") == "from config\npw\n600\n"


async def test_pods_of_a_moved_folder_have_their_volumes_before_and_after_a_restart(local: Local) -> None:
    mounts = [{"name": "c", "mountPath": "/page/in"}]
    volumes = [{"name": "c", "configMap": {"name": "c"}}]
    server = {**WEB, "command": [sys.executable, "-c", SERVER], "volumeMounts": mounts}
    await local.applied(together(config("c", word="here"), pod("p", server, volumes=volumes)))
    await local.stop()
    local.data = local.data.rename(local.data.with_name("moved"))
    await local.start()
    (found,) = await local.until(lambda pods: is_ready(pods[0]))
    assert await fetch(port_of(found), "/page/in/word") == "here"
    (claim,) = (local.data / "pods" / found["metadata"]["uid"] / "main").glob("claim.*")
    os.killpg(int(claim.read_text().split()[1]), signal.SIGKILL)
    link = local.data / "pods" / found["metadata"]["uid"] / "main" / "root" / "page" / "in"
    link.unlink()
    link.symlink_to("/of/an/earlier/version")
    (found,) = await local.until(lambda pods: restarts(pods[0]) >= 1 and is_ready(pods[0]))
    assert await fetch(port_of(found), "/page/in/word") == "here"


async def test_what_ends_in_a_moved_folder_is_found_with_its_exit_code(local: Local) -> None:
    waiting = shell("until test -e go; do sleep 0.02; done; exit 7")
    await local.applied(pod("p", waiting, restartPolicy="Never"))
    await local.stop()
    local.data = local.data.rename(local.data.with_name("moved"))
    await local.start()
    found = await local.pod()
    (local.data / "pods" / found["metadata"]["uid"] / "main" / "root" / "go").touch()
    (found,) = await local.until(lambda pods: pods[0]["status"]["phase"] == "Failed")
    assert found["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 7


async def test_a_pod_waits_for_its_config_map_and_says_so(local: Local) -> None:
    one = shell("sleep 60", envFrom=[{"configMapRef": {"name": "late"}}])
    result = await local.told(pod("p", one), "ConfigMap 'late' does not exist")
    assert (result.outcome, result.reason) == (command_pb2.OUTCOME_FAILED, "NOT_READY")
    assert await local.applied(together(config("late", k="v"), pod("p", one))) == ["CREATED", "UNCHANGED"]


async def test_a_job_runs_to_its_end_as_often_as_asked(local: Local) -> None:
    await local.applied(job("sum", shell("echo $((40 + 2))"), completions=3, parallelism=2))
    (found,) = await local.get("Job")
    assert found["status"]["succeeded"] == 3
    for one in await local.get("Pod"):
        assert await local.log(one["metadata"]["name"]) == "42\n"


async def test_a_job_that_fails_too_often_fails_the_command_at_once(local: Local) -> None:
    result = await local.apply(job("bad", shell("exit 3"), backoffLimit=1))
    assert (result.outcome, result.reason) == (command_pb2.OUTCOME_FAILED, "NOT_READY")
    assert "BackoffLimitExceeded" in result.message
    assert len(await local.get("Pod")) == 2


async def test_a_crashing_container_is_started_again_and_the_reason_is_told(local: Local) -> None:
    one = shell("exit 7", readinessProbe={"exec": {"command": ["true"]}, "initialDelaySeconds": 60})
    result = await local.told(pod("p", one), "CrashLoopBackOff", "exit code 7")
    assert result.reason == "NOT_READY"
    assert restarts(await local.pod()) >= 1


async def test_a_command_that_does_not_exist_is_named(local: Local) -> None:
    result = await local.apply(pod("p", container("no-such-command"), restartPolicy="Never"))
    assert "this machine has no command 'no-such-command'" in result.message


async def test_a_container_whose_liveness_fails_is_started_again(local: Local) -> None:
    probe = {"exec": {"command": ["sh", "-c", "test ! -e sick || { rm sick; exit 1; }"]}}
    one = shell("sleep 60", livenessProbe={**probe, "periodSeconds": 1, "failureThreshold": 1})
    await local.applied(pod("p", one))
    uid = (await local.pod())["metadata"]["uid"]
    (local.data / "pods" / uid / "main" / "root" / "sick").touch()
    await local.until(lambda pods: restarts(pods[0]) >= 1)


async def test_a_tcp_probe_tells_a_port_that_is_open_from_one_that_is_not(local: Local) -> None:
    tcp = {"tcpSocket": {"port": 80}, "periodSeconds": 1}
    await local.applied(deployment("web", {**WEB, "readinessProbe": tcp}))
    one = shell("sleep 60", ports=[{"containerPort": 80}], readinessProbe=tcp)
    await local.told(pod("p", one), "Connection refused")


async def test_a_probe_tells_a_wrong_status_and_a_wrong_protocol(local: Local) -> None:
    probe = {"httpGet": {"port": "http", "path": "nothing-here"}, "periodSeconds": 1}
    await local.told(deployment("web", {**WEB, "readinessProbe": probe}), "/nothing-here answered 404")


async def test_termination_asks_first_and_then_ends_the_whole_group(local: Local) -> None:
    polite = shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done", name="polite")
    stubborn = shell("trap '' TERM; sleep 600 & echo $!; while :; do sleep 0.05; done", name="stubborn")
    await local.applied(pod("p", polite, stubborn, terminationGracePeriodSeconds=3))
    await local.logged("p", container="polite")
    child = await local.logged("p", container="stubborn")
    uid = (await local.pod())["metadata"]["uid"]
    log = (local.data / "pods" / uid / "polite" / "log").open()
    begun = asyncio.get_running_loop().time()
    result = await local.delete("Pod/p")
    assert result.outcome == command_pb2.OUTCOME_SUCCEEDED
    assert asyncio.get_running_loop().time() - begun >= 3
    with log:
        assert "bye\n" in log.read()
    assert not alive(int(child))
    async with asyncio.timeout(PATIENCE):
        while (local.data / "pods" / uid).exists():
            await asyncio.sleep(0.02)


async def test_a_signal_that_comes_before_the_command_has_taken_over_is_not_lost(local: Local) -> None:
    supervisor = local.data / "supervise.sh"
    script = supervisor.read_text()
    slowly = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done\n(exec"
    supervisor.write_text(script.replace("(exec", slowly))
    await local.apply(pod("p", shell("sleep 600"), terminationGracePeriodSeconds=300), seconds=0)
    uid = (await local.pod())["metadata"]["uid"]
    async with asyncio.timeout(PATIENCE):
        while not (local.data / "pods" / uid / "main" / "claim.1").exists():
            await asyncio.sleep(0.001)
    async with asyncio.timeout(PATIENCE):
        assert (await local.delete("Pod/p")).outcome == command_pb2.OUTCOME_SUCCEEDED


async def test_what_a_container_leaves_behind_ends_with_it(local: Local) -> None:
    await local.applied(job("j", shell("sleep 600 & echo $!")))
    child = int(await local.logged((await local.pod())["metadata"]["name"]))
    async with asyncio.timeout(PATIENCE):
        while alive(child):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("adopted", [False, True])
async def test_a_command_does_not_outlive_the_shell_that_ran_it(local: Local, *, adopted: bool) -> None:
    await local.applied(pod("p", shell("echo $$$$; exec sleep 600")))
    first = int(await local.logged("p"))
    uid = (await local.pod())["metadata"]["uid"]
    if adopted:
        await local.restart()
        await local.until(lambda pods: pods[0]["status"]["containerStatuses"][0]["ready"])
    os.kill(int((local.data / "pods" / uid / "main" / "claim.1").read_text().split()[1]), signal.SIGKILL)
    await local.until(lambda pods: restarts(pods[0]) >= 1)
    assert not alive(first)


@pytest.mark.parametrize("adopted", [False, True])
async def test_what_cannot_be_watched_does_not_run_beside_its_next_start(
    local: Local, monkeypatch: pytest.MonkeyPatch, *, adopted: bool
) -> None:
    failures = [OSError(errno.EMFILE, "too many open files")]
    real = os.pidfd_open

    def pidfd_open(pid: int) -> int:
        if failures:
            raise failures.pop()
        return real(pid)

    manifest = pod("p", shell('echo $$$$ >> "$OTE_POD_DIR/starts"; sleep 600'))
    if adopted:
        await local.applied(manifest)
        await local.stop()
    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    if adopted:
        await local.start()
        await local.until(lambda pods: restarts(pods[0]) >= 1)
    else:
        await local.applied(manifest)
    await local.until(lambda pods: pods[0]["status"]["containerStatuses"][0]["ready"])
    assert not failures
    starts = local.data / "pods" / (await local.pod())["metadata"]["uid"] / "main" / "root" / "starts"
    async with asyncio.timeout(PATIENCE):
        while not (running := [pid for pid in words(starts) if alive(int(pid))]):
            await asyncio.sleep(0.02)
    assert len(running) == 1


async def test_what_cannot_be_looked_for_at_the_moment_is_looked_for_again_and_not_started_beside_itself(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    await local.applied(pod("p", shell('echo $$$$ >> "$OTE_POD_DIR/starts"; sleep 600')))
    await local.stop()
    failures, claimed = [OSError(errno.EMFILE, "too many open files")], ProcessDriver._claimed

    async def sometimes(driver: ProcessDriver, plan: Plan) -> Identity | None:
        if failures:
            raise failures.pop()
        return await claimed(driver, plan)

    monkeypatch.setattr(ProcessDriver, "_claimed", sometimes)
    monkeypatch.setattr("ote.shims.local.keeper._RETRY_SECONDS", 0.05)
    await local.start()
    await local.until(lambda pods: is_ready(pods[0]))
    assert not failures
    assert restarts(await local.pod()) == 0
    starts = (local.data / "pods" / (await local.pod())["metadata"]["uid"] / "main" / "root" / "starts").read_text()
    assert len(starts.split()) == 1


async def test_a_probe_that_cannot_be_asked_says_why_and_goes_on(local: Local) -> None:
    probe = {"tcpSocket": {"port": 80, "host": "x" * 64 + ".example"}, "periodSeconds": 1}
    await local.told(pod("p", shell("sleep 600", readinessProbe=probe)), "cannot be asked")


async def test_a_container_whose_log_has_no_room_runs_on(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_ROTATE_SECONDS", 0.05)
    monkeypatch.setattr(files, "LOG_LIMIT", 1000)
    monkeypatch.setattr(files, "LOG_KEPT", 500)
    await local.applied(pod("p", shell("ln -s /dev/full ../log.1; seq 1 5000; until test -e go; do sleep 0.05; done")))
    folder = local.data / "pods" / (await local.pod())["metadata"]["uid"] / "main"
    async with asyncio.timeout(PATIENCE):
        while (folder / "log").stat().st_size:
            await asyncio.sleep(0.02)
    assert restarts(await local.pod()) == 0
    (folder / "root" / "go").touch()
    await local.until(lambda pods: restarts(pods[0]) >= 1)


async def test_variables_keep_names_that_no_shell_has(local: Local) -> None:
    env = [{"name": "my.key", "value": "a=b\nc"}, {"name": "A", "value": "$(my.key)"}]
    env += [{"name": name, "value": "mine"} for name in ("boot", "stat", "done", "folder")]
    command = (sys.executable, "-c", "import os; print(dict(os.environ))")
    one = container(*command, env=env, envFrom=[{"configMapRef": {"name": "c"}}])
    await local.applied(together(config("c", **{"app-name": "shop"}), job("j", one)))
    log = await local.log((await local.pod())["metadata"]["name"])
    assert "'my.key': 'a=b\\nc'" in log
    assert "'app-name': 'shop'" in log
    assert "'A': 'a=b\\nc'" in log
    assert log.count("mine") == 4
    assert "OTE_NAMED" not in log


async def test_a_folder_that_a_container_has_closed_goes_with_the_pod(local: Local) -> None:
    elsewhere = local.data / "elsewhere"
    elsewhere.mkdir(mode=0o500)
    script = f"mkdir -p a/b; touch a/b/c; ln -s {elsewhere} a/b/d; chmod 500 a/b; chmod 100 a; echo done; sleep 60"
    await local.applied(pod("p", shell(script)))
    folder = local.data / "pods" / (await local.pod())["metadata"]["uid"]
    await local.delete("Pod/p")
    async with asyncio.timeout(PATIENCE):
        while folder.exists():
            await asyncio.sleep(0.02)
    assert elsewhere.stat().st_mode & 0o777 == 0o500


async def test_pods_survive_the_shim_and_are_adopted_not_started_twice(local: Local) -> None:
    script = 'echo $$$$ >> "$OTE_POD_DIR/starts"; sleep 600'
    await local.applied(together(pod("p", shell(script)), deployment("web", WEB)))
    (started,) = [one["metadata"]["uid"] for one in await local.get("Pod") if one["metadata"]["name"] == "p"]
    starts = local.data / "pods" / started / "main" / "root" / "starts"
    async with asyncio.timeout(PATIENCE):
        while not words(starts):
            await asyncio.sleep(0.02)
    before = {one["metadata"]["uid"]: one for one in await local.get("Pod")}
    await local.restart()
    after = {one["metadata"]["uid"]: one for one in await local.get("Pod")}
    assert before.keys() == after.keys()
    await local.until(lambda pods: all(one["status"]["containerStatuses"][0]["ready"] for one in pods))
    (pid,) = words(starts)
    assert alive(int(pid))
    os.kill(int(pid), 9)
    await local.until(lambda pods: any(restarts(one) >= 1 for one in pods))


async def test_a_start_that_was_cut_off_is_made_again_and_the_late_one_never_runs(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, gate, spawn = threading.Event(), threading.Event(), ProcessDriver._spawn
    late: list[int] = []

    def slow(driver: ProcessDriver, plan: Plan) -> int:
        begun.set()
        gate.wait(PATIENCE)
        late.append(spawn(driver, plan))
        return late[0]

    monkeypatch.setattr(ProcessDriver, "_spawn", slow)
    await local.apply(pod("p", shell("echo started; sleep 600")), seconds=0)
    await asyncio.to_thread(begun.wait, PATIENCE)
    await local.stop()
    monkeypatch.undo()
    await local.start()
    await local.until(lambda pods: pods[0]["status"]["phase"] == "Running")
    gate.set()
    async with asyncio.timeout(PATIENCE):
        while not late or alive(late[0]):
            await asyncio.sleep(0.02)
    assert (await local.logged("p")).count("started") == 1


async def test_what_ended_while_the_shim_was_away_is_found_with_its_exit_code(local: Local) -> None:
    await local.applied(pod("p", shell("until test -e go; do sleep 0.05; done; exit 5"), restartPolicy="Never"))
    uid = (await local.pod())["metadata"]["uid"]
    await local.stop()
    (local.data / "pods" / uid / "main" / "root" / "go").touch()
    mark = local.data / "pods" / uid / "main" / "exit.1"
    async with asyncio.timeout(PATIENCE):
        while not mark.exists() or not mark.read_text():
            await asyncio.sleep(0.02)
    await local.start()
    (found,) = await local.until(lambda pods: pods[0]["status"]["phase"] == "Failed")
    assert found["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 5


async def test_logs_are_the_last_lines_of_a_container(local: Local) -> None:
    await local.applied(job("j", shell("seq 1 5000; echo oops >&2")))
    name = (await local.pod())["metadata"]["name"]
    assert await local.log(name, 2) == "5000\noops\n"
    assert len((await local.log(name)).splitlines()) == 1000
    assert len((await local.log(name, 100_000)).splitlines()) == 5001


async def test_a_namespace_goes_with_its_pods_and_default_stays(local: Local) -> None:
    shop = '{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}'
    await local.applied(together(shop, pod("p", shell("sleep 600")).replace('"p"}', '"p", "namespace": "shop"}')))
    result = await local.delete("Namespace/shop")
    assert [one.action for one in result.objects] == [command_pb2.ACTION_DELETED]
    assert await local.get("Pod") == []
    result = await local.delete("ns/default")
    assert (result.outcome, result.reason) == (command_pb2.OUTCOME_FAILED, "INVALID_MANIFEST")
