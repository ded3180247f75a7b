"""Transfers that share the credit of a link, in virtual time: who goes first, who waits, how often it is asked."""

from __future__ import annotations

import asyncio
import random

import pytest

from ote.clustercontroller import bulk
from ote.clustercontroller.bulk import PIECE, Share, Window
from ote.clustercontroller.core.credit import CHUNK, FLOOR, MOST, START
from ote.model.errors import Unavailable

pytestmark = [pytest.mark.looptime]


class Link:
    """A link with a queue: what is granted comes in the order of grants, `rate` bytes a second, after `delay`.

    seed: of the moments at which it is asked.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, rate: float, delay: float, seed: int = 0) -> None:
        monkeypatch.setattr(bulk, "_now", lambda: asyncio.get_running_loop().time())
        monkeypatch.setattr(bulk, "random", random.Random(seed))
        self.rate, self.delay = rate, delay
        self.free = 0.0
        self.pings = 0
        self.most = 0
        self.order: list[str] = []
        self.window = Window(self.ping)

    @property
    def queued(self) -> float:
        """Seconds that whatever is sent now waits."""
        return max(0.0, self.free - asyncio.get_running_loop().time())

    async def ping(self) -> None:
        self.pings += 1
        await asyncio.sleep(self.delay + self.queued)

    async def transfer(self, name: str, size: int, *, stalls: bool = False) -> None:
        """One transfer to its end; one that stalls is granted and never brought."""
        all_here = asyncio.Event()
        with self.window.share(size) as share:
            while share.granted < size:
                granted = await share.more()
                if stalls:
                    await asyncio.Event().wait()
                self.most = max(self.most, sum(other.under_way for other in self.window._shares))
                for at in range(0, granted, CHUNK):
                    self._bring(name, share, min(CHUNK, granted - at), all_here)
            await all_here.wait()

    def _bring(self, name: str, share: Share, size: int, all_here: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        self.free = max(self.free, loop.time()) + size / self.rate

        def come() -> None:
            self.order.append(name)
            share.carry(size)
            if share.carried == share.size:
                all_here.set()

        loop.call_at(self.free + self.delay, come)


@pytest.mark.parametrize("seed", range(20))
async def test_the_oldest_transfer_comes_first_and_the_credit_is_that_of_all(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    link = Link(monkeypatch, rate=125_000, delay=0.1, seed=seed)
    async with asyncio.TaskGroup() as group:
        for name in "abcdef":
            group.create_task(link.transfer(name, PIECE // 4))
    assert "".join(dict.fromkeys(link.order)) == "abcdef"
    assert link.most <= 2 * START
    assert link.window.credit.bytes <= 2 * START, "a question may meet an empty queue, once"
    await link.window.stop()


async def test_a_quick_link_is_used_by_several_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link(monkeypatch, rate=50e6, delay=0.01)
    begun = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as group:
        for name in "abcdefghijklmnop":
            group.create_task(link.transfer(name, 16 * PIECE))
    assert 4 * START < link.most <= MOST
    assert asyncio.get_running_loop().time() - begun < 6
    await link.window.stop()


async def test_a_transfer_that_stands_still_holds_up_the_others_for_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link(monkeypatch, rate=1e6, delay=0.01)
    still = [asyncio.create_task(link.transfer("still", PIECE, stalls=True)) for _ in range(3)]
    await asyncio.sleep(0.1)
    begun = asyncio.get_running_loop().time()
    async with asyncio.timeout(10):
        await link.transfer("moves", PIECE)
    assert asyncio.get_running_loop().time() - begun < 4
    for task in still:
        task.cancel()
    await asyncio.gather(*still, return_exceptions=True)
    await link.window.stop()


async def test_it_is_asked_once_for_each_credit_carried_and_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link(monkeypatch, rate=16_000, delay=0.1)
    await link.transfer("a", PIECE)
    assert link.pings <= 2 + PIECE / 16_000
    await asyncio.sleep(10)
    pings = link.pings
    await asyncio.sleep(100)
    assert link.pings == pings, "nothing is asked while nothing is carried"


async def test_without_an_answer_the_credit_shrinks_and_bytes_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link(monkeypatch, rate=1e6, delay=0.01)

    async def deaf() -> None:
        await asyncio.sleep(10)
        raise Unavailable("NO_ANSWER", "nobody")

    quiet = link.window
    quiet.credit.sample(0.02, 0.0, used=False)
    quiet._ping = deaf
    await link.transfer("a", 8 * PIECE)
    assert FLOOR <= quiet.credit.bytes <= START
    assert quiet.credit.bytes % CHUNK == 0
    await quiet.stop()
