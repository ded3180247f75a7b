"""Does logs bring a container's output?"""

from __future__ import annotations

import asyncio

from ote.api.command.v1 import command_pb2
from ote.conformance.model import CheckGroup
from ote.conformance.probe import Probe, told
from ote.conformance.verdict import CheckFailed, CheckSkipped, expect

check = CheckGroup("logs")


@check(
    "absent-pod",
    title="logs of an absent pod are a result, not an error",
    contract="What happened to a command is always told in its Result; reason NOT_FOUND.",
    needs=("logs",),
)
async def absent_pod(probe: Probe) -> None:
    """FAILED with NOT_FOUND."""
    logs = command_pb2.Logs(pod=probe.thing().name)
    result = (await probe.execute(command_pb2.Command(logs=logs), dispatch_id="")).settled()
    expect(result.outcome == command_pb2.OUTCOME_FAILED, f"expected FAILED, got {told(result)}")
    expect(result.reason == "NOT_FOUND", f"expected reason NOT_FOUND, got {told(result)}")


@check(
    "output",
    title="logs bring what the container wrote",
    contract="Logs reads the end of a container's log; output holds the bytes of the log.",
    needs=("logs",),
    running=True,
)
async def output(probe: Probe) -> None:
    """A pod that writes one line: the line is in its log."""
    if probe.slow_kind != "Pod":
        raise CheckSkipped("the shim does not take Pods")
    thing, command = probe.unready(0)
    await probe.done(command)
    got = b""
    for _ in range(80):
        logs = command_pb2.Logs(pod=thing.name, tail_lines=10)
        result = (await probe.execute(command_pb2.Command(logs=logs), dispatch_id="")).settled()
        got = result.output
        if b"conformance" in got:
            return
        await asyncio.sleep(0.25)
    raise CheckFailed(f"expected the line 'conformance' in the log within 20 s, got {got[:80]!r}")
