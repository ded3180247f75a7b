"""What an origin does with what was turned back on its way, in virtual time."""

from __future__ import annotations

import tracemalloc

import pytest

from ote.clustercontroller.core import messages as m
from tests.unit.clustercontroller.core.dispatch_ends import E1, OriginEnd, online


def test_what_was_turned_back_counts_as_not_sent_and_is_tried_again() -> None:
    end = OriginEnd(online(E1))
    end.turn_back.add(E1)
    end.submit("d1", E1)
    assert (end.state("d1"), end.reason("d1")) == ("QUEUED", "NO_ROUTE")
    end.turn_back.clear()
    end.take()
    end.pass_time(3.0)
    assert end.take() == [("deliver", "d1", [(E1, 1, 0, 2)])]
    assert end.state("d1") == "SENT"


def test_what_was_turned_back_while_it_was_accepted_is_known_as_sent_once_it_is_even_after_a_restart() -> None:
    end = OriginEnd(online(E1))
    end.turn_back.add(E1)
    for name in ("d1", "d2"):
        end.submit(name, E1, ttl=10.0)
    end.turn_back.clear()
    end.take()
    end.pass_time(3.0)
    assert [sent[1] for sent in end.take()] == ["d1", "d2"]
    end.crash()
    end.clusters.up.clear()
    end.pass_time(20.0)
    assert (end.state("d1"), end.state("d2")) == ("SENT", "SENT")


@pytest.mark.parametrize("kind", [m.RECEIVED, m.PROGRESS])
def test_what_has_been_heard_of_is_never_taken_back_though_every_attempt_is_turned_back(kind: str) -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1, ttl=30.0)
    end.paths(E1)
    end.report("d1", E1, kind)
    end.clusters.up.clear()
    for attempt in (1, 2):
        end.report("d1", E1, m.NO_ROUTE, attempt=attempt)
    end.cancel("d1")
    end.pass_time(60.0)
    assert end.state("d1") in ("SENT", "RUNNING")


def test_only_the_attempt_that_is_named_is_taken_back() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.paths(E1)
    end.report("d1", E1, m.NO_ROUTE, attempt=2)
    end.report("d1", E1, m.NO_ROUTE, attempt=2)
    end.report("d1", E1, m.NO_ROUTE, attempt=0)
    assert end.state("d1") == "SENT"
    end.report("d1", E1, m.NO_ROUTE, attempt=1)
    assert end.state("d1") == "QUEUED"
    end.cancel("d1")
    assert end.state("d1") == "CANCELLED"


def test_an_attempt_that_there_never_was_is_not_even_counted() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    tracemalloc.start()
    end.report("d1", E1, m.BUSY, attempt=2**32 - 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert end.state("d1") == "SENT"
    assert peak < 1_000_000


def test_nobody_is_busy_for_longer_than_a_minute() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.take()
    end.report("d1", E1, m.BUSY, attempt=1, retry_after_ms=2**32 - 1)
    assert end.state("d1") == "QUEUED"
    end.pass_time(80.0)
    assert end.take()[:1] == [("deliver", "d1", [(E1, 1, 0, 2)])]


def test_a_report_that_no_target_makes_changes_nothing() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.report("d1", E1, m.RESULT, incarnation=2**64 - 1, state="FAILED")
    end.report("d1", E1, m.RESULT, journal_id="j" * 1000, state="FAILED")
    end.report("d" * 1000, E1, m.RESULT, state="FAILED")
    end.report("d1", E1, m.PROGRESS, body=bytes(1_000_000))
    end.take()
    end.pass_time(1.0)
    assert end.take() == []
    dispatch = end.origin.dispatch("d1")
    assert dispatch is not None
    assert (dispatch.targets[E1].row.body, dispatch.targets[E1].row.incarnation) == (b"", 1)
    end.submit("d2", E1)
    assert end.take() == [("deliver", "d2", [(E1, 2, 1, 1)])]


def test_what_a_later_change_waits_for_is_not_taken_back_before_that_one() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.submit("d2", E1)
    end.report("d1", E1, m.BUSY, attempt=1, retry_after_ms=200)
    assert end.state("d1") == "SENT"
    end.take()
    end.pass_time(0.3)
    assert end.take() == [("deliver", "d1", [(E1, 1, 0, 2)])]
    end.report("d1", E1, m.BUSY, attempt=2, retry_after_ms=200)
    end.report("d1", E1, m.NO_ROUTE, attempt=1)
    end.report("d2", E1, m.BUSY, attempt=1, retry_after_ms=200)
    assert (end.state("d1"), end.state("d2"), end.reason("d2")) == ("QUEUED", "QUEUED", "BUSY")
    end.submit("d3", E1)
    assert end.state("d3") == "PENDING"
    end.pass_time(0.3)
    assert end.take() == [
        ("deliver", "d1", [(E1, 1, 0, 3)]),
        ("deliver", "d2", [(E1, 2, 1, 2)]),
        ("deliver", "d3", [(E1, 3, 2, 1)]),
    ]


def test_a_change_that_ended_unsent_leaves_the_chain() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.submit("d2", E1)
    end.report("d2", E1, m.NO_ROUTE, attempt=1)
    end.cancel("d2")
    end.take()
    end.submit("d3", E1)
    assert end.take() == [("deliver", "d3", [(E1, 3, 1, 1)])]


def test_nothing_comes_after_a_change_that_ended_unsent_even_after_a_restart() -> None:
    end = OriginEnd(online(E1))
    for name in ("d1", "d2", "d3"):
        end.submit(name, E1)
    end.clusters.up.clear()
    for name in ("d2", "d3"):
        end.report(name, E1, m.NO_ROUTE, attempt=1)
    end.cancel("d2")
    end.crash()
    end.clusters.up.add(E1)
    end.take()
    end.paths(E1)
    assert end.take() == [("deliver", "d1", [(E1, 1, 0, 2)]), ("deliver", "d3", [(E1, 3, 1, 2)])]


@pytest.mark.parametrize(("ttl", "state"), [(0.0, "UNREACHABLE"), (3600.0, "QUEUED")])
def test_turned_back_without_time_to_live_is_unreachable(ttl: float, state: str) -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1, ttl=ttl)
    end.clusters.up.clear()
    end.report("d1", E1, m.NO_ROUTE, attempt=1)
    assert end.state("d1") == state


