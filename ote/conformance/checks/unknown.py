"""Does a shim of today live with a controller of tomorrow?"""

from __future__ import annotations

import grpc.aio

from ote.api.command.v1 import command_pb2
from ote.api.shim.v1 import shim_pb2
from ote.conformance.model import CheckGroup
from ote.conformance.probe import SERVICE, Answer, Probe, ending_of
from ote.conformance.verdict import CheckFailed, expect

check = CheckGroup("unknown")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, content: bytes | int) -> bytes:
    """A protobuf field on the wire: bytes with a length, or a number (as which an enum travels too)."""
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


NEWS = field(1999, b"from tomorrow") + field(1998, 77)
"""Two fields that no message of the contract has."""


@check(
    "fields",
    title="fields that are not known are ignored",
    contract="The contract only grows: a receiver ignores fields that it does not know.",
    needs=("apply",),
)
async def fields(probe: Probe) -> None:
    """In the request, in the command and in the apply within it."""
    apply = probe.apply_command([probe.thing()]).apply.SerializeToString() + NEWS
    command = field(1, apply) + NEWS
    request = shim_pb2.ExecuteRequest(dispatch_id=probe.new_id()).SerializeToString() + field(2, command) + NEWS
    result = (await probe.execute_raw(request)).settled()
    expect(result.outcome == command_pb2.OUTCOME_SUCCEEDED, f"expected SUCCEEDED, got {result.reason} {result.message}")


@check(
    "command-kind",
    title="a kind of command that is not known is UNIMPLEMENTED",
    contract="Execute: UNIMPLEMENTED (reason UNSUPPORTED) for a kind of command that the shim does not know.",
)
async def command_kind(probe: Probe) -> None:
    """A command whose kind has a number of tomorrow."""
    command = field(1500, b"do something new")
    request = shim_pb2.ExecuteRequest(dispatch_id=probe.new_id()).SerializeToString() + field(2, command)
    (await probe.execute_raw(request)).refused("UNIMPLEMENTED", reason="UNSUPPORTED")


@check(
    "enum-value",
    title="numbers that no enum has are ignored where no enum is meant",
    contract="The contract only grows: a receiver takes unknown enum values as not said.",
)
async def enum_value(probe: Probe) -> None:
    """GetShimInfo and Cancel with an enum value of tomorrow in them still answer."""
    for method, request, response_type in (
        ("GetShimInfo", field(1, b"v1") + field(7, 2_000), shim_pb2.GetShimInfoResponse),
        ("Cancel", field(1, probe.new_id().encode()) + field(2, 2_000), shim_pb2.CancelResponse),
    ):
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, object] = probe.channel.unary_unary(
            f"/{SERVICE}/{method}", response_deserializer=response_type.FromString
        )
        try:
            await call(request, timeout=10)
        except grpc.aio.AioRpcError as error:
            raise CheckFailed(f"{method} with an unknown enum value ended {ending_of(error)}") from None


@check(
    "answers",
    title="answers use the enum values of the contract",
    contract="OUTCOME_UNSPECIFIED: never in a result. Action: what happened to the object.",
    needs=("change",),
)
async def answers(probe: Probe) -> None:
    """For a command that succeeds and, where there is apply, one that fails."""
    seen: list[Answer] = [await probe.execute(probe.small_change())]
    if probe.can("apply"):
        seen.append(await probe.execute(probe.apply_command([probe.thing()])))
        seen.append(await probe.execute(probe.apply_command(b"not: [a manifest")))
    for answer in seen:
        result = answer.settled()
        known = (command_pb2.OUTCOME_SUCCEEDED, command_pb2.OUTCOME_FAILED, command_pb2.OUTCOME_CANCELLED)
        expect(result.outcome in known, f"outcome {result.outcome} is not of the contract")
        if result.outcome != command_pb2.OUTCOME_SUCCEEDED:
            expect(bool(result.reason), "a result that did not succeed has no reason")
        for each in result.objects:
            expect(
                each.action in command_pb2.Action.values() and each.action != 0, f"action {each.action} says nothing"
            )


@check(
    "method",
    title="a method that is not known is UNIMPLEMENTED",
    contract="gRPC: UNIMPLEMENTED for a method that the server does not have.",
)
async def method(probe: Probe) -> None:
    """A method of tomorrow, and the shim lives on."""
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = probe.channel.unary_unary(f"/{SERVICE}/FromTomorrow")
    try:
        await call(b"", timeout=10)
    except grpc.aio.AioRpcError as error:
        expect(error.code() is grpc.StatusCode.UNIMPLEMENTED, f"expected UNIMPLEMENTED, it ended {ending_of(error)}")
    else:
        raise CheckFailed("expected UNIMPLEMENTED, the call succeeded")
    await probe.alive()
