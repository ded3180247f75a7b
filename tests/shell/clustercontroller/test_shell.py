"""What the shell writes, and in which order, with a disk that is as slow as the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.records import Eviction
from ote.clustercontroller.shell import Shell
from ote.runtime.clock import MonotonicClock
from ote.store import sqlite as store

pytestmark = [pytest.mark.looptime]

Done = Callable[[BaseException | None], None]


class Core:
    """Says what the test has put into it, one list for each event."""

    def __init__(self, *lists: list[fx.Effect]) -> None:
        self._lists = list(lists)

    def handle(self, event: ev.Event, now: float) -> list[fx.Effect]:
        return self._lists.pop(0)


class Faulty(Core):
    """Fails on the first event, and counts those after it."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[ev.Event] = []

    def handle(self, event: ev.Event, now: float) -> list[fx.Effect]:
        self.events.append(event)
        if len(self.events) == 1:
            raise ZeroDivisionError
        return []

    def failed(self) -> list[fx.Effect]:
        return []


class Disk:
    """Keeps what it is to commit."""

    def __init__(self) -> None:
        self.batches: list[tuple[list[str], Done]] = []

    def submit(self, writes: Sequence[store.Write], done: Done) -> None:
        self.batches.append(([write.key for write in writes], done))


def put(key: str) -> fx.Put:
    return fx.Put("evictions", key, Eviction())


def answer() -> fx.Answer:
    return fx.Answer(0)


def made(*lists: list[fx.Effect]) -> tuple[Shell, Disk]:
    disk = Disk()
    return Shell(cast(Any, Core(*lists)), cast(Any, disk), MonotonicClock(), cast(Any, None)), disk


async def test_what_is_written_last_does_not_get_there_without_what_was_written_before() -> None:
    shell, disk = made([put("a"), fx.Barrier(), answer()], [put("b")])
    shell.post(ev.Wake())
    await asyncio.sleep(0)
    shell.post(ev.Wake())
    await shell.stop()
    assert [keys for keys, _ in disk.batches] == [["a"], ["a", "b"]]


async def test_a_commit_that_failed_is_tried_again_before_anything_later() -> None:
    shell, disk = made([put("a"), fx.Barrier(), answer()], [put("b"), fx.Barrier(), answer()])
    shell.post(ev.Wake())
    await asyncio.sleep(0)
    disk.batches[0][1](OSError("full"))
    await asyncio.sleep(0)
    assert "full" in shell.commit_error
    shell.post(ev.Wake())
    await asyncio.sleep(1.1)
    assert [keys for keys, _ in disk.batches] == [["a"], ["a"]]
    disk.batches[1][1](None)
    await asyncio.sleep(0.01)
    assert [keys for keys, _ in disk.batches] == [["a"], ["a"], ["b"]]
    assert shell.commit_error == ""
    await shell.stop()


class Line:
    """A link that takes everything."""

    def __init__(self) -> None:
        self.sent: list[m.Item] = []

    def send(self, item: m.Item) -> bool:
        self.sent.append(item)
        return True


async def test_what_is_said_again_anyway_is_not_kept_while_the_disk_fails() -> None:
    ack, attached = m.Ack("o", ["u"], ["d"]), m.Attached(1)
    later: list[fx.Effect] = [fx.Barrier(), fx.Send(1, ack), fx.Send(1, attached)]
    shell, disk = made([put("a"), *later], *[[put("b"), *later]] * 3)
    line = Line()
    shell.links[1] = cast(Any, line)
    shell.post(ev.Wake())
    await asyncio.sleep(0)
    disk.batches.pop()[1](OSError("full"))
    await asyncio.sleep(0)
    for _ in range(3):
        shell.post(ev.Wake())
    for _ in range(3):
        await asyncio.sleep(1.1)
        while disk.batches:
            disk.batches.pop()[1](None)
    assert line.sent == [ack, attached, attached, attached, attached]
    await shell.stop()


async def test_what_nobody_waits_for_goes_with_what_somebody_waits_for() -> None:
    shell, disk = made([put("a")], [put("b"), fx.Barrier(), answer()], [put("c")])
    shell.post(ev.Wake())
    await asyncio.sleep(0)
    assert disk.batches == []
    shell.post(ev.Wake())
    await asyncio.sleep(0)
    shell.post(ev.Wake())
    disk.batches[0][1](None)
    await asyncio.sleep(0.05)
    assert [keys for keys, _ in disk.batches] == [["a", "b"], ["c"]]
    await shell.stop()


async def test_a_core_that_failed_when_it_was_woken_is_woken_again() -> None:
    core = Faulty()
    shell = Shell(cast(Any, core), cast(Any, Disk()), MonotonicClock(), cast(Any, None))
    shell.post(ev.Wake())
    await asyncio.sleep(1.5)
    assert core.events == [ev.Wake(), ev.Wake()]
    await shell.stop()
