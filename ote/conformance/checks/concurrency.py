"""Does the shim take many calls at once, in any order?"""

from __future__ import annotations

import asyncio

from ote.api.command.v1 import command_pb2
from ote.conformance.checks.objects import expect_action
from ote.conformance.manifests import Thing
from ote.conformance.model import CheckGroup
from ote.conformance.probe import Answer, Probe, objects_in
from ote.conformance.verdict import expect

check = CheckGroup("concurrency")

_BUSY = "Execute: RESOURCE_EXHAUSTED (with RetryInfo) when too many commands run."


async def _patiently(probe: Probe, command: command_pb2.Command, dispatch_id: str) -> Answer:
    """Execute, and again while the shim says that it is busy, as a controller does."""
    while True:
        answer = await probe.execute(command, dispatch_id=dispatch_id)
        if answer.ending.code != "RESOURCE_EXHAUSTED":
            return answer
        await asyncio.sleep(0.1)


@check(
    "reads",
    title="a hundred reads at once are all answered, each with its own object",
    contract="Reads carry an empty id and may be repeated freely.",
    needs=("apply", "get"),
)
async def reads(probe: Probe) -> None:
    """Ten objects, each read ten times."""
    things = [probe.thing(f"value-{n}") for n in range(10)]
    await probe.apply(*things)

    async def read(thing: Thing) -> None:
        command = command_pb2.Command(get=command_pb2.Get(kind=thing.kind, name=thing.name))
        items = objects_in((await _patiently(probe, command, "")).settled())
        got = thing.value_in(items[0]) if items else None
        expect(got == thing.value, f"expected {thing.value}, got {got!r}: answers are mixed up")

    await asyncio.gather(*(read(thing) for _ in range(10) for thing in things))


@check(
    "changes",
    title="thirty-two changes at once each have their effect",
    contract=_BUSY,
    needs=("apply",),
)
async def changes(probe: Probe) -> None:
    """Each creates its own object; being told to come again is allowed."""

    async def change() -> None:
        thing = probe.thing()
        answer = await _patiently(probe, probe.apply_command([thing]), probe.new_id())
        expect_action(answer.settled(), thing, "CREATED")

    await asyncio.gather(*(change() for _ in range(32)))


@check(
    "any-order",
    title="ids are independent: their order and neighbours do not matter",
    contract="dispatch_id names the command for ever.",
    needs=("change",),
)
async def any_order(probe: Probe) -> None:
    """Thirty-two commands, then all of them again in reverse: the same results."""
    commands = [(probe.new_id(), probe.small_change()) for _ in range(32)]
    first = [(await _patiently(probe, command, name)).settled() for name, command in commands]
    repeats = [_patiently(probe, command, name) for name, command in reversed(commands)]
    again = [answer.settled() for answer in await asyncio.gather(*repeats)]
    expect(first == list(reversed(again)), "a repeated id was answered with another command's result")


@check(
    "dropped-calls",
    title="a hundred calls that are lost leave the shim as it was",
    contract="Losing the call of a read may cancel it; losing that of a change cancels nothing.",
    needs=("change",),
)
async def dropped_calls(probe: Probe) -> None:
    """Half reads, half changes, all dropped at once; then a change works."""
    command = probe.small_change()
    calls = [probe.start(command, dispatch_id=probe.new_id()) for _ in range(50)]
    if probe.can("get"):
        read = command_pb2.Command(get=command_pb2.Get(kind=probe.kind))
        calls += [probe.start(read, dispatch_id="") for _ in range(50)]
    await asyncio.sleep(0.005)
    await asyncio.gather(*(call.drop() for call in calls))
    answer = await _patiently(probe, probe.small_change(), probe.new_id())
    expect(answer.settled().outcome == command_pb2.OUTCOME_SUCCEEDED, "a change after them does not work")
    await probe.alive()
