"""Who may attach, and who has left."""

from __future__ import annotations

from typing import Any

import pytest

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core import records as rec
from ote.clustercontroller.core.states import AWAY, OFFLINE, ONLINE
from tests.unit.clustercontroller.core.children_house import NOTHING, House
from tests.unit.clustercontroller.core.registry_tree import effects, make_record, sent

# --- hello ------------------------------------------------------------------------------------------------------------


def test_a_welcome_says_how_the_parent_stands_and_what_it_knows(house: House) -> None:
    house.let_in(1, "x", epoch=7)
    welcome = house.hello(2, "x")
    assert welcome == m.Welcome(
        name="root",
        uid="root",
        instance="root-1",
        standing=m.Standing(10, 0),
        connected=True,
        path=[m.PathStep("root", "root")],
        heartbeat_ms=2000,
        dead_after_ms=5000,
        known_epoch=7,
    )
    assert sent(house.ctx, m.Welcome, link=2) == [welcome]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol_versions": [2]}, "PROTOCOL_VERSION"),
        ({"uid": "other"}, "IDENTITY_MISMATCH"),
        ({"name": "other"}, "IDENTITY_MISMATCH"),
    ],
)
def test_a_hello_that_cannot_be_is_refused(house: House, changes: dict[str, object], reason: str) -> None:
    answer = house.hello(1, "x", **changes)
    assert isinstance(answer, m.Refused)
    assert answer.reason == reason
    assert house.closed() == {1: reason}
    assert house.children.next_wake() is None


def test_a_controller_is_not_its_own_child(house: House) -> None:
    house.hello(1, "root")
    assert house.refused(1) == ["IDENTITY_MISMATCH"]


def test_a_uid_does_not_come_with_another_name(house: House) -> None:
    house.let_in(1, "x")
    hello = m.Hello("y", "x", "x-1", 1, None)
    house.children.hello(2, hello, "x", "y")
    assert house.refused(2) == ["IDENTITY_MISMATCH"]


def test_the_evicted_are_refused(house: House) -> None:
    house.registry.evict("x")
    house.hello(1, "x")
    assert house.refused(1) == ["EVICTED"]


def test_a_name_that_is_held_by_another_uid_is_refused_to_newcomers_only(house: House) -> None:
    house.let_in(1, "east")
    newcomer = m.Hello("shop", "u3", "i", 0, None)
    known = m.Hello("shop", "u2", "u2-1", 1, None)
    house.registry.news_from("east", m.News([make_record(uid, "east", name="shop") for uid in ("u1", "u2")]))
    house.children.hello(2, newcomer, "u3", "shop")
    house.children.hello(3, known, "u2", "shop")
    assert house.refused(2) == ["CLUSTER_NAME_TAKEN"]
    assert house.refused(3) == []


def test_while_draining_only_last_resorts_are_taken(house: House) -> None:
    house.children.drain(True)
    house.hello(1, "x")
    assert house.refused(1) == ["DRAINING"]
    welcome = house.hello(2, "x", last_resort=True)
    assert isinstance(welcome, m.Welcome)
    assert welcome.draining


def test_more_than_the_admission_rate_are_told_to_come_later() -> None:
    house = House(admit_per_second=3)
    answers = [house.hello(link, f"x{link}") for link in range(5)]
    refused = [answer for answer in answers if isinstance(answer, m.Refused)]
    assert [answer.reason for answer in refused] == ["BUSY", "BUSY"]
    assert all(300 <= answer.retry_after_ms <= 1500 for answer in refused)
    house.ctx.now += 1
    assert isinstance(house.hello(9, "x9"), m.Welcome)


def test_hello_twice_on_one_stream_ends_it(house: House) -> None:
    house.let_in(1, "x")
    house.hello(1, "x")
    assert house.refused(1) == ["BAD_FRAME"]
    assert house.registry.state("x") == OFFLINE


def test_who_says_hello_on_a_new_stream_has_given_up_the_one_that_waits(house: House) -> None:
    house.hello(1, "x")
    house.hello(2, "x")
    assert house.closed() == {1: "a newer one waits"}
    assert not house.attach(1, "x")
    assert house.attach(2, "x")


def test_a_stream_that_does_not_attach_is_closed(house: House) -> None:
    house.hello(1, "x")
    house.pass_time(9.5)
    assert house.closed() == {}
    house.pass_time(1)
    assert house.closed() == {1: "no attach"}


# --- attach -----------------------------------------------------------------------------------------------------------


