"""Payloads at their target that are lost, or that nobody has: asked for again, then given up."""

from __future__ import annotations

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.events import PayloadFailed, PayloadLost, PayloadReady
from tests.unit.clustercontroller.core.dispatch_ends import R, Shim, TargetEnd

PAYLOAD = m.Payload(b"h" * 32, 9, [b"h" * 32])


def begun(shim: Shim | None = None) -> TargetEnd:
    """A target whose first change, d1, has a payload and was handed to the shim; e1 of another origin waits."""
    end = TargetEnd()
    end.shim_up(shim or Shim())
    end.deliver("d1", 1, inline=None, payload=PAYLOAD)
    ready(end)
    end.deliver("e1", 1, origin="uid-E")
    assert end.asked() == [("FetchPayload", "d1"), ("Execute", "d1")]
    end.pass_time(1.0)
    end.take()
    return end


def ready(end: TargetEnd) -> None:
    end.handle(lambda: end.target.payload_ready(PayloadReady(f"{R}/d1")))


def lost(end: TargetEnd) -> None:
    end.handle(lambda: end.target.payload_lost(PayloadLost(f"{R}/d1", "no such file")))


def failed(end: TargetEnd, *, absent: bool = True) -> None:
    end.handle(lambda: end.target.payload_failed(PayloadFailed(f"{R}/d1", "nobody has it", False, absent)))


def fetches(end: TargetEnd, seconds: float, *, absent: bool = True) -> list[float]:
    """Let each fetch fail for so long; when they were asked for."""
    asked = []
    until = end.now + seconds
    while end.now < until:
        end.pass_time(0.5)
        if ("FetchPayload", "d1") in end.asked():
            asked.append(end.now)
            failed(end, absent=absent)
    return asked


def ended(end: TargetEnd) -> tuple[str, str]:
    """How d1 is to end."""
    (finish,) = (effect for effect in end.done if isinstance(effect, fx.FinishHere))
    return finish.state, finish.reason


def test_a_lost_payload_is_fetched_again_and_its_change_begins_anew_behind_others() -> None:
    end = begun()
    lost(end)
    assert end.asked() == [("FetchPayload", "d1"), ("Execute", "e1")]
    end.result("e1", origin="uid-E")
    ready(end)
    assert end.asked() == [("Execute", "d1")]
    end.result("d1")
    assert end.take()[-1] == ("RESULT", "d1", "SUCCEEDED")
    assert [report.journal_number for report in end.reports] == []


def test_a_payload_that_nobody_has_is_asked_for_seven_times_and_then_its_change_fails() -> None:
    end = begun()
    end.deliver("d2", 2, 1)
    lost(end)
    end.result("e1", origin="uid-E")
    end.asked()
    end.take()
    failed(end)
    assert end.take() == [("BUSY", "d1", "")], "the origin is to send it again, so that hops serve it again"
    begun_at = end.now
    end.done.clear()
    waited: list[float] = []
    while not any(isinstance(effect, fx.FinishHere) for effect in end.done):
        end.pass_time(0.5)
        if any(isinstance(effect, fx.FetchPayload) for effect in end.done):
            end.done.clear()
            waited.append(end.now - begun_at)
            failed(end)
        assert end.now - begun_at < 70.0
    assert len(waited) == 5
    assert waited[0] <= 2.0 < waited[1]
    assert 45.0 < waited[-1] < 62.0
    assert ended(end) == ("FAILED", "PAYLOAD_UNAVAILABLE")
    end.result("d1", "FAILED")
    assert end.asked()[-1] == ("Execute", "d2"), "what stands behind it goes on"


def test_while_there_is_no_way_up_a_payload_is_waited_for_and_others_go_on() -> None:
    end = begun()
    lost(end)
    assert ("Execute", "e1") in end.asked()
    failed(end, absent=False)
    assert len(fetches(end, 600.0, absent=False)) > 8
    assert end.target.unsettled == 2
    ready(end)
    end.result("e1", origin="uid-E")
    assert end.asked()[-1] == ("Execute", "d1")


