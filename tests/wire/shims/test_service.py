"""The contract of ShimService, where the conformance suite does not look: durability, bounds, and who is disturbed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc.aio
import pytest

from ote.api.command.v1 import command_pb2
from ote.api.shim.v1 import shim_pb2
from ote.model.errors import FailedPrecondition, ResourceExhausted
from ote.shims.local import commands, documents
from ote.shims.local.core.manifest import Manifest
from ote.shims.local.shim import LocalShim
from ote.store.sqlite import Store, Write

from .conftest import PATIENCE, Local, apply_command
from .manifests import config, container, deployment, job, pod, shell, together

SUCCEEDED, FAILED, CANCELLED = (
    command_pb2.OUTCOME_SUCCEEDED,
    command_pb2.OUTCOME_FAILED,
    command_pb2.OUTCOME_CANCELLED,
)
NEVER_READY = pod("p", shell("sleep 600", readinessProbe={"exec": {"command": ["false"]}, "periodSeconds": 1}))


async def code_of(local: Local, command: command_pb2.Command, dispatch_id: str) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await local.execute(command, dispatch_id)
    return caught.value.code()


async def test_nothing_is_applied_when_one_thing_is_wrong_and_every_problem_is_named(local: Local) -> None:
    bad = pod("p", {"name": "main", "image": "nginx"}, hostNetwork=True)
    unknown = json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}})
    result = await local.apply(together(config("c", k="v"), unknown, bad))
    assert (result.outcome, result.reason) == (FAILED, "INVALID_MANIFEST")
    assert "kind 'Service' is not supported" in result.message
    assert "spec.hostNetwork: not supported" in result.message
    assert await local.get("ConfigMap") == []
    result = await local.apply(pod("p", {"name": "main", "image": "nginx"}))
    assert "--driver podman" in result.message


async def test_progress_says_that_the_effect_is_done_before_the_objects_are_ready(local: Local) -> None:
    told = await local.send(apply_command(NEVER_READY, 0.2))
    assert isinstance(told[0], command_pb2.Progress)
    assert told[0].effect_done
    assert "0 of 1 objects ready" in told[0].message
    assert isinstance(told[-1], command_pb2.Result)
    assert told[-1].reason == "NOT_READY"


async def test_results_cancels_and_what_is_forgotten_outlive_the_process(local: Local) -> None:
    await local.apply(config("a", k="v"), "done")
    await local.stub.Cancel(shim_pb2.CancelRequest(dispatch_id="never-came"))
    await local.apply(config("b", k="v"), "forgotten")
    await local.execute(command_pb2.Command(noop=command_pb2.Noop()), "other", forget=["forgotten"])
    await local.delete("ConfigMap/a")
    await local.restart()
    result = await local.apply(config("a", k="v"), "done")
    assert [one.action for one in result.objects] == [command_pb2.ACTION_CREATED]
    assert [one["metadata"]["name"] for one in await local.get("ConfigMap")] == ["b"]
    assert await code_of(local, apply_command(config("z", k="v")), "done") == grpc.StatusCode.ALREADY_EXISTS
    assert (await local.apply(config("c", k="v"), "never-came")).outcome == CANCELLED
    result = await local.apply(config("b", k="other"), "forgotten")
    assert [one.action for one in result.objects] == [command_pb2.ACTION_CONFIGURED]


async def test_a_command_that_was_observed_goes_on_being_observed_by_the_next_process(local: Local) -> None:
    call = local.stub.Execute(shim_pb2.ExecuteRequest(dispatch_id="watched", command=apply_command(NEVER_READY, 0.5)))
    first = await anext(aiter(call))
    assert first.progress.effect_done
    call.cancel()
    await local.restart()
    result = await local.apply(NEVER_READY, "watched", seconds=0.5)
    assert result.reason == "NOT_READY"
    assert len(await local.get("Pod")) == 1


async def test_a_cancelled_command_ends_failed_after_its_effect_and_cancelled_before(local: Local) -> None:
    waiting = asyncio.create_task(local.apply(NEVER_READY, "late"))
    await local.until(lambda pods: len(pods) == 1)
    answer = await local.stub.Cancel(shim_pb2.CancelRequest(dispatch_id="late"))
    assert answer.state == shim_pb2.CANCEL_STATE_CANCELLING
    result = await waiting
    assert (result.outcome, result.reason) == (FAILED, "CANCELLED")
    answer = await local.stub.Cancel(shim_pb2.CancelRequest(dispatch_id="late"))
    assert answer.state == shim_pb2.CANCEL_STATE_FINISHED


NEVER = {"exec": {"command": ["false"]}, "initialDelaySeconds": 600}
"""Without a probe, whatever is slow to end counts as ready for a moment."""
CRASHING = deployment("web", shell("exit 3", readinessProbe=NEVER))


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize(
    ("waits", "then", "reason"),
    [
        (CRASHING, deployment("web", shell("sleep 600")), "SUPERSEDED"),
        (NEVER_READY, pod("p", shell("sleep 601")), "SUPERSEDED"),
        (CRASHING, "Deployment/web", "DELETED"),
        (NEVER_READY, "Pod/p", "DELETED"),
        (job("j", shell("sleep 600"), ttlSecondsAfterFinished=0), "Job/j", "DELETED"),
    ],
)
async def test_who_waits_for_what_another_command_deletes_or_replaces_fails_and_says_so(
    local: Local, waits: str, then: str, reason: str, *, restarted: bool
) -> None:
    request = shim_pb2.ExecuteRequest(dispatch_id="first", command=apply_command(waits, 60))
    first = local.stub.Execute(request)
    assert (await anext(aiter(first))).progress.effect_done
    if restarted:
        first.cancel()
        await local.restart()
    again = aiter(local.stub.Execute(request))
    assert (await anext(again)).progress.effect_done
    later = await (local.delete(then) if "{" not in then else local.apply(then))
    assert later.outcome == SUCCEEDED
    async with asyncio.timeout(PATIENCE):
        *_, last = [response async for response in again]
    result = last.result
    assert (result.outcome, result.reason) == (FAILED, reason)
    assert "while it was awaited" in result.message
    (one,) = result.objects
    assert (one.action, one.ready) == (command_pb2.ACTION_CREATED, False)


async def test_a_job_that_fails_and_is_removed_at_once_has_failed(local: Local) -> None:
    result = await local.apply(job("j", shell("exit 3"), backoffLimit=0, ttlSecondsAfterFinished=0))
    assert (result.outcome, result.reason) == (FAILED, "NOT_READY")
    assert "BackoffLimitExceeded" in result.message
    await local.until(lambda jobs: not jobs, "Job")
    result = await local.apply(job("j", shell("exit 0"), backoffLimit=0, ttlSecondsAfterFinished=0))
    assert result.outcome == SUCCEEDED
    await local.until(lambda jobs: not jobs, "Job")


async def test_a_command_may_have_a_time_limit_in_all(local: Local) -> None:
    limit = shim_pb2.ExecuteRequest().timeout
    limit.FromMilliseconds(1000)
    result = await local.execute(apply_command(NEVER_READY, 60), timeout=limit)
    assert (result.outcome, result.reason) == (FAILED, "DEADLINE_EXCEEDED")


def large_manifests(size: int) -> str:
    """YAML, not JSON, that takes seconds to read."""
    keys = "\n".join(f"  key-{number}: value of {number}" for number in range(size // 32))
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: large\ndata:\n{keys}\n"


async def test_large_manifests_are_read_without_stopping_the_loop(local: Local) -> None:
    beats, longest = 0, 0.0

    async def beat() -> None:
        nonlocal beats, longest
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.005)
            beats, longest = beats + 1, max(longest, time.thread_time() - before)

    beating = asyncio.create_task(beat())
    result = await local.apply(large_manifests(2 << 20))
    beating.cancel()
    assert result.outcome == SUCCEEDED
    assert beats > 20
    assert longest < 0.25, "seconds of work without a break"


async def test_large_manifests_that_are_wrong_name_their_problems(local: Local) -> None:
    result = await local.apply(large_manifests(64 << 10).replace("kind: ConfigMap", "kind: Cow"))
    assert (result.outcome, result.reason) == (FAILED, "INVALID_MANIFEST")
    assert "kind 'Cow' is not supported" in result.message


async def test_reading_large_manifests_can_be_cancelled_and_has_no_effect_then(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, check = asyncio.Event(), commands._check_elsewhere

    async def begin(arguments: list[str], data: bytes) -> list[Manifest]:
        begun.set()
        manifests = await check(arguments, data)
        await asyncio.Event().wait()  # it is not over before it is cancelled
        return manifests

    monkeypatch.setattr(commands, "_check_elsewhere", begin)
    waiting = asyncio.create_task(local.apply(large_manifests(2 << 20), "large"))
    await begun.wait()
    answer = await local.stub.Cancel(shim_pb2.CancelRequest(dispatch_id="large"))
    assert answer.state == shim_pb2.CANCEL_STATE_CANCELLING
    assert (await waiting).outcome == CANCELLED
    assert await local.get("ConfigMap") == []


BOMB = b"b0: &b0 [x]\n" + b"".join(
    b"b%d: &b%d [%s]\n" % (level, level, b", ".join([b"*b%d" % (level - 1)] * 9)) for level in range(1, 12)
)


@pytest.mark.parametrize(
    ("manifests", "said"),
    [
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "levels deep"),
        (b"a: [b", "not YAML"),
        (b"kind: a\nkind: b", "stands twice"),
        (BOMB, "too large"),
    ],
)
async def test_manifests_that_are_attacks_are_refused_and_the_shim_lives(
    local: Local, manifests: bytes, said: str
) -> None:
    command = command_pb2.Command(apply=command_pb2.Apply(manifests=manifests))
    result = await local.execute(command)
    assert (result.outcome, result.reason) == (FAILED, "INVALID_MANIFEST")
    assert said in result.message
    assert (await local.apply(config("c", k="v"))).outcome == SUCCEEDED


async def put(local: Local, data: bytes, *, size: int | None = None, pieces: int = 1) -> command_pb2.PayloadRef:
    reference = command_pb2.PayloadRef(sha256=hashlib.sha256(data).digest(), size=len(data) if size is None else size)

    async def requests() -> AsyncIterator[shim_pb2.PutPayloadRequest]:
        yield shim_pb2.PutPayloadRequest(payload=reference)
        step = max(len(data) // pieces, 1)
        for start in range(0, len(data), step):
            yield shim_pb2.PutPayloadRequest(data=data[start : start + step])

    await local.stub.PutPayload(requests())
    return reference


async def test_a_payload_and_the_same_command_in_one_message_are_the_same(local: Local) -> None:
    command = apply_command(config("c", k="v" * 100_000))
    reference = await put(local, command.SerializeToString(), pieces=7)
    call = local.stub.Execute(shim_pb2.ExecuteRequest(dispatch_id="one", payload=reference))
    (response,) = [response async for response in call]
    assert response.result.outcome == SUCCEEDED
    assert (await local.execute(command, "one")) == response.result


async def test_a_payload_of_which_a_part_was_lost_is_asked_for_again(local: Local) -> None:
    data = apply_command(config("c", k="v")).SerializeToString()
    reference = await put(local, data)
    file = local.data / "payloads" / reference.sha256.hex()
    file.write_bytes(data[:-1])
    request = shim_pb2.ExecuteRequest(dispatch_id="one", payload=reference)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(aiter(local.stub.Execute(request)))
    assert "put it, then execute again" in str(caught.value.details())
    await put(local, data)
    assert (await anext(aiter(local.stub.Execute(request)))).result.outcome == SUCCEEDED


async def test_payloads_that_wait_are_bounded(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ote.shims.local.payloads._MAX_KEPT", 1000)
    await put(local, b"x" * 800)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await put(local, b"y" * 800)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    monkeypatch.setattr("ote.shims.local.payloads._KEPT_SECONDS", -1.0)
    await put(local, b"y" * 800)


async def test_too_many_changes_at_a_time_are_refused_with_a_hint_when_to_come_back(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ote.shims.local.commands.MAX_RUNNING", 1)
    waiting = asyncio.create_task(local.apply(NEVER_READY, "first", seconds=30))
    await local.until(lambda pods: len(pods) == 1)
    assert await code_of(local, apply_command(config("c", k="v")), "second") == grpc.StatusCode.RESOURCE_EXHAUSTED
    await local.stub.Cancel(shim_pb2.CancelRequest(dispatch_id="first"))
    await waiting


async def test_status_follows_what_runs(local: Local) -> None:
    statuses = aiter(local.stub.WatchStatus(shim_pb2.WatchStatusRequest()))
    first = (await anext(statuses)).status
    assert first.ready
    assert first.capacity.cpu_millis >= 1000
    assert first.capacity.memory_bytes > first.usage.memory_bytes > 0
    assert first.capacity.disk_bytes > 0
    assert (first.nodes, first.nodes_ready, first.pods_running) == (1, 1, 0)
    await local.applied(pod("p", shell("sleep 600")))
    while (second := (await anext(statuses)).status).pods_running == 0:
        pass
    assert dict(second.workloads) == {"Namespace": 1, "Pod": 1}
    assert (second.pods_running, second.pods_failing, second.usage.pods) == (1, 0, 1)


async def test_a_full_disk_is_told_and_nothing_is_lost_when_there_is_room_again(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = True
    commit = Store.commit

    async def refuse(store: Store, writes: Sequence[Write]) -> None:
        if full:
            raise ResourceExhausted("DISK_FULL", "the disk is full")
        await commit(store, writes)

    monkeypatch.setattr(Store, "commit", refuse)
    monkeypatch.setattr("ote.shims.local.keeper._RETRY_SECONDS", 0.05)
    waiting = asyncio.create_task(local.apply(config("c", k="v")))
    async with asyncio.timeout(PATIENCE):
        while (status := (await anext(aiter(local.stub.WatchStatus(shim_pb2.WatchStatusRequest())))).status).ready:
            await asyncio.sleep(0.02)
    assert (status.message, status.nodes_ready) == ("the disk is full", 0)
    assert not waiting.done()
    full = False
    assert (await waiting).outcome == SUCCEEDED


async def test_while_the_disk_refuses_only_the_newest_answer_of_a_probe_is_kept(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = {"exec": {"command": ["/bin/sh", "-c", "echo >> asked; test -e good"]}, "periodSeconds": 1}
    await local.apply(pod("p", shell("sleep 600", readinessProbe=probe)), seconds=0)
    asked = local.data / "pods" / (await local.pod())["metadata"]["uid"] / "main" / "root" / "asked"
    keeper = local.keeper
    full, commit = True, Store.commit

    async def refuse(store: Store, writes: Sequence[Write]) -> None:
        if full:
            raise ResourceExhausted("DISK_FULL", "the disk is full")
        await commit(store, writes)

    async def asked_for(times: int) -> None:
        async with asyncio.timeout(8):
            while not asked.exists() or len(asked.read_text()) < times:
                await asyncio.sleep(0.02)

    monkeypatch.setattr(Store, "commit", refuse)
    monkeypatch.setattr("ote.shims.local.keeper._RETRY_SECONDS", 0.05)
    waiting = asyncio.create_task(local.apply(config("c", k="v")))
    await asyncio.sleep(0.1)
    await asked_for(len(asked.read_text() if asked.exists() else "") + 3)
    (asked.parent / "good").touch()
    await asked_for(len(asked.read_text()) + 2)
    assert len(keeper._waiting) <= 1
    assert len(keeper._answers) == 1
    full = False
    await waiting
    (found,) = await local.get("Pod")
    assert found["status"]["containerStatuses"][0]["ready"], "the newest answer is a good one"


async def test_reads_that_cannot_be_answered_say_why(local: Local) -> None:
    await local.applied(pod("p", container("sleep", "600"), container("sleep", "600", name="other")))
    cases = [
        (command_pb2.Command(get=command_pb2.Get(kind="cow")), "UNSUPPORTED"),
        (command_pb2.Command(get=command_pb2.Get(kind="pod", name="a", all_namespaces=True)), "INVALID_ARGUMENT"),
        (command_pb2.Command(get=command_pb2.Get(kind="pod", name="a")), "NOT_FOUND"),
        (command_pb2.Command(logs=command_pb2.Logs(pod="a")), "NOT_FOUND"),
        (command_pb2.Command(logs=command_pb2.Logs(pod="p")), "INVALID_ARGUMENT"),
        (command_pb2.Command(logs=command_pb2.Logs(pod="p", container="x")), "NOT_FOUND"),
        (command_pb2.Command(logs=command_pb2.Logs(pod="p", container="main", tail_lines=-1)), "INVALID_ARGUMENT"),
    ]
    for command, reason in cases:
        result = await local.execute(command)
        assert (result.outcome, result.reason) == (FAILED, reason)


async def test_an_answer_that_is_too_large_is_refused(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ote.shims.local.reads.MAX_OUTPUT", 10)
    result = await local.execute(command_pb2.Command(get=command_pb2.Get(kind="ns")))
    assert result.reason == "OUTPUT_TOO_LARGE"
    assert "ask for one namespace (-n), or for each by its name; the largest are default (0.0 MiB)" in result.message


async def test_a_folder_belongs_to_one_shim_and_one_driver(local: Local) -> None:
    with pytest.raises(FailedPrecondition, match="is in use by another local shim"):
        await LocalShim("process", local.data).start()
    await local.stop()
    (local.data / "driver").write_text("podman\n")
    with pytest.raises(FailedPrecondition, match="holds pods of the podman driver"):
        await LocalShim("process", local.data).start()
    (local.data / "driver").write_text("process\n")


async def test_what_pods_have_is_for_the_owner_alone_also_in_a_folder_that_was_there(folder: Path) -> None:
    local = Local(folder)
    local.data.mkdir(mode=0o755)
    await local.start()
    await local.applied(pod("p", shell("sleep 600")))
    open_to_others = {path.name for path in local.data.iterdir() if path.stat().st_mode & 0o077}
    assert open_to_others <= {"supervise.sh", "driver"}
    await local.close()


async def test_a_full_disk_does_not_make_the_shim_forget_its_driver(local: Local) -> None:
    driver = local.data / "driver"
    before = driver.stat().st_ino, driver.stat().st_mtime_ns
    await local.restart()
    assert (driver.stat().st_ino, driver.stat().st_mtime_ns) == before
    await local.stop()
    driver.write_text("")
    await local.start()
    assert driver.read_text() == "process\n"


async def test_a_store_with_a_damaged_page_is_named_and_nothing_of_it_is_taken(local: Local) -> None:
    await local.applied(together(*(config(f"c{number}", k="v" * 2000) for number in range(40))))
    await local.stop()
    store = local.data / "shim.db"
    sound = store.read_bytes()
    store.write_bytes(sound[:8192] + bytes(len(sound) - 8192))
    with pytest.raises(FailedPrecondition, match="restore it from a backup") as caught:
        await LocalShim("process", local.data).start()
    assert caught.value.reason == "STORE_DAMAGED"
    store.write_bytes(sound)


async def test_large_manifests_are_read_by_few_processes_of_their_own(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, four, check = 0, 0, asyncio.Event(), commands._check_elsewhere

    async def counted(arguments: list[str], data: bytes) -> list[Manifest]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if most == 4:
            four.set()
        try:
            await four.wait()
            return await check(arguments, data)
        finally:
            running -= 1

    monkeypatch.setattr(commands, "_check_elsewhere", counted)
    monkeypatch.setattr(documents, "read", lambda data: pytest.fail("it is read here"))
    large = [config(f"c{number}", k="v" * 40_000) for number in range(6)]
    await asyncio.gather(*map(local.applied, large))
    assert most == 4
    delete = command_pb2.Delete(manifests=together(*large).encode())
    result = await local.execute(command_pb2.Command(delete=delete))
    assert [one.action for one in result.objects] == [command_pb2.ACTION_DELETED] * 6


async def test_all_pods_have_ended_only_when_that_is_on_disk_and_their_folders_are_gone(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = "trap 'sleep 0.1; exit' TERM; touch ready; while true; do sleep 0.02; done"
    ready = {"exec": {"command": ["/bin/sh", "-c", "test -e ready"]}, "periodSeconds": 1}
    first = pod("p", container("sleep", "600"))
    await local.applied(together(first, pod("q", shell(later, readinessProbe=ready))))
    commit = Store.commit

    async def slowly(store: Store, writes: Sequence[Write]) -> None:
        await asyncio.sleep(0.2)
        await commit(store, writes)

    monkeypatch.setattr(Store, "commit", slowly)
    await local.close()
    assert list((local.data / "pods").iterdir()) == []
    await local.start()
    assert await local.get("Pod") == []


async def test_a_shim_that_is_not_started_says_so(local: Local) -> None:
    idle = LocalShim("process", local.data)
    assert idle.trouble == "not started"
    with pytest.raises(FailedPrecondition):
        _ = idle.servicer
    with pytest.raises(FailedPrecondition):
        await idle.failed()
    with pytest.raises(FailedPrecondition):
        await idle.stop_pods()
