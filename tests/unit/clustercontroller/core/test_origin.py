"""What an origin accepts, sends, sends again and ends, in virtual time."""

from __future__ import annotations

import tracemalloc

import pytest

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import CoreSettings
from tests.unit.clustercontroller.core.dispatch_ends import E1, E2, Cluster, Facts, OriginEnd, online


def test_a_change_is_on_disk_before_it_is_answered_and_sent() -> None:
    end = OriginEnd(online(E1), held=True)
    assert end.submit("d1", E1) is None
    assert end.take() == []
    end.commit()
    answer = end.answer()
    assert answer is not None
    assert answer.value == "d1"
    assert end.take() == [("deliver", "d1", [(E1, 1, 0, 1)])]
    assert [type(write).__name__ for write in end.disk.writes] == ["Put"]
    assert end.state("d1") == "SENT"


def test_the_same_id_attaches_when_the_content_is_the_same_and_fails_when_it_is_not() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.take()
    again = end.submit("d1", E1)
    other = end.submit("d1", E1, digest=b"other")
    assert again is not None
    assert again.value == "d1"
    assert other is not None
    assert "DISPATCH_EXISTS" in repr(vars(other.error or Exception()))
    assert end.take() == []


def test_too_many_unsettled_targets_are_refused_with_a_time_to_try_again() -> None:
    end = OriginEnd(online(E1), CoreSettings(max_unsettled=1))
    end.submit("d1", E1)
    answer = end.submit("d2", E1)
    assert answer is not None
    assert answer.error is not None
    assert answer.error.reason == "TOO_MANY_DISPATCHES"  # type: ignore[attr-defined]
    assert end.origin.dispatch("d2") is None


def test_one_delivery_for_all_targets_and_each_cluster_counts_for_itself() -> None:
    end = OriginEnd(online(E1, E2))
    end.submit("d1", E1)
    end.submit("d2", E1, E2, E2)
    assert end.take() == [
        ("deliver", "d1", [(E1, 1, 0, 1)]),
        ("deliver", "d2", [(E1, 2, 1, 1), (E2, 1, 0, 1)]),
    ]


@pytest.mark.parametrize(("command", "ttl"), [("apply", 0.0), ("get", 3600.0)])
def test_an_offline_cluster_is_unreachable_at_once_for_a_read_and_without_time_to_live(
    command: str, ttl: float
) -> None:
    end = OriginEnd(online())
    end.submit("d1", E1, command=command, ttl=ttl)
    assert (end.state("d1"), end.reason("d1")) == ("UNREACHABLE", "OFFLINE")
    assert end.origin.unsettled == 0


def test_a_cluster_that_is_no_member_any_more_is_unreachable() -> None:
    end = OriginEnd(online())
    end.submit("d1", "uid-other")
    assert end.reason("d1", "uid-other") == "CLUSTER_REPLACED"


def test_a_dispatch_without_targets_is_settled_at_once() -> None:
    end = OriginEnd(online())
    end.submit("d1")
    dispatch = end.origin.dispatch("d1")
    assert dispatch is not None
    assert dispatch.settled


def test_what_waits_for_an_offline_cluster_is_sent_in_order_when_there_is_a_way_and_that_is_on_disk_first() -> None:
    end = OriginEnd(online())
    end.submit("d1", E1)
    end.submit("d2", E1)
    assert (end.state("d1"), end.take()) == ("QUEUED", [])
    end.clusters.up.add(E1)
    end.disk.held = True
    end.paths(E1)
    assert end.take() == []
    end.commit()
    assert end.take() == [("deliver", "d1", [(E1, 1, 0, 1)]), ("deliver", "d2", [(E1, 2, 1, 1)])]
    assert end.on_disk("d1").maybe_sent


def test_news_of_a_parent_reach_the_clusters_below_it() -> None:
    end = OriginEnd(online())
    end.clusters.below["uid-W"] = [E1, E1]
    end.submit("d1", E1)
    end.clusters.up.add(E1)
    end.paths("uid-W")
    assert end.take() == [("deliver", "d1", [(E1, 1, 0, 1)])]


def test_a_change_is_not_sent_before_it_is_known_which_journal_is_there() -> None:
    end = OriginEnd(online(E1))
    end.clusters.known[E1].facts.journal_id = ""
    end.submit("d1", E1)
    end.paths(E1)
    assert end.take() == []
    end.clusters.known[E1].facts.journal_id = "j"
    end.paths(E1)
    assert end.take() == [("deliver", "d1", [(E1, 1, 0, 1)])]


def test_what_was_never_sent_expires_here_alone() -> None:
    end = OriginEnd(online())
    end.submit("d1", E1, ttl=60.0)
    end.pass_time(59.0)
    assert end.state("d1") == "QUEUED"
    end.pass_time(2.0)
    assert end.state("d1") == "EXPIRED"
    assert end.take() == []


