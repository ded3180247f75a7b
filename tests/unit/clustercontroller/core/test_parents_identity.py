"""Refusals, epochs, restored disks and clones: rule 12 and what a refusal means."""

from __future__ import annotations

import pytest

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core import records
from tests.unit.clustercontroller.core.parents_world import World, at_home

S = m.Standing


def starting(**settings: object) -> World:
    world = World(**settings)  # type: ignore[arg-type]
    world.start()
    world.run(1.0)
    return world


def dials_within(world: World, seconds: float, reason: str) -> list[float]:
    """When E is dialled in the time that follows, if it always answers with this refusal."""
    began = world.now
    times: list[float] = []
    while world.now < began + seconds:
        world.run(min(began + seconds, world.parents.next_wake() or began + seconds))
        if world.dialled("E"):
            times.append(world.now - began)
            world.refuse("E", reason)
    return times


@pytest.mark.parametrize(
    ("reason", "wait", "level"),
    [
        ("EVICTED", 600.0, "error"),
        ("CLUSTER_NAME_TAKEN", 30.0, "error"),
        ("IDENTITY_MISMATCH", 60.0, "error"),
        ("PROTOCOL_VERSION", 60.0, "error"),
        ("NOT_A_PARENT", 60.0, "warning"),
        ("CERTIFICATE_EXPIRED", 5.0, "warning"),
        ("OF_A_NEWER_VERSION", 5.0, "warning"),
        ("BUSY", 1.0, "info"),
    ],
)
def test_a_refusal_is_said_once_and_retried_slowly_for_ever(reason: str, wait: float, level: str) -> None:
    world = starting()
    world.refuse("E", reason)
    times = dials_within(world, 4 * wait + 20.0, reason)
    assert len(times) >= 3
    assert times[0] >= wait
    assert times[0] <= wait + 5.0
    assert world.logs(level).count("refused") == 1


def test_a_candidate_that_says_when_to_come_back_is_passed_over_until_then() -> None:
    world = at_home()
    world.lose("E")
    world.run(1.2)
    world.refuse("E", "BUSY", retry_after_ms=3000)
    asked = world.now
    assert world.dials() == ["E", "W"]
    while not world.dialled("E"):
        world.run(world.parents.next_wake() or 0.0)
        for name in ("W", "R", "s2"):
            if name in world.links and world.dialled(name):
                world.fail(name)
    assert asked + 3.0 <= world.now <= asked + 6.0


def test_why_nobody_took_us_is_known_until_somebody_does() -> None:
    world = starting()
    assert world.parents.refused is None
    world.refuse("E", "BUSY")
    assert world.parents.refused == m.Refused("BUSY", "why")
    world.run(20.0)
    world.fail("E")
    assert world.parents.refused is not None
    assert world.parents.refused.reason == "NO_PARENT"
    while not world.dialled("E"):
        world.run(world.parents.next_wake() or 0.0)
    world.take("E", S(11, 1))
    assert world.parents.refused is None


def test_nobody_can_make_us_wait_longer_than_ten_minutes() -> None:
    world = starting()
    world.refuse("E", "BUSY", retry_after_ms=10**9)
    asked = world.now
    world.run(asked + 599.0)
    assert world.dials() == ["E"]
    world.run(asked + 600.0 + 5.0)
    assert len(world.dials()) > 1


def test_a_parent_that_refuses_what_it_had_taken_is_lost() -> None:
    world = at_home()
    world.refuse("E", "EVICTED")
    assert world.parents.active_link is None
    assert world.logs("error") == ["refused"]
    world.run(1.2)
    assert world.dials() == ["W"]
    world.refuse("W", "EVICTED")
    assert world.logs("error") == ["refused", "refused"]


def test_a_parent_that_refuses_what_has_left_it_disturbs_nothing() -> None:
    world = at_home()
    world.beat("E", S(11, 1), draining=True)
    world.run(1.2)
    world.take("W", S(12, 1))
    world.refuse("E", "DRAINING")
    world.run(2.0)
    assert world.parents.parent is not None
    assert world.parents.parent.name == "W"


