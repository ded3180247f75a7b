"""Taking a parent, losing it, and finding another: rules 9 to 11."""

from __future__ import annotations

import pytest

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core import records
from ote.clustercontroller.core.context import CoreSettings
from tests.unit.clustercontroller.core.parents_world import (
    ALTERNATES,
    HOME,
    ROOT,
    SIBLING,
    WEST,
    World,
    at_home,
    signed,
)

S = m.Standing


def test_the_first_parent_is_dialled_within_a_moment_and_taken() -> None:
    world = World()
    assert world.parents.next_wake() is None or world.parents.next_wake() == 15.0
    world.start()
    world.run(0.3)
    assert world.dials() == ["E"]
    hello = world.hello("E")
    assert (hello.name, hello.uid, hello.instance, hello.epoch, hello.best) == ("e1", "uid-e1", "instance", 0, None)
    world.welcome("E", S(10, 1))
    assert world.parents.active_link is None
    world.attach("E")
    assert world.parents.active_link == world.links["E"]
    assert world.parents.parent == HOME
    assert world.parents.standing == S(10, 2)
    assert world.parents.depth == 2
    assert world.parents.connected
    assert [step.name for step in world.parents.path] == ["R", "E", "e1"]
    assert world.calls == [("attached", 1, "uid-E", 1), ("standing", S(10, 2))]


def test_the_epoch_is_on_disk_before_the_attach_leaves() -> None:
    world = World(row=records.Self(epoch=4))
    world.start()
    world.run(1.0)
    world.welcome("E", S(10, 1), known_epoch=4)
    kinds = [type(effect) for effect in world.effects if not isinstance(effect, fx.Log)]
    assert kinds == [fx.Dial, fx.Put, fx.Barrier, fx.Send]
    put = world.of(fx.Put)[0]
    assert (put.table, put.key, put.value.epoch) == ("self", "self", 5)
    attach = world.attach_sent("E")
    assert (attach.record.epoch, attach.record.parent_uid, attach.record.up) == (5, "uid-E", True)
    assert attach.record.silent_ms == 0
    assert attach.record.facts == m.Facts(1)
    assert attach.digest == m.Digest(3, 4)
    assert signed(attach.record)
    world.attach("E")
    assert world.parents.attachment == attach.record


def test_a_home_without_a_name_is_known_by_name_once_it_has_answered() -> None:
    world = World(home=m.Alternate("", "", "e:1"))
    world.start()
    world.run(1.0)
    assert world.dials() == ["e:1"]
    world.take("E", S(10, 1))
    assert world.parents.home == HOME


def test_a_cluster_is_away_from_home_until_that_is_its_parent_and_a_root_never() -> None:
    world = World()
    begun = world.now
    world.start()
    world.run(1.0)
    assert world.parents.away_from_home == (begun, "")
    world.take("E", S(10, 1))
    assert world.parents.away_from_home is None
    assert World(home=None).parents.away_from_home is None


def test_a_beat_is_answered_by_a_heartbeat_unless_it_comes_early() -> None:
    world = World()
    world.start()
    world.run(1.0)
    world.welcome("E", S(10, 1), heartbeat_ms=500)
    world.attach("E")
    told = []
    for number in range(1, 9):
        world.run(world.now + 0.2)
        world.beat("E", S(10 + number, 1))
        told.append(len(world.sent("E", m.Heartbeat)))
    assert told == [1, 1, 2, 2, 3, 3, 4, 4]
    assert all(beat.silence_ms == 0 for beat in world.sent("E", m.Heartbeat))


def test_heartbeats_leave_at_the_pace_of_the_parent_also_without_beats() -> None:
    world = World()
    world.start()
    world.run(1.0)
    world.welcome("E", S(10, 1), heartbeat_ms=500)
    world.attach("E")
    world.beat("E", S(11, 1))
    world.run(3.1)
    beats = world.sent("E", m.Heartbeat)
    assert [beat.silence_ms for beat in beats] == [500, 1125, 1750]
    assert beats[0].digest == m.Digest(4, 5)


