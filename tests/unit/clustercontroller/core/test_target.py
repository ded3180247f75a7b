"""What a target runs, in which order, and what it says, in virtual time."""

from __future__ import annotations

import pytest

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import CoreSettings
from ote.clustercontroller.core.events import PayloadFailed, PayloadReady
from tests.unit.clustercontroller.core.dispatch_ends import R, Shim, TargetEnd

PAYLOAD = m.Payload(b"hash", 500_000, [b"piece"])


def ready(durable: bool = True, settings: CoreSettings | None = None, held: bool = False) -> TargetEnd:
    """A target whose shim is up and which has run one change of R, as mostly."""
    end = TargetEnd(settings)
    end.shim_up(Shim(durable))
    end.deliver("d0", 1)
    end.result("d0")
    end.ack("d0")
    end.take()
    end.asked()
    end.disk.writes.clear()
    end.disk.held = held
    return end


def test_a_quick_change_costs_one_write_and_one_wait_before_its_result_is_said() -> None:
    end = ready(held=True)
    end.deliver("d1", 2)
    assert end.asked() == [("Execute", "d1")]
    assert end.disk.writes == []
    end.result("d1")
    assert end.take() == []
    end.commit()
    assert end.take() == [("RESULT", "d1", "SUCCEEDED")]
    assert [write.table for write in end.disk.writes] == ["journal"]


def test_the_first_changes_of_an_origin_are_marked_as_begun_before_the_first_runs() -> None:
    end = TargetEnd(held=True)
    end.shim_up(Shim())
    end.deliver("d1", 1)
    assert end.asked() == []
    end.commit()
    assert end.asked() == [("Execute", "d1")]
    assert end.disk.tables["floors"]["uid-R"].begun >= 100


def test_what_cannot_be_repeated_is_on_disk_before_it_runs() -> None:
    end = ready(durable=False, held=True)
    end.deliver("d1", 2)
    end.deliver("n1", 3, 2, command="noop")
    assert end.asked() == []
    end.commit()
    assert end.asked() == [("Execute", "d1")]
    row = end.disk.tables["journal"]["uid-R/d1"]
    assert (row.started, row.shim_instance) == (True, "s1")
    end.disk.held = False
    end.result("d1")
    assert end.asked() == []
    assert end.take() == [("RESULT", "d1", "SUCCEEDED"), ("RESULT", "n1", "SUCCEEDED")]


def test_a_result_carries_its_place_in_the_journal_and_the_highest_number_known() -> None:
    end = ready()
    end.deliver("d1", 2)
    end.result("d1", body=b"done")
    (report,) = end.reports
    assert (report.body, report.journal_number, report.highest_seq, report.journal_id) == (b"done", 2, 2, "j-uid-e1")


def test_a_result_is_said_again_until_it_is_acknowledged_and_at_once_on_a_new_path() -> None:
    end = ready()
    end.deliver("d1", 2)
    end.result("d1")
    end.pass_time(6.5)
    assert len(end.take()) == 3
    end.handle(end.target.path_changed)
    end.deliver("d1", 2)
    assert len(end.take()) == 2
    end.ack("d1")
    end.pass_time(100.0)
    assert end.take() == []
    assert end.disk.tables["journal"] == {}
    assert (end.disk.tables["floors"]["uid-R"].floor, end.target.unsettled) == (2, 0)


def test_a_change_at_or_below_the_floor_never_runs_again() -> None:
    end = ready()
    end.deliver("d0", 1)
    end.deliver("dx", 1)
    end.crash()
    end.deliver("d0", 1)
    assert end.take() == [("FORGOTTEN", "d0", ""), ("FORGOTTEN", "dx", ""), ("FORGOTTEN", "d0", "")]
    assert end.asked() == []


@pytest.mark.parametrize(("seq", "incarnation"), [(2, 2**64 - 1), (2**64 - 1, 1)])
def test_numbers_that_could_not_grow_any_more_are_not_taken(seq: int, incarnation: int) -> None:
    end = ready()
    end.deliver("dx", seq, incarnation=incarnation)
    assert end.asked() == []
    end.deliver("d1", 2)
    assert end.asked() == [("Execute", "d1")]


