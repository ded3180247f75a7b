"""What an origin accepts, sends, sends again and ends, in virtual time."""

from __future__ import annotations

from typing import Any

import pytest

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import CoreSettings
from ote.clustercontroller.core.origin_state import OriginTarget
from tests.unit.clustercontroller.core.dispatch_ends import E1, E2, OriginEnd, online


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


class Looked(dict[str, OriginTarget]):
    """The open targets of a dispatch, and how often all of them were looked at."""

    times = 0

    def values(self) -> Any:
        self.times += 1
        return super().values()


@pytest.mark.parametrize("command", ["apply", "get"])
def test_what_happens_to_many_targets_at_once_does_not_look_at_all_others_for_each(command: str) -> None:
    uids = [f"uid-{number}" for number in range(500)]
    late = uids[100:400]
    end = OriginEnd(online(*uids))
    if command == "apply":
        end.clusters.up.difference_update(uids)
    end.submit("d1", *uids, command=command)
    dispatch = end.origin.dispatch("d1")
    assert dispatch is not None
    looked = dispatch.open = Looked(dispatch.open)
    if command == "apply":
        end.clusters.up.update(late)
        end.clusters.below["uid-W"] = late
        end.paths("uid-W")
        assert [len(targets) for _, _, targets in end.take()] == [len(late)]
    else:
        for uid in late:
            end.report("d1", uid, m.BUSY, attempt=1, retry_after_ms=100, incarnation=0)
    assert looked.times <= 6
