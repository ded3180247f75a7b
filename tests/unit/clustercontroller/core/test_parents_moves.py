"""Leaving a parent that lives: drain, cut off, the way home, renewal, stop, and who was asleep. Rules 10 to 13."""

from __future__ import annotations

import pytest

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core import records
from ote.clustercontroller.core.context import CoreSettings
from tests.unit.clustercontroller.core.parents_world import ALTERNATES, HOME, ROOT, WEST, World, at_home

S = m.Standing


def away(**settings: object) -> World:
    """e1 under W since 2.25 s, with home E lost at 2 s."""
    world = at_home(**settings)
    world.run(2.0)
    world.lose("E")
    world.run(2.25)
    world.fail("E")
    world.take("W", S(11, 1))
    world.forget()
    return world


# --- draining -------------------------------------------------------------------------------------------------------


def test_a_draining_parent_is_left_make_before_break() -> None:
    world = at_home()
    world.beat("E", S(11, 1), draining=True)
    world.run(1.125)
    assert world.dials() == ["W"]
    world.welcome("W", S(12, 1))
    assert world.parents.parent == HOME
    world.attach("W")
    assert world.parents.parent == WEST
    assert world.sent("E", m.Goodbye) == [m.Goodbye(1, 2)]
    assert ("detached", 1) not in world.calls
    world.run(2.0)
    world.say("E", m.Drained())
    assert world.closed("E") == "drained"


def test_who_is_not_drained_in_time_is_closed() -> None:
    world = at_home()
    world.beat("E", S(11, 1), draining=True)
    world.run(1.2)
    world.take("W", S(12, 1))
    world.pass_time(4.9, "W", beat=S(13, 1))
    assert world.closed("E") is None
    world.pass_time(0.5, "W")
    assert world.closed("E") == "not drained in time"


def test_the_end_of_the_old_link_disturbs_nothing() -> None:
    world = at_home()
    world.beat("E", S(11, 1), draining=True)
    world.run(1.2)
    world.take("W", S(12, 1))
    old = world.links["E"]
    world.lose("E")
    assert world.parents.parent == WEST
    assert old not in [close.link for close in world.of(fx.CloseLink)]


def test_draining_parents_do_not_pass_children_to_and_fro() -> None:
    world = at_home()
    world.beat("E", S(11, 1), draining=True)
    world.run(1.2)
    world.welcome("W", S(12, 1), draining=True)
    assert world.closed("W") == "not wanted as it stands"
    assert world.dials() == ["W", "R"]
    world.refuse("R", "DRAINING")
    world.fail("s2")
    world.forget()
    world.pass_time(20.0, "E", beat=S(13, 1))
    assert set(world.dials()) == {"s2"}
    assert world.parents.parent == HOME


def test_a_drain_that_is_called_off_ends_the_search() -> None:
    world = at_home()
    world.beat("E", S(11, 1), draining=True)
    world.run(1.2)
    assert world.dialled("W")
    world.beat("E", S(12, 1))
    assert world.closed("W") == "the present parent will do"
    world.forget()
    world.pass_time(30.0, "E", beat=S(13, 1))
    assert world.of(fx.Dial) == []


def test_a_draining_parent_is_the_last_resort_of_an_orphan() -> None:
    world = at_home()
    world.lose("E")
    world.run(1.2)
    for name in ("E", "W", "R", "s2"):
        world.refuse(name, "DRAINING")
        assert not world.hello(name).last_resort
    world.run(1.5)
    assert world.hello("E").last_resort
    world.welcome("E", S(12, 1), draining=True)
    world.attach("E")
    assert world.parents.parent == HOME


def test_who_said_that_it_drains_is_asked_again_after_a_while() -> None:
    world = at_home()
    world.beat("E", S(11, 1), draining=True)
    world.run(1.2)
    world.refuse("W", "DRAINING")
    world.fail("R")
    world.fail("s2")
    world.beat("E", S(12, 1))
    world.forget()
    world.pass_time(31.0, "E", beat=S(13, 1))
    world.beat("E", S(50, 1), draining=True)
    world.run(world.now + 0.3)
    assert world.dials()[0] == "W"


# --- cut off --------------------------------------------------------------------------------------------------------


