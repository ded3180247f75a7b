"""The beat: made by the root, never going back, and passed up what a child has heard. Rule 9."""

from __future__ import annotations

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core import records
from tests.unit.clustercontroller.core.parents_world import World, at_home

S = m.Standing


def root(beat: int = 0) -> World:
    world = World(home=None, row=records.Self(beat=beat))
    world.start()
    return world


def test_a_root_beats_each_interval_and_is_always_connected() -> None:
    world = root()
    assert world.parents.is_root
    assert world.parents.connected
    assert world.parents.standing == S(1, 0)
    assert world.parents.path == [m.PathStep("e1", "uid-e1")]
    world.run(6.5)
    assert world.parents.standing == S(4, 0)
    assert world.calls == [("standing", S(1, 0)), ("standing", S(2, 0)), ("standing", S(3, 0)), ("standing", S(4, 0))]
    world.do(world.parents.wake)
    assert world.parents.standing == S(4, 0)
    assert world.parents.home is None
    assert world.parents.parent is None
    assert world.parents.attachment is None
    assert not World().parents.is_root


def test_a_root_that_slept_beats_on_without_catching_up() -> None:
    world = root()
    world.ctx.now = 100.0
    world.run(100.0)
    assert world.parents.standing == S(2, 0)
    assert world.parents.next_wake() == 102.0


def test_before_its_start_a_root_wants_nothing() -> None:
    assert World(home=None).parents.next_wake() is None


def test_a_restarted_root_never_goes_back() -> None:
    world = root()
    world.run(3000.0)
    reserved = [put.value.beat for put in world.of(fx.Put)]
    assert reserved == [1025, 1538, 2051]
    assert [type(effect) for effect in world.effects] == [fx.Put, fx.Barrier] * 3
    assert reserved[-1] - world.parents.standing.beat >= 0
    again = root(reserved[-1])
    assert again.parents.standing.beat > world.parents.standing.beat


def test_a_root_jumps_above_what_a_child_has_heard() -> None:
    world = root()
    world.do(lambda: world.parents.child_best(S(5000, 2)))
    assert world.parents.standing == S(5001, 0)
    assert world.calls[-1] == ("standing", S(5001, 0))
    assert world.of(fx.Put)[-1].value.beat >= 5001
    for heard in (S(5001, 1), S(4000, 1), None, S(2**62 + 1, 1)):
        world.do(lambda heard=heard: world.parents.child_best(heard))  # type: ignore[misc]
    assert world.parents.standing == S(5001, 0)
    world.do(lambda: world.parents.child_best(S(5001, 0)))
    assert world.parents.standing == S(5002, 0)


def test_what_a_child_has_heard_is_passed_up_with_the_next_hello() -> None:
    world = at_home()
    world.do(lambda: world.parents.child_best(S(900, 3)))
    world.do(lambda: world.parents.child_best(S(800, 3)))
    world.lose("E")
    world.run(1.2)
    assert world.hello("E").best == S(900, 3)
    world.take("E", S(901, 1))
    world.lose("E")
    world.run(2.0)
    assert world.hello("W").best == S(901, 2)


def test_a_beat_that_stays_below_what_a_child_has_heard_is_reported_on_purpose() -> None:
    world = at_home()
    world.do(lambda: world.parents.child_best(S(900, 3)))
    world.pass_time(9.5, "E", beat=S(11, 1))
    assert world.dials() == []
    world.pass_time(1.0, "E", beat=S(20, 1))
    assert world.dials() == ["E"]
    assert world.hello("E").best == S(900, 3)
    world.welcome("E", S(901, 1))
    world.attach("E")
    assert world.parents.standing == S(901, 2)


def test_a_child_that_is_a_moment_ahead_changes_nothing() -> None:
    world = at_home()
    world.do(lambda: world.parents.child_best(S(11, 1)))
    world.pass_time(20.0, "E", beat=S(11, 1))
    assert world.dials() == []


def test_a_child_that_is_not_ahead_changes_nothing() -> None:
    world = at_home()
    world.do(lambda: world.parents.child_best(S(10, 1)))
    world.pass_time(20.0, "E", beat=S(11, 1))
    assert world.dials() == []


def test_the_hello_says_the_best_of_what_was_told_and_what_was_heard() -> None:
    world = World(row=records.Self(had_children=True))
    world.start()
    world.do(lambda: world.parents.child_best(S(7, 1)))
    world.run(1.0)
    assert world.hello("E").best == S(7, 1)


def test_standings_compare_by_beat_and_then_by_nearness() -> None:
    assert S(2, 9).better(S(1, 0))
    assert S(2, 1).better(S(2, 2))
    assert not S(2, 2).better(S(2, 2))
