"""What an origin remembers, over restarts, lost disks and evictions, and what it forgets, in virtual time."""

from __future__ import annotations

import pytest

from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import CoreSettings
from tests.unit.clustercontroller.core.dispatch_ends import E1, E2, Cluster, Facts, OriginEnd, online


@pytest.mark.parametrize("kind", [m.JOURNAL_CHANGED, m.FORGOTTEN])
def test_what_a_target_does_not_know_any_more_is_unknown(kind: str) -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.take()
    end.report("d1", E1, kind)
    assert (end.state("d1"), end.reason("d1")) == ("OUTCOME_UNKNOWN", kind)
    end.report("d1", E1, kind)
    end.paths(E1)
    assert end.take() == []
    end.report("d1", E1, m.RESULT, state="SUCCEEDED")
    end.report("d1", E1, kind)
    assert end.state("d1") == "SUCCEEDED"


def test_the_chain_of_a_new_journal_does_not_name_changes_of_the_old_one() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.clusters.known[E1] = Cluster(Facts("new"), "i2")
    end.take()
    end.submit("d2", E1)
    assert end.take() == [("deliver", "d2", [(E1, 2, 0, 1)])]


def incarnations(end: OriginEnd) -> list[tuple[str, int, list[tuple[str, int]]]]:
    """What was sent since the last call: (dispatch, incarnation, [(uid, seq)])."""
    sent, end.sent = end.sent, []
    delivers = [item for item in sent if isinstance(item, m.Deliver)]
    return [(item.dispatch_id, item.incarnation, [(aim.uid, aim.seq) for aim in item.targets]) for item in delivers]


def test_a_target_that_knows_more_tells_that_memory_was_lost() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.report("d1", E1, m.FORGOTTEN, highest_seq=40)
    end.take()
    end.submit("d2", E1)
    assert incarnations(end) == [("d2", 2, [(E1, 1)])]
    end.report("d2", E1, m.FORGOTTEN, incarnation=9)
    end.submit("d3", E1)
    assert incarnations(end) == [("d3", 10, [(E1, 1)])]
    end.crash()
    incarnations(end)
    end.submit("d4", E1)
    assert incarnations(end) == [("d4", 10, [(E1, 2)])]
    end.handle(end.origin.memory_lost)
    end.crash()
    incarnations(end)
    end.submit("d5", E1)
    assert incarnations(end) == [("d5", 11, [(E1, 1)])]


@pytest.mark.parametrize("lie", [{"incarnation": 2**61}, {"highest_seq": 2**61}])
def test_a_target_that_lies_of_what_it_knows_harms_nobody_else(lie: dict[str, int]) -> None:
    end = OriginEnd(online(E1, E2))
    end.submit("d1", E1, E2)
    end.report("d1", E1, m.RECEIVED, **lie)
    end.report("d1", "uid-nobody", m.RECEIVED, **lie)
    incarnations(end)
    end.submit("d2", E1, E2)
    raised = lie.get("incarnation", 1) + 1
    assert sorted(incarnations(end)) == [("d2", 1, [(E2, 2)]), ("d2", raised, [(E1, 1)])]
    assert [*end.disk.tables["sequences"]] == [E1]
    end.report("d1", E2, m.RESULT, state="SUCCEEDED")
    end.handle(end.origin.memory_lost)
    end.submit("d3", E2)
    assert incarnations(end) == [("d3", 2, [(E2, 1)])]


def test_what_was_turned_back_gets_a_new_number_in_a_new_incarnation() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.submit("d2", E1)
    end.report("d2", E1, m.NO_ROUTE, attempt=1)
    end.report("d1", E1, m.FORGOTTEN, highest_seq=40)
    end.take()
    end.paths(E1)
    assert end.take() == [("deliver", "d2", [(E1, 1, 0, 2)])]


