"""Are progress, effect_done and the result told in order and truthfully? Needs commands that take time."""

from __future__ import annotations

import time

from ote.api.command.v1 import command_pb2
from ote.conformance.checks.objects import expect_action
from ote.conformance.manifests import as_json
from ote.conformance.model import CheckGroup
from ote.conformance.probe import EFFECT_SECONDS, Probe, told
from ote.conformance.verdict import CheckFailed, CheckSkipped, expect

check = CheckGroup("progress")

_LONG = 3 * EFFECT_SECONDS
"""For commands that are watched no longer than until something else has happened."""


@check(
    "one-result-last",
    title="progress, and then exactly one result as the last message",
    contract="Execute streams any number of progress messages and then exactly one result.",
    running=True,
)
async def one_result_last(probe: Probe) -> None:
    """For a command that takes a second and a half."""
    _, command = probe.unready(1.5)
    answer = await probe.execute(command)
    answer.settled()
    said = [progress.effect_done for progress in answer.progress]
    expect(said == sorted(said), "a progress took effect_done back")


@check(
    "effect-done",
    title="effect_done is said when the effect is there, and before readiness",
    contract="effect_done: the effect is complete and only observed from here on: the next change may start.",
    needs=("get",),
    running=True,
)
async def effect_done(probe: Probe) -> None:
    """When it is said, get finds the object and the command still runs."""
    dispatch_id = probe.new_id()
    thing, command = probe.unready(_LONG)
    running = probe.start(command, dispatch_id=dispatch_id)
    if not await running.until_effect():
        raise CheckSkipped("the shim never says effect_done: allowed, but the next change waits for readiness then")
    expect(await probe.found(thing) is not None, "effect_done was said, but the object is not there")
    expect(not running.over, "effect_done was said, and the command ended before its readiness was known")
    await probe.cancel(dispatch_id)
    (await running.finish()).settled()


@check(
    "not-ready",
    title="objects that are not ready in time end FAILED with NOT_READY, and stay",
    contract="ready_timeout: objects that are not ready by then end the command FAILED with reason NOT_READY; the "
    "effect stays.",
    running=True,
)
async def not_ready(probe: Probe) -> None:
    """The result comes in time, names the object as not ready, and the object is there."""
    thing, command = probe.unready(1.5)
    began = time.monotonic()
    result = (await probe.execute(command)).settled()
    took = time.monotonic() - began
    expect(result.outcome == command_pb2.OUTCOME_FAILED, f"expected FAILED, got {told(result)}")
    expect(result.reason == "NOT_READY", f"expected reason NOT_READY, got {told(result)}")
    expect(took < 6, f"expected the result 1.5 s after the effect, it came after {took:.1f} s")
    expect_action(result, thing, "CREATED")
    expect(not any(each.ready for each in result.objects if each.object.name == thing.name), "told as ready")
    if probe.can("get"):
        expect(await probe.found(thing) is not None, "the effect did not stay")


@check(
    "partly-ready",
    title="of two objects, the one that is ready is told apart from the one that is not",
    contract="ObjectResult.ready: whether it is ready; true for kinds that have no readiness.",
    running=True,
)
async def partly_ready(probe: Probe) -> None:
    """A plain object and one that never becomes ready, in one apply."""
    plain = probe.thing()
    slow, _ = probe.unready(1)
    manifests = as_json([plain.manifest(), probe.unready_manifest(slow)])
    result = (await probe.execute(probe.apply_command(manifests, ready_timeout=1.5))).settled()
    expect(result.outcome == command_pb2.OUTCOME_FAILED, f"expected FAILED, got {told(result)}")
    for thing in (plain, slow):
        expect_action(result, thing, "CREATED")
    ready = {each.object.name: each.ready for each in result.objects}
    expect(ready[plain.name], f"{plain.kind}/{plain.name} is told as not ready")
    expect(not ready[slow.name], f"{slow.kind}/{slow.name} is told as ready")


@check(
    "no-watch",
    title="with a ready_timeout of zero the command ends at its effect",
    contract="ready_timeout: unset means 5 minutes, zero means not at all.",
    running=True,
)
async def no_watch(probe: Probe) -> None:
    """SUCCEEDED within seconds, although the object is not ready."""
    thing, command = probe.unready(0)
    result = (await probe.execute(command, call_timeout=10)).settled()
    expect(result.outcome == command_pb2.OUTCOME_SUCCEEDED, f"expected SUCCEEDED, got {told(result)}")
    expect_action(result, thing, "CREATED")


@check(
    "unset-watches",
    title="with no ready_timeout the objects are watched",
    contract="ready_timeout: unset means 5 minutes, zero means not at all.",
    running=True,
)
async def unset_watches(probe: Probe) -> None:
    """After two seconds the command still runs."""
    _, command = probe.unready(0)
    command.apply.ClearField("ready_timeout")
    dispatch_id = probe.new_id()
    running = probe.start(command, dispatch_id=dispatch_id)
    if await running.ended_within(2):
        raise CheckFailed(f"it ended within 2 s: {told(running.answer.settled())}")
    await probe.cancel(dispatch_id)


@check(
    "next-change",
    title="the next change starts while an earlier one is observed",
    contract="effect_done: only observed from here on: the next change of this cluster may start.",
    needs=("delete",),
    running=True,
)
async def next_change(probe: Probe) -> None:
    """A change that is sent after effect_done ends before the earlier one does."""
    _, command = probe.unready(_LONG)
    running = probe.start(command, dispatch_id=probe.new_id())
    if not await running.until_effect():
        raise CheckSkipped("the shim never says effect_done")
    await probe.apply(probe.thing())
    expect(not running.over, "the next change waited until the earlier one had ended")


@check(
    "reads-pass",
    title="reads do not wait behind a change that is observed",
    contract="get and logs are reads: they pass changes by.",
    needs=("get",),
    running=True,
)
async def reads_pass(probe: Probe) -> None:
    """A get is answered while a change runs."""
    _, command = probe.unready(_LONG)
    running = probe.start(command, dispatch_id=probe.new_id())
    await running.until_effect()
    (await probe.get(probe.kind)).settled()
    expect(not running.over, "the read waited until the change had ended")