def test_it_is_sent_again_with_growing_pauses_until_it_was_received() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.pass_time(16.0)
    attempts = [line[2][0][3] for line in end.take()]
    assert attempts == [1, 2, 3, 4]
    end.report("d1", E1, m.RECEIVED)
    end.pass_time(600.0)
    assert end.take() == []
    assert end.state("d1") == "SENT"


def test_news_of_the_path_send_again_at_once_and_a_restarted_cluster_is_asked_even_for_what_it_received() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.submit("d2", E1)
    end.report("d1", E1, m.RECEIVED)
    end.take()
    end.paths(E1)
    assert end.take() == [("deliver", "d2", [(E1, 2, 1, 2)])]
    end.clusters.known[E1].instance = "i2"
    end.paths(E1)
    assert [line[1] for line in end.take()] == ["d1", "d2"]


def test_progress_shows_running_and_only_news_are_told() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.done.clear()
    for body in (b"", b"1 of 2", b"1 of 2", b""):
        end.report("d1", E1, m.PROGRESS, body=body)
    assert len([effect for effect in end.done if isinstance(effect, fx.TargetChanged)]) == 2
    assert end.state("d1") == "RUNNING"


def test_a_result_is_acknowledged_after_it_is_on_disk_and_again_each_time_it_comes() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.take()
    end.disk.held = True
    end.now += 0.25
    end.report("d1", E1, m.RESULT, state="SUCCEEDED", body=b"r", journal_number=7, output_bytes=9)
    end.pass_time(1.0)
    assert end.take() == []
    end.commit()
    assert end.take() == [("ack", [E1], ["d1"])]
    row = end.on_disk("d1")
    assert (row.state, row.body, row.journal_number, row.output_bytes, row.latency_ms) == ("SUCCEEDED", b"r", 7, 9, 250)
    assert row.since == pytest.approx(1_000_000.25)
    end.report("d1", E1, m.RESULT, state="FAILED")
    end.report("d1", E1, m.PROGRESS)
    end.report("d1", E1, m.RECEIVED)
    end.pass_time(1.0)
    assert end.take() == [("ack", [E1], ["d1"])]
    assert end.state("d1") == "SUCCEEDED"


def test_results_of_one_event_are_acknowledged_together() -> None:
    end = OriginEnd(online(E1))
    for number in range(300):
        end.submit(f"d{number}", E1)
    end.take()

    def reports() -> None:
        for number in range(300):
            end.origin.report(m.Report("uid-R", 1, f"d{number}", E1, m.RESULT, state="SUCCEEDED"))

    end.handle(reports)
    end.pass_time(1.0)
    assert [len(line[2]) for line in end.take()] == [256, 44]


def test_results_of_some_tenths_of_a_second_are_acknowledged_together_and_alike_ones_once() -> None:
    end = OriginEnd(online(E1, E2))
    end.submit("d1", E1, E2)
    end.submit("d2", E1)
    end.take()
    end.report("d1", E1, m.RESULT, state="SUCCEEDED")
    end.pass_time(0.2)
    end.report("d1", E2, m.RESULT, state="FAILED")
    end.pass_time(0.05)
    assert end.take() == []
    end.pass_time(0.1)
    assert end.take() == [("ack", [E1, E2], ["d1"])]
    end.report("d1", E2, m.RESULT, state="FAILED")
    end.report("d2", E1, m.RESULT, state="SUCCEEDED")
    end.pass_time(1.0)
    assert end.take() == [("ack", [E2], ["d1"]), ("ack", [E1], ["d2"])]


def test_a_result_of_an_unknown_dispatch_is_logged_and_acknowledged_and_nonsense_is_ignored() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.take()
    end.report("nobody", E1, m.RESULT, state="SUCCEEDED")
    end.report("nobody", E1, m.RECEIVED)
    end.report("d1", E1, "NONSENSE")
    end.report("d1", E1, m.RESULT, state="UNREACHABLE")
    end.pass_time(1.0)
    assert end.take() == [("ack", [E1], ["nobody"])]
    assert [effect.message for effect in end.done if isinstance(effect, fx.Log)] == ["result of an unknown dispatch"]


def test_a_result_that_is_too_large_is_not_kept() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.report("d1", E1, m.RESULT, state="SUCCEEDED", body=b"x" * 70_000)
    assert (end.state("d1"), end.reason("d1")) == ("SUCCEEDED", "RESULT_TOO_LARGE")


def test_cancel_ends_what_was_not_sent_and_asks_the_targets_for_the_rest() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1, E2)
    end.take()
    assert end.cancel("d1") is not None
    assert end.state("d1", E2) == "CANCELLED"
    assert end.state("d1") == "SENT"
    assert end.take() == [("revoke", "d1", False, [E1])]
    end.pass_time(3.0)
    end.paths(E1)
    assert end.take() == [("revoke", "d1", False, [E1])] * 2
    end.report("d1", E1, m.RESULT, state="CANCELLED")
    assert end.state("d1") == "CANCELLED"
    end.pass_time(100.0)
    assert end.take() == [("ack", [E1], ["d1"])]


