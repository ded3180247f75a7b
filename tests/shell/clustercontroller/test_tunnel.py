"""The child's end of a tunnel, on a stream that is a pair of queues."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ote.api.route.v1 import tunnel_pb2
from ote.clustercontroller import tunnel
from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.lanes import Budget
from ote.clustercontroller.tunnel import ParentLink
from ote.clustercontroller.wire.codec import decode_up, write_down

pytestmark = [pytest.mark.looptime]

WELCOME = m.Welcome("root", "0" * 32, "i", m.Standing(1, 0), True, [], 2000, 5000, 0)


class Stream:
    """A channel to a parent that has one stream, and the stream itself."""

    def __init__(self) -> None:
        self.written: list[list[m.UpItem | None]] = []
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()
        self.frames.put_nowait(write_down(WELCOME))

    def stream_stream(self, method: str) -> Any:
        return lambda: self

    async def write(self, frame: bytes) -> None:
        self.written.append([decode_up(item) for item in tunnel_pb2.ConnectRequest.FromString(frame).items])

    async def read(self) -> bytes:
        return await self.frames.get()

    async def done_writing(self) -> None: ...

    async def close(self) -> None: ...


def result(target: str) -> m.Report:
    return m.Report("0" * 32, 1, "d" * 32, target, m.RESULT, state="SUCCEEDED")


async def test_results_of_many_targets_share_frames_and_those_of_one_wait_for_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tunnel, "_now", lambda: asyncio.get_running_loop().time())
    stream, events = Stream(), asyncio.Queue[ev.Event]()

    async def connect() -> Any:
        return stream

    dial = fx.Dial(1, m.Alternate("root", "0" * 32, "unix:/root"), m.Hello("region", "1" * 32, "i", 1, None))
    link = ParentLink(dial, events.put_nowait, Budget(), connect, lambda number: None)
    running = asyncio.create_task(link.run())
    assert [await events.get(), await events.get()] == [ev.DialReached(1), ev.DialWelcome(1, WELCOME)]
    stream.written.clear()
    for _ in range(3):
        link.send(result("a"))
        await asyncio.sleep(0.001)
    assert stream.written == [[result("a")]] * 3
    stream.written.clear()
    many = [result(name) for name in "bcdefgh"]
    for report in many:
        link.send(report)
        await asyncio.sleep(0)
    assert stream.written == []
    link.send(m.Heartbeat(1, m.Digest(0, 0)))
    await asyncio.sleep(0.001)
    assert stream.written == [[m.Heartbeat(1, m.Digest(0, 0)), *many]]
    stream.written.clear()
    link.send(result("i"))
    link.send(result("j"))
    while not stream.written:
        await asyncio.sleep(0.001)
    assert stream.written == [[result("i"), result("j")]]
    link.close("")
    await running


async def test_what_is_said_to_a_link_that_has_ended_takes_no_room_from_others() -> None:
    """Its channel may take a while to close, and what waited for the disk is said meanwhile."""
    stream, events, budget, closing = Stream(), asyncio.Queue[ev.Event](), Budget(), asyncio.Event()

    async def connect() -> Any:
        return stream

    async def close() -> None:
        await closing.wait()

    stream.close = close  # type: ignore[method-assign]
    dial = fx.Dial(1, m.Alternate("root", "0" * 32, "unix:/root"), m.Hello("region", "1" * 32, "i", 1, None))
    link = ParentLink(dial, events.put_nowait, budget, connect, lambda number: None)
    running = asyncio.create_task(link.run())
    assert [await events.get(), await events.get()] == [ev.DialReached(1), ev.DialWelcome(1, WELCOME)]
    link.send(result("a"))
    stream.frames.put_nowait(b"no frame")
    assert isinstance(await events.get(), ev.LinkLost)
    await asyncio.sleep(0.1)
    assert link.send(result("b"))
    assert link.send(m.Heartbeat(1, m.Digest(0, 0)))
    assert budget.used == 0
    assert not link.lanes
    closing.set()
    await running