def test_a_cut_off_parent_is_kept_for_a_while_and_then_left_for_a_connected_one() -> None:
    world = at_home()
    world.pass_time(4.5, "E")
    assert world.parents.connected
    world.pass_time(1.0, "E")
    assert not world.parents.connected
    assert "cut off from the root" in world.logs("warning")
    world.pass_time(29.0, "E")
    assert world.dials() == []
    world.pass_time(1.0, "E")
    assert world.dials()[0] == "W"
    world.welcome("W", S(20, 1), connected=False)
    assert world.closed("W") == "not wanted as it stands"
    world.welcome("R", S(30, 0))
    world.attach("R")
    assert world.parents.parent == ROOT
    assert world.parents.connected


def test_never_leaving_a_cut_off_parent_can_be_chosen() -> None:
    world = at_home(settings=CoreSettings(leave_cut_off_after=None))
    world.pass_time(120.0, "E")
    assert world.dials() == []
    assert not world.parents.connected


def test_a_beat_ends_the_search_of_the_cut_off() -> None:
    world = at_home()
    world.pass_time(35.5, "E")
    assert world.dialled("W")
    world.beat("E", S(30, 1))
    assert world.parents.connected
    assert world.closed("W") == "the present parent will do"


def test_the_search_beside_a_parent_is_slow() -> None:
    world = at_home()
    world.pass_time(35.0, "E")
    for _ in range(600):
        world.pass_time(0.5, "E")
        for name in ("W", "R", "s2"):
            if name in world.links and world.dialled(name):
                world.fail(name)
    rounds = world.dials().count("W")
    assert 8 < rounds < 20


# --- the way home ---------------------------------------------------------------------------------------------------


def test_home_is_probed_and_taken_back_within_ten_seconds_of_its_return() -> None:
    world = away()
    world.pass_time(8.0, "W", beat=S(12, 1))
    assert [probe.candidate for probe in world.of(fx.Probe)] == [HOME, HOME]
    world.do(lambda: world.parents.probe_failed(ev.ProbeFailed(HOME, "refused")))
    assert world.dials() == []
    world.probe()
    assert world.dials() == ["E"]
    world.welcome("E", S(world.parents.standing.beat, 1))
    world.attach("E")
    assert world.parents.parent == HOME
    assert world.sent("W", m.Goodbye) == [m.Goodbye(2, 3)]
    world.forget()
    world.pass_time(20.0, "E", beat=S(100, 1))
    assert world.of(fx.Probe) == []


def test_home_that_hears_the_beat_later_than_we_do_is_taken_back_all_the_same() -> None:
    """Under the grandparent a controller stands as high as its home: it lets home's next beat come first."""
    world = at_home()
    world.run(2.0)
    world.lose("E")
    world.run(2.25)
    world.fail("E")
    world.fail("W")
    world.take("R", S(11, 0))
    assert world.parents.standing == S(11, 1)
    world.pass_time(4.0, "R", beat=S(12, 0))
    beat = world.parents.standing.beat
    world.probe()
    world.welcome("E", S(beat, 1))
    world.beat("R", S(beat + 1, 0))
    assert world.parents.standing == S(beat, 1)
    assert world.parents.connected
    world.beat("E", S(beat + 1, 1))
    world.beat("R", S(beat + 2, 0))
    world.attach("E")
    assert world.parents.parent == HOME
    assert world.parents.standing == S(beat + 1, 2)


def test_home_that_never_gets_better_is_not_waited_for_for_ever() -> None:
    world = away()
    world.pass_time(4.0, "W", beat=S(12, 1))
    beat = world.parents.standing.beat
    world.probe()
    world.welcome("E", S(beat - 5, 1))
    world.pass_time(4.5, "W", beat=S(beat + 1, 1))
    assert world.closed("E") == "nothing came of it in time"
    world.beat("W", S(beat + 3, 1))
    assert world.parents.standing == S(beat + 3, 2)
    world.probe()
    assert world.dials() == ["E"]
    world.pass_time(10.0, "W", beat=S(beat + 4, 1))
    world.probe()
    assert world.dials() == ["E", "E"]


