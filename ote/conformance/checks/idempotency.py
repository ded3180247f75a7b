"""Does a dispatch id have one effect, however often and however badly it arrives?"""

from __future__ import annotations

import asyncio

from ote.api.command.v1 import command_pb2
from ote.conformance.checks.objects import expect_action, expect_value
from ote.conformance.manifests import Thing
from ote.conformance.model import CheckGroup
from ote.conformance.probe import Probe, told
from ote.conformance.verdict import expect

check = CheckGroup("idempotency")

_ONCE = (
    "Execute: an id that runs is attached to, an id that is remembered is answered with the remembered result, and "
    "neither has a second effect."
)


def same(first: command_pb2.Result, again: command_pb2.Result) -> None:
    """Fail the check unless both are the same result."""
    expect(first == again, f"expected the remembered result ({told(first)}), got another one ({told(again)})")


@check(
    "remembered",
    title="an id that has ended is answered with the remembered result",
    contract=_ONCE,
    needs=("change",),
)
async def remembered(probe: Probe) -> None:
    """Three times the same request, three times the same result."""
    command, dispatch_id = probe.small_change(), probe.new_id()
    first = await probe.done(command, dispatch_id=dispatch_id)
    for _ in range(2):
        same(first, (await probe.execute(command, dispatch_id=dispatch_id)).settled())


@check(
    "no-second-effect",
    title="an id that has ended has no second effect",
    contract=_ONCE,
    needs=("apply", "get"),
)
async def no_second_effect(probe: Probe) -> None:
    """Apply one, apply two, repeat the first: its old result comes, and two stays."""
    thing, dispatch_id = probe.thing("one"), probe.new_id()
    later = Thing(thing.kind, thing.name, thing.namespace, "two")
    first = await probe.done(probe.apply_command([thing]), dispatch_id=dispatch_id)
    await probe.apply(later)
    same(first, (await probe.execute(probe.apply_command([thing]), dispatch_id=dispatch_id)).settled())
    await expect_value(probe, later, "two")


@check(
    "other-content",
    title="an id with other content is ALREADY_EXISTS",
    contract="Execute: ALREADY_EXISTS for an id that was used with other content.",
    needs=("apply",),
)
async def other_content(probe: Probe) -> None:
    """The second command is refused and has no effect."""
    one, two, dispatch_id = probe.thing(), probe.thing(), probe.new_id()
    await probe.done(probe.apply_command([one]), dispatch_id=dispatch_id)
    (await probe.execute(probe.apply_command([two]), dispatch_id=dispatch_id)).refused("ALREADY_EXISTS")
    if probe.can("get"):
        expect(await probe.found(two) is None, "the refused command was executed")


@check(
    "timeout-is-no-content",
    title="the same command with another timeout and forget list is the same",
    contract="The id was used with other content only if the command differs: timeout is what remains, and forget is "
    "about other ids.",
    needs=("change",),
)
async def timeout_is_no_content(probe: Probe) -> None:
    """A repeat with less time left gets the remembered result."""
    command, dispatch_id = probe.small_change(), probe.new_id()
    first = (await probe.execute(command, dispatch_id=dispatch_id, timeout=60)).settled()
    again = await probe.execute(command, dispatch_id=dispatch_id, timeout=30, forget=[probe.new_id()])
    same(first, again.settled())


@check(
    "at-once",
    title="the same id sixteen times at once has one effect",
    contract=_ONCE,
    needs=("apply",),
)
async def at_once(probe: Probe) -> None:
    """All sixteen calls bring the same result, which says CREATED."""
    thing, dispatch_id = probe.thing(), probe.new_id()
    command = probe.apply_command([thing])
    answers = await asyncio.gather(*(probe.execute(command, dispatch_id=dispatch_id) for _ in range(16)))
    first = answers[0].settled()
    expect_action(first, thing, "CREATED")
    for answer in answers[1:]:
        same(first, answer.settled())


@check(
    "failure-remembered",
    title="a command that FAILED is remembered like one that succeeded",
    contract=_ONCE,
    needs=("apply",),
)
async def failure_remembered(probe: Probe) -> None:
    """The same bad manifest fails the same; a good one under its id is refused."""
    bad, dispatch_id = probe.apply_command(b"kind: [unfinished"), probe.new_id()
    first = (await probe.execute(bad, dispatch_id=dispatch_id)).settled()
    expect(first.outcome == command_pb2.OUTCOME_FAILED, f"expected FAILED, got {told(first)}")
    same(first, (await probe.execute(bad, dispatch_id=dispatch_id)).settled())
    good = probe.apply_command([probe.thing()])
    (await probe.execute(good, dispatch_id=dispatch_id)).refused("ALREADY_EXISTS")


