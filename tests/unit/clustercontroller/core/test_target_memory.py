"""Disks that are lost or set back, at the target and at its origins."""

from __future__ import annotations

from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.events import PayloadReady
from tests.unit.clustercontroller.core.dispatch_ends import Shim, TargetEnd


def test_a_change_for_another_journal_is_not_taken() -> None:
    end = TargetEnd()
    end.shim_up(Shim())
    end.deliver("d1", 1, journal_id="another")
    end.revoke("d2", 2, journal_id="another")
    assert end.take() == [("JOURNAL_CHANGED", "d1", ""), ("JOURNAL_CHANGED", "d2", "")]
    assert (end.asked(), end.journals) == ([], [])
    end.deliver("d3", 1, journal_id="")
    assert end.asked() == [("Execute", "d3")]


def test_a_change_said_to_be_received_that_is_not_known_tells_that_the_disk_was_set_back() -> None:
    end = TargetEnd()
    end.shim_up(Shim())
    end.deliver("d9", 9, 8)
    end.deliver("d1", 1)
    end.deliver("d8", 8, 7, known=True)
    assert len(end.journals) == 1
    assert end.disk.tables["self"]["self"].journal_id == end.journals[0] != "j-uid-e1"
    assert end.take() == [("RESULT", "d9", "OUTCOME_UNKNOWN"), ("JOURNAL_CHANGED", "d8", "")]
    end.result("d1")
    assert [report.journal_id for report in end.reports] == end.journals


def test_a_change_that_waits_for_one_that_has_ended_tells_that_the_disk_was_set_back() -> None:
    for again in ("deliver", "revoke", "new"):
        end = TargetEnd()
        end.shim_up(Shim())
        end.deliver("d9", 9, 8)
        if again == "new":
            end.deliver("d10", 10, 8, after_ended=True)
            said = [("RESULT", "d9", "OUTCOME_UNKNOWN"), ("JOURNAL_CHANGED", "d10", "")]
        else:
            getattr(end, again)("d9", 9, 8, after_ended=True)
            said = [("RESULT", "d9", "OUTCOME_UNKNOWN")] * 2
        assert len(end.journals) == 1
        assert end.take() == said


def test_a_change_waits_for_one_that_has_ended_as_long_as_that_is_in_the_journal() -> None:
    end = TargetEnd()
    end.shim_up(Shim())
    end.deliver("d1", 1)
    end.revoke("d3", 3, 2)
    end.ack("d3")
    end.deliver("d4", 4, 3, after_ended=True)
    end.deliver("d4", 4, 3, after_ended=True)
    end.deliver("d2", 2, 1, after_ended=False)
    assert end.journals == []
    end.result("d1")
    end.result("d2")
    end.deliver("d4", 4, 3, after_ended=True)
    assert end.journals == []
    assert end.asked() == [("Execute", "d1"), ("Execute", "d2"), ("Execute", "d4")]


def test_after_memory_was_lost_what_waited_is_unknown_and_what_is_settled_stays() -> None:
    end = TargetEnd()
    end.deliver("d1", 1)
    end.revoke("d2", 2, 1)
    end.pass_time(1.0)
    end.crash()
    end.take()
    end.handle(end.target.memory_lost)
    end.shim_up(Shim())
    assert end.take() == [("RESULT", "d1", "OUTCOME_UNKNOWN")]
    assert end.asked() == []


def test_an_origin_that_lost_its_memory_counts_anew_and_its_old_copies_do_not_run() -> None:
    end = TargetEnd()
    end.shim_up(Shim())
    end.deliver("d1", 1)
    end.deliver("d2", 2, 1)
    end.deliver("d9", 9, 8)
    end.revoke("d7", 7, 6)
    end.revoke("d6", 6, 5)
    end.ack("d6")
    end.asked()
    end.take()
    end.deliver("n1", 1, incarnation=2)
    assert end.take() == [("RESULT", "d2", "CANCELLED"), ("RESULT", "d9", "CANCELLED")]
    end.deliver("d3", 3, 2)
    assert [(r.kind, r.incarnation, r.highest_seq) for r in end.reports] == [(m.FORGOTTEN, 2, 1)]
    end.result("d1")
    assert end.reports[-1].highest_seq == 0
    assert end.asked() == [("Execute", "n1")]
    end.result("n1")
    end.ack("d1", "n1", "d2", "d7", "d9")
    assert end.disk.tables["journal"] == {}
    floor = end.disk.tables["floors"]["uid-R"]
    assert (floor.incarnation, floor.floor) == (2, 1)


