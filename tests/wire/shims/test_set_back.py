"""A shim whose store is an older copy: what was begun since runs nowhere, and nobody else is touched."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ote.shims.local import orphans
from ote.shims.local.processes import boot_id, is_alive, parse_stat, reap

from .conftest import Local
from .manifests import pod, shell

STARTS = 'echo $$$$ >> "$OTE_POD_DIR/starts"; exec sleep 600'


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that is nobody's pod, and leads a session as those do."""
    with running(start_new_session=True) as pid:
        yield pid


@contextlib.contextmanager
def running(*, start_new_session: bool) -> Iterator[int]:
    process = subprocess.Popen(["sleep", "600"], start_new_session=start_new_session)
    yield process.pid
    process.kill()
    process.wait()


def stat_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text()


def alive(pid: int) -> bool:
    try:
        return stat_of(pid).rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def ends(pid: int) -> None:
    """Soon: its group has been killed, and the kernel may need a moment for it."""
    async with asyncio.timeout(5):
        while alive(pid):
            await asyncio.sleep(0.02)


async def started(local: Local, name: str, times: int = 1) -> int:
    """The process of a pod after so many starts."""
    (uid,) = [one["metadata"]["uid"] for one in await local.get("Pod", name)]
    file = local.data / "pods" / uid / "main" / "root" / "starts"
    async with asyncio.timeout(5):
        while not file.exists() or len(file.read_text().split()) < times:
            await asyncio.sleep(0.02)
    return int(file.read_text().split()[-1])


def keep(local: Local) -> Path:
    """A copy of the store, of a shim that is stopped."""
    kept = local.folder / "kept"
    kept.mkdir()
    for file in local.data.glob("shim.db*"):
        shutil.copy(file, kept)
    return kept


def set_back(local: Local, kept: Path) -> None:
    for file in local.data.glob("shim.db*"):
        file.unlink()
    for file in kept.iterdir():
        shutil.copy(file, local.data)


async def test_pods_and_attempts_that_the_store_does_not_know_any_more_are_ended(local: Local) -> None:
    await local.applied(pod("known", shell(STARTS)))
    first = await started(local, "known")
    await local.stop()
    kept = keep(local)
    await local.start()
    await local.applied(pod("later", shell(STARTS)))
    unknown = await started(local, "later")
    os.kill(first, signal.SIGKILL)
    second = await started(local, "known", 2)
    await local.stop()
    assert alive(unknown)
    assert alive(second)
    set_back(local, kept)
    await local.start()
    await ends(unknown)
    await ends(second)
    assert [one["metadata"]["name"] for one in await local.get("Pod")] == ["known"]
    assert len(list((local.data / "pods").iterdir())) == 1
    assert alive(await started(local, "known", 3))


async def test_a_command_whose_shell_was_killed_is_ended_by_its_group(local: Local) -> None:
    await local.stop()
    kept = keep(local)
    await local.start()
    await local.applied(pod("later", shell(STARTS)))
    unknown = await started(local, "later")
    await local.stop()
    (claim,) = local.data.glob("pods/*/main/claim.1")
    shell_of_it = int(claim.read_text().split()[1])
    os.kill(shell_of_it, signal.SIGKILL)
    await ends(shell_of_it)
    reap(shell_of_it)
    assert alive(unknown)
    set_back(local, kept)
    await local.start()
    await ends(unknown)


async def test_of_a_whole_folder_that_was_set_back_what_stood_in_the_lost_one_is_ended(
    local: Local, stranger: int
) -> None:
    await local.stop()
    shutil.copytree(local.data, local.folder / "copy")
    await local.start()
    await local.applied(pod("later", shell(STARTS)))
    unknown = await started(local, "later")
    await local.stop()
    other = Local(local.folder / "other")
    other.folder.mkdir()
    await other.start()
    await other.applied(pod("anothers", shell(STARTS)))
    others = await started(other, "anothers")
    shutil.rmtree(local.data)
    (local.folder / "copy").rename(local.data)
    await local.start()
    await ends(unknown)
    assert alive(stranger)
    assert alive(others)
    assert await local.get("Pod") == []
    await other.close()


async def test_what_ignores_being_asked_is_killed(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "_GRACE", 0.2)
    await local.stop()
    kept = keep(local)
    await local.start()
    script = 'trap "" TERM; echo $$$$ >> "$OTE_POD_DIR/starts"; while true; do sleep 0.1; done'
    await local.applied(pod("later", shell(script)))
    unknown = await started(local, "later")
    await local.stop()
    set_back(local, kept)
    await local.start()
    await ends(unknown)


async def test_a_claim_made_up_for_a_process_that_leads_no_session_ends_nobody(local: Local) -> None:
    await local.stop()
    folder = local.data / "pods" / "8a0e" / "main"
    folder.mkdir(parents=True)
    with running(start_new_session=False) as pid:
        stat = stat_of(pid)
        (folder / "claim.1").write_text(f"{boot_id()} {stat}")
        async with asyncio.timeout(5):
            await local.start()
        assert is_alive(parse_stat(boot_id(), stat))


@pytest.mark.parametrize("what", ["another start", "another boot", "nonsense", "abandoned", "nobody"])
async def test_a_claim_that_names_nobody_of_ours_ends_nobody(local: Local, stranger: int, what: str) -> None:
    await local.stop()
    stat = stat_of(stranger)
    words = stat.split()
    lines = {
        "another start": f"{boot_id()} {' '.join([*words[:21], str(int(words[21]) - 1), *words[22:]])}",
        "another boot": f"00000000-0000-0000-0000-000000000000 {stat}",
        "nonsense": f"{boot_id()} {stranger}",
        "abandoned": "abandoned\n",
        "nobody": f"{boot_id()} 0 {' '.join(words[1:])}",
    }
    folder = local.data / "pods" / "8a0e" / "main"
    folder.mkdir(parents=True)
    (folder / "claim.1").write_text(lines[what])
    await local.start()
    assert is_alive(parse_stat(boot_id(), stat))
    assert not folder.exists()
