"""What children are told while they are attached, what they say, and when they have been silent for too long."""

from __future__ import annotations

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.states import OFFLINE, ONLINE
from tests.unit.clustercontroller.core.children_house import NOTHING, House
from tests.unit.clustercontroller.core.registry_tree import effects, make_record, sent

# --- silence ----------------------------------------------------------------------------------------------------------


def test_a_silent_child_is_offline_after_dead_after_and_not_before(house: House) -> None:
    house.let_in(1, "x")
    house.let_in(2, "y")
    house.pass_time(4.5, 2)
    assert house.registry.state("x") == ONLINE
    house.pass_time(0.5, 2)
    assert [house.registry.state(uid) for uid in "xy"] == [OFFLINE, ONLINE]
    assert house.closed() == {1: "silent"}
    assert house.registry.heard("x") == 1000.0
    house.pass_time(30, 2)
    assert house.registry.state("y") == ONLINE


def test_who_slept_restarts_its_timers_instead_of_giving_all_up(house: House) -> None:
    house.let_in(1, "x")
    house.hello(2, "y")
    house.ctx.now += 60
    house.children.wake()
    assert house.closed() == {}
    house.pass_time(5)
    assert house.closed() == {1: "silent"}


def test_a_child_that_hears_nothing_is_given_up(house: House) -> None:
    house.let_in(1, "x")
    house.children.heartbeat(1, m.Heartbeat(5000, NOTHING))
    assert house.closed() == {1: "the child hears nothing"}
    assert house.registry.state("x") == OFFLINE


def test_without_children_there_is_nothing_to_wake_for(house: House) -> None:
    assert house.children.next_wake() is None
    house.children.wake()
    assert house.ctx.effects == []


# --- heartbeats -------------------------------------------------------------------------------------------------------


def beats(house: House, link: int, count: int, *digests: m.Digest) -> int:
    """How many full accounts are asked for during so many heartbeats with these digests in turn."""
    house.clear()
    for number in range(count):
        house.children.heartbeat(link, m.Heartbeat(0, digests[number % len(digests)]))
    return len(sent(house.ctx, m.Resync, link))


def test_a_digest_that_differs_twice_in_a_row_asks_for_a_full_account(house: House) -> None:
    house.let_in(1, "x")
    assert beats(house, 1, 1, m.Digest(1, 1)) == 0
    assert beats(house, 1, 1, m.Digest(1, 1)) == 1
    assert beats(house, 1, 3, m.Digest(1, 1)) == 0
    assert beats(house, 1, 1, m.Digest(1, 1)) == 1


def test_differences_that_keep_changing_are_borne_for_a_while(house: House) -> None:
    house.let_in(1, "x")
    assert beats(house, 1, 7, m.Digest(1, 1), m.Digest(2, 2)) == 0
    assert beats(house, 1, 1, m.Digest(3, 3)) == 1


def test_an_equal_digest_ends_all_doubt(house: House) -> None:
    house.let_in(1, "x")
    assert beats(house, 1, 20, m.Digest(1, 1), house.registry.whole_digest("x")) == 0


# --- what children are told -------------------------------------------------------------------------------------------


def test_a_new_beat_is_passed_on_at_once_with_the_path_only_when_it_changed(house: House) -> None:
    house.let_in(1, "x")
    house.hello(2, "y")
    house.clear()
    house.children.announce()
    assert house.ctx.effects == []
    house.above.standing = m.Standing(11, 0)
    house.ctx.now += 1
    house.children.announce()
    assert sent(house.ctx, m.Beat, link=1) == [m.Beat(m.Standing(11, 0), 1000, [])]
    assert sent(house.ctx, m.Beat, link=2) == [m.Beat(m.Standing(11, 0), 0, [])]
    house.above.path = [m.PathStep("top", "t"), m.PathStep("root", "root")]
    house.children.announce()
    assert sent(house.ctx, m.Beat, link=1)[-1].path == house.above.path


def test_without_a_new_beat_the_children_hear_something_all_the_same(house: House) -> None:
    house.let_in(1, "x")
    house.clear()
    house.pass_time(10, 1)
    assert len(sent(house.ctx, m.Beat, link=1)) == 4


def test_draining_is_told_at_once(house: House) -> None:
    house.let_in(1, "x")
    house.clear()
    house.children.drain(True)
    assert [beat.draining for beat in sent(house.ctx, m.Beat, link=1)] == [True]
    house.children.drain(False)
    assert [beat.draining for beat in sent(house.ctx, m.Beat, link=1)] == [True, False]


# --- alternates -------------------------------------------------------------------------------------------------------


def test_few_children_are_told_their_candidates_as_soon_as_they_change(house: House) -> None:
    house.let_in(1, "x", advertise="x:1")
    house.heartbeat(1, "x")
    house.pass_time(6, 1)
    house.clear()
    house.let_in(2, "y", advertise="y:1")
    house.let_in(3, "z")
    house.heartbeat(2, "y")
    house.heartbeat(3, "z")
    house.pass_time(0.5, 1, 2, 3)
    assert [lists.siblings for lists in sent(house.ctx, m.Alternates, link=1)] == [[m.Alternate("y", "y", "y:1")]]
    house.clear()
    house.children.news(2, m.News([make_record("y", "root", facts=m.Facts(2, advertise="y:1", draining=True))]))
    house.pass_time(0.5, 1, 2, 3)
    assert [lists.siblings for lists in sent(house.ctx, m.Alternates, link=1)] == [[]]
    assert sent(house.ctx, m.Alternates, link=2) == []
    house.clear()
    house.children.news(1, m.News([make_record("x2", "x")]))
    house.pass_time(20, 1, 2, 3)
    assert sent(house.ctx, m.Alternates) == []


