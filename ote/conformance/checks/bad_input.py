"""Is nonsense refused with a clear answer, and does the shim live on?"""

from __future__ import annotations

import json

from ote.api.command.v1 import command_pb2
from ote.conformance.model import CheckGroup
from ote.conformance.probe import Probe, told
from ote.conformance.verdict import expect

check = CheckGroup("bad-input")

_IDS = "dispatch_id: required for a change; at most 128 characters, printable ASCII."
_MANIFESTS = "Apply.manifests: Kubernetes manifests, YAML or JSON, UTF-8; reason INVALID_MANIFEST."


async def _invalid(probe: Probe, what: str, manifests: bytes) -> None:
    """Fail the check unless these manifests end FAILED with INVALID_MANIFEST."""
    answer = await probe.execute(probe.apply_command(manifests))
    expect(answer.ending.code == "OK", f"{what}: expected a result, the call ended {answer.ending}")
    result = answer.settled()
    expect(result.outcome == command_pb2.OUTCOME_FAILED, f"{what}: expected FAILED, got {told(result)}")
    expect(result.reason == "INVALID_MANIFEST", f"{what}: expected reason INVALID_MANIFEST, got {told(result)}")
    expect(bool(result.message), f"{what}: the result has no message")


@check(
    "no-command",
    title="a request without a command is INVALID_ARGUMENT",
    contract="Execute: INVALID_ARGUMENT for no command.",
)
async def no_command(probe: Probe) -> None:
    """No body; a command without a kind may also be one that is not known."""
    (await probe.execute(None)).refused("INVALID_ARGUMENT")
    (await probe.execute(command_pb2.Command())).refused("INVALID_ARGUMENT", "UNIMPLEMENTED")


@check(
    "no-id",
    title="a change without an id is INVALID_ARGUMENT",
    contract="Execute: INVALID_ARGUMENT for no id on a change.",
    needs=("change",),
)
async def no_id(probe: Probe) -> None:
    """It has no effect either."""
    thing = probe.thing()
    command = probe.apply_command([thing]) if probe.can("apply") else probe.small_change()
    (await probe.execute(command, dispatch_id="")).refused("INVALID_ARGUMENT")
    if probe.can("apply") and probe.can("get"):
        expect(await probe.found(thing) is None, "the refused command was executed")


@check(
    "bad-id",
    title="an id that is too long or not printable ASCII is INVALID_ARGUMENT",
    contract=_IDS,
    needs=("change",),
)
async def bad_id(probe: Probe) -> None:
    """129 characters, a line break, a NUL, an umlaut."""
    tail = probe.new_id()
    for what, dispatch_id in (
        ("129 characters", tail.ljust(129, "x")),
        ("a line break", f"{tail}\n"),
        ("a NUL", f"{tail}\0"),
        ("not ASCII", f"{tail}ü"),
    ):
        answer = await probe.execute(probe.small_change(), dispatch_id=dispatch_id)
        expect(not answer.results, f"an id with {what} was executed")
        expect(answer.ending.code == "INVALID_ARGUMENT", f"an id with {what}: the call ended {answer.ending}")


@check(
    "garbage-manifests",
    title="manifests that are none end FAILED with INVALID_MANIFEST",
    contract=_MANIFESTS,
    needs=("apply",),
)
async def garbage_manifests(probe: Probe) -> None:
    """Twelve kinds of nonsense."""
    for what, manifests in (
        ("unfinished YAML", b"kind: [ConfigMap"),
        ("unfinished JSON", b'{"kind": "ConfigMap"'),
        ("a tab as indent", b"kind: ConfigMap\n\tmetadata: {}\n"),
        ("a word", b"hello"),
        ("a number", b"42"),
        ("a list", b"- kind: ConfigMap\n"),
        ("no kind", b"apiVersion: v1\nmetadata: {name: x}\n"),
        ("no metadata", b"apiVersion: v1\nkind: ConfigMap\n"),
        ("metadata that is a word", b"apiVersion: v1\nkind: ConfigMap\nmetadata: hello\n"),
        ("no name", b"apiVersion: v1\nkind: ConfigMap\nmetadata: {}\n"),
        ("a name that is a number", b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 7}\n"),
        ("control characters", b"kind: \x01\x02\x03\n"),
    ):
        await _invalid(probe, what, manifests)
    await probe.alive()


@check(
    "empty-manifests",
    title="an apply of nothing does not succeed",
    contract="Apply.manifests is required.",
    needs=("apply",),
)
async def empty_manifests(probe: Probe) -> None:
    """No bytes, and documents without content."""
    for what, manifests in (("no bytes", b""), ("empty documents", b"---\n# nothing\n---\n")):
        answer = await probe.execute(probe.apply_command(manifests))
        if answer.ending.code != "INVALID_ARGUMENT":
            result = answer.settled()
            expect(result.outcome == command_pb2.OUTCOME_FAILED, f"{what}: expected FAILED, got {told(result)}")