def test_an_evicted_cluster_ends_everything_that_waits_for_it() -> None:
    end = OriginEnd(online(E1), CoreSettings(keep_dispatches=0))
    end.submit("d0", E1)
    end.report("d0", E1, m.RESULT, state="SUCCEEDED")
    assert end.origin.dispatch("d0") is None
    assert end.disk.tables["sequences"]
    end.settings = CoreSettings()
    end.crash()
    end.submit("d1", E1)
    end.submit("d2", E1)
    end.submit("r1", E1, command="get")
    end.report("d2", E1, m.NO_ROUTE, attempt=1)
    del end.clusters.known[E1]
    end.paths(E1)
    end.handle(lambda: end.origin.gone(E1))
    end.handle(lambda: end.origin.gone(E2))
    assert end.state("d1") == "OUTCOME_UNKNOWN"
    assert (end.state("d2"), end.state("r1")) == ("UNREACHABLE", "UNREACHABLE")
    assert {end.reason(name) for name in ("d1", "d2", "r1")} == {"CLUSTER_REPLACED"}
    assert end.disk.tables["sequences"] == {}
    end.pass_time(10.0)


def test_what_is_sent_again_tells_whether_the_change_before_it_has_ended() -> None:
    end = OriginEnd(online(E1))
    for name in ("d1", "d2", "d3"):
        end.submit(name, E1, ttl=60.0)
    end.report("d1", E1, m.RESULT, state="SUCCEEDED")
    end.clusters.known[E1].instance = "i2"
    end.paths(E1)
    again = [item for item in end.sent if isinstance(item, m.Deliver) and item.targets[0].attempt == 2]
    assert [(item.dispatch_id, item.targets[0].after_ended) for item in again] == [("d2", True), ("d3", False)]
    end.cancel("d2")
    [revoke] = [item for item in end.sent if isinstance(item, m.Revoke)]
    assert revoke.targets[0].after_ended
    end.report("d2", E1, m.RESULT, state="CANCELLED")
    end.report("d3", E1, m.RESULT, state="SUCCEEDED")


def test_a_restart_goes_on_where_it_was() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.submit("d2", E1, E2)
    end.report("d1", E1, m.RECEIVED)
    end.submit("d3", E1)
    end.report("d3", E1, m.RESULT, state="FAILED")
    end.clusters.up.clear()
    end.crash()
    end.take()
    assert [end.state(name) for name in ("d1", "d2", "d3")] == ["SENT", "SENT", "FAILED"]
    assert end.state("d2", E2) == "QUEUED"
    end.report("d2", E1, m.NO_ROUTE, attempt=1)
    assert end.state("d2") == "SENT"
    end.clusters.up |= {E1, E2}
    end.clusters.known[E1].instance = "i2"
    end.paths(E1, E2)
    known = [aim.known for item in end.sent if isinstance(item, m.Deliver) for aim in item.targets if aim.uid == E1]
    assert known == [True, False]
    assert end.take() == [
        ("deliver", "d1", [(E1, 1, 0, 2)]),
        ("deliver", "d2", [(E1, 2, 1, 2), (E2, 1, 0, 1)]),
    ]
    end.submit("d4", E1)
    assert end.take() == [("deliver", "d4", [(E1, 4, 2, 1)])]
    assert [dispatch.row.id for dispatch in end.origin.newest()] == ["d4", "d3", "d2", "d1"]
    assert end.origin.oldest_unsettled is end.origin.dispatch("d1")


@pytest.mark.parametrize(("later", "left"), [(150.0, 10.0), (20.0, 40.0)])
def test_time_to_live_goes_on_over_a_restart_and_is_never_shortened_by_a_clock_that_began_again(
    later: float, left: float
) -> None:
    end = OriginEnd(online())
    end.submit("d1", E1, ttl=60.0)
    end.now = later
    end.crash()
    end.pass_time(left - 1.0)
    assert end.state("d1") == "QUEUED"
    end.pass_time(2.0)
    assert end.state("d1") == "EXPIRED"


def test_numbers_are_never_used_twice_though_old_dispatches_are_removed() -> None:
    end = OriginEnd(online(E1), CoreSettings(keep_dispatches=2))
    for number in range(5):
        end.submit(f"d{number}", E1)
        end.report(f"d{number}", E1, m.RESULT, state="SUCCEEDED")
    assert [row.id for row in end.disk.tables["dispatches"].values()] == ["d3", "d4"]
    end.disk.tables["dispatches"].clear()
    end.crash()
    end.take()
    end.submit("d9", E1)
    (line,) = end.take()
    assert line[2][0][1] >= 4


