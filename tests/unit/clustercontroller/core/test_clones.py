"""Children that ran twice: when that is taken for seen, how long it is told, and of how many."""

from __future__ import annotations

import pytest

from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.clones import LATELY, MOST_CLONES, Clones
from tests.unit.clustercontroller.core.children_house import House
from tests.unit.clustercontroller.core.registry_tree import make_context, make_record


class Seat:
    """`told` is what the own record says."""

    def __init__(self) -> None:
        self.ctx = make_context("root")
        self.told: tuple[str, ...] = ()
        self.clones = Clones(self.ctx, self._tell)

    def _tell(self, names: tuple[str, ...]) -> None:
        self.told = names


def test_clones_are_told_for_an_hour_after_they_were_seen_last() -> None:
    seat = Seat()
    assert seat.clones.next_wake() is None
    seat.clones.seen("a")
    seat.ctx.now += 10
    seat.clones.seen("b")
    seat.clones.seen("a")
    assert seat.told == ("b", "a")
    seat.ctx.now += LATELY
    assert seat.clones.next_wake() == seat.ctx.now
    seat.clones.wake()
    assert list(seat.told) == []
    assert seat.clones.next_wake() is None


def test_the_latest_are_told_when_there_are_many() -> None:
    seat = Seat()
    for number in range(20):
        seat.clones.seen(f"e{number}")
    assert seat.told == tuple(f"e{number}" for number in range(20 - MOST_CLONES, 20))


@pytest.fixture
def seen() -> list[str]:
    return []


@pytest.fixture
def house(seen: list[str]) -> House:
    house = House()
    house.children.on_clone = seen.append
    return house


def test_who_was_heard_just_now_still_ran_when_the_other_came(house: House, seen: list[str]) -> None:
    house.let_in(1, "x", epoch=1, instance="first")
    house.let_in(2, "x", epoch=2, instance="second")
    assert seen == ["x"]


def test_who_was_silent_may_have_been_started_again(house: House, seen: list[str]) -> None:
    house.let_in(1, "x", epoch=1, instance="first")
    house.pass_time(4.0)
    house.let_in(2, "x", epoch=2, instance="second")
    assert (house.refused(1), seen) == (["CLUSTER_CLONED"], [])


def test_who_comes_back_after_another_took_its_place_runs(house: House, seen: list[str]) -> None:
    house.let_in(1, "x", epoch=1, instance="first")
    house.children.link_lost(1, "closed")
    house.let_in(2, "x", epoch=2, instance="second")
    assert seen == []
    house.hello(3, "x", instance="first")
    assert seen == ["x"]


def test_a_clone_elsewhere_is_seen_too(house: House, seen: list[str]) -> None:
    house.let_in(1, "west")
    house.let_in(2, "x")
    house.children.news(1, m.News([make_record("x", "west", 2, instance="clone")]))
    assert seen == ["x"]
