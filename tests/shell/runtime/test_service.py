"""How services of one process live and die together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
import structlog.testing

from ote.runtime.service import supervise


@dataclass
class Recorder:
    """A service that writes down what happens to it."""

    name: str
    events: list[str]
    fails: Exception | None = None
    ends: bool = False
    cleanup: float = 0.0
    stubborn: bool = False
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        self.events.append(f"{self.name} started")
        try:
            if self.fails is not None:
                await asyncio.sleep(0.01)
                raise self.fails
            if self.ends:
                return
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self.stubborn:
                await self.release.wait()
            await asyncio.sleep(self.cleanup)
            self.events.append(f"{self.name} stopped")
            raise


def set_stop() -> asyncio.Event:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, stop.set)
    return stop


async def test_services_stop_in_the_reverse_order_one_after_another() -> None:
    events: list[str] = []
    services = [Recorder("store", events), Recorder("controller", events, cleanup=0.02), Recorder("server", events)]
    assert await supervise(services, grace=1.0, stop=set_stop()) == []
    assert events == [
        "store started",
        "controller started",
        "server started",
        "server stopped",
        "controller stopped",
        "store stopped",
    ]


async def test_one_failure_stops_the_others_and_is_raised() -> None:
    events: list[str] = []
    services = [Recorder("store", events), Recorder("server", events, fails=ValueError("boom"))]
    with pytest.raises(ValueError, match="boom"):
        await supervise(services, grace=1.0)
    assert events[-1] == "store stopped"


async def test_it_ends_when_all_have_ended() -> None:
    events: list[str] = []
    assert await supervise([Recorder("a", events, ends=True), Recorder("b", events, ends=True)], grace=1.0) == []
    assert events == ["a started", "b started"]


async def test_what_outlives_the_grace_is_named_and_left_behind() -> None:
    events: list[str] = []
    stubborn = Recorder("tunnel", events, stubborn=True)
    services = [Recorder("store", events), stubborn]
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(2):
            assert await supervise(services, grace=0.05, stop=set_stop()) == ["tunnel"]
    assert [line["service"] for line in logs if line["event"] == "service outlived its grace"] == ["tunnel"]
    assert events[-1] == "store stopped", "the others are stopped all the same"
    stubborn.release.set()
    await asyncio.sleep(0.01)
    assert events[-1] == "tunnel stopped"


async def test_cancelling_the_supervisor_stops_all_and_stays_a_cancellation() -> None:
    events: list[str] = []
    task = asyncio.create_task(supervise([Recorder("a", events), Recorder("b", events)], grace=1.0))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert events[-2:] == ["b stopped", "a stopped"]


async def test_tasks_carry_the_names_of_their_services() -> None:
    names: list[str] = []

    class Named:
        name = "registry"

        async def run(self) -> None:
            task = asyncio.current_task()
            assert task is not None
            names.append(task.get_name())

    await supervise([Named()], grace=1.0)
    assert names == ["registry"]