def test_a_parent_that_does_not_say_its_pace_gets_ours() -> None:
    world = World()
    world.start()
    world.run(1.0)
    world.welcome("E", S(10, 1), heartbeat_ms=0, dead_after_ms=0)
    world.attach("E")
    world.run(5.9)
    assert len(world.sent("E", m.Heartbeat)) == 2
    world.run(6.0)
    assert world.closed("E") == "silent"


def test_the_standing_follows_the_beat_and_children_are_told() -> None:
    world = at_home()
    world.beat("E", S(11, 1))
    world.beat("E", S(11, 1))
    assert world.calls == [("standing", S(11, 2))]
    moved = [m.PathStep("R", "uid-R"), m.PathStep("X", "uid-X"), m.PathStep("E", "uid-E")]
    world.say("E", m.Beat(S(12, 2), 0, moved))
    assert [step.name for step in world.parents.path] == ["R", "X", "E", "e1"]


def test_news_that_are_not_better_than_what_was_told_wait_for_the_next_beat() -> None:
    world = at_home()
    moved = [m.PathStep("R", "uid-R"), m.PathStep("X", "uid-X"), m.PathStep("E", "uid-E")]
    world.say("E", m.Beat(S(10, 2), 0, moved))
    assert world.parents.standing == S(10, 2)
    assert [step.name for step in world.parents.path] == ["R", "E", "e1"]
    world.beat("E", S(11, 2))
    assert world.parents.standing == S(11, 3)
    assert [step.name for step in world.parents.path] == ["R", "X", "E", "e1"]


def test_who_never_told_its_standing_takes_any_news() -> None:
    world = World()
    world.start()
    world.run(1.0)
    world.take("E", S(10, 1))
    world.beat("E", S(9, 4))
    assert world.parents.standing == S(9, 5)


@pytest.mark.parametrize("beyond", [S(2**63 + 1, 1), S(11, 2**16 + 1), S(11, 2**32 - 1)])
def test_a_standing_beyond_reason_is_not_believed(beyond: m.Standing) -> None:
    world = at_home()
    world.beat("E", beyond)
    assert world.parents.standing == S(10, 2)
    world.parents.child_best(beyond)
    world.lose("E")
    world.run(world.now + 0.5)
    world.welcome("E", beyond)
    assert world.closed("E") is not None
    assert world.parents.standing == S(10, 2)
    assert world.hello("E").best == S(10, 2)


# --- losing ---------------------------------------------------------------------------------------------------------


def test_a_reset_link_finds_an_uncle_within_a_second() -> None:
    world = at_home()
    world.run(2.0)
    world.lose("E")
    assert world.calls == [("detached", 1), ("standing", S(10, 2))]
    assert world.parents.active_link is None
    assert not world.parents.connected
    assert [step.name for step in world.parents.path] == ["e1"]
    world.run(2.25)
    assert world.dials() == ["E"]
    world.fail("E")
    assert world.dials() == ["E", "W"]
    world.take("W", S(11, 1))
    assert world.now < 3.0
    assert world.parents.parent == WEST
    assert world.attach_sent("W").record.epoch == 2


def test_two_are_dialled_at_once_and_a_third_when_one_has_failed() -> None:
    world = at_home()
    world.lose("E")
    world.run(1.6)
    assert world.dials() == ["E"]
    world.run(1.7)
    assert world.dials() == ["E", "W"]
    world.run(3.0)
    assert world.dials() == ["E", "W"]
    world.fail("W")
    assert world.dials() == ["E", "W", "R"]
    world.fail("E")
    assert world.dials() == ["E", "W", "R", "s2"]
    world.take("R", S(11, 0))
    assert world.closed("s2") == "another parent was taken"


def test_a_silent_parent_is_given_up_after_dead_after_and_is_not_the_first_choice() -> None:
    world = at_home()
    world.run(5.9)
    assert world.closed("E") is None
    world.run(6.0)
    assert world.closed("E") == "silent"
    world.run(6.7)
    assert world.dials() == ["W", "R"]
    world.take("W", S(11, 1))
    assert world.parents.parent == WEST


def test_any_frame_is_a_sign_of_life() -> None:
    world = at_home()
    for second in range(2, 20, 2):
        world.run(float(second))
        world.do(lambda: world.parents.heard(world.links["E"]))
    assert world.closed("E") is None
    world.do(lambda: world.parents.heard(99))


