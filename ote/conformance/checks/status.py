"""Does WatchStatus tell the cluster's state, at once and then on change?"""

from __future__ import annotations

import asyncio
import itertools
import time

from ote.api.shim.v1 import shim_pb2
from ote.conformance.model import CheckGroup
from ote.conformance.probe import Probe
from ote.conformance.verdict import CheckFailed, CheckSkipped, expect

check = CheckGroup("status")

_WATCH = "WatchStatus streams the cluster's status: at once, and then on change, at most once a second."


async def _first(probe: Probe) -> shim_pb2.ClusterStatus:
    statuses = probe.statuses(5)
    try:
        async for status in statuses:
            return status
    finally:
        await statuses.aclose()
    raise CheckFailed("no status came within 5 s")


@check("at-once", title="a status comes at once", contract=_WATCH, needs=("status",))
async def at_once(probe: Probe) -> None:
    """It says whether the cluster is ready, or why not, and as of when."""
    status = await _first(probe)
    expect(status.ready or bool(status.message), "the cluster is not ready and message does not say why")
    expect(status.HasField("as_of"), "as_of is not set: nobody can tell how old the status is")
    expect(status.nodes_ready <= status.nodes, f"{status.nodes_ready} of {status.nodes} nodes are ready")


@check("watchers", title="several may watch, and losing one harms none", contract=_WATCH, needs=("status",))
async def watchers(probe: Probe) -> None:
    """Eight at once get a status each; so does one after they are gone."""
    await asyncio.gather(*(_first(probe) for _ in range(8)))
    await _first(probe)


@check("pace", title="statuses come at most once a second", contract=_WATCH, needs=("status", "apply"))
async def pace(probe: Probe) -> None:
    """For three and a half seconds with a change every tenth of one."""
    times: list[float] = []

    async def stir() -> None:
        while True:
            await probe.apply(probe.thing())
            await asyncio.sleep(0.1)

    stirring = asyncio.create_task(stir(), name="conformance-stir")
    try:
        async for _ in probe.statuses(3.5):
            times.append(time.monotonic())
    finally:
        stirring.cancel()
        await asyncio.wait({stirring})
    expect(len(times) <= 5, f"{len(times)} statuses came within 3.5 s")
    for earlier, later in itertools.pairwise(times):
        # Far below a second: one that was late on its way makes the next one look early.
        expect(later - earlier > 0.4, f"two statuses came {later - earlier:.2f} s apart")


@check(
    "on-change", title="a change of the cluster is told within five seconds", contract=_WATCH, needs=("status", "apply")
)
async def on_change(probe: Probe) -> None:
    """After an apply the workloads count one more of the kind, where the kind is counted."""
    kind = probe.kind
    await probe.apply(probe.thing())
    before = (await _settled_status(probe)).workloads.get(kind, 0)
    if before == 0:
        raise CheckSkipped(f"workloads does not count {kind}")

    async def change() -> None:
        await asyncio.sleep(0.3)
        await probe.apply(probe.thing(), probe.thing())

    changing = asyncio.create_task(change(), name="conformance-change")
    try:
        async for status in probe.statuses(6):
            if status.workloads.get(kind, 0) >= before + 2:
                return
    finally:
        await asyncio.wait({changing})
    raise CheckFailed(f"two {kind} were applied, but no status within 5 s counted them")


async def _settled_status(probe: Probe) -> shim_pb2.ClusterStatus:
    """A status that is at least one interval younger than the latest change."""
    last = shim_pb2.ClusterStatus()
    async for status in probe.statuses(1.5):
        last = status
    return last