def test_changes_of_one_origin_run_in_their_chain_whatever_the_order_of_arrival() -> None:
    end = ready()
    end.deliver("d4", 5, 3)
    end.deliver("d3", 3, 2)
    assert end.asked() == []
    end.deliver("d2", 2)
    assert end.asked() == [("Execute", "d2")]
    end.result("d2")
    assert end.asked() == [("Execute", "d3")]
    end.result("d3")
    assert end.asked() == [("Execute", "d4")]


def test_the_next_change_begins_after_the_effect_not_after_the_result() -> None:
    end = ready()
    end.deliver("d1", 2)
    end.deliver("d2", 3, 2)
    end.progress("d1", b"applied", effect_done=True)
    assert end.asked() == [("Execute", "d1"), ("Execute", "d2")]
    assert end.disk.tables["journal"]["uid-R/d1"].started
    end.progress("d1", b"still", effect_done=True)
    end.result("d2")
    end.result("d1")
    assert [line for line in end.take() if line[0] == "RESULT"] == [
        ("RESULT", "d2", "SUCCEEDED"),
        ("RESULT", "d1", "SUCCEEDED"),
    ]


def test_changes_of_several_origins_run_one_at_a_time() -> None:
    end = ready()
    end.deliver("d1", 2)
    end.deliver("e1", 1, origin="uid-E")
    assert end.asked() == [("Execute", "d1")]
    end.result("d1")
    assert end.asked() == [("Execute", "e1")]
    end.result("e1", origin="uid-E")
    numbers = [report.journal_number for report in end.reports if report.kind == m.RESULT]
    assert numbers == [2, 3]


def test_what_waits_for_its_predecessor_is_held_up_to_a_limit() -> None:
    end = ready(settings=CoreSettings(hold_limit=2))
    for seq in (3, 4, 5):
        end.deliver(f"d{seq}", seq, seq - 1)
    assert end.take() == [("BUSY", "d5", "")]
    end.deliver("d2", 2)
    assert end.asked() == [("Execute", "d2")]


def test_what_fills_a_gap_near_the_floor_is_taken_though_the_limit_is_reached() -> None:
    """Else what is held waits for predecessors that come in one at a time, each after a turn of being sent back."""
    end = ready(settings=CoreSettings(hold_limit=3))
    for seq in (7, 8, 9, 3):
        end.deliver(f"d{seq}", seq, seq - 1)
    assert end.take() == []
    end.deliver("d10", 10, 9)
    assert end.take() == [("BUSY", "d10", "")]
    end.deliver("d2", 2)
    assert end.asked() == [("Execute", "d2")]
    end.result("d2")
    assert end.asked() == [("Execute", "d3")]


def test_a_slow_change_is_said_to_be_received_when_that_is_on_disk() -> None:
    end = ready(held=True)
    end.deliver("d1", 2)
    end.pass_time(0.6)
    assert end.take() == []
    end.commit()
    assert end.take() == [("RECEIVED", "d1", ""), ("PROGRESS", "d1", "")]
    end.disk.held = False
    end.deliver("d2", 3, 2)
    end.deliver("d2", 3, 2)
    assert end.take() == [("RECEIVED", "d2", "")]
    end.pass_time(1.0)
    assert end.take() == []


def test_progress_is_told_when_it_changed_and_at_most_four_times_a_second() -> None:
    end = ready()
    end.deliver("d1", 2)
    for body in (b"1", b"1", b"2", b"3"):
        end.progress("d1", body)
    assert [report.body for report in end.reports] == [b"1"]
    end.pass_time(0.3)
    assert [report.body for report in end.reports] == [b"1", b"3"]
    end.progress("d1", b"4")
    end.progress("dx", b"5")
    end.result("d1")
    end.progress("d1", b"6")
    end.pass_time(0.3)
    assert [report.kind for report in end.reports] == [m.PROGRESS, m.PROGRESS, m.RESULT]


@pytest.mark.parametrize("expired", [True, False])
def test_a_revoked_change_that_is_not_known_is_settled_and_never_runs(expired: bool) -> None:
    end = ready(held=True)
    end.disk.tables["floors"]["uid-R"].begun = 0
    end.crash()
    end.shim_up(Shim())
    end.revoke("d1", 2, expired=expired)
    assert end.take() == []
    end.commit()
    end.disk.held = False
    state = "EXPIRED" if expired else "CANCELLED"
    assert end.take() == [("RESULT", "d1", state)]
    end.deliver("d1", 2)
    assert (end.take(), end.asked()) == ([("RESULT", "d1", state)], [])
    end.ack("d1")
    end.deliver("d1", 2)
    assert (end.take(), end.asked()) == ([("FORGOTTEN", "d1", "")], [])


