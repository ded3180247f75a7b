"""Does WatchStatus tell the cluster's state, at once and then on change?"""

from __future__ import annotations

import asyncio
import time

from ote.api.shim.v1 import shim_pb2
from ote.conformance.model import CheckGroup
from ote.conformance.probe import Probe
from ote.conformance.verdict import CheckFailed, CheckSkipped, expect

check = CheckGroup("status")

_AT_ONCE = 10.0
_EARLY = 0.6
_TOLD = 5.0
_WATCH = "WatchStatus streams the cluster's status: at once, and then on change, at most once a second."


async def _first(probe: Probe) -> shim_pb2.ClusterStatus:
    statuses = probe.statuses(_AT_ONCE)
    try:
        async for status in statuses:
            return status
    finally:
        await statuses.aclose()
    raise CheckFailed(f"no status came within {_AT_ONCE:g} s")


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
    begun = time.monotonic()
    times: list[float] = []

    stirring = asyncio.create_task(_stir(probe, 0.1), name="conformance-stir")
    try:
        async for _ in probe.statuses(3.5):
            times.append(time.monotonic() - begun)
    finally:
        stirring.cancel()
        await asyncio.wait({stirring})
    for number, at in enumerate(times):
        # Since the beginning, not since the one before: that may have been late on its way, and none can be early.
        expect(at > number - _EARLY, f"{number + 1} statuses came within {at:.2f} s")


@check(
    "on-change", title="a change of the cluster is told within five seconds", contract=_WATCH, needs=("status", "apply")
)
async def on_change(probe: Probe) -> None:
    """While objects are applied the workloads count more and more of the kind, where the kind is counted."""
    counts: list[int] = []
    stirring = asyncio.create_task(_stir(probe, 0.3), name="conformance-stir")
    try:
        async for status in probe.statuses(_TOLD + 1):
            counts.append(status.workloads.get(probe.kind, 0))
            if counts[-1] >= min(counts) + 2:  # not than at first: what earlier checks deleted may still be counted
                return
    finally:
        stirring.cancel()
        await asyncio.wait({stirring})
    if not any(counts):
        raise CheckSkipped(f"workloads does not count {probe.kind}")
    raise CheckFailed(f"more and more {probe.kind} were applied, the statuses of {_TOLD:g} s counted {counts}")


async def _stir(probe: Probe, pause: float) -> None:
    """Change the cluster again and again."""
    while True:
        await probe.apply(probe.thing())
        await asyncio.sleep(pause)
