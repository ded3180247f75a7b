"""Is what the shim says it can do what it can do, no less and no more?"""

from __future__ import annotations

import grpc.aio

from ote.api.command.v1 import command_pb2
from ote.api.shim.v1 import shim_pb2
from ote.conformance.model import CheckGroup
from ote.conformance.probe import Probe, ending_of, payload_ref, pieces_of, told
from ote.conformance.verdict import CheckFailed, CheckSkipped, expect

check = CheckGroup("capabilities")

_COMMANDS = ("apply", "delete", "get", "logs", "noop")


def _example(probe: Probe, word: str) -> tuple[command_pb2.Command, str | None]:
    """A harmless command of this kind, and its dispatch id: None for a fresh one, "" for a read."""
    absent = probe.thing()
    if word == "apply":
        return probe.apply_command([absent]), None
    if word == "delete":
        return command_pb2.Command(delete=command_pb2.Delete(objects=[absent.ref()])), None
    if word == "get":
        return command_pb2.Command(get=command_pb2.Get(kind=absent.kind)), ""
    if word == "logs":
        return command_pb2.Command(logs=command_pb2.Logs(pod=absent.name)), ""
    return command_pb2.Command(noop=command_pb2.Noop()), None


@check(
    "words",
    title="capabilities are distinct words",
    contract="capabilities: the names of the commands it executes, 'status' and 'put_payload', and nothing else.",
)
async def words(probe: Probe) -> None:
    """No word is empty, doubled or padded."""
    said = list((await probe.ask_info()).capabilities)
    expect(len(said) > 0, "the list of capabilities is empty: this shim could do nothing")
    for word in said:
        expect(word != "" and word == word.strip(), f"capability {word!r} is not a word")
        expect(said.count(word) == 1, f"capability {word!r} is listed more than once")


@check(
    "listed-work",
    title="every command that is listed is executed",
    contract="capabilities name the commands that it executes; UNIMPLEMENTED is for kinds that are not among them.",
)
async def listed_work(probe: Probe) -> None:
    """One harmless command of each listed kind gets a result."""
    for word in _COMMANDS:
        if probe.can(word):
            command, dispatch_id = _example(probe, word)
            answer = await probe.execute(command, dispatch_id=dispatch_id)
            expect(answer.ending.code == "OK", f"{word} is listed, but the call ended {answer.ending}")
            expect(answer.settled().reason != "UNSUPPORTED", f"{word} is listed, but its result says UNSUPPORTED")


@check(
    "unlisted-refused",
    title="every command that is not listed is UNIMPLEMENTED",
    contract="UNIMPLEMENTED (reason UNSUPPORTED) for a kind of command that is not among the capabilities.",
)
async def unlisted_refused(probe: Probe) -> None:
    """Commands, PutPayload and WatchStatus that are not listed end UNIMPLEMENTED."""
    unlisted = [word for word in (*_COMMANDS, "put_payload", "status") if not probe.can(word)]
    if not unlisted:
        raise CheckSkipped("the shim lists every capability of the contract")
    for word in unlisted:
        if word == "put_payload":
            ending = await probe.put(payload_ref(b"x"), pieces_of(b"x"))
            expect(ending.code == "UNIMPLEMENTED", f"put_payload is not listed, but the call ended {ending}")
        elif word == "status":
            await _status_refused(probe)
        else:
            command, dispatch_id = _example(probe, word)
            answer = await probe.execute(command, dispatch_id=dispatch_id)
            if answer.results:
                raise CheckFailed(f"{word} is not listed, but it brought a result: {told(answer.results[0])}")
            answer.refused("UNIMPLEMENTED", reason="UNSUPPORTED")


async def _status_refused(probe: Probe) -> None:
    call = probe.stub.WatchStatus(shim_pb2.WatchStatusRequest(), timeout=10)
    try:
        async for _ in call:
            call.cancel()
            raise CheckFailed("status is not listed, but WatchStatus sent one")
    except grpc.aio.AioRpcError as error:
        ending = ending_of(error)
        expect(ending.code == "UNIMPLEMENTED", f"status is not listed, but WatchStatus ended {ending}")
        return
    raise CheckFailed("status is not listed, but WatchStatus ended OK")


@check(
    "controller-commands",
    title="set_facts and drain are the controller's, never the shim's",
    contract="SetFacts and Drain are answered by the controller, never by a shim.",
)
async def controller_commands(probe: Probe) -> None:
    """Both end UNIMPLEMENTED and neither is listed."""
    for command in (
        command_pb2.Command(set_facts=command_pb2.SetFacts(labels={"conformance": "yes"})),
        command_pb2.Command(drain=command_pb2.Drain()),
    ):
        word = command.WhichOneof("kind") or ""
        expect(not probe.can(word), f"{word} is listed as a capability")
        (await probe.execute(command)).refused("UNIMPLEMENTED", reason="UNSUPPORTED")


@check(
    "object-kinds",
    title="kinds of objects that are not listed are refused by name",
    contract="object_kinds: kinds of objects it takes; empty means that it does not say.",
    needs=("apply",),
)
async def object_kinds(probe: Probe) -> None:
    """An apply of a kind that no cluster has ends FAILED and names the kind."""
    if not probe.info.object_kinds:
        raise CheckSkipped("the shim does not say which kinds it takes")
    kind = "ConformanceNonsense"
    manifests = f'{{"apiVersion": "v1", "kind": "{kind}", "metadata": {{"name": "x"}}}}'.encode()
    result = (await probe.execute(probe.apply_command(manifests))).settled()
    expect(result.outcome == command_pb2.OUTCOME_FAILED, f"expected FAILED, got {told(result)}")
    said = result.message + " ".join(each.message for each in result.objects)
    expect(kind in said, f"expected the message to name {kind}, got {told(result)}")