def test_old_rows_of_an_origin_that_counts_anew_are_settled_after_a_restart() -> None:
    end = TargetEnd()
    shim = Shim()
    end.shim_up(shim)
    end.deliver("d1", 1)
    end.progress("d1", effect_done=True)
    end.deliver("d2", 2, 1, inline=None, payload=m.Payload(b"h", 9, []))
    end.handle(lambda: end.target.payload_ready(PayloadReady("uid-R/d2")))
    end.deliver("d3", 3, 1)
    end.pass_time(1.0)
    end.deliver("n1", 1, incarnation=2)
    end.result("d2")
    end.result("d3")
    end.result("n1")
    end.disk.tables["journal"]["uid-R/d2"].state = ""
    end.disk.tables["journal"]["uid-R/d2"].started = False
    end.disk.tables["journal"]["uid-R/d2"].payload = m.Payload(b"h", 9, [])
    end.disk.tables["journal"]["uid-R/d3"].state = ""
    end.disk.tables["journal"]["uid-R/d3"].started = False
    end.crash()
    end.asked()
    end.shim_up(shim)
    assert end.asked() == [("Execute", "d1"), ("CancelExecution", "d3"), ("Execute", "d3")]
    end.result("d3", "CANCELLED")
    end.handle(lambda: end.target.payload_ready(PayloadReady("uid-R/d2")))
    assert end.asked() == [("CancelExecution", "d2"), ("Execute", "d2")]


def test_an_origin_that_lost_its_memory_after_a_restart_leaves_what_may_have_run_unknown() -> None:
    end = TargetEnd()
    end.deliver("d9", 9, 8)
    end.pass_time(1.0)
    end.crash()
    end.take()
    end.deliver("n1", 1, incarnation=2)
    assert end.take() == [("RESULT", "d9", "OUTCOME_UNKNOWN")]
    end.handle(lambda: end.target.origin_gone("uid-R"))
    assert end.take() == []


def test_a_held_change_that_a_later_one_passed_never_runs() -> None:
    end = TargetEnd()
    end.shim_up(Shim())
    end.deliver("d5", 5, 4)
    end.deliver("d9", 9)
    end.asked()
    end.result("d9")
    assert end.asked() == []
    assert end.take() == [("RESULT", "d9", "SUCCEEDED"), ("RESULT", "d5", "CANCELLED")]


def test_a_held_change_of_an_earlier_process_that_a_later_one_passed_is_asked_for_as_cancelled() -> None:
    end = TargetEnd()
    end.deliver("d5", 5, 4)
    end.pass_time(1.0)
    end.crash()
    end.shim_up(Shim())
    end.deliver("d9", 9)
    end.result("d9")
    assert end.asked() == [("Execute", "d9"), ("CancelExecution", "d5"), ("Execute", "d5")]


def test_endings_that_are_waited_for_are_bounded() -> None:
    end = TargetEnd()
    end.shim_up(Shim())
    end.deliver("d1", 20_000)
    end.result("d1")
    end.ack("d1")
    end.disk.tables["floors"]["uid-R"].floor = 0
    end.crash()
    end.shim_up(Shim())
    end.take()
    for seq in range(2, 10_003):
        end.revoke(f"d{seq}", seq)
    end.asked()
    end.deliver("d2", 2)
    end.deliver("d10002", 10_002, 2)
    end.result("d2")
    assert end.asked() == [("Execute", "d2"), ("CancelExecution", "d10002"), ("Execute", "d10002")]
