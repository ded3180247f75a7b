"""Are limits in time kept, the command's and the call's?"""

from __future__ import annotations

import time

from ote.api.command.v1 import command_pb2
from ote.conformance.checks.objects import expect_action
from ote.conformance.model import CheckGroup
from ote.conformance.probe import Probe, told
from ote.conformance.verdict import expect

check = CheckGroup("deadlines")


@check(
    "timeout",
    title="a command whose time is over ends FAILED with DEADLINE_EXCEEDED, and its effect stays",
    contract="timeout: when it is over the command ends FAILED with reason DEADLINE_EXCEEDED; what had an effect keeps "
    "it.",
    running=True,
)
async def timeout(probe: Probe) -> None:
    """One second for a command that would be observed for twenty-five."""
    thing, command = probe.unready(25)
    began = time.monotonic()
    result = (await probe.execute(command, timeout=1, call_timeout=8)).settled()
    took = time.monotonic() - began
    expect(result.outcome == command_pb2.OUTCOME_FAILED, f"expected FAILED, got {told(result)}")
    expect(result.reason == "DEADLINE_EXCEEDED", f"expected reason DEADLINE_EXCEEDED, got {told(result)}")
    expect(0.7 < took < 6, f"expected the result after 1 s, it came after {took:.1f} s")
    if probe.can("get"):
        expect(await probe.found(thing) is not None, "the effect did not stay")


@check(
    "long-timeout",
    title="a timeout is a limit, not a wait",
    contract="timeout: how long the command may take in all.",
    needs=("change",),
)
async def long_timeout(probe: Probe) -> None:
    """A quick command with an hour to spare ends at once."""
    result = (await probe.execute(probe.small_change(), timeout=3600, call_timeout=10)).settled()
    expect(result.outcome == command_pb2.OUTCOME_SUCCEEDED, f"expected SUCCEEDED, got {told(result)}")


@check(
    "call-deadline",
    title="the deadline of the call is not the command's",
    contract="Execute: losing the call cancels nothing. The command's own limit is the timeout field.",
    running=True,
)
async def call_deadline(probe: Probe) -> None:
    """A call has half a second and ends; the command goes on and its result comes on the next one."""
    dispatch_id = probe.new_id()
    thing, command = probe.unready(2)
    answer = await probe.execute(command, dispatch_id=dispatch_id, call_timeout=0.5)
    expect(not answer.results, f"the command ended before its ready_timeout: {answer.results}")
    result = (await probe.execute(command, dispatch_id=dispatch_id)).settled()
    expect(result.reason == "NOT_READY", f"expected FAILED with NOT_READY, got {told(result)}")
    expect_action(result, thing, "CREATED")