def test_an_attach_that_is_refused_makes_room_for_the_next() -> None:
    world = starting()
    world.welcome("E", S(10, 1))
    world.refuse("E", "BAD_ATTACHMENT")
    assert world.parents.active_link is None
    world.run(15.0)
    assert len(world.dials()) > 1


# --- the disk was set back ------------------------------------------------------------------------------------------


def test_a_restored_disk_goes_above_what_the_tree_knows_and_says_so() -> None:
    world = starting(row=records.Self(epoch=5))
    world.welcome("E", S(10, 1), known_epoch=8)
    assert world.calls == [("memory lost",)]
    assert world.attach_sent("E").record.epoch == 9
    world.attach("E")
    assert world.parents.active_link is not None


def test_superseded_lets_a_restored_disk_go_above_at_once() -> None:
    world = starting(row=records.Self(epoch=5))
    world.welcome("E", S(10, 1), known_epoch=5)
    world.refuse("E", "SUPERSEDED", epoch=9)
    assert world.calls == [("memory lost",)]
    assert world.dials() == ["E", "E"]
    assert world.hello("E").epoch == 9
    world.welcome("E", S(10, 1), known_epoch=9)
    assert world.attach_sent("E").record.epoch == 10


def test_memory_is_lost_once() -> None:
    world = starting(row=records.Self(epoch=5))
    world.welcome("E", S(10, 1), known_epoch=8)
    world.refuse("E", "SUPERSEDED", epoch=12)
    world.refuse("E", "SUPERSEDED", epoch=14)
    assert world.calls == [("memory lost",)]
    assert world.dials() == ["E", "E"]
    world.run(4.0)
    assert world.hello("E").epoch == 14


def test_an_epoch_that_cannot_be_is_not_followed() -> None:
    world = starting()
    world.welcome("E", S(10, 1), known_epoch=2**62 + 1)
    assert world.closed("E") == "it tells a standing or an epoch that cannot be"
    world.run(2.0)
    world.welcome("E", S(10, 1))
    world.refuse("E", "SUPERSEDED", epoch=2**62 + 1)
    assert world.calls == []
    world.run(4.0)
    assert world.hello("E").epoch == 1


def test_a_quick_restart_loses_nothing() -> None:
    world = starting(row=records.Self(epoch=5))
    world.take("E", S(10, 1))
    assert ("memory lost",) not in world.calls


# --- clones ---------------------------------------------------------------------------------------------------------


def exits(world: World) -> list[str]:
    return [effect.reason for effect in world.of(fx.Exit)]


def test_superseded_by_a_later_epoch_this_process_loses_its_memory_and_goes_above() -> None:
    world = at_home()
    world.refuse("E", "SUPERSEDED", epoch=7)
    assert exits(world) == []
    assert ("memory lost",) in world.calls
    world.run(1.2)
    world.take("E", S(11, 1))
    assert world.sent("E", m.Attach)[-1].record.epoch == 8


def test_being_told_of_a_clone_ends_this_process() -> None:
    world = starting()
    world.refuse("E", "CLUSTER_CLONED")
    assert exits(world) == ["CLUSTER_CLONED"]
    world.run(60.0)
    assert world.dials() == ["E"]


def test_an_old_parent_that_hears_of_our_own_move_means_no_clone_and_no_loss_of_memory() -> None:
    world = at_home()
    world.beat("E", S(11, 1), draining=True)
    world.run(1.2)
    world.take("W", S(12, 1))
    world.refuse("E", "SUPERSEDED", epoch=world.attach_sent("W").record.epoch)
    assert exits(world) == []
    assert ("memory lost",) not in world.calls
    assert world.parents.parent is not None
    assert world.parents.parent.name == "W"


@pytest.mark.parametrize("attached", [False, True])
def test_another_attachment_of_the_very_epoch_that_was_used_here_means_that_memory_was_lost(attached: bool) -> None:
    world = starting(row=records.Self(epoch=5))
    world.welcome("E", S(10, 1), known_epoch=5)
    if attached:
        world.attach("E")
    world.refuse("E", "SUPERSEDED", epoch=6)
    assert ("memory lost",) in world.calls
    world.run(2.0)
    world.take("E", S(11, 1))
    assert world.attach_sent("E").record.epoch == 7