def test_what_is_removed_leaves_nothing_on_disk_of_any_of_its_targets() -> None:
    end = OriginEnd(online(E1, E2), CoreSettings(keep_dispatches=1))
    for name in ("d1", "d2"):
        end.submit(name, E1, E2)
        for uid in (E1, E2):
            end.report(name, uid, m.RESULT, state="SUCCEEDED")
    assert [row.id for row in end.disk.tables["dispatches"].values()] == ["d2"]
    assert {key.rpartition("/")[0] for key in end.disk.tables["targets"]} == set(end.disk.tables["dispatches"])


def test_old_dispatches_are_removed_by_age_and_never_before_they_are_settled() -> None:
    end = OriginEnd(online(E1), CoreSettings(keep_settled_for=100.0))
    end.submit("d1", E1)
    end.submit("d2", E1)
    end.report("d2", E1, m.RESULT, state="SUCCEEDED")
    end.pass_time(99.0)
    assert end.origin.dispatch("d2") is not None
    end.pass_time(2.0)
    assert end.origin.dispatch("d2") is None
    assert end.origin.dispatch("d1") is not None


def test_sequences_of_an_earlier_incarnation_do_not_count() -> None:
    end = OriginEnd(online(E1), CoreSettings(keep_dispatches=0))
    end.submit("d1", E1)
    end.report("d1", E1, m.RESULT, state="SUCCEEDED")
    end.report("d1", E1, m.FORGOTTEN, incarnation=1, highest_seq=40)
    end.crash()
    end.take()
    end.submit("d2", E1)
    assert end.take() == [("deliver", "d2", [(E1, 1, 0, 1)])]


def test_a_target_that_lost_what_it_had_received_is_sent_the_command_again() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.report("d1", E1, m.RECEIVED)
    end.take()
    end.report("d1", E1, m.BUSY)
    assert end.take() == [("deliver", "d1", [(E1, 1, 0, 2)])]
    end.report("d1", E1, m.RESULT, state="SUCCEEDED")
    end.take()
    end.report("d1", E1, m.BUSY)
    assert end.take() == []


def test_a_payload_and_a_timeout_go_with_the_delivery() -> None:
    end = OriginEnd(online(E1))
    payload = m.Payload(b"h", 99, [b"p"])
    end.submit("d1", E1, payload=payload, timeout=2.5, ttl=20.0)
    (item,) = end.sent
    assert isinstance(item, m.Deliver)
    assert (item.payload, item.timeout_ms, item.ttl_ms) == (payload, 2500, 20_000)
    assert item.change


def test_a_target_that_must_ask_its_shim_how_a_revoked_change_ended_is_sent_the_command() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.report("d1", E1, m.BUSY)
    end.cancel("d1")
    end.take()
    end.report("d1", E1, m.BUSY, retry_after_ms=500)
    assert end.take() == []
    end.report("d1", E1, m.BUSY)
    assert end.take() == [("deliver", "d1", [(E1, 1, 0, 2)])]


def test_the_command_of_a_settled_dispatch_is_not_kept() -> None:
    end = OriginEnd(online(E1, E2))
    end.submit("d1", E1, E2)
    end.report("d1", E1, m.RESULT, state="SUCCEEDED")
    dispatch = end.origin.dispatch("d1")
    assert dispatch is not None
    assert dispatch.row.inline == b"body"
    end.report("d1", E2, m.RESULT, state="OUTCOME_UNKNOWN")
    assert dispatch.row.inline is None
    end.crash()
    assert [end.state("d1", uid) for uid in (E1, E2)] == ["SUCCEEDED", "OUTCOME_UNKNOWN"]


def test_nobody_hears_accepted_or_cancelled_before_that_is_on_disk_not_even_who_asks_again() -> None:
    end = OriginEnd(online(E1), held=True)
    assert end.submit("d1", E1) is None
    assert end.submit("d1", E1) is None
    end.commit()
    assert end.answer() is not None
    assert end.cancel("d1") is None
    end.commit()
    assert end.answer() is not None
