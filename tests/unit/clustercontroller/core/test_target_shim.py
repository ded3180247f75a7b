"""A target and its shim: refusals, calls that break, restarts of either, and reads."""

from __future__ import annotations

import pytest

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from tests.unit.clustercontroller.core.dispatch_ends import Shim, TargetEnd

PAYLOAD = m.Payload(b"hash", 5_000_000, [b"piece"])


def up(durable: bool = True) -> tuple[TargetEnd, Shim]:
    end, shim = TargetEnd(), Shim(durable)
    end.shim_up(shim)
    return end, shim


def refused(end: TargetEnd) -> list[str]:
    return [effect.reason for effect in end.done if isinstance(effect, fx.FinishHere)]


def test_without_a_shim_a_command_fails_and_the_controllers_own_do_not() -> None:
    end = TargetEnd(has_shim=False)
    end.deliver("d1", 1)
    assert refused(end) == ["NO_SHIM"]
    end.result("d1", "FAILED")
    end.deliver("f1", 2, 1, command="set_facts")
    assert end.asked()[-1] == ("ExecuteHere", "f1")
    assert end.take() == [("RESULT", "d1", "FAILED")]


def test_what_is_not_allowed_not_supported_or_too_large_fails() -> None:
    end = TargetEnd(allowed=frozenset({"apply", "drain", "scale"}))
    end.shim_up(Shim())
    end.deliver("d1", 1, command="delete")
    end.result("d1", "FAILED")
    end.deliver("d2", 2, command="scale")
    end.result("d2", "FAILED")
    end.deliver("d3", 3, inline=None, payload=PAYLOAD)
    end.result("d3", "FAILED")
    end.deliver("d4", 4, command="drain", inline=None)
    end.deliver("r1", 0, command="get", change=False)
    assert refused(end) == ["NOT_ALLOWED", "UNSUPPORTED", "COMMAND_TOO_LARGE", "COMMAND_TOO_LARGE", "NOT_ALLOWED"]
    assert ("FetchPayload", "d3") not in end.asked()


def test_changes_wait_while_the_shim_is_down_and_are_said_to_be_received() -> None:
    end, shim = up()
    end.shim_down()
    end.deliver("d1", 1)
    end.pass_time(1.0)
    assert (end.take(), end.asked()) == ([("RECEIVED", "d1", "")], [])
    end.shim_up(shim)
    assert end.asked() == [("Execute", "d1")]


def test_before_the_shim_was_ever_there_changes_wait() -> None:
    end = TargetEnd()
    end.deliver("d1", 1)
    assert end.asked() == []


def test_a_change_that_waits_for_the_shim_is_cancelled() -> None:
    end = TargetEnd()
    end.deliver("d1", 1)
    end.revoke("d1", 1)
    assert end.take() == [("RESULT", "d1", "CANCELLED")]
    end.shim_up(Shim())
    assert end.asked() == []


@pytest.mark.parametrize(("durable", "command"), [(True, "apply"), (True, "delete")])
def test_a_lost_call_is_made_again_where_that_cannot_have_a_second_effect(durable: bool, command: str) -> None:
    end, shim = up(durable)
    end.deliver("d1", 1, command=command)
    end.shim_down()
    end.lost("d1")
    end.pass_time(5.0)
    assert end.asked() == [("Execute", "d1")]
    shim.restart()
    end.shim_up(shim)
    assert end.asked() == [("Execute", "d1")]
    end.result("d1")
    assert end.take()[-1] == ("RESULT", "d1", "SUCCEEDED")


def test_a_lost_call_is_made_again_after_a_second_while_the_shim_is_there() -> None:
    end, _ = up(durable=False)
    end.deliver("d1", 1)
    end.lost("d1")
    end.lost("dx")
    end.shim_down()
    end.pass_time(1.1)
    end.handle(lambda: end.target.shim_up(Shim(durable=False).up()))
    assert end.asked() == [("Execute", "d1")] * 2
    end.lost("d1")
    end.pass_time(0.9)
    assert end.asked() == []
    end.pass_time(0.2)
    assert end.asked() == [("Execute", "d1")]
    end.lost("d1")
    end.result("d1")
    end.result("d1")
    end.pass_time(2.0)
    assert end.asked() == []