UNCLE, GRANDPARENT = m.Alternate("u", "u", "u:1"), m.Alternate("g", "g", "g:1")


def full_house() -> House:
    """1,000 children, whose lists have settled."""
    house = House(admit_per_second=1e9)
    for number in range(1000):
        house.let_in(number, f"c{number}", advertise=f"c{number}:1")
    house.pass_time(6, *range(1000))
    house.clear()
    return house


def test_many_children_are_told_of_their_siblings_at_most_every_5_s() -> None:
    house = full_house()
    alive = range(1101)
    for number in range(1000, 1100):
        house.let_in(number, f"c{number}", advertise=f"c{number}:1")
    assert len(sent(house.ctx, m.Alternates)) == 100
    house.pass_time(0.5, *alive)
    assert len(sent(house.ctx, m.Alternates)) > 200
    house.clear()
    house.let_in(1100, "c1100", advertise="c1100:1")
    house.clear()
    house.pass_time(4, *alive)
    assert sent(house.ctx, m.Alternates) == []
    house.pass_time(1.5, *alive)
    assert 0 < len(sent(house.ctx, m.Alternates)) < 50


def test_what_comes_from_above_is_passed_down_at_once_however_many_come_and_go() -> None:
    house = full_house()
    house.let_in(1000, "c1000", advertise="c1000:1")
    house.children.wake()
    house.clear()
    house.let_in(1001, "c1001", advertise="c1001:1")
    house.above.alternates = m.Alternates(siblings=[UNCLE], parent=GRANDPARENT)
    house.children.above_changed()
    assert house.children.next_wake() == house.ctx.now
    house.children.wake()
    assert sent(house.ctx, m.Alternates, link=7)[-1].uncles == [UNCLE]
    assert sent(house.ctx, m.Alternates, link=7)[-1].grandparent == GRANDPARENT
    house.clear()
    house.above.alternates = m.Alternates(parent=GRANDPARENT)
    house.children.above_changed()
    assert house.children.next_wake() != house.ctx.now, "a sibling of ours that comes and goes is not told each time"
    house.children.above_changed()
    house.pass_time(5.5, *range(1002))
    assert sent(house.ctx, m.Alternates, link=7)[-1].uncles == []


def test_who_comes_while_news_from_above_waits_is_told_and_so_are_all() -> None:
    house = full_house()
    house.above.alternates = m.Alternates(siblings=[UNCLE])
    house.let_in(1000, "c1000")
    assert sent(house.ctx, m.Alternates, link=1000)[-1].uncles == [UNCLE]
    assert sent(house.ctx, m.Alternates, link=7)[-1].uncles == [UNCLE]


def test_what_the_parent_learns_from_above_is_passed_on(house: House) -> None:
    house.let_in(1, "x")
    house.let_in(2, "y")
    house.heartbeat(1, "x")
    house.pass_time(6, 1, 2)
    house.clear()
    house.above.alternates = m.Alternates(siblings=[UNCLE], parent=GRANDPARENT)
    house.registry.set_own(make_record("root", "", 0, facts=m.Facts(version=2, advertise="root:1")))
    house.children.above_changed()
    house.pass_time(0.5, 1, 2)
    lists = m.Alternates([UNCLE], GRANDPARENT, [], m.Alternate("root", "root", "root:1"))
    assert sent(house.ctx, m.Alternates, link=1) == [lists]


def test_newer_candidates_wait_for_the_disk_as_long_as_the_first_may_do_so(house: House) -> None:
    house.let_in(1, "x")
    house.clear()
    house.let_in(2, "y", advertise="y:1")
    house.clear()
    house.pass_time(0.5, 1, 2)
    told = [type(effect) for effect in house.ctx.effects if isinstance(effect, fx.Barrier | fx.Send)]
    assert told[0] is fx.Barrier
    assert [lists.siblings for lists in sent(house.ctx, m.Alternates, link=1)] == [[m.Alternate("y", "y", "y:1")]]
    house.heartbeat(1, "x")
    house.clear()
    house.let_in(3, "z", advertise="z:1")
    house.clear()
    house.pass_time(0.5, 1, 2, 3)
    [newer] = sent(house.ctx, m.Alternates, link=1)
    before = house.ctx.effects[: house.ctx.effects.index(fx.Send(1, newer))]
    assert fx.Barrier() in before, "the candidates before these may still wait for the disk"
    for _ in range(2):
        for link, uid in ((1, "x"), (2, "y"), (3, "z")):
            house.heartbeat(link, uid)
    house.clear()
    house.let_in(4, "w", advertise="w:1")
    house.clear()
    house.pass_time(0.5, 1, 2, 3, 4)
    assert effects(house.ctx, fx.Barrier) == []
    assert sent(house.ctx, m.Alternates, link=1) != []


def test_news_of_a_child_that_was_evicted_meanwhile_changes_nothing(house: House) -> None:
    house.let_in(1, "x")
    house.registry.evict("x")
    house.pass_time(1, 1)
    house.children.news(1, m.News([make_record("x", "root", facts=m.Facts(version=2, advertise="x:1"))]))
    assert house.registry.get("x") is None
