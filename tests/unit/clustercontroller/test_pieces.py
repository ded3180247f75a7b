"""Pieces in memory: whoever holds none gets one, however many others hold or wait for."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from ote.clustercontroller import pieces
from ote.clustercontroller.bulk import PIECE, Uplink
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.payloads import name_of
from ote.clustercontroller.pieces import Pieces


class Files:
    """Whole payloads in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, count: int) -> m.Payload:
        body = os.urandom(count * PIECE)
        payload = name_of(body)
        self.path(payload).write_bytes(body)
        return payload

    def has(self, payload: m.Payload) -> bool:
        return self.path(payload).exists()

    def belongs_here(self, payload: m.Payload) -> bool:
        return True

    def path(self, payload: m.Payload) -> Path:
        return self._folder / payload.sha256.hex()


class Holder:
    """Wants one piece, and has it until it is told to let it go."""

    def __init__(self, cache: Pieces, payload: m.Payload, index: int, by: str) -> None:
        self.has = asyncio.Event()
        self._enough = asyncio.Event()
        self._task = asyncio.create_task(self._hold(cache, payload, index, by))

    async def _hold(self, cache: Pieces, payload: m.Payload, index: int, by: str) -> None:
        async with cache.held(payload, index, by):
            self.has.set()
            await self._enough.wait()

    async def let_go(self) -> None:
        self._enough.set()
        await self._task

    async def give_up(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def nobody() -> None:
    raise AssertionError("all is on disk")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr(pieces, "_MEMORY", 2 * PIECE)
    return Files(tmp_path)


async def test_who_asks_for_two_at_once_gets_one_after_the_other_beside_a_hoarder(files: Files) -> None:
    cache = Pieces(files, Uplink(lambda: None, nobody))
    hoard, wanted = files.add(4), files.add(2)
    hoarded = [Holder(cache, hoard, index, "hoarder") for index in range(4)]
    first, second = (Holder(cache, wanted, index, "honest") for index in range(2))
    async with asyncio.timeout(20):
        await asyncio.gather(hoarded[0].has.wait(), hoarded[1].has.wait(), first.has.wait())
        assert not second.has.is_set()
        assert cache.in_memory == 3 * PIECE
        await first.let_go()
        await second.has.wait()
    assert [one.has.is_set() for one in hoarded] == [True, True, False, False]
    assert cache.in_memory == 3 * PIECE
    await second.let_go()
    for one in hoarded:
        await one.give_up()
    assert cache.in_memory == 0
    await cache.stop()


async def test_a_piece_that_a_hoarder_waits_for_comes_when_somebody_wants_it_who_has_none(files: Files) -> None:
    cache = Pieces(files, Uplink(lambda: None, nobody))
    hoard = files.add(3)
    hoarded = [Holder(cache, hoard, index, "hoarder") for index in range(3)]
    async with asyncio.timeout(20):
        await asyncio.gather(hoarded[0].has.wait(), hoarded[1].has.wait())
        assert not hoarded[2].has.is_set()
        honest = Holder(cache, hoard, 2, "honest")
        await asyncio.gather(honest.has.wait(), hoarded[2].has.wait())
    assert cache.in_memory == 3 * PIECE
    for one in (honest, *hoarded):
        await one.let_go()
    assert cache.in_memory == 0
    await cache.stop()