def test_a_parent_that_does_not_hear_us_is_lost() -> None:
    world = at_home()
    world.beat("E", S(11, 1), silence_ms=4999)
    assert world.parents.active_link is not None
    world.beat("E", S(12, 1), silence_ms=5000)
    assert world.parents.active_link is None
    assert world.closed("E") == "it does not hear this side"
    world.run(1.2)
    assert world.dials() == ["W"]


def test_a_parent_whose_path_leads_through_us_is_lost() -> None:
    world = at_home()
    world.say("E", m.Beat(S(11, 1), 0, [m.PathStep("e1", "uid-e1"), m.PathStep("E", "uid-E")]))
    assert world.parents.active_link is None
    assert world.closed("E") == "its path leads through this cluster"


def test_rounds_back_off_with_full_jitter_and_never_end() -> None:
    world = World()
    world.start()
    waits: list[float] = []
    while world.now < 300:
        before = world.now
        world.run(world.parents.next_wake() or 0.0)
        if world.dialled("E"):
            waits.append(world.now - before)
            world.fail("E")
    assert waits[:6] == pytest.approx([0.125, 0.25, 0.5, 1.0, 2.0, 2.5])
    assert waits[-1] == pytest.approx(2.5)
    assert not world.parents.connected


def test_cold_start_with_home_down_takes_an_alternate_from_disk() -> None:
    world = World(alternates=ALTERNATES, row=records.Self(epoch=3))
    world.start()
    world.run(0.7)
    assert world.dials() == ["E", "W"]
    assert world.parents.alternates == ALTERNATES
    world.take("W", S(11, 1))
    assert world.parents.parent == WEST
    assert world.attach_sent("W").record.epoch == 4


def test_alternates_are_kept_on_disk_when_they_change() -> None:
    world = at_home()
    world.say("E", ALTERNATES)
    assert world.of(fx.Put) == []
    assert ("candidates",) not in world.calls
    other = m.Alternates(uncles=[ROOT])
    world.say("E", other)
    assert world.calls[-1] == ("candidates",)
    assert world.of(fx.Put) == [fx.Put("self", "alternates", records.AlternatesRow(other))]
    assert world.parents.alternates == other


# --- rings ----------------------------------------------------------------------------------------------------------


def test_a_sibling_that_stands_no_better_is_held_until_its_next_beat() -> None:
    world = at_home()
    world.lose("E")
    world.run(1.2)
    for name in ("E", "W", "R"):
        world.fail(name)
    world.welcome("s2", S(10, 2))
    assert world.sent("s2", m.Attach) == []
    world.beat("s2", S(10, 2))
    assert world.sent("s2", m.Attach) == []
    world.beat("s2", S(11, 2))
    world.attach("s2")
    assert world.parents.standing == S(11, 3)


def test_orphans_of_one_parent_never_adopt_each_other() -> None:
    world = at_home(settings=CoreSettings(island_after=3.0))
    world.lose("E")
    world.run(1.2)
    for name in ("E", "W", "R"):
        world.fail(name)
    world.welcome("s2", S(10, 2), connected=False)
    world.run(60.0)
    assert world.of(fx.Send) == []


def test_a_candidate_below_us_is_not_taken() -> None:
    world = at_home()
    world.lose("E")
    world.run(1.2)
    below = [m.PathStep("e1", "uid-e1"), m.PathStep("E", "uid-E")]
    world.welcome("E", S(20, 3), path=below)
    assert world.closed("E") == "its path leads through this cluster"
    world.run(1.3)
    assert world.dials() == ["E", "W"]


def test_a_held_candidate_whose_path_turns_through_us_is_not_taken() -> None:
    world = at_home()
    world.lose("E")
    world.run(1.2)
    world.welcome("E", S(10, 2))
    world.say("E", m.Beat(S(11, 2), 0, [m.PathStep("e1", "uid-e1"), m.PathStep("E", "uid-E")]))
    assert world.sent("E", m.Attach) == []


def test_a_candidate_that_got_worse_before_it_answered_is_not_taken() -> None:
    world = at_home()
    world.lose("E")
    world.run(1.2)
    world.welcome("E", S(11, 1))
    world.beat("E", S(10, 5))
    world.attach("E")
    assert world.parents.active_link is None
    assert world.closed("E") == "it cannot be the parent any more"


