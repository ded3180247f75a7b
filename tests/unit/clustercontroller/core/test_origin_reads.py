"""Reads at their origin: in memory only, sent again until answered, given up after a silence."""

from __future__ import annotations

import gc

import pytest

from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core import origin_ledger
from ote.clustercontroller.core.origin_state import OriginDispatch
from tests.unit.clustercontroller.core.dispatch_ends import E1, E2, OriginEnd, online


def test_a_read_is_not_written_and_not_numbered() -> None:
    end = OriginEnd(online(E1))
    end.submit("r1", E1, command="get")
    assert end.take() == [("deliver", "r1", [(E1, 0, 0, 1)])]
    end.report("r1", E1, m.RECEIVED)
    end.report("r1", E1, m.RESULT, state="SUCCEEDED", body=b"pods")
    assert end.state("r1") == "SUCCEEDED"
    assert (end.take(), end.disk.writes) == ([], [])


def test_a_read_is_asked_again_until_it_is_answered_and_at_once_on_a_new_path() -> None:
    end = OriginEnd(online(E1))
    end.submit("r1", E1, command="get")
    end.pass_time(2.0)
    end.paths(E1)
    assert [line[2][0][3] for line in end.take()] == [1, 2, 3]
    end.clusters.up.clear()
    end.paths(E1)
    end.pass_time(4.0)
    assert end.take() == []


def test_a_read_without_a_sign_of_life_is_given_up_and_one_that_is_worked_on_is_not() -> None:
    end = OriginEnd(online(E1, E2))
    end.submit("r1", E1, E2, command="get")
    for _ in range(5):
        end.pass_time(20.0)
        end.report("r1", E1, m.RECEIVED)
    assert (end.state("r1"), end.state("r1", E2), end.reason("r1", E2)) == ("SENT", "UNREACHABLE", "NO_ANSWER")


def test_a_read_that_is_turned_back_is_unreachable_or_tried_again() -> None:
    end = OriginEnd(online(E1))
    end.submit("r1", E1, command="get")
    end.take()
    end.report("r1", E1, m.BUSY, attempt=1, retry_after_ms=100)
    end.pass_time(0.2)
    assert end.take() == [("deliver", "r1", [(E1, 0, 0, 2)])]
    end.paths(E1)
    end.report("r1", E1, m.NO_ROUTE, attempt=2)
    assert end.state("r1") == "SENT"
    end.clusters.up.clear()
    end.report("r1", E1, m.NO_ROUTE, attempt=3)
    assert (end.state("r1"), end.reason("r1")) == ("UNREACHABLE", "NO_ROUTE")


def test_only_those_that_turned_a_read_back_are_asked_again_soon() -> None:
    """All others would be sent it for the second time while the way to some of them is full already."""
    uids = [f"uid-{number}" for number in range(50)]
    end = OriginEnd(online(*uids))
    end.submit("g1", *uids, command="get")
    end.take()
    for uid in (*uids[:4], uids[0]):
        end.report("g1", uid, m.BUSY, incarnation=0, attempt=1, retry_after_ms=100)
    end.report("g1", uids[4], m.BUSY, incarnation=0, attempt=1, retry_after_ms=1000)
    end.clusters.up.discard(uids[3])
    end.pass_time(0.5)
    assert end.take() == [("deliver", "g1", [(uid, 0, 0, 2) for uid in uids[:3]])]
    end.pass_time(0.6)
    assert end.take() == [("deliver", "g1", [(uids[4], 0, 0, 2)])]


def test_a_cancelled_read_ends_at_once_and_the_target_is_told() -> None:
    end = OriginEnd(online(E1, E2))
    end.submit("r1", E1, E2, command="get")
    end.submit("r2", E1, command="get")
    end.take()
    end.cancel("r1")
    assert end.state("r1") == "CANCELLED"
    assert end.take() == [("revoke", "r1", False, [E1, E2])]
    assert end.state("r2") == "SENT"


@pytest.mark.parametrize(("limit", "value"), [("_KEEP_READS", 2), ("_KEEP_READ_BYTES", 20)])
def test_what_reads_brought_is_kept_within_a_budget(limit: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin_ledger, limit, value)
    end = OriginEnd(online(E1))
    for number in range(4):
        end.submit(f"r{number}", E1, command="get")
        end.report(f"r{number}", E1, m.RESULT, state="SUCCEEDED", body=b"0123456789")
    assert [dispatch.row.id for dispatch in end.origin.newest()] == ["r3", "r2"]


def test_what_is_not_kept_any_more_is_freed_without_a_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin_ledger, "_KEEP_READS", 1)
    end = OriginEnd(online(E1))
    body = b"0123456789" * 100
    gc.collect()
    gc.disable()
    try:
        for number in range(50):
            end.submit(f"r{number}", E1, command="get")
            end.report(f"r{number}", E1, m.RESULT, state="SUCCEEDED", body=body)
            end.pass_time(120.0)  # timers that are over have gone, too
            end.take()
            end.done.clear()
        assert sum(isinstance(thing, OriginDispatch) for thing in gc.get_objects()) < 5
    finally:
        gc.enable()


def test_the_largest_read_is_kept_until_the_next_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin_ledger, "_KEEP_READ_BYTES", 5)
    end = OriginEnd(online(E1))
    for name in ("r1", "r2"):
        end.submit(name, E1, command="get")
        end.report(name, E1, m.RESULT, state="SUCCEEDED", body=b"0123456789")
        assert [dispatch.row.id for dispatch in end.origin.newest()] == [name]


def test_what_reads_brought_is_kept_for_ten_minutes() -> None:
    end = OriginEnd(online(E1))
    end.submit("r1", E1, command="get")
    end.report("r1", E1, m.RESULT, state="SUCCEEDED")
    end.pass_time(599.0)
    assert end.origin.dispatch("r1") is not None
    end.pass_time(2.0)
    assert end.origin.dispatch("r1") is None
