"""Is what the shim says about its memory true when it is killed and started again? Needs a way to do that."""

from __future__ import annotations

from ote.api.command.v1 import command_pb2
from ote.api.shim.v1 import shim_pb2
from ote.conformance.checks.handshake import health
from ote.conformance.checks.idempotency import same
from ote.conformance.checks.objects import expect_value
from ote.conformance.manifests import Thing
from ote.conformance.model import CheckGroup
from ote.conformance.probe import Probe, told
from ote.conformance.verdict import CheckSkipped, expect

check = CheckGroup("restart")

_DURABLE = "MEMORY_DURABLE: remembered over restarts, committed together with the effect."
_LIMIT = 120.0


def _durable(probe: Probe) -> None:
    """Skip the check for a shim that does not claim durable memory."""
    if probe.info.memory != shim_pb2.MEMORY_DURABLE:
        raise CheckSkipped("the shim says that it remembers ids only as long as its instance lives")


@check(
    "instance-id",
    title="instance_id is another one after a restart, and the shim works",
    contract="instance_id: made anew at each start of the process.",
    restart=True,
    limit=_LIMIT,
)
async def instance_id(probe: Probe) -> None:
    """Without it a controller could not tell that an INSTANCE memory is gone."""
    before = probe.info.instance_id
    await probe.restart()
    expect(probe.info.instance_id != before, "instance_id is the same after a restart")
    await health(probe)
    if probe.can("change"):
        await probe.done(probe.small_change())


@check(
    "same-shim",
    title="a restart changes neither what the shim can do nor what it remembers",
    contract="capabilities, memory and max_command_bytes describe the shim, not the moment.",
    restart=True,
    limit=_LIMIT,
)
async def same_shim(probe: Probe) -> None:
    """Everything but the instance id is as before."""
    before = probe.info
    await probe.restart()
    for name in ("name", "kind", "memory", "max_command_bytes"):
        was, now = getattr(before, name), getattr(probe.info, name)
        expect(was == now, f"{name} was {was!r} before the restart and is {now!r} after it")
    expect(set(before.capabilities) == set(probe.info.capabilities), "capabilities changed")


@check(
    "remembered",
    title="DURABLE: an id is remembered over a restart and has no second effect",
    contract=_DURABLE,
    needs=("apply", "get"),
    restart=True,
    limit=_LIMIT,
)
async def remembered(probe: Probe) -> None:
    """Apply one, apply two, restart, repeat the first: its old result comes, and two stays."""
    _durable(probe)
    thing, dispatch_id = probe.thing("one"), probe.new_id()
    later = Thing(thing.kind, thing.name, thing.namespace, "two")
    first = await probe.done(probe.apply_command([thing]), dispatch_id=dispatch_id)
    await probe.apply(later)
    await probe.restart()
    same(first, (await probe.execute(probe.apply_command([thing]), dispatch_id=dispatch_id)).settled())
    await expect_value(probe, later, "two")


@check(
    "cancelled-remembered",
    title="DURABLE: an id that was cancelled before it came is remembered over a restart",
    contract=f"Cancel: an id that is not known is remembered as cancelled. {_DURABLE}",
    needs=("apply",),
    restart=True,
    limit=_LIMIT,
)
async def cancelled_remembered(probe: Probe) -> None:
    """Cancel, restart, Execute: CANCELLED."""
    _durable(probe)
    thing, dispatch_id = probe.thing(), probe.new_id()
    await probe.cancel(dispatch_id)
    await probe.restart()
    result = (await probe.execute(probe.apply_command([thing]), dispatch_id=dispatch_id)).settled()
    expect(result.outcome == command_pb2.OUTCOME_CANCELLED, f"expected CANCELLED, got {told(result)}")


@check(
    "killed-while-observing",
    title="DURABLE: a command that was observed when the shim died still ends, with one effect",
    contract=f"{_DURABLE} Execute: the id that is remembered has no second effect.",
    needs=("get",),
    restart=True,
    running=True,
    limit=_LIMIT,
)
async def killed_while_observing(probe: Probe) -> None:
    """Repeated after the restart it ends within 20 s, and the object is there."""
    _durable(probe)
    dispatch_id = probe.new_id()
    thing, command = probe.unready(3)
    running = probe.start(command, dispatch_id=dispatch_id)
    await running.until_effect()
    await probe.restart()
    await running.finish(5)
    result = (await probe.execute(command, dispatch_id=dispatch_id)).settled()
    expect(result.outcome == command_pb2.OUTCOME_FAILED, f"expected FAILED (it is never ready), got {told(result)}")
    expect(await probe.found(thing) is not None, "the effect did not stay")


@check(
    "forgotten",
    title="INSTANCE: an id from before the restart is taken as a new one",
    contract="MEMORY_INSTANCE: remembered as long as the instance lives.",
    needs=("change",),
    restart=True,
    limit=_LIMIT,
)
async def forgotten(probe: Probe) -> None:
    """It is executed and answered, not refused."""
    if probe.info.memory == shim_pb2.MEMORY_DURABLE:
        raise CheckSkipped("the shim says that it remembers ids over restarts")
    command, dispatch_id = probe.small_change(), probe.new_id()
    await probe.done(command, dispatch_id=dispatch_id)
    await probe.restart()
    await probe.done(command, dispatch_id=dispatch_id)
