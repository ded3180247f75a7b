"""Do commands that are too large for one message arrive whole, or not at all?"""

from __future__ import annotations

import asyncio
import secrets

from ote.api.command.v1 import command_pb2
from ote.api.shim.v1 import shim_pb2
from ote.conformance.checks.idempotency import same
from ote.conformance.checks.objects import expect_action, expect_value
from ote.conformance.model import CheckGroup
from ote.conformance.probe import PIECE_BYTES, Probe, payload_ref, pieces_of, told
from ote.conformance.verdict import CheckSkipped, expect

check = CheckGroup("payloads")

_MISSING = "Execute: FAILED_PRECONDITION (reason PAYLOAD_MISSING) for a payload that was not put."
_HASH = "PutPayload: INVALID_ARGUMENT for a hash that does not match."
_LARGEST = 16_777_216 + 4_096


def _bulk(probe: Probe, size: int) -> command_pb2.Command:
    """A change of about this many bytes."""
    if probe.can("noop"):
        return command_pb2.Command(noop=command_pb2.Noop(padding=secrets.token_bytes(size)))
    return probe.apply_command([probe.thing(secrets.token_hex(size // 2))])


async def _missing(probe: Probe, ref: command_pb2.PayloadRef) -> None:
    """Fail the check if the shim has this payload."""
    (await probe.execute(payload=ref)).refused("FAILED_PRECONDITION", reason="PAYLOAD_MISSING")


@check(
    "three-mebibytes",
    title="3 MiB of manifests arrive through PutPayload and are applied",
    contract="PutPayload takes the bytes of a command that is too large for one message, ahead of its Execute.",
    needs=("put_payload", "apply", "get"),
    limit=120,
)
async def three_mebibytes(probe: Probe) -> None:
    """Four objects of 768 KiB each; one of them is read back."""
    if probe.info.max_command_bytes < 4 * 1024 * 1024:
        raise CheckSkipped(f"max_command_bytes is {probe.info.max_command_bytes}")
    things = [probe.thing(secrets.token_hex(384 * 1024)) for _ in range(4)]
    ref = await probe.put_whole(probe.apply_command(things))
    result = (await probe.execute(payload=ref, call_timeout=40)).settled()
    expect(result.outcome == command_pb2.OUTCOME_SUCCEEDED, f"expected SUCCEEDED, got {told(result)}")
    for thing in things:
        expect_action(result, thing, "CREATED")
    await expect_value(probe, things[2], things[2].value)


@check(
    "inline",
    title="a command of 1 MiB fits into one message",
    contract="Execute takes the command itself; max_command_bytes is the largest that it takes.",
    needs=("change",),
)
async def inline(probe: Probe) -> None:
    """No payload is needed below gRPC's usual limit of 4 MiB."""
    if probe.info.max_command_bytes < 1_100_000:
        raise CheckSkipped(f"max_command_bytes is {probe.info.max_command_bytes}")
    await probe.done(_bulk(probe, 900_000))


@check(
    "missing",
    title="a payload that was not put is FAILED_PRECONDITION, and its id is not burned",
    contract=_MISSING,
    needs=("put_payload", "change"),
)
async def missing(probe: Probe) -> None:
    """After it was put, the same id works."""
    command, dispatch_id = _bulk(probe, 300_000), probe.new_id()
    ref = payload_ref(command.SerializeToString())
    answer = await probe.execute(payload=ref, dispatch_id=dispatch_id)
    answer.refused("FAILED_PRECONDITION", reason="PAYLOAD_MISSING")
    await probe.put_whole(command)
    result = (await probe.execute(payload=ref, dispatch_id=dispatch_id)).settled()
    expect(result.outcome == command_pb2.OUTCOME_SUCCEEDED, f"expected SUCCEEDED, got {told(result)}")


@check(
    "remembered",
    title="an id that came by payload is remembered without its payload",
    contract="Execute: an id that is remembered is answered with the remembered result. A shim keeps a payload until "
    "an Execute used it.",
    needs=("put_payload", "change"),
)
async def remembered(probe: Probe) -> None:
    """Executed, executed again: the same result."""
    dispatch_id = probe.new_id()
    ref = await probe.put_whole(_bulk(probe, 300_000))
    first = (await probe.execute(payload=ref, dispatch_id=dispatch_id)).settled()
    same(first, (await probe.execute(payload=ref, dispatch_id=dispatch_id)).settled())


@check(
    "put-again",
    title="PutPayload may be repeated, at once and after use",
    contract="PutPayload may be repeated.",
    needs=("put_payload", "change"),
)
async def put_again(probe: Probe) -> None:
    """Four times at once, then after its use under another id."""
    command = _bulk(probe, 300_000)
    refs = await asyncio.gather(*(probe.put_whole(command) for _ in range(4)))
    (await probe.execute(payload=refs[0])).settled()
    ref = await probe.put_whole(command)
    (await probe.execute(payload=ref)).settled()


@check(
    "wrong-hash",
    title="bytes that are not what their hash says are INVALID_ARGUMENT and not kept",
    contract=_HASH,
    needs=("put_payload",),
)
async def wrong_hash(probe: Probe) -> None:
    """One bit is wrong."""
    data = probe.small_change().SerializeToString()
    ref = payload_ref(data)
    ending = await probe.put(ref, [bytes([data[0] ^ 1]) + data[1:]])
    expect(ending.code == "INVALID_ARGUMENT", f"expected INVALID_ARGUMENT, the call ended {ending}")
    await _missing(probe, ref)


@check(
    "cut-short",
    title="a payload whose end is missing is INVALID_ARGUMENT and not kept",
    contract=_HASH,
    needs=("put_payload",),
)
async def cut_short(probe: Probe) -> None:
    """Of three pieces two come."""
    data = secrets.token_bytes(2 * PIECE_BYTES + 100)
    ending = await probe.put(payload_ref(data), pieces_of(data)[:2])
    expect(ending.code == "INVALID_ARGUMENT", f"expected INVALID_ARGUMENT, the call ended {ending}")
    await _missing(probe, payload_ref(data))


@check(
    "more-than-said",
    title="a payload that is longer than it said is refused",
    contract=f"PayloadRef.size: size in bytes. {_HASH}",
    needs=("put_payload",),
)
async def more_than_said(probe: Probe) -> None:
    """It says one byte and sends a MiB."""
    data = secrets.token_bytes(1024 * 1024)
    ref = payload_ref(data)
    ref.size = 1
    ending = await probe.put(ref, pieces_of(data))
    expect(ending.code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"), f"expected a refusal, the call ended {ending}")
    await probe.alive()


@check(
    "too-large",
    title="a payload over max_command_bytes is RESOURCE_EXHAUSTED",
    contract="PutPayload: RESOURCE_EXHAUSTED when over max_command_bytes.",
    needs=("put_payload",),
)
async def too_large(probe: Probe) -> None:
    """The name says one byte more than the shim takes; one piece follows."""
    size = probe.info.max_command_bytes + 1
    ref = command_pb2.PayloadRef(sha256=secrets.token_bytes(32), size=size)
    ref.pieces.extend(secrets.token_bytes(32) for _ in range(min(-(-size // PIECE_BYTES), 80)))
    ending = await probe.put(ref, [bytes(PIECE_BYTES)])
    allowed = ("RESOURCE_EXHAUSTED",) if size <= _LARGEST else ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT")
    expect(ending.code in allowed, f"expected {' or '.join(allowed)}, the call ended {ending}")


@check(
    "broken-off",
    title="a put that breaks off leaves nothing behind, and can be done again",
    contract="PutPayload may be repeated.",
    needs=("put_payload", "change"),
)
async def broken_off(probe: Probe) -> None:
    """The call is lost after the first piece."""
    command = _bulk(probe, 600_000)
    data = command.SerializeToString()
    ref = payload_ref(data)
    call = probe.stub.PutPayload(timeout=10)
    await call.write(shim_pb2.PutPayloadRequest(payload=ref))
    await call.write(shim_pb2.PutPayloadRequest(data=pieces_of(data)[0]))
    call.cancel()
    await _missing(probe, ref)
    await probe.put_whole(command)
    (await probe.execute(payload=ref)).settled()


@check(
    "nameless",
    title="pieces without a name are INVALID_ARGUMENT",
    contract="PutPayload: the first message names it, the others carry its pieces in order.",
    needs=("put_payload",),
)
async def nameless(probe: Probe) -> None:
    """No message at all, a piece first, and a name without a hash."""
    for what, ref, pieces in (
        ("no message", None, []),
        ("a piece first", None, [b"x"]),
        ("an empty name", command_pb2.PayloadRef(), [b"x"]),
    ):
        ending = await probe.put(ref, pieces)
        expect(ending.code == "INVALID_ARGUMENT", f"{what}: expected INVALID_ARGUMENT, the call ended {ending}")


@check(
    "no-command",
    title="a payload that is not a serialized Command is INVALID_ARGUMENT",
    contract="ExecuteRequest.payload: a serialized Command that PutPayload brought. INVALID_ARGUMENT for no command.",
    needs=("put_payload",),
)
async def no_command(probe: Probe) -> None:
    """Bytes that no parser takes."""
    data = b"\xff" * 1000
    ending = await probe.put(payload_ref(data), pieces_of(data))
    if ending.code == "INVALID_ARGUMENT":
        return
    expect(ending.code == "OK", f"expected PutPayload to take the bytes, it ended {ending}")
    (await probe.execute(payload=payload_ref(data))).refused("INVALID_ARGUMENT")
