"""Does the shim introduce itself as the contract wants?"""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ote.api.shim.v1 import shim_pb2
from ote.conformance.model import CheckGroup
from ote.conformance.probe import SERVICE, Probe, ending_of
from ote.conformance.reflection import reflection_of
from ote.conformance.verdict import CheckFailed, CheckSkipped, expect

HEALTH = "grpc.health.v1.Health"

check = CheckGroup("handshake")


@check(
    "described",
    title="GetShimInfo fills every required field",
    contract="name, kind, version, protocol_version ('v1'), instance_id (at most 64 characters) and max_command_bytes "
    "are required.",
)
async def described(probe: Probe) -> None:
    """Required fields are there and within their limits."""
    info = await probe.ask_info()
    for field in ("name", "kind", "version", "instance_id"):
        expect(bool(getattr(info, field)), f"{field} is empty")
    expect(info.protocol_version == "v1", f"expected protocol_version 'v1', got {info.protocol_version!r}")
    expect(len(info.instance_id) <= 64, f"instance_id has {len(info.instance_id)} characters, the most is 64")
    expect(info.max_command_bytes > 0, "max_command_bytes is 0: the shim could not take any command")
    expect(info.memory in shim_pb2.Memory.values(), f"memory {info.memory} is not of the contract")


@check(
    "stable",
    title="GetShimInfo answers the same every time",
    contract="GetShimInfo may be repeated; instance_id is made anew at each start of the process, and only then.",
)
async def stable(probe: Probe) -> None:
    """Eight answers at once and one after them are equal."""
    answers = await asyncio.gather(*(probe.ask_info() for _ in range(8)))
    answers.append(await probe.ask_info())
    for answer in answers:
        expect(answer.instance_id == answers[0].instance_id, "instance_id changes from call to call")
        expect(list(answer.capabilities) == list(answers[0].capabilities), "capabilities change from call to call")
        expect(answer.memory == answers[0].memory, "memory changes from call to call")


@check(
    "any-version",
    title="GetShimInfo answers whatever version the controller speaks",
    contract="protocol_version is optional in the request; the shim answers with its own and the controller decides.",
)
async def any_version(probe: Probe) -> None:
    """No version, this one and one from the future are all answered."""
    for version in ("", "v1", "v999"):
        try:
            info = await probe.stub.GetShimInfo(shim_pb2.GetShimInfoRequest(protocol_version=version), timeout=10)
        except grpc.aio.AioRpcError as error:
            raise CheckFailed(f"protocol_version {version!r}: the call ended {ending_of(error)}") from None
        expect(info.protocol_version == "v1", f"asked with {version!r}, it answered {info.protocol_version!r}")


@check(
    "health",
    title="grpc.health.v1 says SERVING",
    contract="A shim also serves grpc.health.v1.",
)
async def health(probe: Probe) -> None:
    """The server as a whole is SERVING."""
    stub = health_pb2_grpc.HealthStub(probe.channel)
    try:
        response = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
    except grpc.aio.AioRpcError as error:
        raise CheckFailed(f"grpc.health.v1.Health/Check ended {ending_of(error)}") from None
    name = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    expect(response.status == health_pb2.HealthCheckResponse.SERVING, f"expected SERVING, got {name}")


@check(
    "reflection",
    title="server reflection describes ShimService with all its types, and health",
    contract="A shim should serve server reflection.",
)
async def reflection(probe: Probe) -> None:
    """Where reflection is served, each service is listed and resolved; where it is not the check is skipped."""
    wanted = {SERVICE}
    if await _serves_health(probe):
        wanted.add(HEALTH)
    try:
        async with reflection_of(probe.channel) as reflected:
            names = reflected.services
            expect(wanted <= names, f"reflection lists {sorted(names)}, not {sorted(wanted - names)}")
            methods = {method.name for name in sorted(wanted) for method in (await reflected.service(name)).methods}
    except grpc.aio.AioRpcError as error:
        ending = ending_of(error)
        if ending.code == "UNIMPLEMENTED":
            raise CheckSkipped("reflection is not served; it is recommended, not required") from None
        raise CheckFailed(f"reflection ended {ending}") from None
    missing = {method.name for method in shim_pb2.DESCRIPTOR.services_by_name["ShimService"].methods} - methods
    expect(not missing, f"reflection describes {SERVICE} without {sorted(missing)}")


async def _serves_health(probe: Probe) -> bool:
    try:
        await health_pb2_grpc.HealthStub(probe.channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    except grpc.aio.AioRpcError as error:
        return error.code() is not grpc.StatusCode.UNIMPLEMENTED
    return True
