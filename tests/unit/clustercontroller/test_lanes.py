"""The queue of a tunnel's sending side: what goes when, and that its counts hold."""

from __future__ import annotations

import random

import pytest

from ote.clustercontroller.core import messages as m
from ote.clustercontroller.lanes import FRAME_BYTES, LANE_OF, LARGE_FRAME_BYTES, Budget, Lane, Lanes, Pace
from ote.clustercontroller.wire.codec import write_down


def test_only_the_newest_beat_goes_and_goes_first() -> None:
    lanes: Lanes[bytes] = Lanes(Budget())
    assert not lanes
    assert lanes.take() == []
    lanes.put(Lane.RESULT, b"result")
    lanes.put(Lane.BEAT, b"old")
    lanes.put(Lane.BEAT, b"new")
    assert lanes
    assert lanes.take() == [b"new", b"result"]
    assert not lanes
    assert lanes.take() == []


def test_a_session_item_overtakes_what_is_queued_and_a_large_item_goes_alone() -> None:
    lanes: Lanes[bytes] = Lanes(Budget())
    large = bytes(2 * FRAME_BYTES)
    lanes.put(Lane.DISPATCH, large)
    lanes.put(Lane.DISPATCH, b"next")
    lanes.put(Lane.SESSION, b"goodbye")
    assert [lanes.take(), lanes.take(), lanes.take()] == [[b"goodbye"], [large], [b"next"]]
    assert not lanes


def test_a_frame_with_more_room_takes_more() -> None:
    lanes: Lanes[bytes] = Lanes(Budget())
    for _ in range(8):
        lanes.put(Lane.DISPATCH, bytes(20_000))
    assert [len(lanes.take()), len(lanes.take(LARGE_FRAME_BYTES))] == [1, 3]


def frames(pace: Pace, begun: float, seconds: float, rate: float) -> list[int]:
    """Keep a link of so many bytes a second full; the room of each frame."""
    now, rooms = begun, []
    while now < begun + seconds:
        rooms.append(pace.room(now))
        now += rooms[-1] / rate
        pace.wrote(rooms[-1], now)
    return rooms


def test_frames_are_large_on_a_quick_link_and_for_a_quarter_of_a_second_after() -> None:
    pace = Pace()
    rooms = frames(pace, 0.0, 2.0, rate=5e6)
    assert set(rooms[:16]) == {FRAME_BYTES}
    assert set(rooms[18:]) == {LARGE_FRAME_BYTES}
    assert pace.room(2.3) == FRAME_BYTES


@pytest.mark.parametrize("rate", [16_000, 125_000, 1_250_000])
def test_frames_stay_small_on_a_thin_link(rate: float) -> None:
    assert set(frames(Pace(), 0.0, 120.0, rate)) == {FRAME_BYTES}


def test_a_link_that_has_become_thin_takes_one_large_frame_more_at_the_most() -> None:
    pace = Pace()
    frames(pace, 0.0, 2.0, rate=5e6)
    assert frames(pace, 2.0, 60.0, rate=16_000)[1:] == [FRAME_BYTES] * 28


def test_single_frames_now_and_then_prove_nothing() -> None:
    pace = Pace()
    for now in range(1000):
        pace.wrote(FRAME_BYTES, now / 4 + 0.001 * (now % 2))
        assert pace.room(now / 4) == FRAME_BYTES


def test_everything_that_was_taken_comes_out_once_and_in_the_order_of_its_lane() -> None:
    rng = random.Random(1)
    budget = Budget()
    lanes: Lanes[bytes] = Lanes(budget)
    queued: dict[Lane, list[bytes]] = {lane: [] for lane in Lane if lane is not Lane.BEAT}
    taken: dict[Lane, list[bytes]] = {lane: [] for lane in queued}
    for number in range(2_000):
        lane = rng.choice(list(queued))
        item = f"{lane} {number} ".encode().ljust(rng.choice([20, 200, 20_000]))
        if lanes.put(lane, item):
            queued[lane].append(item)
        if rng.random() < 0.3:
            for one in lanes.take():
                taken[Lane(one.split()[0].decode())].append(one)
    while lanes:
        frame = lanes.take()
        assert frame
        for one in frame:
            taken[Lane(one.split()[0].decode())].append(one)
    assert taken == queued
    assert budget.used == lanes.queued_bytes == 0


def test_a_link_that_is_gone_holds_nothing() -> None:
    budget = Budget()
    lanes: Lanes[bytes] = Lanes(budget)
    for lane in Lane:
        lanes.put(lane, b"item")
    lanes.clear()
    assert not lanes
    assert lanes.take() == []
    assert budget.used == 0


def test_what_others_below_ask_and_answer_keeps_no_command_from_a_link() -> None:
    lanes: Lanes[bytes] = Lanes(Budget())
    flood = (m.Call("c", "a" * 32, "b" * 32, "ping", bytes(20_000)), m.Reply("c", "b" * 32, "OK", body=bytes(20_000)))
    while all(lanes.put(LANE_OF[type(item)], write_down(item)) for item in flood):
        pass
    aim = m.DeliveryTarget("b" * 32, "j" * 32, 1, 0, 1)
    deliver = write_down(m.Deliver("o" * 32, "o", 1, "d" * 32, "apply", True, b"body", None, 1, 0, 31, [aim]))
    assert lanes.put(LANE_OF[m.Deliver], deliver)
    assert deliver in lanes.take() + lanes.take()


def test_what_others_have_made_never_ends_a_link_however_much_there_is() -> None:
    """Twenty thousand targets behind one hop are cancelled at once, or a stranger acknowledges to a thin link."""
    uids = [f"{number:032x}" for number in range(20_000)]
    aims = [m.DeliveryTarget(uid, "j" * 32, 3, 2, 0, True, False) for uid in uids]
    lanes: Lanes[bytes] = Lanes(Budget())
    taken = [
        lanes.put(LANE_OF[type(item)], write_down(item))
        for start in range(0, len(uids), 250)
        for item in (
            m.Revoke("a" * 32, 0, "d" * 32, True, 31, aims[start : start + 250]),
            m.Ack("a" * 32, uids[start : start + 250], ["d" * 32] * 256, 31),
        )
    ]
    assert taken[0]
    assert not taken[-1]
    assert lanes.put(Lane.SESSION, b"goodbye")
    assert lanes.take()[0] == b"goodbye"