def test_an_answer_to_another_epoch_is_not_taken() -> None:
    world = World()
    world.start()
    world.run(1.0)
    world.welcome("E", S(11, 1))
    world.say("E", m.Attached(7))
    assert world.parents.active_link is None


def test_who_forgot_what_it_told_waits_until_a_beat_has_advanced() -> None:
    world = World(row=records.Self(epoch=3, had_children=True))
    world.start()
    world.run(1.0)
    assert world.hello("E").best is None
    world.welcome("E", S(50, 1), known_epoch=3)
    world.beat("E", S(50, 1))
    assert world.sent("E", m.Attach) == []
    world.beat("E", S(51, 1))
    world.attach("E")
    assert world.parents.standing == S(51, 2)
    world.lose("E")
    world.run(world.now + 1.0)
    assert world.hello("E").best == S(51, 2)


def test_the_advance_may_be_seen_over_two_dials() -> None:
    world = World(row=records.Self(epoch=3, had_children=True))
    world.start()
    world.run(1.0)
    world.welcome("E", S(50, 1))
    world.lose("E")
    world.run(3.0)
    world.welcome("E", S(51, 1))
    assert world.sent("E", m.Attach)


def test_who_forgot_what_it_told_takes_a_cut_off_parent_when_its_old_children_must_have_noticed() -> None:
    world = World(row=records.Self(epoch=3, had_children=True))
    world.start()
    world.run(12.0)
    world.welcome("E", S(50, 1), connected=False)
    assert world.sent("E", m.Attach) == []
    world.run(15.0)
    assert world.sent("E", m.Attach)


# --- cut-off candidates ---------------------------------------------------------------------------------------------


def test_a_cut_off_candidate_is_taken_only_after_island_after() -> None:
    world = at_home()
    world.lose("E")
    lost = world.now
    tried: list[float] = []
    while world.parents.active_link is None:
        world.run(world.parents.next_wake() or 0.0)
        for name in ("E", "R", "s2"):
            if world.dialled(name):
                world.fail(name)
        if world.dialled("W"):
            tried.append(world.now)
            world.welcome("W", S(10, 1), connected=False)
        if world.sent("W", m.Attach):
            world.attach("W")
    assert world.now == lost + 15.0
    assert tried[0] < lost + 1.0
    assert not world.parents.connected
    assert world.parents.standing == S(10, 2)


def test_without_alternates_a_cut_off_home_is_taken_at_once() -> None:
    world = World()
    world.start()
    world.run(1.0)
    world.take("E", S(0, 0), connected=False)
    assert world.parents.standing == S(0, 1)
    assert not world.parents.connected
    world.beat("E", S(5, 1))
    assert world.parents.connected
    assert world.parents.standing == S(5, 2)
    assert "connected to the root again" in world.logs("info")


def test_few_are_held_and_connected_ones_rather_than_others() -> None:
    world = at_home()
    world.lose("E")
    world.run(1.7)
    world.welcome("W", S(10, 2), connected=False)
    world.welcome("E", S(10, 2), connected=False)
    world.welcome("R", S(10, 2))
    assert world.closed("W") == "others are waited for"
    assert world.closed("E") is None
    world.beat("E", S(11, 2))
    world.attach("E")
    assert world.parents.parent == HOME
    assert world.closed("R") == "another parent was taken"


def test_when_the_time_of_several_candidates_is_over_at_once_each_is_closed_once() -> None:
    world = at_home()
    world.lose("E")
    world.run(1.7)
    world.welcome("W", S(10, 2))
    world.welcome("E", S(10, 2))
    world.run(2.5)
    world.beat("E", S(11, 2))
    assert len(world.sent("E", m.Attach)) == 1
    for name in ("R", "s2"):
        world.welcome(name, S(10, 2))
    world.ctx.now = 8.0
    world.do(lambda: None)
    closed = [close.link for close in world.of(fx.CloseLink)]
    assert sorted(closed) == sorted(world.links[name] for name in ("W", "E", "R", "s2"))
    assert world.parents.active_link is None


