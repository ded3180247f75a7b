"""Sums of what clusters have and use: what is in them, when they are told, and who may break them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.load import Load, add_up, not_ready
from ote.clustercontroller.core.registry import Registry
from tests.unit.clustercontroller.core.registry_tree import make_context, make_record

ONE = m.Totals(
    clusters=1,
    clusters_ready=1,
    capacity=m.Resources(4000, 8, 100, 110),
    usage=m.Resources(500, 2, 10, 3),
    nodes=2,
    nodes_ready=1,
    workloads={"Deployment": 2},
    pods_running=3,
)


class Seat:
    """The root with the children "a" and "b"; `told` is what was published."""

    def __init__(self) -> None:
        self.ctx = make_context("root")
        self.registry = Registry(self.ctx)
        self.told: list[tuple[bytes, m.Totals]] = []
        self.load = Load(self.ctx, self.registry, lambda status, totals: self.told.append((status, totals)))
        self.registry.on_load_changed = self.load.changed
        for link, uid in enumerate("ab", 1):
            self.registry.take(make_record(uid, "root"))
            self.registry.link_up(uid, link)

    def say(self, uid: str, version: int, totals: m.Totals) -> None:
        self.registry.take(make_record(uid, "root", facts=None, status=m.Status(version, b"s", totals)), via=uid)

    def pass_time(self, seconds: float) -> None:
        until = self.ctx.now + seconds
        while (due := self.load.next_wake()) is not None and due <= until:
            self.ctx.now = max(self.ctx.now, due)
            self.load.wake()
        self.ctx.now = until


@pytest.fixture
def seat() -> Seat:
    return Seat()


def test_the_sums_are_of_this_cluster_and_the_children_that_can_be_reached(seat: Seat) -> None:
    seat.load.shim_status(ev.ShimStatus(b"own", ONE))
    seat.say("a", 1, ONE)
    seat.say("b", 1, replace(ONE, clusters=10, workloads={"Job": 1}))
    totals = seat.load.totals()
    assert (totals.clusters, totals.nodes, totals.workloads) == (12, 6, {"Deployment": 4, "Job": 1})
    assert (totals.capacity, totals.usage) == (m.Resources(12000, 24, 300, 330), m.Resources(1500, 6, 30, 9))
    seat.registry.link_down("b", 2, 1)
    assert seat.load.totals().clusters == 2
    assert seat.load.details("b") is not None


def test_details_of_this_cluster_are_as_of_its_shim_and_the_sums_as_of_now(seat: Seat) -> None:
    nothing = seat.load.details("root")
    assert nothing is not None
    assert (nothing.status, nothing.at) == (m.Status(0, b"", m.Totals()), seat.ctx.now)
    seat.load.shim_status(ev.ShimStatus(b"own", ONE))
    said_at = seat.ctx.now
    seat.pass_time(50.0)
    seat.say("a", 1, ONE)
    own = seat.load.details("root")
    assert own is not None
    assert (own.status.cluster_status, own.status.totals.clusters, own.at) == (b"own", 2, said_at)


def test_they_are_told_when_they_changed_and_at_most_every_30_seconds(seat: Seat) -> None:
    seat.pass_time(5.0)
    assert seat.told == []
    for version in range(1, 101):
        seat.say("a", version, replace(ONE, pods_running=version))
        seat.pass_time(0.6)
    assert [totals.pods_running for _, totals in seat.told] == [1, 51]
    seat.pass_time(100.0)
    assert [totals.pods_running for _, totals in seat.told] == [1, 51, 100]
    assert seat.load.next_wake() is None


def test_what_moves_and_changes_nothing_is_looked_at_once_a_second_and_not_told(seat: Seat) -> None:
    seat.pass_time(5.0)
    for _ in range(10):
        seat.load.changed()
        seat.load.wake()
        due = seat.load.next_wake()
        assert due is None
        seat.load.changed()
        assert seat.load.next_wake() == seat.ctx.now + 1.0
    assert seat.told == []


def test_some_of_those_that_do_not_do_well_are_named(seat: Seat) -> None:
    seat.load.shim_status(ev.ShimStatus(b"own", replace(ONE, pods_failing=1)))
    seat.say("a", 1, replace(ONE, clusters=9, clusters_ready=2, unwell=[f"e{n}" for n in range(5)]))
    seat.pass_time(1.0)
    since = seat.load.unwell_since
    totals = seat.load.totals()
    assert totals.unwell == ["root", "e0", "e1", "e2", "e3"]
    seat.pass_time(60.0)
    assert seat.load.unwell_since == since
    seat.load.shim_status(ev.ShimStatus(b"own", ONE))
    seat.say("a", 2, ONE)
    seat.pass_time(60.0)
    seat.say("a", 3, replace(ONE, clusters_ready=0, unwell=["a"]))
    seat.pass_time(60.0)
    assert seat.load.unwell_since > since + 60


def test_no_claim_makes_sums_that_cannot_be_told() -> None:
    huge = m.Totals(
        clusters=2**64 - 1, capacity=m.Resources(2**64 - 1, 2**64 - 1, 2**64 - 1, 2**32 - 1), pods_failing=2**64 - 1
    )
    wild = replace(huge, workloads={f"Kind{n}": 2**64 - 1 for n in range(200)}, unwell=["x"] * 200)
    total = add_up([wild, wild])
    assert max(total.clusters, total.pods_failing, *total.capacity, *total.workloads.values()) <= 2**53
    assert total.capacity.pods <= 2**32 - 1
    assert (len(total.workloads), len(total.unwell)) == (65, 5)
    assert "other" in total.workloads


def test_another_number_of_clusters_is_told_within_two_seconds(seat: Seat) -> None:
    seat.say("a", 1, ONE)
    seat.pass_time(1.0)
    seat.say("b", 1, ONE)
    seat.pass_time(2.0)
    assert [totals.clusters for _, totals in seat.told] == [1, 2]
    seat.say("b", 2, replace(ONE, clusters=3))
    seat.pass_time(2.0)
    seat.registry.link_down("a", 2, 1)
    seat.pass_time(2.0)
    seat.load.shim_status(ev.ShimStatus(b"own", ONE))
    seat.pass_time(2.0)
    assert [totals.clusters for _, totals in seat.told] == [1, 2, 4, 3, 4]


def test_what_changes_but_not_the_number_of_clusters_waits_for_its_time(seat: Seat) -> None:
    seat.say("a", 1, ONE)
    seat.pass_time(5.0)
    seat.say("a", 2, replace(ONE, pods_running=9))
    seat.load.changed(clusters=True)
    seat.pass_time(20.0)
    assert [totals.pods_running for _, totals in seat.told] == [3]
    seat.pass_time(10.0)
    assert [totals.pods_running for _, totals in seat.told] == [3, 9]


def test_a_silent_shim_is_not_ready_and_not_unwell(seat: Seat) -> None:
    seat.load.shim_status(ev.ShimStatus(b"own", replace(ONE, clusters_ready=0, clusters_silent=1)))
    seat.say("a", 1, replace(ONE, clusters=3, clusters_ready=1, clusters_silent=1, unwell=["x"]))
    totals = seat.load.totals()
    assert (totals.clusters, totals.clusters_ready, totals.clusters_silent) == (4, 1, 2)
    assert (totals.unwell, not_ready(totals)) == (["x"], 1)