@check(
    "attach",
    title="an id that runs is attached to",
    contract=_ONCE,
    running=True,
)
async def attach(probe: Probe) -> None:
    """A second Execute while the first runs: both bring the same result, and the object was created once."""
    dispatch_id = probe.new_id()
    thing, command = probe.unready(4)
    running = probe.start(command, dispatch_id=dispatch_id)
    expect(not await running.ended_within(0.5), "the command ended before it could be attached to")
    second = (await probe.execute(command, dispatch_id=dispatch_id)).settled()
    first = (await running.finish()).settled()
    same(first, second)
    expect_action(first, thing, "CREATED")


@check(
    "lost-call",
    title="losing the call of a change cancels nothing",
    contract="Execute: losing the call cancels nothing; the same id attaches.",
    needs=("apply",),
)
async def lost_call(probe: Probe) -> None:
    """Calls are lost 0 to 500 ms after they began; each, repeated, brings a result in which all objects are CREATED."""
    for delay in (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.5):
        things, dispatch_id = [probe.thing() for _ in range(10)], probe.new_id()
        command = probe.apply_command(things)
        running = probe.start(command, dispatch_id=dispatch_id)
        await asyncio.sleep(delay)
        await running.drop()
        result = await probe.done(command, dispatch_id=dispatch_id)
        for thing in things:
            expect_action(result, thing, "CREATED")


@check(
    "lost-running-call",
    title="a command goes on when its call is lost while it runs",
    contract="Execute: losing the call cancels nothing.",
    running=True,
)
async def lost_running_call(probe: Probe) -> None:
    """The call is lost after the effect; repeated, it is attached to, and nothing is created a second time."""
    dispatch_id = probe.new_id()
    thing, command = probe.unready(2)
    running = probe.start(command, dispatch_id=dispatch_id)
    await running.until_effect()
    await running.drop()
    result = (await probe.execute(command, dispatch_id=dispatch_id)).settled()
    expect(result.outcome == command_pb2.OUTCOME_FAILED, f"expected FAILED (NOT_READY), got {told(result)}")
    expect(result.reason == "NOT_READY", f"expected reason NOT_READY, got {told(result)}")
    expect_action(result, thing, "CREATED")


@check(
    "forget",
    title="forget frees ids, known or not, and harms no other",
    contract="forget: dispatch ids that will never be sent again: the shim may forget them.",
    needs=("change",),
)
async def forget(probe: Probe) -> None:
    """Another id, not named, is still remembered afterwards."""
    gone, kept, command = probe.new_id(), probe.new_id(), probe.small_change()
    await probe.done(command, dispatch_id=gone)
    first = await probe.done(command, dispatch_id=kept)
    answer = await probe.execute(probe.small_change(), forget=[gone, probe.new_id(), "never used"])
    expect(answer.settled().outcome == command_pb2.OUTCOME_SUCCEEDED, f"with a forget list: {told(answer.settled())}")
    same(first, (await probe.execute(command, dispatch_id=kept)).settled())


@check(
    "reads",
    title="reads are not remembered",
    contract="Reads carry an empty id and may be repeated freely.",
    needs=("apply", "get"),
)
async def reads(probe: Probe) -> None:
    """The same get before and after a change brings the old and the new value."""
    thing = probe.thing("one")
    await probe.apply(thing)
    await expect_value(probe, thing, "one")
    await probe.apply(Thing(thing.kind, thing.name, thing.namespace, "two"))
    await expect_value(probe, thing, "two")


@check(
    "any-printable-id",
    title="an id is opaque: 128 characters of printable ASCII",
    contract="dispatch_id: at most 128 characters, printable ASCII.",
    needs=("change",),
)
async def any_printable_id(probe: Probe) -> None:
    """Ids that look like paths, quotes and formats work and are told apart."""
    tail = probe.new_id()
    ids = (
        tail.ljust(128, "x"),
        f"../../{tail}",
        f"'; drop table -- {tail}",
        f"%s%n {{}} {tail}",
        f"{tail} ",
        tail.upper(),
        tail,
    )
    for dispatch_id in ids:
        answer = await probe.execute(probe.small_change(), dispatch_id=dispatch_id)
        expect(answer.ending.code == "OK", f"id {dispatch_id!r}: the call ended {answer.ending}")
        result = answer.settled()
        expect(result.outcome == command_pb2.OUTCOME_SUCCEEDED, f"id {dispatch_id!r}: {told(result)}")