@pytest.mark.parametrize("command", ["apply", "get"])
def test_a_cluster_between_two_parents_is_waited_for_even_without_time_to_live(command: str) -> None:
    end = OriginEnd(online(E1))
    end.turn_back.add(E1)
    end.submit("d1", E1, command=command, ttl=0.0)
    assert end.state("d1") in ("QUEUED", "SENT")
    end.clusters.up.clear()
    end.clusters.moving.add(E1)
    end.submit("d2", E1, command=command, ttl=0.0)
    assert end.state("d2") in ("QUEUED", "SENT")
    end.take()
    end.turn_back.clear()
    end.clusters.up.add(E1)
    end.paths(E1)
    assert [sent[1] for sent in end.take()] == ["d1", "d2"]
    assert {end.state("d1"), end.state("d2")} == {"SENT"}


@pytest.mark.parametrize("command", ["apply", "get"])
def test_a_cluster_that_seems_to_move_is_not_waited_for_longer_than_a_move_takes(command: str) -> None:
    end = OriginEnd(online())
    end.clusters.moving.add(E1)
    end.turn_back.add(E1)
    end.submit("d1", E1, command=command, ttl=0.0)
    end.pass_time(1.0)
    assert end.state("d1") in ("QUEUED", "SENT")
    end.pass_time(1.5)
    assert end.state("d1") == "UNREACHABLE"
    assert end.origin.unsettled == 0


def test_turned_back_after_its_end_ends_here() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1, ttl=30.0)
    end.submit("d2", E1, ttl=600.0)
    end.cancel("d2")
    end.clusters.up.clear()
    end.pass_time(31.0)
    dispatch = end.origin.dispatch("d1")
    assert dispatch is not None
    for attempt in range(1, dispatch.targets[E1].row.attempts + 1):
        end.report("d1", E1, m.NO_ROUTE, attempt=attempt)
    assert end.state("d1") == "SENT"
    end.report("d2", E1, m.NO_ROUTE, attempt=1)
    assert (end.state("d1"), end.state("d2")) == ("EXPIRED", "CANCELLED")


def test_the_retry_waits_when_there_is_no_way_and_is_void_when_news_came_first() -> None:
    end = OriginEnd(online(E1))
    end.turn_back.add(E1)
    end.submit("d1", E1)
    end.clusters.up.clear()
    end.take()
    end.pass_time(5.0)
    assert end.take() == []
    end.turn_back.clear()
    end.submit("d2", E1)
    end.clusters.up.add(E1)
    end.paths(E1)
    assert [line[1] for line in end.take()] == ["d1", "d2"]
    end.turn_back.add(E1)
    end.pass_time(2.5)
    end.take()
    end.turn_back.clear()
    end.paths(E1)
    end.take()
    for name in ("d1", "d2"):
        end.report(name, E1, m.RESULT, state="SUCCEEDED")
    end.pass_time(60.0)
    assert end.take() == [("ack", [E1], ["d1", "d2"])]