def test_the_outcome_is_unknown_when_the_shim_forgot() -> None:
    end, shim = up(durable=False)
    end.deliver("d1", 1)
    end.lost("d1")
    shim.restart()
    end.shim_up(shim)
    assert end.take() == [("RESULT", "d1", "OUTCOME_UNKNOWN")]


def test_a_call_that_was_not_lost_is_not_made_again() -> None:
    end, shim = up()
    end.deliver("d1", 1)
    shim.restart()
    end.shim_up(shim)
    assert end.asked() == [("Execute", "d1")]


@pytest.mark.parametrize("same", [True, False])
def test_after_a_restart_a_begun_change_goes_on_only_if_the_shim_remembers(same: bool) -> None:
    end, shim = up(durable=False)
    end.deliver("d1", 1)
    end.crash()
    end.asked()
    if not same:
        shim.restart()
    end.shim_up(shim)
    if same:
        assert end.asked() == [("Execute", "d1")]
    else:
        assert end.take() == [("RESULT", "d1", "OUTCOME_UNKNOWN")]


def test_after_a_restart_a_settled_result_is_said_until_it_is_acknowledged() -> None:
    end, _ = up()
    end.deliver("d1", 1)
    end.result("d1")
    end.deliver("d2", 9, 5)
    end.revoke("d2", 9, 5)
    end.take()
    end.crash()
    assert end.take() == [("RESULT", "d1", "SUCCEEDED"), ("RESULT", "d2", "CANCELLED")]
    end.deliver("d3", 2, 1)
    end.shim_up(Shim())
    assert end.asked()[-1] == ("Execute", "d3")


def test_after_a_restart_what_was_only_observed_is_asked_for_and_holds_nobody_up() -> None:
    end, shim = up()
    end.deliver("d1", 1)
    end.progress("d1", b"applied", effect_done=True)
    end.deliver("d2", 2, 1)
    end.result("d2")
    end.ack("d2")
    end.deliver("d3", 3, 2)
    end.asked()
    end.crash()
    end.shim_up(shim)
    assert end.asked() == [("Execute", "d1")]
    end.deliver("d3", 3, 2)
    assert end.asked() == [("Execute", "d3")]
    end.progress("d1", b"applied", effect_done=True)
    end.result("d1")
    assert end.take()[-1] == ("RESULT", "d1", "SUCCEEDED")


def test_after_a_restart_what_ran_goes_first() -> None:
    end, shim = up(durable=False)
    end.deliver("e1", 1, origin="uid-A")
    end.deliver("d1", 1)
    end.pass_time(1.0)
    end.result("e1", origin="uid-A")
    end.ack("e1", origin="uid-A")
    end.deliver("e2", 2, 1, origin="uid-A")
    end.pass_time(1.0)
    end.asked()
    end.crash()
    end.shim_up(shim)
    assert end.asked() == [("Execute", "d1")]


def test_what_an_earlier_process_may_have_begun_is_cancelled_by_the_shim_alone() -> None:
    end, shim = up()
    end.deliver("d1", 1)
    shim.execute("uid-R/d1")
    end.crash()
    end.shim_up(shim)
    end.revoke("d1", 1)
    assert end.take() == [("BUSY", "d1", "")]
    end.asked()
    end.deliver("d1", 1, attempt=2)
    assert end.asked() == [("CancelExecution", "d1"), ("Execute", "d1")]
    shim.cancel("uid-R/d1")
    end.result("d1", shim.execute("uid-R/d1"))
    assert end.take() == [("RESULT", "d1", "SUCCEEDED")]


def test_what_waited_in_an_earlier_process_is_cancelled_by_the_shim_alone() -> None:
    end = TargetEnd()
    end.deliver("d1", 1)
    end.pass_time(1.0)
    end.crash()
    end.take()
    end.revoke("d1", 1, expired=True)
    assert end.take() == [("RECEIVED", "d1", "")]
    shim = Shim()
    end.shim_up(shim)
    assert end.asked() == [("CancelExecution", "d1"), ("Execute", "d1")]
    shim.cancel("uid-R/d1")
    end.result("d1", shim.execute("uid-R/d1"))
    assert end.take() == [("RESULT", "d1", "EXPIRED")]
    assert shim.effects == []


