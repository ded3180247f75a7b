"""The client where the command line does not show what it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.client.client import Client, new_dispatch_id
from ote.client.connection import Policy
from ote.client.contexts import Context, Entry
from ote.model.errors import FailedPrecondition, Internal, NotFound, OutOfRange, ResourceExhausted, Unavailable
from tests.wire.cli.fake import HANG, FakeController, cluster, story, target

QUICK = Policy(dial=40, call=40, patience=40, base=0.02, cap=0.05)
"""Tries again at once. Its limits are for what goes wrong: no test waits for them."""
BRIEF = replace(QUICK, patience=0.6)
"""For a test that waits until patience ends."""


def client_of(*fakes: FakeController, policy: Policy = QUICK, warn: Callable[[str], None] | None = None) -> Client:
    return Client(Context("test", tuple(Entry(fake.address) for fake in fakes)), policy=policy, warn=warn)


def request() -> route_pb2.DispatchRequest:
    command = command_pb2.Command(noop=command_pb2.Noop())
    return route_pb2.DispatchRequest(dispatch_id=new_dispatch_id(), command=command)


@pytest.fixture
async def other() -> AsyncIterator[FakeController]:
    with FakeController("other") as fake:
        yield fake
    assert fake.unused() == {}


async def finished(events: AsyncIterator[route_pb2.DispatchResponse]) -> list[str]:
    return [event.WhichOneof("event") or "" async for event in events]


async def test_a_controller_that_dies_is_replaced_by_the_next_entry_and_that_is_told(
    root: FakeController, other: FakeController
) -> None:
    told: list[str] = []
    async with client_of(root, other, warn=told.append) as client:
        assert (await client.controller()).name == "root"
        root.stop()
        other.will("GetControllerStatus", cluster_pb2.GetControllerStatusResponse(beat=1))
        assert (await client.status()).beat == 1
        assert await client.address() == other.address
    [warning] = told
    assert root.address in warning
    assert "other answers instead" in warning


async def test_a_lost_controller_is_dialled_again_while_patience_lasts(root: FakeController) -> None:
    told: list[str] = []
    async with client_of(root, warn=told.append) as client:
        await client.controller()
        root.stop()
        root.will("GetControllerStatus", cluster_pb2.GetControllerStatusResponse())
        call = asyncio.create_task(client.status())
        while not told:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(root.start)
        await call
    [warning] = told
    assert warning.startswith(root.address)
    assert warning.endswith("dialling again for 40 s")


async def test_patience_ends(root: FakeController) -> None:
    async with client_of(root, policy=BRIEF) as client:
        await client.controller()
        root.stop()
        with pytest.raises(Unavailable):
            await client.status()
        with pytest.raises(Unavailable) as caught:
            await client.controller()
        assert caught.value.reason == "CONTROLLER_UNREACHABLE"


async def test_a_watch_of_a_dispatch_survives_the_death_of_its_entry(
    root: FakeController, other: FakeController
) -> None:
    root.will("Dispatch", story([target("a", "PENDING")], HANG))
    other.will("WatchDispatch", Unavailable("ORIGIN_UNREACHABLE", "no way"), story([target("a", "SUCCEEDED")]))
    async with client_of(root, other) as client:
        seen: list[str] = []
        async for event in client.dispatch(request()):
            seen.append(event.WhichOneof("event") or "")
            if len(seen) == 1:
                await asyncio.to_thread(root.stop)
        assert seen == ["accepted", "accepted", "summary"]


async def test_a_dispatch_is_never_offered_to_a_second_controller_before_it_is_accepted(
    root: FakeController, other: FakeController
) -> None:
    root.will("Dispatch", [HANG])
    sent = request()
    async with client_of(root, other, policy=BRIEF) as client:
        waiting = asyncio.create_task(finished(client.dispatch(sent)))
        assert await asyncio.to_thread(root.asked.wait, 40)
        await asyncio.to_thread(root.stop)
        with pytest.raises(Unavailable) as caught:
            await waiting
    assert caught.value.reason == "ACCEPTANCE_UNKNOWN"
    assert caught.value.message.endswith(f"ote-ctl dispatch get root/{sent.dispatch_id}")
    assert not other.requests["Dispatch"]


async def test_another_controller_at_the_same_address_is_not_taken_for_the_first(root: FakeController) -> None:
    root.will("Dispatch", Unavailable("SHUTTING_DOWN", "stopping"))
    async with client_of(root) as client:
        await client.controller()
        root.me.uid = "uid-of-a-successor"
        with pytest.raises(Unavailable) as caught:
            await finished(client.dispatch(request()))
    assert caught.value.reason == "ACCEPTANCE_UNKNOWN"


async def test_a_stream_that_ends_without_a_word_counts_as_lost(root: FakeController) -> None:
    root.will("Dispatch", [], story([target("a", "RUNNING")], HANG))
    async with client_of(root) as client:
        events = client.dispatch(request())
        assert (await anext(events)).HasField("accepted")
        await events.aclose()  # type: ignore[attr-defined]


async def test_a_controller_that_stays_busy_is_told_as_it_is(root: FakeController) -> None:
    busy = ResourceExhausted("TOO_MANY_DISPATCHES", "busy", retry_after=0.2)
    root.will("Dispatch", *[busy] * 50)
    async with client_of(root, policy=BRIEF) as client:
        with pytest.raises(ResourceExhausted):
            await finished(client.dispatch(request()))
    root.forget("Dispatch")


async def test_a_controller_that_was_lost_and_is_then_busy_may_have_accepted(root: FakeController) -> None:
    busy = ResourceExhausted("TOO_MANY_DISPATCHES", "busy", retry_after=0.2)
    root.will("Dispatch", Unavailable("SHUTTING_DOWN", "stopping"), *[busy] * 50)
    async with client_of(root, policy=BRIEF) as client:
        with pytest.raises(Unavailable) as caught:
            await finished(client.dispatch(request()))
    assert caught.value.reason == "ACCEPTANCE_UNKNOWN"
    root.forget("Dispatch")


async def test_a_payload_is_put_where_the_dispatch_goes_and_twice_at_most(root: FakeController) -> None:
    missing = FailedPrecondition("PAYLOAD_MISSING", "put it first")
    root.will("PutPayload", Unavailable("SHUTTING_DOWN", "stopping"), *[route_pb2.PutPayloadResponse()] * 2)
    root.will("Dispatch", missing, missing)
    large = request()
    large.command.noop.padding = bytes(2 * 1024 * 1024)
    async with client_of(root) as client:
        with pytest.raises(FailedPrecondition):
            await finished(client.dispatch(large))
    root.will("PutPayload", route_pb2.PutPayloadResponse(), Internal("DISK", "broken"))
    root.will("Dispatch", missing)
    async with client_of(root) as client:
        with pytest.raises(Internal):
            await finished(client.dispatch(large))


async def test_a_payload_that_is_refused_by_its_name_ends_with_the_reason(root: FakeController) -> None:
    def refusing(seconds: float) -> Callable[[object], ResourceExhausted]:
        def refuse(request: object) -> ResourceExhausted:
            time.sleep(seconds)  # the fake's time, in a thread of its own
            return ResourceExhausted("PAYLOAD_TOO_LARGE", "too large")

        return refuse

    root.hasty = True
    large = request()
    large.command.noop.padding = bytes(12 * 1024 * 1024)
    async with client_of(root) as client:
        for late in (0, 0, 0.7, 0.7, 0.7):
            root.will("PutPayload", *[refusing(late)] * 2)
            with pytest.raises(ResourceExhausted) as caught:
                await finished(client.dispatch(large))
            assert caught.value.reason == "PAYLOAD_TOO_LARGE"
            root.forget("PutPayload")


async def test_a_watch_that_broke_inside_its_listing_lists_again_from_the_start(root: FakeController) -> None:
    event = cluster_pb2.WatchClustersResponse
    mark = event(bookmark=cluster_pb2.Bookmark(), resume_token="1")
    root.will(
        "WatchClusters",
        [event(put=cluster("a")), event(put=cluster("b")), ResourceExhausted("SLOW_READER", "too slow")],
        [event(put=cluster("b")), mark, event(removed="uid-b", resume_token="2"), mark, Internal("END", "end")],
    )
    seen: list[str] = []
    async with client_of(root) as client:
        events = client.watch_clusters()
        for _ in range(6):
            one = await anext(events)
            seen.append(one.put.name or one.removed or "mark")
        with pytest.raises(Internal):
            await anext(events)
    assert seen == ["a", "b", "uid-a", "mark", "uid-b", "mark"]


BACK = replace(QUICK, back=0.05)


async def test_a_watch_goes_back_to_the_first_entry_and_tells_nothing_twice(
    root: FakeController, other: FakeController
) -> None:
    event = cluster_pb2.WatchClustersResponse
    mark = event(bookmark=cluster_pb2.Bookmark(), resume_token="1")
    gone = cluster("b", path=["root", "other", "b"])
    root.will("WatchClusters", [event(put=cluster("a")), event(put=gone), mark, HANG])
    other.will("WatchClusters", OutOfRange("RESUME_TOKEN_EXPIRED", "of another process"))
    other.will("WatchClusters", [event(put=cluster("a")), mark, event(put=cluster("c"), resume_token="2"), HANG])
    told: list[str] = []
    seen: list[str] = []

    async def see(events: AsyncIterator[cluster_pb2.WatchClustersResponse], count: int) -> list[str]:
        for _ in range(count):
            one = await anext(events)
            seen.append(one.put.name or one.removed or "mark")
        return seen[-count:]

    async with client_of(root, other, policy=BACK, warn=told.append) as client:
        events = client.watch_clusters()
        assert await see(events, 3) == ["a", "b", "mark"]
        await asyncio.to_thread(root.stop)
        assert await see(events, 3) == ["uid-b", "mark", "c"], "a is as it was"
        heard_since = cluster("a")
        heard_since.last_seen.GetCurrentTime()
        after = [event(put=one) for one in (heard_since, gone, cluster("c", state="OFFLINE"))]
        root.will("WatchClusters", [*after, mark, event(put=cluster("d"), resume_token="2"), HANG])
        await asyncio.to_thread(root.start)
        assert await see(events, 4) == ["b", "c", "mark", "d"]
        assert await client.address() == root.address
        await events.aclose()  # type: ignore[attr-defined]
    assert [one.resume_token for one in root.requests["WatchClusters"]] == ["", ""]
    assert told[1:] == [f"{root.address}: root answers again"]
    assert len(told) == 2


async def test_a_watch_does_not_call_gone_what_its_entry_cannot_see(
    root: FakeController, other: FakeController
) -> None:
    event = cluster_pb2.WatchClustersResponse
    mark = event(bookmark=cluster_pb2.Bookmark(), resume_token="1")
    below = [cluster(name, path=["root", "other", name]) for name in ("b1", "b2")]
    beside = [cluster(name, path=["root", "west", name]) for name in ("w1", "w2")]
    root.will(
        "WatchClusters", [*(event(put=one) for one in (cluster("root", path=["root"]), *below, *beside)), mark, HANG]
    )
    other.will("WatchClusters", OutOfRange("RESUME_TOKEN_EXPIRED", "of another process"))
    other.will("WatchClusters", [event(put=below[0]), mark, HANG])
    told: list[str] = []

    async def see(events: AsyncIterator[cluster_pb2.WatchClustersResponse], count: int) -> list[str]:
        seen = [await anext(events) for _ in range(count)]
        return [one.put.name or one.removed or "mark" for one in seen]

    async with client_of(root, other, policy=BACK, warn=told.append) as client:
        events = client.watch_clusters()
        await see(events, 6)
        await asyncio.to_thread(root.stop)
        assert await see(events, 2) == ["uid-b2", "mark"]
        after = [event(put=one) for one in (cluster("root", path=["root"]), below[0], beside[0])]
        root.will("WatchClusters", [*after, mark, HANG])
        await asyncio.to_thread(root.start)
        assert await see(events, 2) == ["uid-w2", "mark"], "w1 is as it was"
        await events.aclose()  # type: ignore[attr-defined]
    assert "other answers instead, for itself and what is below it" in told[0]


async def test_who_answers_a_watch_of_a_dispatch_is_told_once_each_time_it_changes(
    root: FakeController, other: FakeController
) -> None:
    root.will("WatchDispatch", story([target("a", "RUNNING")], HANG))
    other.will("WatchDispatch", *[Unavailable("ORIGIN_UNREACHABLE", "the origin does not answer")] * 9999)
    root.will("WatchDispatch", story([target("a", "RUNNING")], target("a", "SUCCEEDED")))
    told: list[str] = []
    async with client_of(root, other, policy=replace(BACK, back=9), warn=told.append) as client:
        events = client.watch_dispatch("root/1f")
        assert (await anext(events)).HasField("accepted")
        await asyncio.to_thread(root.stop)
        following = asyncio.create_task(finished(events))
        async with asyncio.timeout(40):
            while len(other.requests["WatchDispatch"]) < 3:
                await asyncio.sleep(0.01)
        await asyncio.to_thread(root.start)
        assert await following == ["accepted", "changed", "summary"]
        other.forget("WatchDispatch")
    assert "other answers instead" in told[0]
    assert told[1:] == [f"{root.address}: root answers again"]


async def test_a_watch_of_a_dispatch_goes_back_but_not_to_an_entry_that_does_not_know_it(
    root: FakeController, other: FakeController
) -> None:
    root.will("WatchDispatch", NotFound("DISPATCH_NOT_FOUND", "no such"))
    root.will("WatchDispatch", story([target("a", "RUNNING")], target("a", "SUCCEEDED")))
    other.will("WatchDispatch", story([target("a", "RUNNING")], HANG), story([target("a", "RUNNING")], HANG))
    async with client_of(root, other, policy=BACK) as client:
        await client.controller()
        await asyncio.to_thread(root.stop)
        events = client.watch_dispatch("root/1f", exists=True)
        assert (await anext(events)).HasField("accepted")
        await asyncio.to_thread(root.start)
        assert (await anext(events)).HasField("accepted"), "again at the other: root does not know it"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(events), 0.5)
    assert len(root.requests["WatchDispatch"]) == 1
    other.will("WatchDispatch", story([target("a", "RUNNING")], HANG))
    await asyncio.to_thread(root.stop)
    async with client_of(root, other, policy=BACK) as client:
        events = client.watch_dispatch("root/1f", exists=True)
        assert (await anext(events)).HasField("accepted")
        await asyncio.to_thread(root.start)
        assert await finished(events) == ["accepted", "changed", "summary"]


async def test_a_watch_that_is_refused_without_a_token_fails(root: FakeController) -> None:
    root.will("WatchClusters", OutOfRange("RESUME_TOKEN_EXPIRED", "odd"))
    async with client_of(root) as client:
        with pytest.raises(OutOfRange):
            await anext(client.watch_clusters())


async def test_lists_stop_at_their_limit(root: FakeController) -> None:
    page = route_pb2.ListDispatchesResponse(dispatches=[route_pb2.Dispatch()] * 2, next_page_token="x")
    root.will("ListDispatches", page, page)
    async with client_of(root) as client:
        assert len(await client.list_dispatches(limit=3)) == 3
    assert [asked.page_size for asked in root.requests["ListDispatches"]] == [3, 1]