def test_a_change_revoked_before_its_turn_keeps_its_place_until_its_turn_is_over() -> None:
    end = TargetEnd()
    end.shim_up(Shim())
    end.revoke("d2", 2, 1)
    end.ack("d2")
    assert set(end.disk.tables["journal"]) == {"uid-R/d2"}
    end.deliver("d2", 2, 1)
    end.deliver("d3", 3, 2)
    assert end.asked() == []
    end.crash()
    end.shim_up(Shim())
    end.take()
    end.deliver("d1", 1)
    end.result("d1")
    end.ack("d1", "d2")
    end.deliver("d3", 3, 2)
    end.result("d3")
    assert end.asked() == [("Execute", "d1"), ("Execute", "d3")]
    assert set(end.disk.tables["journal"]) == {"uid-R/d3"}


def test_a_long_row_of_revoked_changes_is_passed_at_once() -> None:
    end = TargetEnd(CoreSettings(hold_limit=3000))
    end.shim_up(Shim())
    for seq in range(2, 2500):
        end.revoke(f"d{seq}", seq, seq - 1)
        end.ack(f"d{seq}")
    end.revoke("d1", 1)
    end.deliver("last", 2500, 2499)
    assert end.asked() == [("Execute", "last")]


def test_a_revoked_change_that_waits_ends_and_one_that_runs_is_asked_to_stop_unless_it_only_expired() -> None:
    end = ready()
    end.deliver("d1", 2)
    end.deliver("d2", 3, 2)
    end.revoke("d2", 3, 2)
    assert end.take() == [("RESULT", "d2", "CANCELLED")]
    end.revoke("d1", 2, expired=True)
    assert end.asked() == [("Execute", "d1")]
    assert end.take() == [("RECEIVED", "d1", ""), ("PROGRESS", "d1", "")]
    end.revoke("d1", 2)
    end.revoke("d1", 2)
    assert end.asked() == [("CancelExecution", "d1")]
    end.result("d1", "CANCELLED")
    end.revoke("d1", 2)
    assert end.take()[-1] == ("RESULT", "d1", "CANCELLED")
    end.deliver("d3", 4, 3)
    assert end.asked() == [("Execute", "d3")]


def test_a_queued_change_that_was_revoked_is_passed_over() -> None:
    end = ready()
    end.deliver("d1", 2)
    end.deliver("e1", 1, origin="uid-E")
    end.revoke("e1", 1, origin="uid-E")
    end.result("d1")
    assert end.asked() == [("Execute", "d1")]


def test_a_payload_is_here_before_received_is_said_and_dropped_when_it_has_ended() -> None:
    end = ready()
    end.deliver("d1", 2, inline=None, payload=PAYLOAD)
    end.deliver("d1", 2, inline=None, payload=PAYLOAD, attempt=2)
    end.deliver("d2", 3, 2)
    end.handle(end.target.path_changed)
    end.pass_time(1.0)
    assert end.asked() == [("FetchPayload", "d1"), ("FetchPayload", "d1")]
    assert end.take() == [("RECEIVED", "d2", "")]
    end.handle(lambda: end.target.payload_ready(_ready("d1")))
    end.handle(lambda: end.target.payload_ready(_ready("d1")))
    assert end.take()[0] == ("RECEIVED", "d1", "")
    assert end.asked() == [("Execute", "d1")]
    end.result("d1")
    assert end.asked() == [("DropPayload", "d1"), ("Execute", "d2")]


def test_a_payload_that_comes_before_its_turn_waits_for_it() -> None:
    end = ready()
    end.deliver("d2", 3, 2, inline=None, payload=PAYLOAD)
    end.handle(lambda: end.target.payload_ready(_ready("d2")))
    assert end.asked() == [("FetchPayload", "d2")]
    end.deliver("d1", 2)
    end.result("d1")
    assert end.asked() == [("Execute", "d1"), ("Execute", "d2")]


