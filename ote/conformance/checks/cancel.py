"""Does Cancel stop what has had no effect, and nothing else?"""

from __future__ import annotations

from ote.api.command.v1 import command_pb2
from ote.conformance.checks.idempotency import same
from ote.conformance.model import CheckGroup
from ote.conformance.probe import Probe, told
from ote.conformance.verdict import expect

check = CheckGroup("cancel")


@check(
    "before-execute",
    title="a cancel that overtakes its command wins",
    contract="Cancel: an id that is not known is remembered as cancelled, so that an Execute that arrives later has no "
    "effect.",
    needs=("apply",),
)
async def before_execute(probe: Probe) -> None:
    """Cancel says UNKNOWN, then Execute ends CANCELLED, twice the same, and nothing was created."""
    thing, dispatch_id = probe.thing(), probe.new_id()
    state = await probe.cancel(dispatch_id)
    expect(state == "UNKNOWN", f"expected UNKNOWN, got {state}")
    command = probe.apply_command([thing])
    result = (await probe.execute(command, dispatch_id=dispatch_id)).settled()
    expect(result.outcome == command_pb2.OUTCOME_CANCELLED, f"expected CANCELLED, got {told(result)}")
    again = (await probe.execute(command, dispatch_id=dispatch_id)).settled()
    expect(again.outcome == command_pb2.OUTCOME_CANCELLED, f"the second time: expected CANCELLED, got {told(again)}")
    if probe.can("get"):
        expect(await probe.found(thing) is None, "the cancelled command was executed")


@check(
    "finished",
    title="a cancel that comes too late changes nothing",
    contract="CANCEL_STATE_FINISHED: it has ended already. What had an effect keeps it.",
    needs=("change",),
)
async def finished(probe: Probe) -> None:
    """Cancel says FINISHED, and the remembered result stays."""
    command, dispatch_id = probe.small_change(), probe.new_id()
    first = await probe.done(command, dispatch_id=dispatch_id)
    state = await probe.cancel(dispatch_id)
    expect(state == "FINISHED", f"expected FINISHED, got {state}")
    same(first, (await probe.execute(command, dispatch_id=dispatch_id)).settled())


@check(
    "repeated",
    title="Cancel may be repeated",
    contract="Cancel may be repeated.",
    needs=("change",),
)
async def repeated(probe: Probe) -> None:
    """Three cancels of an unknown id all answer, and the command still ends CANCELLED."""
    dispatch_id = probe.new_id()
    for _ in range(3):
        state = await probe.cancel(dispatch_id)
        expect(state in ("UNKNOWN", "FINISHED"), f"expected UNKNOWN or FINISHED, got {state}")
    result = (await probe.execute(probe.small_change(), dispatch_id=dispatch_id)).settled()
    expect(result.outcome == command_pb2.OUTCOME_CANCELLED, f"expected CANCELLED, got {told(result)}")


@check(
    "observed",
    title="a command that is cancelled after its effect ends FAILED or SUCCEEDED, soon",
    contract="Cancel: a command cancelled while its readiness is observed ends FAILED or SUCCEEDED, never CANCELLED.",
    needs=("get",),
    running=True,
)
async def observed(probe: Probe) -> None:
    """Cancel says CANCELLING, the result comes within ten seconds, and it says CANCELLED only if there is no object."""
    dispatch_id = probe.new_id()
    thing, command = probe.unready(25)
    running = probe.start(command, dispatch_id=dispatch_id)
    await running.until_effect()
    state = await probe.cancel(dispatch_id)
    expect(state == "CANCELLING", f"expected CANCELLING for a command that runs, got {state}")
    result = (await running.finish(10)).settled()
    there = await probe.found(thing) is not None
    if there:
        expect(result.outcome != command_pb2.OUTCOME_CANCELLED, "the result says CANCELLED, but the object exists")
    else:
        expect(
            result.outcome == command_pb2.OUTCOME_CANCELLED, f"there is no object, but the result says {told(result)}"
        )
    same(result, (await probe.execute(command, dispatch_id=dispatch_id, call_timeout=5)).settled())


@check(
    "nameless",
    title="Cancel without an id is INVALID_ARGUMENT",
    contract="CancelRequest.dispatch_id is required.",
)
async def nameless(probe: Probe) -> None:
    """An empty id names nothing."""
    ending, _ = await probe.try_cancel("")
    expect(ending.code == "INVALID_ARGUMENT", f"expected INVALID_ARGUMENT, the call ended {ending}")