def test_cancel_of_an_unknown_dispatch_fails_and_of_a_settled_one_does_nothing() -> None:
    end = OriginEnd(online())
    unknown = end.cancel("d1")
    assert unknown is not None
    assert unknown.error is not None
    end.submit("d1")
    settled = end.cancel("d1")
    assert settled is not None
    assert settled.error is None


def test_what_has_settled_is_known_however_many_have_not() -> None:
    end = OriginEnd(online(E2), CoreSettings(keep_dispatches=2))
    for number in range(5):
        end.submit(f"u{number}", E1)
    end.submit("d1", E2)
    end.report("d1", E2, m.RESULT, state="SUCCEEDED")
    end.submit("d2", E1, ttl=0.0)
    assert (end.state("d1", E2), end.state("d2")) == ("SUCCEEDED", "UNREACHABLE")
    answer = end.submit("d1", E2)
    assert answer is not None
    assert answer.value == "d1"


def test_what_is_settled_when_it_is_accepted_leaves_no_row_that_is_not_remembered() -> None:
    end = OriginEnd(online(), CoreSettings(keep_dispatches=0))
    end.submit("d1", E1, ttl=0.0)
    assert end.origin.dispatch("d1") is None
    assert not end.disk.tables.get("dispatches")


def test_a_cancel_does_not_write_again_what_the_targets_have_said() -> None:
    end = OriginEnd(online(E1, E2))
    end.submit("d1", E1, E2)
    end.report("d1", E1, m.RESULT, state="SUCCEEDED", body=b"done")
    end.report("d1", E2, m.PROGRESS, body=b"half")
    end.cancel("d1")
    (row,) = end.disk.tables["dispatches"].values()
    assert row.cancelled
    assert [target.body for target in row.targets] == [b"", b""]
    end.crash()
    end.pass_time(0.1)
    dispatch = end.origin.dispatch("d1")
    assert dispatch is not None
    assert (dispatch.targets[E1].row.state, dispatch.targets[E1].row.body) == ("SUCCEEDED", b"done")
    assert dispatch.ended


def test_a_cancel_is_remembered_over_a_restart() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1)
    end.cancel("d1")
    end.clusters.up.clear()
    end.crash()
    end.clusters.up.add(E1)
    end.take()
    end.paths(E1)
    assert end.take() == [("revoke", "d1", False, [E1])]


def test_expiry_of_what_was_sent_is_a_request_to_the_target() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1, ttl=30.0)
    end.report("d1", E1, m.RECEIVED)
    end.take()
    end.pass_time(30.5)
    assert end.take() == [("revoke", "d1", True, [E1])]
    assert end.state("d1") == "SENT"
    end.report("d1", E1, m.RESULT, state="EXPIRED")
    assert end.state("d1") == "EXPIRED"


def test_without_an_answer_the_outcome_is_unknown_and_once_replaced_by_the_truth() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1, ttl=30.0)
    end.clusters.up.clear()
    end.pass_time(629.0)
    assert end.state("d1") == "SENT"
    end.pass_time(2.0)
    assert (end.state("d1"), end.reason("d1")) == ("OUTCOME_UNKNOWN", "NO_ANSWER")
    assert end.origin.unsettled == 0
    end.crash()
    end.clusters.up.add(E1)
    end.take()
    end.paths(E1)
    assert end.take() == [("revoke", "d1", True, [E1])]
    end.report("d1", E1, m.RESULT, state="SUCCEEDED")
    assert end.state("d1") == "SUCCEEDED"
    end.report("d1", E1, m.RESULT, state="FAILED")
    assert end.state("d1") == "SUCCEEDED"


def test_an_unknown_outcome_that_the_target_confirms_or_that_is_too_old_is_closed() -> None:
    settings = CoreSettings(keep_settled_for=1000.0)
    for settle in ("target", "time"):
        end = OriginEnd(online(E1), settings)
        end.submit("d1", E1, ttl=30.0)
        end.pass_time(700.0)
        end.take()
        if settle == "target":
            end.report("d1", E1, m.RESULT, state="OUTCOME_UNKNOWN")
        else:
            end.pass_time(1000.0)
        end.take()
        end.paths(E1)
        assert end.take() == []
        assert end.state("d1") == "OUTCOME_UNKNOWN"


def test_a_target_that_works_long_past_its_time_is_asked_and_does_not_become_unknown() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1, ttl=30.0)
    for _ in range(20):
        end.pass_time(100.0)
        end.report("d1", E1, m.PROGRESS)
    assert end.state("d1") == "RUNNING"


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