def test_the_first_child_hears_attached_after_it_is_on_disk_that_there_are_children(house: House) -> None:
    house.let_in(1, "x")
    kinds = [
        effect
        for effect in house.ctx.effects
        if isinstance(effect, fx.Barrier)
        or (isinstance(effect, fx.Put) and effect.table == "self")
        or (isinstance(effect, fx.Send) and isinstance(effect.item, m.Attached))
    ]
    assert kinds == [fx.Put("self", "self", rec.Self(had_children=True)), fx.Barrier(), fx.Send(1, m.Attached(1))]
    house.clear()
    house.let_in(2, "y")
    assert effects(house.ctx, fx.Barrier) == []
    assert house.registry.next_hop("x") == 1
    assert sorted(house.children.remaining()) == ["x", "y"]
    assert list(house.children.links()) == [1, 2]


@pytest.mark.parametrize(
    "changes",
    [{"uid": "y"}, {"name": "y"}, {"instance": "x-2"}, {"parent_uid": "other"}, {"signature": b"forged"}],
)
def test_an_attachment_that_is_not_the_childs_own_is_refused(house: House, changes: dict[str, Any]) -> None:
    house.hello(1, "x")
    assert not house.attach(1, "x", **changes)
    assert house.refused(1) == ["BAD_ATTACHMENT"]
    assert house.registry.get("x") is None
    assert house.children.heard(1) is None


def test_an_epoch_that_is_not_above_the_known_one_is_superseded(house: House) -> None:
    house.let_in(1, "x", epoch=8)
    house.hello(2, "x")
    assert not house.attach(2, "x", epoch=6)
    assert sent(house.ctx, m.Refused, link=2)[0].epoch == 8
    assert house.refused(2) == ["SUPERSEDED"]
    assert house.registry.next_hop("x") == 1


def test_a_new_stream_of_the_same_process_takes_over_at_once_and_the_old_one_says_goodbye(house: House) -> None:
    house.let_in(1, "x", epoch=1)
    house.let_in(2, "x", epoch=2)
    assert house.registry.next_hop("x") == 2
    assert house.children.heard(1) == "x"
    house.clear()
    house.children.news(1, m.News([make_record("y", "x")]))
    house.children.heartbeat(1, m.Heartbeat(0, m.Digest(1, 1)))
    assert house.registry.get("y") is None
    house.children.goodbye(1, m.Goodbye(1, 2))
    assert sent(house.ctx, m.Drained, link=1) == [m.Drained()]
    assert house.closed() == {1: "drained"}
    assert house.registry.state("x") == ONLINE


def test_of_many_streams_of_one_process_two_are_kept(house: House) -> None:
    for link in (1, 2, 3):
        house.let_in(link, "x", epoch=link)
    assert house.refused(1) == ["REPLACED"]
    assert house.closed() == {1: "REPLACED"}
    assert house.children.remaining() == ["x"]


def test_a_clone_ends_the_one_that_was_there_and_that_one_never_attaches_again(house: House) -> None:
    house.let_in(1, "x", epoch=1, instance="first")
    house.let_in(2, "x", epoch=2, instance="second")
    assert house.refused(1) == ["CLUSTER_CLONED"]
    house.hello(3, "x", instance="first")
    assert house.refused(3) == ["CLUSTER_CLONED"]
    assert house.registry.next_hop("x") == 2


def test_a_digest_that_differs_at_attach_asks_for_a_full_account(house: House) -> None:
    house.hello(1, "x")
    house.children.attach(1, m.Attach(make_record("x", "root"), m.Digest(5, 5)))
    assert sent(house.ctx, m.Resync, link=1) == [m.Resync()]


def test_evictions_that_the_child_does_not_know_are_told(house: House) -> None:
    house.registry.take_evictions([f"u{number:04}" for number in range(501)])
    house.let_in(1, "x")
    assert [len(evictions.uids) for evictions in sent(house.ctx, m.Evictions, link=1)] == [500, 1]
    house.hello(2, "y", evictions_digest=house.registry.evictions_digest())
    house.attach(2, "y")
    assert sent(house.ctx, m.Evictions, link=2) == []


# --- frames out of order ----------------------------------------------------------------------------------------------


def test_before_attach_nothing_else_is_taken(house: House) -> None:
    house.hello(1, "x")
    house.children.unattached(1, m.Heartbeat(0, NOTHING))
    assert house.refused(1) == ["BAD_FRAME"]
    house.clear()
    house.children.unattached(1, m.Heartbeat(0, NOTHING))
    house.children.bad_frame(1, "again")
    assert house.ctx.effects == []


def test_a_candidate_may_take_its_leave_before_attach(house: House) -> None:
    house.hello(1, "x")
    house.children.unattached(1, m.Goodbye(0))
    assert house.closed() == {1: "goodbye"}
    assert house.children.next_wake() is None