@check(
    "not-utf8",
    title="manifests that are not UTF-8 end FAILED with INVALID_MANIFEST",
    contract=_MANIFESTS,
    needs=("apply",),
)
async def not_utf8(probe: Probe) -> None:
    """Latin-1, a lone surrogate, and a truncated character."""
    for what, raw in (("Latin-1", b"\xe4"), ("a surrogate", b"\xed\xa0\x80"), ("half a character", b"\xe2\x82")):
        text = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: '" + raw + b"'}\n"
        await _invalid(probe, what, text)


@check(
    "path-like-names",
    title="names that look like paths end FAILED with INVALID_MANIFEST",
    contract="Apply.manifests: Kubernetes manifests, whose names are path segments: no '/', no '%', not '.' or '..'.",
    needs=("apply",),
)
async def path_like_names(probe: Probe) -> None:
    """In the name and in the namespace."""
    for name in ("../../etc/passwd", "/etc/passwd", "..", "a/b", "a%2Fb", "x" * 300):
        manifest = probe.thing().manifest()
        manifest["metadata"]["name"] = name
        await _invalid(probe, f"name {name[:20]!r}", json.dumps(manifest).encode())
    manifest = probe.thing().manifest()
    manifest["metadata"]["namespace"] = "../.."
    await _invalid(probe, "namespace '../..'", json.dumps(manifest).encode())
    await probe.alive()


@check(
    "yaml-bomb",
    title="a YAML bomb ends FAILED, fast",
    contract=_MANIFESTS,
    needs=("apply",),
)
async def yaml_bomb(probe: Probe) -> None:
    """Ten levels of aliases, ten each: ten thousand million words if expanded."""
    lines = [
        "apiVersion: v1",
        "kind: ConfigMap",
        "metadata: {name: ote-conformance-bomb}",
        "a0: &a0 [x,x,x,x,x,x,x,x,x,x]",
    ]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    await _invalid(probe, "a YAML bomb", "\n".join([*lines, "data: {a: *a9}", ""]).encode())
    await probe.alive()


@check(
    "deep-nesting",
    title="manifests that are nested without end are refused",
    contract=_MANIFESTS,
    needs=("apply",),
)
async def deep_nesting(probe: Probe) -> None:
    """Fifty thousand brackets."""
    await _invalid(probe, "50,000 brackets", b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}")
    await probe.alive()


@check(
    "garbage-message",
    title="a message that is no protobuf ends its call and nothing else",
    contract="Errors that end a call are of the transport or of the contract.",
)
async def garbage_message(probe: Probe) -> None:
    """Bytes that do not parse as an ExecuteRequest."""
    answer = await probe.execute_raw(b"\xff\xff\xff\xffnonsense")
    expect(not answer.results, "garbage brought a result")
    expect(answer.ending.code not in ("OK", "UNAVAILABLE"), f"expected an error of the call, it ended {answer.ending}")
    await probe.alive()


@check(
    "huge-message",
    title="a message of 32 MiB ends its call and nothing else",
    contract="max_command_bytes is the largest command that the shim takes; larger ones come through PutPayload or not "
    "at all.",
    needs=("change",),
    limit=120,
)
async def huge_message(probe: Probe) -> None:
    """Refused, or ended FAILED; the shim lives on."""
    if probe.info.max_command_bytes >= 32 * 1024 * 1024:
        return
    command = command_pb2.Command(noop=command_pb2.Noop(padding=bytes(32 * 1024 * 1024)))
    answer = await probe.execute(command)
    if answer.ending.code == "OK":
        expect(answer.settled().outcome == command_pb2.OUTCOME_FAILED, "a command over max_command_bytes succeeded")
    await probe.alive()


@check(
    "bad-get",
    title="a get that contradicts itself is not answered with objects",
    contract="Get.kind is required; all_namespaces must be false when name is set.",
    needs=("get",),
)
async def bad_get(probe: Probe) -> None:
    """No kind; a name in all namespaces. Either the call ends INVALID_ARGUMENT or the result is FAILED."""
    for what, answer in (
        ("no kind", await probe.get("")),
        ("a name in all namespaces", await probe.get(probe.kind, "x", everywhere=True)),
    ):
        if answer.ending.code != "INVALID_ARGUMENT":
            result = answer.settled()
            expect(result.outcome == command_pb2.OUTCOME_FAILED, f"{what}: expected FAILED, got {told(result)}")
