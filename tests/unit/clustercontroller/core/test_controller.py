"""Which part is told what: a whole controller between a parent and children that the test plays.

Rules of parents, registry and dispatches have tests of their own; here is what the composition alone decides of what
passes through and of the registry.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.model.errors import OteError
from tests.unit.clustercontroller.core.controller_seat import NOTHING, PARENT, Seat, report, submit
from tests.unit.clustercontroller.core.registry_tree import make_record

# --- what passes through ------------------------------------------------------------------------------------------


def test_a_child_reports_for_those_below_it_only() -> None:
    seat = Seat()
    east, west = seat.child("east"), seat.child("west")
    seat.from_child(east, report("r", "west"))
    assert seat.sent(seat.up, m.Report) == []
    seat.from_child(west, report("r", "west"))
    assert [item.target_uid for item in seat.sent(seat.up, m.Report)] == ["west"]


@pytest.mark.parametrize("kind", [m.NO_ROUTE, m.BUSY])
def test_a_child_turns_back_what_went_through_it_also_when_its_target_is_away_since(kind: str) -> None:
    seat = Seat()
    east, west = seat.child("east"), seat.child("west")
    seat.from_child(east, m.News([make_record("e1", "east")]))
    for _ in range(2):
        seat.forget()
        seat.from_child(west, report("r", "e1", kind), report("r", "nobody", kind), report("r", "c", kind))
        assert seat.sent(seat.up, m.Report) == []
        seat.from_child(east, report("r", "e1", kind))
        assert [item.kind for item in seat.sent(seat.up, m.Report)] == [kind]
        seat.from_parent(m.Away("e1", 5, "elsewhere"))
    assert seat.core.registry.state("e1") == "AWAY"


@pytest.mark.parametrize("kind", [m.NO_ROUTE, m.BUSY])
def test_a_child_cannot_have_a_command_to_anothers_cluster_counted_as_not_sent(kind: str) -> None:
    seat = Seat(root=True)
    east, west = seat.child("east"), seat.child("west")
    seat.do(replace(submit(1, "d1", "west", "c"), ttl=0.0))
    forged = [m.Report("c", 1, "d1", uid, kind, attempt=1) for uid in ("west", "c")]
    seat.forget()
    seat.from_child(east, *forged)
    assert seat.of(fx.TargetChanged) == []
    seat.from_child(west, *forged)
    assert [change.uid for change in seat.of(fx.TargetChanged)] == ["west"]


def test_a_child_acknowledges_for_origins_below_it_only() -> None:
    seat = Seat()
    east, west = seat.child("east"), seat.child("west")
    seat.from_child(east, m.Ack("west", ["east"], ["d1"]), m.Ack("r", ["east"], ["d1"]))
    assert seat.sent(east, m.Ack) == []
    seat.from_child(west, m.Ack("west", ["east"], ["d1"]))
    assert [item.origin_uid for item in seat.sent(east, m.Ack)] == ["west"]


def test_reports_and_acknowledgements_from_above_find_their_end() -> None:
    seat = Seat()
    east = seat.child("east")
    seat.from_parent(report("east", "far"), m.Ack("r", ["east"], ["d1"]))
    assert len(seat.sent(east, m.Report)) == len(seat.sent(east, m.Ack)) == 1


def test_reports_from_above_are_passed_on_together() -> None:
    seat = Seat()
    east = seat.child("east")
    seat.from_parent(m.Reports("east", "far", 30, [report("east", "far")]))
    assert [(reports.target_uid, reports.hop_limit) for reports in seat.sent(east, m.Reports)] == [("far", 29)]


def test_what_has_no_hops_left_goes_no_further() -> None:
    seat = Seat()
    east = seat.child("east")
    last, ack, call = report("east", "far"), m.Ack("r", ["east"], ["d1"]), m.Call("q", "r", "east", "ping", b"")
    last.hop_limit = ack.hop_limit = call.hop_limit = 0
    deliver = m.Deliver("r", "r", 1, "d1", "apply", True, b"", None, 0, 0, 0, [m.DeliveryTarget("east", "", 1, 0, 3)])
    seat.from_parent(last, ack, call, deliver)
    assert [send.item for send in seat.of(fx.Send) if send.link == east] == []
    [reply] = seat.sent(seat.up, m.Reply)
    assert (reply.to_uid, reply.code, reply.reason) == ("r", "UNAVAILABLE", "NO_ROUTE")
    [turned_back] = seat.sent(seat.up, m.Report)
    assert (turned_back.kind, turned_back.attempt) == (m.NO_ROUTE, 3)


def test_what_an_event_had_gathered_before_it_failed_does_not_leave_with_the_next() -> None:
    seat = Seat()
    east = seat.child("east")
    aim = m.DeliveryTarget("east", "", 1, 0, 3)
    good = m.Deliver("r", "r", 1, "d1", "apply", True, b"", None, 0, 0, 30, [aim])
    broken = m.Deliver("r", "r", 1, "d2", "apply", True, b"", None, 0, 0, 30, cast(Any, None))
    with pytest.raises(TypeError):
        seat.core.handle(ev.FromParent(seat.up, [good, broken]), seat.now)
    assert not any(isinstance(effect, fx.Send) for effect in seat.core.failed())
    seat.do(ev.Wake())
    assert seat.sent(east, m.Deliveries) == []
    seat.from_parent(good)
    assert len(seat.sent(east, m.Deliveries)) == 1


def test_a_request_to_end_early_that_has_no_way_is_dropped_for_its_origin_asks_again() -> None:
    seat = Seat()
    seat.from_parent(m.Revoke("r", 1, "d1", False, 30, [m.DeliveryTarget("nobody", "", 1, 0, 1)]))
    assert seat.of(fx.Send) == []


def test_an_answer_that_has_no_way_is_dropped() -> None:
    seat = Seat(root=True)
    east = seat.child("east")
    seat.from_child(east, m.Reply("q", "nobody", "OK"))
    assert seat.of(fx.Send) == []


def test_a_command_with_a_payload_opens_it_to_the_children_it_goes_through_before_it_is_sent() -> None:
    seat = Seat()
    east = seat.child("east")
    seat.child("west")
    payload = m.Payload(b"hash", 100_000, [b"piece"])
    targets = [m.DeliveryTarget("east", "", 1, 0, 1)]
    seat.from_parent(m.Deliver("r", "r", 1, "d1", "apply", True, None, payload, 0, 0, 30, targets))
    kinds = [type(effect) for effect in seat.effects]
    assert [(serve.link, serve.payload) for serve in seat.of(fx.ServePayload)] == [(east, payload)]
    assert kinds.index(fx.ServePayload) < kinds.index(fx.Send)


def test_a_command_for_many_is_split_into_messages_that_fit_a_frame() -> None:
    seat = Seat()
    east = seat.child("east")
    below = [f"e{n}" for n in range(500)]
    seat.from_child(east, m.News([make_record(uid, "east") for uid in below]))
    seat.forget()
    targets = [m.DeliveryTarget(uid, "", 1, 0, 1) for uid in below]
    seat.from_parent(m.Deliver("r", "r", 1, "d1", "apply", True, b"b" * 10_000, None, 0, 0, 30, targets))
    seat.from_parent(m.Revoke("r", 1, "d1", False, 30, targets))
    messages: list[tuple[list[m.Deliver] | list[m.Revoke], int]] = [
        (seat.sent(east, m.Deliver), (28 * 1024 - 10_000) // 96),
        (seat.sent(east, m.Revoke), 28 * 1024 // 96),
    ]
    for parts, room in messages:
        assert [target.uid for part in parts for target in part.targets] == below
        assert max(len(part.targets) for part in parts) == room
        assert {part.hop_limit for part in parts} == {29}


def test_a_full_lane_is_told_to_the_origin_for_each_target() -> None:
    seat = Seat()
    east = seat.child("east")
    targets = [m.DeliveryTarget("east", "", 1, 0, 4), m.DeliveryTarget("far", "", 7, 0, 2)]
    seat.do(ev.LaneFull(east, m.Deliver("r", "r", 1, "d1", "apply", True, b"", None, 0, 0, 30, targets)))
    told = [(r.kind, r.target_uid, r.attempt, r.retry_after_ms) for r in seat.sent(seat.up, m.Report)]
    assert told == [(m.BUSY, "east", 4, 100), (m.BUSY, "far", 2, 100)]


def test_what_a_childs_queue_had_no_room_for_is_said_at_its_next_heartbeat() -> None:
    seat = Seat()
    east = seat.child("east")
    seat.from_child(east, m.News([make_record("below", "east")]))
    away, evictions = m.Away("below", 5, "elsewhere"), m.Evictions(["gone-1", "gone-2"])
    seat.from_parent(away, evictions)
    [alternates] = seat.sent(east, m.Alternates) or [m.Alternates()]
    for item in (away, evictions, alternates, m.Resync()):
        seat.do(ev.LaneFull(east, item))
    seat.do(ev.LaneFull(99, away))
    seat.forget()
    for again in ([away], []):
        seat.from_child(east, m.Heartbeat(0, seat.core.registry.whole_digest("east")))
        assert seat.sent(east, m.Away) == again
        assert seat.sent(east, m.Evictions) == ([evictions] if again else [])
        assert len(seat.sent(east, m.Alternates)) == len(again)
        seat.forget()
    seat.do(ev.LaneFull(east, evictions))
    seat.from_child(east, m.Heartbeat(0, seat.core.registry.whole_digest("east")))
    assert [type(send.item) for send in seat.of(fx.Send)] == [m.Evictions]


def test_what_the_parents_queue_had_no_room_for_is_said_a_second_later() -> None:
    seat = Seat()
    east = seat.child("east")
    seat.pass_time(1.0)
    seat.forget()
    seat.from_child(east, m.News([make_record("below", "east")]), m.Evictions(["lost"]))
    seat.pass_time(0.5)
    said = [(send.link, send.item) for send in seat.of(fx.Send) if isinstance(send.item, m.News | m.Evictions)]
    assert [type(item) for _, item in said] == [m.Evictions, m.News]
    seat.forget()
    for link, item in said:
        seat.do(ev.LaneFull(link, item))
    seat.do(ev.LaneFull(seat.up, m.Away("below", 1)))
    seat.pass_time(0.9)
    seat.from_child(east, report("r", "below"))
    assert len(seat.sent(seat.up, m.Report)) == 1
    assert not seat.sent(seat.up, m.News)
    assert not seat.sent(seat.up, m.Evictions)
    seat.pass_time(0.2)
    assert [r.uid for news in seat.sent(seat.up, m.News) for r in news.records] == ["below"]
    assert seat.sent(seat.up, m.Evictions) == [m.Evictions(["lost"])]


def test_news_that_another_message_has_told_meanwhile_are_not_told_again() -> None:
    seat = Seat()
    seat.pass_time(1.0)
    seat.child("east")
    seat.child("west")
    seat.forget()
    seat.from_parent(m.Resync())
    seat.pass_time(1.0)
    assert [news.full_end for news in seat.sent(seat.up, m.News)] == [True]


def test_what_no_child_may_say_ends_its_link() -> None:
    seat = Seat()
    east = seat.child("east")
    seat.from_child(east, m.Attach(make_record("east", "c", 2), NOTHING))
    assert [refused.reason for refused in seat.sent(east, m.Refused)] == ["BAD_FRAME"]
    assert [close.link for close in seat.of(fx.CloseLink)] == [east]


def test_what_no_parent_may_say_is_logged_and_does_nothing() -> None:
    seat = Seat()
    seat.from_parent(m.Welcome("p", "p", "p-1", m.Standing(10, 1), True, [], 2000, 5000, 0))
    assert [(log.level, log.fields) for log in seat.of(fx.Log)] == [("warning", {"item": "Welcome"})]
    assert not [effect for effect in seat.effects if isinstance(effect, fx.Send | fx.CloseLink)]


# --- registry -----------------------------------------------------------------------------------------------------


def test_a_new_parent_is_told_at_once_and_then_at_most_every_tenth_of_a_second() -> None:
    seat = Seat()
    seat.pass_time(1.0)
    seat.forget()
    seat.child("east")
    link = seat.child("west")
    seat.pass_time(0.09)
    assert seat.sent(seat.up, m.News) == []
    seat.from_child(link, m.News([make_record("below", "west")]))
    seat.pass_time(0.02)
    [news] = seat.sent(seat.up, m.News)
    assert [record.uid for record in news.records] == ["west", "below"]


def test_news_before_there_is_a_parent_are_kept_for_it() -> None:
    seat = Seat(attached=False)
    seat.child("east")
    seat.pass_time(0.2)
    seat.attach()
    told = [record.uid for news in seat.sent(seat.up, m.News) for record in news.records]
    assert sorted(told) == ["c", "east"]


def test_a_full_account_has_a_first_and_a_last_message_and_no_news_are_left_after_it() -> None:
    labels = {f"key-{n}": "v" * 60 for n in range(200)}
    seat = Seat(facts=m.Facts(version=1, labels=labels, tags=["tag"]))
    link = seat.child("east")
    wide = m.Facts(version=1, labels={f"key-{n}": "v" * 60 for n in range(120)})
    many = [make_record(f"e{n}", "east", facts=wide) for n in range(4)]
    seat.from_child(link, m.News(many))
    seat.forget()
    seat.from_parent(m.Resync())
    news = seat.sent(seat.up, m.News)
    assert [(item.full_begin, item.full_end) for item in news] == [(True, False), (False, False), (False, True)]
    assert [len(item.records) for item in news] == [2, 2, 2]
    assert [record.uid for record in news[0].records] == ["c", "east"]
    seat.forget()
    seat.pass_time(0.5)
    assert seat.sent(seat.up, m.News) == []


def test_one_record_larger_than_a_message_goes_alone() -> None:
    seat = Seat(root=False, facts=m.Facts(version=1))
    seat.do(ev.ShimStatus(b"s" * 50_000))
    seat.forget()
    seat.from_parent(m.Resync())
    [news] = seat.sent(seat.up, m.News)
    assert (news.full_begin, news.full_end, len(news.records)) == (True, True, 1)


def test_away_is_passed_down_the_former_chain() -> None:
    seat = Seat()
    link = seat.child("east")
    seat.from_child(link, m.News([make_record("below", "east")]))
    seat.from_parent(m.Away("below", 5, "elsewhere"), m.Away("nobody", 5))
    assert seat.sent(link, m.Away) == [m.Away("below", 5, "elsewhere")]


def test_candidates_from_above_are_told_to_the_children_when_they_are_others_in_the_end() -> None:
    seat = Seat()
    east = seat.child("east")
    uncle = m.Alternate("u", "u", "u:1")
    before, after = m.Alternates(parent=PARENT), m.Alternates(siblings=[uncle], parent=PARENT)
    rounds: list[tuple[list[m.DownItem], int]] = [([before], 1), ([after], 1), ([after], 0), ([before, after], 0)]
    for items, told in rounds:
        seat.forget()
        seat.from_parent(*items)
        seat.from_child(east, m.Heartbeat(0, seat.core.registry.whole_digest("east")))
        seat.pass_time(0.5)
        assert len(seat.sent(east, m.Alternates)) == told


def test_evictions_from_above_are_told_to_everybody_else_and_end_links() -> None:
    seat = Seat()
    east, west = seat.child("east"), seat.child("west")
    seat.from_parent(m.Evictions(["east", "far"]))
    assert [refused.reason for refused in seat.sent(east, m.Refused)] == ["EVICTED"]
    assert seat.sent(west, m.Evictions) == [m.Evictions(["east", "far"])]
    assert seat.sent(seat.up, m.Evictions) == []
    seat.forget()
    seat.from_parent(m.Evictions(["far"]))
    assert seat.of(fx.Send) == []


def test_a_child_evicts_what_is_below_it_and_the_root_decides_of_what_nobody_knows() -> None:
    seat = Seat()
    east, west = seat.child("east"), seat.child("west")
    seat.from_child(east, m.News([make_record("below", "east")]))
    seat.forget()
    seat.from_child(east, m.Evictions(["below", "west", "p", "c", "lost"]))
    assert set(seat.core.registry.evicted) == {"below"}
    assert seat.sent(west, m.Evictions) == [m.Evictions(["below"])]
    assert seat.sent(seat.up, m.Evictions) == [m.Evictions(["lost"]), m.Evictions(["below"])]


def test_a_root_takes_evictions_of_what_it_does_not_know_but_not_from_a_leaf() -> None:
    seat = Seat(root=True)
    east, leaf = seat.child("east"), seat.child("leaf", leaf=True)
    seat.from_child(leaf, m.Evictions(["never-seen"]))
    assert set(seat.core.registry.evicted) == set()
    seat.from_child(east, m.Evictions(["never-seen", "leaf"]))
    assert set(seat.core.registry.evicted) == {"never-seen"}


def test_without_a_parent_evictions_of_the_unknown_wait_for_one_up_to_a_limit() -> None:
    seat = Seat(attached=False)
    east = seat.child("east")
    for start in range(0, 12_000, 500):
        seat.from_child(east, m.Evictions([f"lost-{number:05}" for number in range(start, start + 500)]))
    assert seat.of(fx.Send) == []
    assert set(seat.core.registry.evicted) == set()
    seat.core.parents.start()
    seat.attach()
    told = [uid for evictions in seat.sent(seat.up, m.Evictions) for uid in evictions.uids]
    assert told == [f"lost-{number:05}" for number in range(10_000)]


def test_evicting_the_unknown_is_refused_below_a_root() -> None:
    seat = Seat()
    seat.do(ev.Evict(1, "nobody"))
    assert seat.refused() == ["CLUSTER_NOT_FOUND"]


def test_a_root_that_was_set_back_evicts_whom_it_does_not_know() -> None:
    seat = Seat(root=True)
    east = seat.child("east")
    seat.forget()
    seat.do(ev.Evict(1, "forgotten"))
    assert [answer.value for answer in seat.of(fx.Answer)] == [("forgotten", [], False)]
    assert seat.sent(east, m.Evictions) == [m.Evictions(["forgotten"])]


@pytest.mark.parametrize(("parent", "where"), [("west-2", "east has gone to west-2, "), ("", "east has gone, ")])
def test_a_region_does_not_evict_what_has_left_it(parent: str, where: str) -> None:
    seat = Seat()
    east = seat.child("east")
    seat.from_child(east, m.News([make_record("below", "east")]))
    seat.from_parent(m.Away("east", 9, parent))
    for uid in ("east", "below"):
        seat.forget()
        seat.do(ev.Evict(1, uid))
        [answer] = seat.of(fx.Answer)
        assert isinstance(answer.error, OteError)
        assert (answer.error.reason, answer.error.message) == (
            "CLUSTER_AWAY",
            f"{where}out of reach of c: evict {uid} at the root",
        )
    assert not seat.core.registry.evicted


def test_an_eviction_that_comes_from_beside_is_logged() -> None:
    seat = Seat(root=True)
    east = seat.child("east")
    seat.child("west")
    seat.from_child(east, m.Evictions(["west", "never-seen"]))
    assert set(seat.core.registry.evicted) == {"never-seen"}
    assert [log.fields for log in seat.of(fx.Log) if "not taken" in log.message] == [
        {"child": "east", "members": "west"}
    ]


def test_an_eviction_of_who_is_gone_is_heard_where_its_last_parent_is_reached() -> None:
    seat = Seat(root=True)
    east = seat.child("east")
    seat.from_child(east, m.News([make_record("below", "east", up=False)]))
    seat.do(ev.Evict(1, "below"))
    seat.from_child(east, m.News([make_record("second", "east")]))
    seat.do(ev.LinkLost(east, "closed"))
    seat.do(ev.Evict(2, "second"))
    seat.do(ev.Evict(3, "east"))
    answers = [answer.value for answer in seat.of(fx.Answer)]
    assert answers == [("below", [], True), ("second", [], False), ("east", [], True)]


def test_an_eviction_is_on_disk_before_it_is_answered_and_says_whether_it_was_heard() -> None:
    seat = Seat(root=True)
    seat.child("east")
    seat.do(ev.Evict(1, "east"))
    kinds = [type(effect) for effect in seat.effects]
    assert kinds.index(fx.Put) < kinds.index(fx.Barrier) < kinds.index(fx.Answer)
    assert [answer.value for answer in seat.of(fx.Answer)] == [("east", [], True)]