def test_a_held_candidate_is_given_up_after_a_while() -> None:
    world = at_home()
    world.lose("E")
    world.run(1.2)
    world.welcome("E", S(10, 2))
    world.run(6.2)
    assert world.closed("E") == "nothing came of it in time"


def test_a_second_welcome_waits_while_the_first_is_attached_to() -> None:
    world = at_home()
    world.lose("E")
    world.run(1.7)
    world.welcome("W", S(11, 1))
    world.welcome("E", S(11, 1))
    assert world.sent("E", m.Attach) == []
    world.lose("W")
    world.attach("E")
    assert world.parents.parent == HOME


def test_an_attach_without_answer_is_given_up() -> None:
    world = World()
    world.start()
    world.run(1.0)
    world.welcome("E", S(11, 1))
    world.run(5.9)
    assert world.closed("E") is None
    world.run(6.0)
    assert world.closed("E") == "nothing came of it in time"
    world.run(10.0)
    assert world.dialled("E")


def test_links_that_are_not_known_are_closed_or_passed_over() -> None:
    world = at_home()
    world.links["ghost"] = 77
    world.welcome("ghost", S(11, 1))
    assert world.closed("ghost") == "not wanted any more"
    world.fail("ghost")
    world.lose("ghost")
    world.do(lambda: world.parents.dial_refused(77, m.Refused("BUSY", "")))
    for item in (m.Attached(1), m.Drained(), m.Alternates(), m.Refused("BUSY", ""), m.Beat(S(99, 1), 0, [])):
        assert world.say("ghost", item)
        assert world.say("E", item) or not isinstance(item, m.Beat)
        if world.parents.active_link is None:
            break
    assert not world.say("ghost", m.Resync())


def test_a_dial_whose_link_breaks_has_failed() -> None:
    world = at_home()
    world.lose("E")
    world.run(1.2)
    world.lose("E")
    assert world.dials() == ["E", "W"]


def test_a_dial_that_reaches_nobody_does_not_keep_its_place() -> None:
    world = World()
    world.start()
    world.run(2.1)
    assert world.dials() == ["E"]
    world.run(3.0)
    assert world.closed("E") is None
    assert world.dials() == ["E", "E"]
    assert [close.reason for close in world.of(fx.CloseLink)] == ["nothing came of it in time"]
    assert world.parents.refused is not None
    assert world.parents.refused.message == "E at e:1 was not reached: no answer in time"


def test_who_was_reached_and_is_busy_is_given_time_before_anybody_else_is_dialled() -> None:
    world = at_home()
    world.lose("E")
    world.run(1.125)
    world.fail("E")
    world.reach("W")
    world.run(6.0)
    assert world.dials() == ["E", "W"]
    world.run(6.2)
    assert world.dials() == ["E", "W", "R"]
    world.reach("R")
    world.run(11.0)
    assert world.dials() == ["E", "W", "R"]
    world.take("W", S(11, 1))
    assert world.parents.parent == WEST


def test_who_was_reached_and_never_answers_is_given_up() -> None:
    world = at_home()
    world.lose("E")
    world.run(1.125)
    world.reach("E")
    world.run(11.1)
    assert world.dialled("E")
    world.run(11.2)
    assert not world.dialled("E")
    world.do(lambda: world.parents.dial_reached(99))


def test_a_refusal_makes_room_at_once_also_when_another_was_reached() -> None:
    world = at_home()
    world.lose("E")
    world.run(1.125)
    world.reach("E")
    world.refuse("E", "BUSY")
    assert world.dials() == ["E", "W"]


def test_siblings_are_asked_in_the_order_of_a_hash_that_differs_per_child() -> None:
    siblings = [m.Alternate(f"s{n}", f"uid-s{n}", f"s{n}:1") for n in range(4)]
    world = World(alternates=m.Alternates(siblings=[*siblings, SIBLING, m.Alternate("e1", "uid-e1", "e1:1")]))
    world.start()
    while len(world.dials()) < 5:
        world.run(world.parents.next_wake() or 0.0)
        for name in world.dials():
            if world.dialled(name):
                world.fail(name)
    assert world.dials()[0] == "E"
    assert sorted(world.dials()[1:5]) == ["s0", "s1", "s2", "s3"]
    assert "e1" not in world.dials()