def test_a_payload_that_did_not_come_is_fetched_again_and_one_that_cannot_come_fails_in_turn() -> None:
    end = ready()
    end.deliver("d1", 2, inline=None, payload=PAYLOAD)
    end.handle(lambda: end.target.payload_failed(_failed("d1", final=False)))
    end.handle(lambda: end.target.payload_failed(_failed("dx", final=False)))
    end.pass_time(2.1)
    assert end.asked() == [("FetchPayload", "d1"), ("FetchPayload", "d1")]
    end.handle(lambda: end.target.payload_failed(_failed("d1", final=False)))
    end.handle(lambda: end.target.payload_failed(_failed("d1", final=True)))
    assert end.asked() == [("FinishHere", "d1")]
    end.pass_time(10.0)
    assert end.asked() == []


def test_what_was_fetched_is_fetched_again_after_a_restart() -> None:
    end = ready()
    end.deliver("d1", 2, inline=None, payload=PAYLOAD)
    end.handle(lambda: end.target.payload_ready(_ready("d1")))
    end.asked()
    end.crash()
    end.shim_up(Shim())
    assert end.asked() == [("FetchPayload", "d1")]
    end.handle(lambda: end.target.payload_ready(_ready("d1")))
    assert end.asked() == [("Execute", "d1")]


def test_an_origin_that_is_gone_is_told_nothing_more_and_what_waits_of_it_ends() -> None:
    end = ready()
    end.deliver("d1", 2)
    end.deliver("d2", 3, 2)
    end.deliver("d3", 9, 8)
    end.progress("d1", effect_done=True)
    end.result("d2")
    end.take()
    end.handle(lambda: end.target.origin_gone("uid-R"))
    end.handle(lambda: end.target.origin_gone("uid-X"))
    end.result("d1")
    end.pass_time(60.0)
    assert end.take() == []
    assert set(end.disk.tables["journal"]) == {"uid-R/d3"}


def test_a_result_that_nobody_fetched_for_a_month_is_dropped() -> None:
    end = ready(settings=CoreSettings(drop_results_after=100.0))
    end.deliver("d1", 2)
    end.result("d1")
    end.pass_time(200.0)
    assert end.disk.tables["journal"] == {}
    end.take()
    end.handle(end.target.path_changed)
    assert end.take() == []
    assert any(isinstance(effect, fx.Log) for effect in end.done)


def test_the_shim_may_forget_what_256_later_changes_have_followed() -> None:
    end = ready()
    for seq in range(2, 262):
        end.deliver(f"d{seq - 1}", seq, seq - 1)
        end.result(f"d{seq - 1}")
        end.ack(f"d{seq - 1}", "dx")
    forgotten = [effect.forget for effect in end.done if isinstance(effect, fx.Execute) and effect.forget]
    assert forgotten == [["uid-R/d0"], ["uid-R/d1"], ["uid-R/d2"], ["uid-R/d3"]]


def test_a_change_that_is_acknowledged_before_it_ended_goes_on() -> None:
    end = ready()
    end.deliver("d2", 2)
    end.ack("d2")
    assert end.target.unsettled == 1


def _ready(dispatch_id: str) -> PayloadReady:
    return PayloadReady(f"uid-R/{dispatch_id}")


def _failed(dispatch_id: str, *, final: bool) -> PayloadFailed:
    return PayloadFailed(f"uid-R/{dispatch_id}", "no way", final)


def test_what_was_open_on_a_disk_that_was_set_back_is_unknown_and_never_handed_to_the_shim_again() -> None:
    """It may be done since, acknowledged and forgotten by all, the shim included."""
    end = ready()
    end.deliver("observed", 2)
    end.progress("observed", effect_done=True)
    end.deliver("runs", 3, 2)
    end.deliver("waits", 4, 3)
    end.pass_time(0.6)
    end.take()
    end.asked()
    end.crash(set_back=True)
    assert sorted(end.take()) == [("RESULT", name, "OUTCOME_UNKNOWN") for name in ("observed", "runs", "waits")]
    end.shim_up(Shim())
    assert end.asked() == []
    end.deliver("anew", 5)
    assert end.asked() == [("Execute", "anew")]


def test_a_result_whose_turn_is_to_come_may_be_acknowledged_twice_and_goes_when_its_turn_is_over() -> None:
    end = TargetEnd()
    end.shim_up(Shim())
    end.revoke("d2", 2, 1)
    assert end.take() == [("RESULT", "d2", "CANCELLED")]
    for _ in range(2):
        end.ack("d2")
        assert list(end.disk.tables["journal"]) == [f"{R}/d2"]
    end.deliver("d1", 1)
    end.result("d1")
    end.ack("d1")
    assert not end.disk.tables["journal"]
    assert end.disk.tables["floors"][R].floor == 2