def test_attach_reaches_a_stream_that_waits(house: House) -> None:
    house.hello(1, "x")
    house.children.unattached(1, m.Attach(make_record("x", "root"), NOTHING))
    assert house.children.heard(1) == "x"
    assert not house.attach(1, "x", epoch=2)
    assert house.refused(1) == ["BAD_FRAME"]


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_who_leaves_for_another_parent_is_away_and_who_stops_is_offline(house: House) -> None:
    house.let_in(1, "x")
    house.let_in(2, "y")
    house.children.goodbye(1, m.Goodbye(1, 2))
    house.children.goodbye(2, m.Goodbye(1))
    assert [house.registry.state(uid) for uid in "xy"] == [ONLINE, OFFLINE]
    assert house.closed() == {1: "drained", 2: "drained"}
    assert house.children.remaining() == []
    assert house.registry.next_hop("x") is None
    assert house.registry.known_epoch("x") == 2
    house.ctx.now += 2 * house.ctx.settings.heartbeat
    assert house.children.next_wake() == house.ctx.now
    house.children.wake()
    assert [house.registry.state(uid) for uid in "xy"] == [AWAY, OFFLINE]
    assert house.children.next_wake() is None


def test_who_leaves_is_seen_here_until_it_is_seen_where_it_went(house: House) -> None:
    house.let_in(1, "x")
    house.let_in(2, "west")
    house.children.goodbye(1, m.Goodbye(1, 2))
    house.registry.take(make_record("x", "west", 2), via="west")
    assert (house.registry.state("x"), house.registry.via("x")) == (ONLINE, "west")
    house.ctx.now += 2 * house.ctx.settings.heartbeat
    house.children.heard(2)
    house.children.wake()
    assert (house.registry.state("x"), house.registry.via("x")) == (ONLINE, "west")
    assert not house.registry.has_leaving


def test_who_comes_back_while_it_is_waited_for_elsewhere_stays(house: House) -> None:
    house.let_in(1, "x")
    house.children.goodbye(1, m.Goodbye(1, 2))
    house.hello(2, "x")
    assert not house.attach(2, "x", epoch=2)
    house.let_in(3, "x", epoch=3)
    house.ctx.now += 2 * house.ctx.settings.heartbeat
    house.children.heard(3)
    house.children.wake()
    assert house.registry.state("x") == ONLINE


def test_a_lost_link_is_offline_at_once(house: House) -> None:
    house.let_in(1, "x")
    house.hello(2, "y")
    assert house.children.link_lost(1, "reset")
    assert house.children.link_lost(2, "reset")
    assert not house.children.link_lost(1, "reset")
    assert house.registry.state("x") == OFFLINE


def test_an_evicted_child_is_told_and_cut(house: House) -> None:
    house.let_in(1, "x")
    house.registry.evict("x")
    house.children.kick("x", "EVICTED")
    house.children.kick("nobody", "EVICTED")
    assert house.refused(1) == ["EVICTED"]
    assert house.closed() == {1: "EVICTED"}


def test_a_child_that_moves_within_the_subtree_keeps_its_old_stream_until_goodbye(house: House) -> None:
    house.let_in(1, "west")
    house.let_in(2, "x")
    house.clear()
    house.children.news(1, m.News([make_record("x", "west", 2)]))
    assert house.closed() == {}
    house.children.goodbye(2, m.Goodbye(1, 2))
    assert house.registry.next_hop("x") == 1


def test_a_goodbye_on_an_older_stream_does_not_end_the_newer_one(house: House) -> None:
    house.let_in(1, "x")
    house.let_in(2, "x", epoch=2)
    house.children.goodbye(1, m.Goodbye(1, 3))
    assert (house.registry.next_hop("x"), house.registry.state("x")) == (2, ONLINE)
    assert house.children.remaining() == ["x"]


def test_a_child_overtaken_by_a_clone_elsewhere_is_told(house: House) -> None:
    house.let_in(1, "west")
    house.let_in(2, "x")
    house.children.news(1, m.News([make_record("x", "west", 2, instance="clone")]))
    assert house.refused(2) == ["CLUSTER_CLONED"]


def test_two_attachments_of_one_epoch_are_settled_by_a_higher_one(house: House) -> None:
    house.let_in(1, "x", epoch=8)
    house.registry.away(m.Away("x", 8, "elsewhere", "x-2"))
    assert sent(house.ctx, m.Refused, link=1)[0].epoch == 8
    assert house.refused(1) == ["SUPERSEDED"]


def test_a_child_whose_disk_was_set_back_is_told_the_epoch_to_go_above(house: House) -> None:
    house.let_in(1, "x")
    house.registry.away(m.Away("x", 8, "elsewhere"))
    assert sent(house.ctx, m.Refused, link=1)[0].epoch == 8
    assert house.refused(1) == ["SUPERSEDED"]
    welcome = house.hello(2, "x")
    assert isinstance(welcome, m.Welcome)
    assert welcome.known_epoch == 8
    house.registry.away(m.Away("x", 9, "elsewhere"))