def test_a_candidate_other_than_home_that_never_gets_better_has_to_wait_too() -> None:
    world = at_home()
    world.beat("E", S(11, 1), draining=True)
    world.run(1.2)
    world.welcome("W", S(5, 1))
    world.fail("R")
    world.fail("s2")
    for step in range(9):
        world.beat("E", S(12 + step, 1), draining=True)
        world.pass_time(0.5, "E")
        if world.dialled("R"):
            world.fail("R")
            world.fail("s2")
    assert world.closed("W") == "nothing came of it in time"
    world.beat("E", S(40, 1), draining=True)
    assert world.parents.standing == S(40, 2)


def test_home_is_taken_back_only_if_it_is_connected_or_nobody_is() -> None:
    world = away()
    world.probe(connected=False)
    world.probe(draining=True)
    assert world.dials() == []
    world.pass_time(6.0, "W")
    assert not world.parents.connected
    world.probe(connected=False)
    assert world.dials() == ["E"]
    world.welcome("E", S(11, 1), connected=False)
    world.attach("E")
    assert world.parents.parent == HOME


def test_home_that_says_otherwise_than_its_probe_is_not_taken() -> None:
    world = away()
    world.probe()
    world.welcome("E", S(11, 1), connected=False)
    assert world.closed("E") == "not wanted as it stands"
    world.probe()
    world.welcome("E", S(11, 1), draining=True)
    assert world.parents.parent == WEST


def test_home_is_not_asked_twice_at_once() -> None:
    world = away()
    world.probe()
    world.probe()
    assert world.dials() == ["E"]
    world.reach("E")
    world.pass_time(4.5, "W", beat=S(12, 1))
    assert world.of(fx.Probe) == []


def test_a_probe_answer_at_home_or_of_somebody_else_means_nothing() -> None:
    world = at_home()
    world.do(lambda: world.parents.probe_answered(ev.ProbeAnswered(WEST, S(50, 1), True, False)))
    world.lose("E")
    world.probe()
    assert world.of(fx.Dial) == []
    root = World(home=None)
    root.probe()
    assert root.of(fx.Dial) == []


def test_returns_that_do_not_last_double_the_wait() -> None:
    world = away()
    waits: list[float] = []
    for _ in range(4):
        began = world.now
        while world.dials() == []:
            world.pass_time(2.0, "W", beat=S(world.parents.standing.beat, 1))
            world.probe()
        waits.append(world.now - began)
        beat = world.parents.standing.beat
        world.welcome("E", S(beat + 1, 1))
        world.attach("E")
        world.lose("E")
        world.run(world.now + 0.2)
        assert world.dials()[-1] == "W"
        world.take("W", S(beat + 2, 1))
        world.forget()
    assert waits == pytest.approx([2.0, 10.0, 20.0, 40.0], abs=2.0)


def test_who_loses_its_second_parent_tries_home_first() -> None:
    world = away()
    world.lose("W")
    world.run(world.now + 0.2)
    assert world.dials() == ["E"]


def test_a_return_that_lasted_is_forgiven() -> None:
    world = away()
    for lasts in (5.0, 61.0, 0.0):
        world.pass_time(11.0, "W", beat=S(world.parents.standing.beat + 1, 1))
        world.probe()
        beat = world.parents.standing.beat
        world.welcome("E", S(beat + 1, 1))
        world.attach("E")
        world.pass_time(lasts, "E", beat=S(beat + 2, 1))
        world.lose("E")
        world.run(world.now + 0.5)
        world.take("W", S(world.parents.standing.beat + 1, 1))
    world.pass_time(9.0, "W", beat=S(world.parents.standing.beat + 1, 1))
    world.forget()
    world.probe()
    assert world.dials() == []
    world.pass_time(1.5, "W")
    world.probe()
    assert world.dials() == ["E"]


# --- attaching anew -------------------------------------------------------------------------------------------------


def test_renewing_attaches_to_the_same_parent_without_a_gap() -> None:
    world = at_home()
    old = world.links["E"]
    world.do(world.parents.reattach)
    world.do(world.parents.reattach)
    assert world.dials() == ["E"]
    world.welcome("E", S(10, 1))
    new = world.links["E"]
    world.do(lambda: world.parents.item(old, m.Refused("REPLACED", "a newer stream")))
    world.do(lambda: world.parents.link_lost(old, "closed"))
    assert world.parents.active_link == old
    world.attach("E")
    assert world.parents.active_link == new
    assert not any(call[0] == "detached" for call in world.calls)
    world.run(1.5)
    world.do(world.parents.reattach)
    assert world.dials() == ["E", "E"]