def test_reads_pass_by_and_are_not_remembered() -> None:
    end, _ = up()
    end.deliver("d1", 1)
    end.asked()
    writes = len(end.disk.writes)
    end.deliver("r1", 0, command="get", change=False)
    end.deliver("r1", 0, command="get", change=False, attempt=2)
    assert end.asked() == [("Execute", "r1")]
    end.result("r1", body=b"pods")
    end.deliver("r1", 0, command="get", change=False, attempt=3)
    assert end.take() == [("RECEIVED", "r1", ""), ("RESULT", "r1", "SUCCEEDED")]
    assert end.asked() == [("Execute", "r1")]
    end.revoke("r1", 0)
    end.revoke("r1", 0)
    assert end.asked() == [("CancelExecution", "r1")]
    end.result("r1")
    assert (end.take(), len(end.disk.writes)) == ([], writes)


def test_reads_are_bounded_and_fail_while_the_shim_is_down() -> None:
    end, _ = up()
    for number in range(17):
        end.deliver(f"r{number}", 0, command="get", change=False)
    assert end.take() == [("BUSY", "r16", "")]
    end.lost("r0")
    end.result("r0", "FAILED")
    end.shim_down()
    end.deliver("r17", 0, command="logs", change=False)
    end.result("r17", "FAILED")
    end.deliver("r18", 0, command="logs", change=False, payload=m.Payload(b"", 1, []))
    assert refused(end) == ["SHIM_UNAVAILABLE", "SHIM_UNAVAILABLE", "COMMAND_TOO_LARGE"]


def test_reads_that_a_shim_does_not_end_are_given_up_and_keep_their_places_from_nobody() -> None:
    end, _ = up()
    for number in range(16):
        end.deliver(f"r{number}", 0, command="get", change=False, attempt=1)
    end.asked()
    end.pass_time(899.0)
    end.deliver("r0", 0, command="get", change=False, attempt=2)
    assert (end.take(), end.asked()) == ([("RECEIVED", "r0", "")], [])
    end.pass_time(1.0)
    end.deliver("r16", 0, command="get", change=False)
    assert end.take() == [("BUSY", "r16", "")]
    assert end.asked() == [(kind, f"r{number}") for number in range(16) for kind in ("CancelExecution", "FinishHere")]
    for number in range(16):
        end.result(f"r{number}", "FAILED")
    end.deliver("r16", 0, command="get", change=False, attempt=2)
    assert end.asked() == [("Execute", "r16")]


def test_a_command_of_a_change_is_never_taken_for_a_read() -> None:
    end, _ = up()
    end.deliver("d1", 0, command="apply", change=False)
    assert (end.take(), end.asked()) == ([("FORGOTTEN", "d1", "")], [])


def test_what_follows_a_change_that_ended_without_the_shim_waits_until_that_is_on_disk() -> None:
    end, _ = up()
    end.deliver("d1", 1)
    end.result("d1")
    end.disk.held = True
    end.revoke("d2", 300, 1)
    end.deliver("d3", 301, 300)
    assert end.asked() == [("Execute", "d1")]
    end.commit()
    assert end.asked() == [("Execute", "d3")]


def test_what_an_earlier_process_began_is_asked_for_at_once_while_the_shim_is_the_one_that_remembers() -> None:
    end, shim = up(durable=False)
    end.deliver("d1", 1)
    end.revoke("d2", 300, 1)
    end.crash()
    end.asked()
    end.disk.held = True
    end.revoke("d3", 900, 899)
    end.shim_up(shim)
    assert end.asked() == [("Execute", "d1")]


def test_a_cancel_that_comes_before_the_shim_is_back_reaches_what_an_earlier_process_began() -> None:
    end, shim = up()
    end.deliver("d1", 1)
    end.progress("d1", b"applied", effect_done=True)
    end.deliver("d2", 2, 1)
    end.result("d2")
    end.ack("d2")
    end.crash()
    end.asked()
    end.revoke("d1", 1)
    end.shim_up(shim)
    assert {kind for kind, name in end.asked() if name == "d1"} == {"CancelExecution", "Execute"}
