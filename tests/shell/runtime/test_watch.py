"""Watches: everything once, then every change, resumable, and never without bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from ote.model.errors import InvalidArgument, OutOfRange, ResourceExhausted, Unavailable
from ote.runtime.watch import Change, ChangeKind, WatchHub


class Things:
    """Named numbers with a hub."""

    def __init__(self, *, history: int = 100, max_pending: int = 100, **values: int) -> None:
        self.values = dict(values)
        self.hub = WatchHub[str, int](
            "i1", get=self.values.get, keys=self.values.keys, history=history, max_pending=max_pending
        )

    def put(self, name: str, value: int) -> None:
        self.values[name] = value
        self.hub.changed(name)

    def remove(self, name: str) -> None:
        del self.values[name]
        self.hub.changed(name)


async def take(stream: AsyncGenerator[Change[str, int], None], count: int) -> list[tuple[str, str | None, int | None]]:
    async with asyncio.timeout(20):
        return [(c.kind.value, c.key, c.value) for c in [await anext(stream) for _ in range(count)]]


async def last(stream: AsyncGenerator[Change[str, int], None], count: int) -> str:
    async with asyncio.timeout(20):
        return [await anext(stream) for _ in range(count)][-1].token


async def test_first_everything_then_a_bookmark_then_changes() -> None:
    things = Things(a=1, b=2)
    async with aclosing(things.hub.watch()) as stream:
        assert await take(stream, 3) == [("put", "a", 1), ("put", "b", 2), ("bookmark", None, None)]
        things.put("a", 3)
        things.remove("b")
        assert await take(stream, 2) == [("put", "a", 3), ("removed", "b", None)]
    assert things.hub.watchers == 0


async def test_what_goes_before_it_was_listed_is_not_listed() -> None:
    things = Things(a=1, b=2)
    async with aclosing(things.hub.watch()) as stream:
        assert await take(stream, 1) == [("put", "a", 1)]
        things.remove("b")
        assert await take(stream, 2) == [("bookmark", None, None), ("removed", "b", None)]


async def test_a_watcher_that_returns_misses_nothing() -> None:
    things = Things(a=1)
    async with aclosing(things.hub.watch()) as stream:
        await take(stream, 2)
        things.put("b", 2)
        token = await last(stream, 1)
    things.put("c", 3)
    things.remove("a")
    async with aclosing(things.hub.watch(token)) as stream:
        assert await take(stream, 2) == [("put", "c", 3), ("removed", "a", None)]
        things.put("d", 4)
        assert await take(stream, 1) == [("put", "d", 4)]


async def test_the_token_of_any_change_resumes_right_after_it() -> None:
    things = Things()
    async with aclosing(things.hub.watch()) as stream:
        await take(stream, 1)
        for i, name in enumerate("abcd"):
            things.put(name, i)
        tokens = [(await anext(stream)).token for _ in range(4)]
    async with aclosing(things.hub.watch(tokens[1])) as stream:
        assert await take(stream, 2) == [("put", "c", 2), ("put", "d", 3)]


async def test_a_change_during_the_listing_comes_after_it() -> None:
    things = Things(a=1, b=2)
    async with aclosing(things.hub.watch()) as stream:
        await take(stream, 1)
        things.put("a", 9)
        got = await take(stream, 3)
    assert got == [("put", "b", 2), ("bookmark", None, None), ("put", "a", 9)]


async def test_only_the_newest_of_a_key_waits_for_a_slow_reader() -> None:
    things = Things(max_pending=2)
    async with aclosing(things.hub.watch()) as stream:
        await take(stream, 1)
        for value in range(1000):
            things.put("a", value)
        things.put("b", 1)
        assert await take(stream, 2) == [("put", "a", 999), ("put", "b", 1)]


async def test_a_reader_that_is_too_slow_is_cut_and_holds_nothing() -> None:
    things = Things(max_pending=10)
    async with aclosing(things.hub.watch()) as stream:
        await take(stream, 1)
        for i in range(11):
            things.put(f"k{i}", i)
        with pytest.raises(ResourceExhausted) as caught:
            await anext(stream)
    assert caught.value.reason == "SLOW_READER"
    assert things.hub.watchers == 0


async def test_an_old_token_or_one_of_another_process_has_to_list_again() -> None:
    things = Things(history=5)
    token = things.hub.token
    for i in range(5):
        things.put("a", i)
    async with aclosing(things.hub.watch(token)) as stream:
        assert await take(stream, 1) == [("put", "a", 4)]
    things.put("a", 5)
    for bad in (token, "i2.3", f"i1.{10**9}"):
        with pytest.raises(OutOfRange) as caught:
            await anext(things.hub.watch(bad))
        assert caught.value.reason == "RESUME_TOKEN_EXPIRED"


@pytest.mark.parametrize("token", ["x", "i1.", "i1.x", "i1.-1", "i1.²"])
async def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument):
        await anext(Things().hub.watch(token))


async def test_what_stops_matching_is_removed_and_what_never_matched_is_not_told() -> None:
    things = Things(a=1, b=20)
    async with aclosing(things.hub.watch(match=lambda value: value < 10)) as stream:
        assert await take(stream, 2) == [("put", "a", 1), ("bookmark", None, None)]
        things.put("b", 30)
        things.put("a", 11)
        things.put("c", 2)
        assert await take(stream, 2) == [("removed", "a", None), ("put", "c", 2)]


async def test_closing_ends_watchers_now_and_later() -> None:
    things = Things()
    async with aclosing(things.hub.watch()) as stream:
        await take(stream, 1)
        things.hub.close()
        with pytest.raises(Unavailable):
            await anext(stream)
    with pytest.raises(Unavailable):
        await anext(things.hub.watch())


async def test_many_waiting_keys_are_handed_over_in_linear_time() -> None:
    things = Things(history=60_000, max_pending=60_000)
    async with aclosing(things.hub.watch()) as stream:
        await take(stream, 1)
        for i in range(50_000):
            things.put(str(i), i)
        begun = time.process_time()
        for i in range(50_000):
            change = await anext(stream)
            assert (change.kind, change.value) == (ChangeKind.PUT, i)
        assert time.process_time() - begun < 5