def test_what_the_shim_may_have_had_before_its_payload_was_lost_is_unknown_and_waits_for_nobody() -> None:
    shim = Shim()
    end = begun(shim)
    end.lost("d1")
    end.pass_time(1.1)
    assert end.asked() == [("Execute", "d1")], "the call broke, so it is made again"
    lost(end)
    assert end.asked() == [("FetchPayload", "d1")], "nothing passes what the shim may be doing"
    failed(end, absent=False)
    end.done.clear()
    while not end.done or not isinstance(end.done[-1], fx.FinishHere):
        end.pass_time(0.5)
        if end.done and isinstance(end.done[-1], fx.FetchPayload):
            end.done.clear()
            failed(end, absent=False)
        assert end.now < 200.0
    assert ended(end) == ("OUTCOME_UNKNOWN", "PAYLOAD_UNAVAILABLE")
    end.asked()
    end.result("d1", "OUTCOME_UNKNOWN")
    assert end.asked() == [("DropPayload", "d1"), ("Execute", "e1")]


def test_after_a_restart_a_payload_that_nobody_has_leaves_unknown_what_an_earlier_process_may_have_begun() -> None:
    shim = Shim()
    end = begun(shim)
    end.crash()
    end.shim_up(shim)
    end.result("e1", origin="uid-E")
    end.asked()
    for _ in range(7):
        failed(end)
        end.pass_time(61.0)
    assert ended(end) == ("OUTCOME_UNKNOWN", "PAYLOAD_UNAVAILABLE")


def test_a_change_whose_effect_is_done_gets_its_payload_after_a_restart_and_is_asked_for_once() -> None:
    shim = Shim()
    end = begun(shim)
    end.progress("d1", effect_done=True)
    end.result("e1", origin="uid-E")
    end.deliver("d2", 2, 1)
    end.result("d2")
    end.ack("d2")
    end.asked()
    end.crash()
    end.shim_up(shim)
    assert end.asked() == [("FetchPayload", "d1")]
    ready(end)
    assert end.asked() == [("Execute", "d1")]


def test_a_command_that_comes_again_is_fetched_at_once_and_a_new_way_up_begins_the_count_anew() -> None:
    end = begun()
    lost(end)
    end.result("e1", origin="uid-E")
    for _ in range(4):
        failed(end)
        end.pass_time(20.0)
    end.asked()
    failed(end)
    end.deliver("d1", 1, inline=None, payload=PAYLOAD, attempt=2)
    assert end.asked() == [("FetchPayload", "d1")]
    failed(end)
    end.handle(end.target.path_changed)
    for _ in range(6):
        failed(end)
        end.pass_time(61.0)
    assert not any(isinstance(effect, fx.FinishHere) for effect in end.done)
    failed(end)
    assert ended(end) == ("FAILED", "PAYLOAD_UNAVAILABLE")


def test_a_change_that_was_cancelled_while_its_payload_was_looked_for_is_cancelled() -> None:
    end = begun()
    end.revoke("d1", 1)
    assert end.asked() == [("CancelExecution", "d1")]
    lost(end)
    assert end.take() == [("RECEIVED", "d1", ""), ("PROGRESS", "d1", ""), ("RESULT", "d1", "CANCELLED")]


def test_a_file_that_is_here_and_cannot_be_read_is_given_up() -> None:
    end = begun()
    for _ in range(7):
        lost(end)
        end.pass_time(3.0)
        ready(end)
        end.result("e1", origin="uid-E")
    assert ended(end) == ("FAILED", "PAYLOAD_UNAVAILABLE")


def test_a_payload_that_comes_before_the_turn_of_its_change_waits_for_it() -> None:
    end = TargetEnd()
    end.shim_up(Shim())
    end.deliver("d1", 2, 1, inline=None, payload=PAYLOAD)
    ready(end)
    assert end.asked() == [("FetchPayload", "d1")]
    end.deliver("d0", 1)
    end.result("d0")
    assert end.asked() == [("Execute", "d0"), ("Execute", "d1")]


def test_a_call_that_finds_no_payload_after_its_change_has_ended_changes_nothing() -> None:
    end = begun()
    end.result("d1")
    end.take()
    end.asked()
    lost(end)
    assert end.asked() == []
    assert end.take() == []


def test_a_payload_that_comes_back_while_the_shim_is_away_is_handed_over_when_the_shim_returns() -> None:
    shim = Shim()
    end = begun(shim)
    end.lost("d1")
    end.pass_time(1.1)
    lost(end)
    assert end.asked() == [("Execute", "d1"), ("FetchPayload", "d1")]
    end.shim_down()
    ready(end)
    assert end.asked() == []
    end.shim_up(shim)
    assert end.asked() == [("Execute", "d1")]
