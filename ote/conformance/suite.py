"""Runs the checks against one shim, one after the other, and reports.

The order is fixed and no check leans on an earlier one: each makes its own objects and ids and deletes the objects
after itself. What the shim cannot do by its own word is skipped with the reason, never failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection

import grpc.aio

from ote.api.shim.v1 import shim_pb2, shim_pb2_grpc
from ote.conformance.checks import ALL_CHECKS
from ote.conformance.manifests import POD_IMAGE
from ote.conformance.model import Check, CheckResult, CheckStatus, ShimDescription, SuiteReport
from ote.conformance.probe import Probe, ending_of
from ote.conformance.verdict import CheckFailed, CheckSkipped
from ote.model.errors import BY_CODE, Internal, InvalidArgument

CONNECT_SECONDS = 10.0
CLEAN_UP_SECONDS = 15.0
SLOW_SECONDS = 1.5


async def run_suite(
    channel: grpc.aio.Channel,
    *,
    restart: Callable[[], Awaitable[None]] | None,
    on_check: Callable[[CheckResult], None],
    only: Collection[str] = (),
    pod_image: str = POD_IMAGE,
) -> SuiteReport:
    """Run the checks against the shim at the other end of the channel.

    restart: kills and starts the shim on the same address and data, returning when it may be dialled again; None skips
    the checks that need it. on_check: told each result as it comes. only: ids of the checks to run, or of their
    subjects ("payloads"); empty runs all. pod_image: of the Pods that it applies where the shim takes Pods; it has
    `sh`, `sleep` and `false`. Raises the error of GetShimInfo when the shim cannot be asked at all, and
    InvalidArgument for an id in `only` that no check has.
    """
    chosen = select(only)
    probe = Probe(channel, await _introduction(channel), restart=restart, pod_image=pod_image)
    described = describe(probe.info)
    slow = _Slow(probe)
    results = []
    for check in chosen:
        result = await _run_check(check, probe, slow, can_restart=restart is not None)
        results.append(result)
        on_check(result)
    return SuiteReport(described, tuple(results))


def select(only: Collection[str]) -> tuple[Check, ...]:
    """The checks that these ids and subjects name, in the suite's order; all for none."""
    unknown = set(only) - {check.id for check in ALL_CHECKS} - {check.id.partition(".")[0] for check in ALL_CHECKS}
    if unknown:
        raise InvalidArgument("CHECK_UNKNOWN", f"there is no check named {sorted(unknown)[0]!r}")
    return tuple(check for check in ALL_CHECKS if not only or check.id in only or check.id.partition(".")[0] in only)


def describe(info: shim_pb2.GetShimInfoResponse) -> ShimDescription:
    """What a shim says about itself, as a value."""
    memory = shim_pb2.Memory.Name(info.memory) if info.memory in shim_pb2.Memory.values() else str(info.memory)
    return ShimDescription(
        name=info.name,
        kind=info.kind,
        version=info.version,
        protocol_version=info.protocol_version,
        capabilities=tuple(info.capabilities),
        instance_id=info.instance_id,
        memory=memory.removeprefix("MEMORY_"),
        max_command_bytes=info.max_command_bytes,
        object_kinds=tuple(info.object_kinds),
    )


async def _introduction(channel: grpc.aio.Channel) -> shim_pb2.GetShimInfoResponse:
    request = shim_pb2.GetShimInfoRequest(protocol_version="v1")
    try:
        return await shim_pb2_grpc.ShimServiceStub(channel).GetShimInfo(request, timeout=CONNECT_SECONDS)
    except grpc.aio.AioRpcError as error:
        ending = ending_of(error)
        raise BY_CODE.get(ending.code, Internal)(
            ending.reason or "SHIM_UNAVAILABLE", f"the shim does not answer GetShimInfo: {ending}"
        ) from None


class _Slow:
    """Finds out once whether the shim has anything that takes time."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self._why_not: str | None = None

    async def why_not(self) -> str:
        """Empty when an apply of an object that never becomes ready keeps running; else what happened instead."""
        if self._why_not is None:
            thing, command = self._probe.unready(SLOW_SECONDS)
            began = time.monotonic()
            answer = await self._probe.execute(command)
            took = time.monotonic() - began
            self._why_not = ""
            if took < SLOW_SECONDS * 0.6:
                ended = answer.results[0].message if answer.results else str(answer.ending)
                self._why_not = (
                    f"needs a command that takes time: the apply of a {thing.kind} that is never ready ended after "
                    f"{took:.2f} s" + (f" ({ended})" if ended else "")
                )
            await self._probe.clean_up()
        return self._why_not


async def _run_check(check: Check, probe: Probe, slow: _Slow, *, can_restart: bool) -> CheckResult:
    began = time.monotonic()
    status, message = CheckStatus.PASSED, ""
    try:
        async with asyncio.timeout(check.limit):
            await _require(check, probe, slow, can_restart=can_restart)
            await check.run(probe)
    except CheckSkipped as skipped:
        status, message = CheckStatus.SKIPPED, str(skipped)
    except CheckFailed as failed:
        status, message = CheckStatus.FAILED, str(failed)
    except TimeoutError:
        status, message = CheckStatus.FAILED, f"did not finish within {check.limit:g} s"
    except grpc.aio.AioRpcError as error:
        status, message = CheckStatus.FAILED, f"a call ended {ending_of(error)}"
    duration = time.monotonic() - began
    # How long a delete may take the contract does not say: a cluster that is slow at it fails no check.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLEAN_UP_SECONDS):
            await probe.clean_up()
    return CheckResult(check.id, check.title, status, message, duration, check.contract)


async def _require(check: Check, probe: Probe, slow: _Slow, *, can_restart: bool) -> None:
    missing = [word for word in check.needs if not probe.can(word)]
    if missing:
        raise CheckSkipped(f"the shim does not list the capability {', '.join(missing)}")
    if check.restart and not can_restart:
        raise CheckSkipped("no way to restart the shim was given")
    if check.running:
        if not probe.can("apply"):
            raise CheckSkipped("the shim does not list the capability apply")
        why_not = await slow.why_not()
        if why_not:
            raise CheckSkipped(why_not)