def test_a_renewal_that_comes_to_nothing_is_a_loss() -> None:
    world = at_home()
    old = world.links["E"]
    world.do(world.parents.reattach)
    world.welcome("E", S(11, 1))
    world.do(lambda: world.parents.link_lost(old, "closed"))
    world.lose("E")
    assert world.parents.active_link is None
    world.run(1.2)
    assert world.dials() == ["E", "E"]


def test_without_a_parent_there_is_nothing_to_renew() -> None:
    world = World()
    world.do(world.parents.reattach)
    assert world.dials() == []


def test_an_attach_that_came_to_nothing_is_followed_by_one_to_the_present_parent() -> None:
    """The tree may have heard of the epoch in between and take the present link for an old one."""
    world = at_home()
    world.beat("E", S(11, 1), draining=True)
    world.run(1.2)
    world.welcome("W", S(12, 1))
    world.lose("W")
    assert world.dials() == ["W", "E", "R"]
    world.welcome("E", S(11, 1), draining=True)
    assert world.attach_sent("E").record.epoch == 3
    world.attach("E")
    assert world.parents.parent == HOME


# --- stopping ourselves ---------------------------------------------------------------------------------------------


def test_stopping_says_goodbye_and_dials_nobody() -> None:
    world = at_home()
    world.beat("E", S(11, 1), draining=True)
    world.run(1.2)
    assert not world.parents.stopped
    world.do(world.parents.stop)
    assert world.sent("E", m.Goodbye) == [m.Goodbye(1, 0)]
    assert world.closed("W") == "stopping"
    assert world.parents.active_link is None
    assert not world.parents.stopped
    world.do(world.parents.reattach)
    world.forget()
    world.run(6.2)
    assert world.closed("E") == "not drained in time"
    assert world.of(fx.Dial) == []
    assert world.parents.stopped
    assert world.parents.next_wake() is None


def test_stopping_without_a_parent_is_done_at_once() -> None:
    world = World()
    world.start()
    world.do(world.parents.stop)
    assert world.parents.stopped
    world.run(60.0)
    assert world.of(fx.Dial) == []


# --- asleep ---------------------------------------------------------------------------------------------------------


def test_who_slept_restarts_its_timers_and_reads_first() -> None:
    world = at_home()
    world.pass_time(2.0, "E")
    world.ctx.now += 60.0
    world.beat("E", S(11, 1), silence_ms=58_000)
    assert world.parents.active_link is not None
    assert world.parents.connected
    assert "woke late" in world.logs("warning")
    assert len(world.sent("E", m.Heartbeat)) == 2
    world.pass_time(4.0, "E")
    world.beat("E", S(12, 1), silence_ms=6_000)
    world.pass_time(1.0, "E")
    world.beat("E", S(13, 1), silence_ms=6_000)
    assert world.parents.active_link is None


def test_who_slept_beside_a_dead_parent_still_finds_out() -> None:
    world = at_home()
    world.run(2.9)
    world.ctx.now += 60.0
    world.run(world.now)
    assert world.closed("E") is None
    world.run(world.now + 5.0)
    assert world.closed("E") == "silent"


def test_who_slept_without_a_parent_goes_on() -> None:
    world = World()
    world.start()
    world.ctx.now += 60.0
    world.run(world.now)
    assert world.dials() == ["E"]
    world.fail("E")
    assert world.parents.next_wake() is not None


def test_the_alternates_of_a_parent_that_is_being_left_are_not_taken() -> None:
    world = at_home()
    world.beat("E", S(11, 1), draining=True)
    world.run(1.2)
    world.take("W", S(12, 1))
    assert world.say("E", m.Alternates(uncles=[]))
    assert world.parents.alternates == ALTERNATES
    assert records.AlternatesRow(m.Alternates()) not in [put.value for put in world.of(fx.Put)]
