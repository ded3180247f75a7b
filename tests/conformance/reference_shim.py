"""A shim in memory on a real socket, to try the suite on: right in everything, or wrong in one thing at a time.

`ReferenceShim` keeps the contract; `FAULTS` names what a broken one does instead, and the suite must notice. The memory
of a durable one is a `Disk` that survives the restart of its server.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
import grpc.aio
import yaml
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from ote.api.command.v1 import command_pb2
from ote.api.shim.v1 import shim_pb2, shim_pb2_grpc
from ote.conformance.manifests import READY_ANNOTATION

Key = tuple[str, str, str]
Context = grpc.aio.ServicerContext[Any, Any]

WRONG_SECONDS = 1.0
"""How long a fault can be seen that passes."""
MAX_BYTES = 16 * 1024 * 1024
CLUSTER_SCOPED = {"namespace", "node"}
SEGMENT = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")

FAULTS = (
    "no-health",
    "reflects-no-imports",
    "reflects-half-names",
    "reflects-no-health",
    "instance-id-changes",
    "claims-logs",
    "hides-noop",
    "executes-drain",
    "forgets-results",
    "ignores-content",
    "content-is-the-request",
    "runs-twice-at-once",
    "forgets-failures",
    "applies-half",
    "cancelled-by-lost-call",
    "two-results",
    "takes-effect-done-back",
    "effect-done-too-early",
    "cancel-always-unknown",
    "cancel-not-remembered",
    "cancelled-after-effect",
    "ignores-timeout",
    "ignores-hash",
    "ignores-size",
    "burns-ids",
    "accepts-any-id",
    "accepts-path-names",
    "bad-manifest-ends-call",
    "unknown-kind-succeeds",
    "status-floods",
    "status-ends",
    "claims-durable",
    "same-instance",
    "mixes-answers",
    "always-created",
    "wrong-namespace",
)


class BadManifest(Exception):
    """What is wrong with a manifest, for people."""


@dataclass
class Entry:
    """A dispatch id: what came under it and how far it is."""

    digest: bytes | None
    events: list[shim_pb2.ExecuteResponse] = field(default_factory=list)
    over: bool = False
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def say(self, event: shim_pb2.ExecuteResponse) -> None:
        """Add an event for everybody who is attached."""
        self.events.append(event)
        self.over = event.HasField("result")
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass
class Disk:
    """What survives: the objects and, of a durable shim, the entries."""

    objects: dict[Key, dict[str, Any]] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)


def spelled(kind: str) -> str:
    """A kind in any spelling, as a key."""
    return kind.lower().removesuffix("s")


def key_of(kind: str, namespace: str, name: str) -> Key:
    """Where an object lives."""
    return spelled(kind), "" if spelled(kind) in CLUSTER_SCOPED else namespace or "default", name


def parse(manifests: bytes) -> list[dict[str, Any]]:
    """The objects of a stream of documents; raises BadManifest for anything else."""
    try:
        documents = [document for document in yaml.safe_load_all(manifests.decode("utf-8")) if document is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadManifest(f"the manifests do not parse: {str(error).splitlines()[0]}") from None
    if not documents:
        raise BadManifest("there is no object in the manifests")
    return documents


def check(document: Any, *, any_name: bool) -> None:
    """Raise BadManifest unless this is an object that could live in a cluster."""
    metadata = document.get("metadata") if isinstance(document, dict) else None
    if not isinstance(metadata, dict):
        raise BadManifest("a document is not an object with metadata")
    for name, value in (("kind", document.get("kind")), ("apiVersion", document.get("apiVersion"))):
        if not isinstance(value, str) or not value:
            raise BadManifest(f"an object has no {name}")
    for value in (metadata.get("name"), metadata.get("namespace", "default")):
        if not isinstance(value, str) or not (any_name or SEGMENT.fullmatch(value)):
            raise BadManifest(f"{str(value)[:40]!r} cannot be a name")
    if weigh(document, 0) > 1_000_000:
        raise BadManifest("the object is too large")


def weigh(value: Any, so_far: int) -> int:
    """The number of nodes, counted until it is too many."""
    so_far += 1
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in inner:
        if so_far > 1_000_000:
            break
        so_far = weigh(each, so_far)
    return so_far


def ref_of(key: Key, document: dict[str, Any]) -> command_pb2.ObjectRef:
    """An object as results name it."""
    return command_pb2.ObjectRef(
        api_version=document["apiVersion"], kind=document["kind"], namespace=key[1], name=key[2]
    )


def ready(document: dict[str, Any]) -> bool:
    """Whether the object is ready, which the annotation decides."""
    annotations = document["metadata"].get("annotations") or {}
    return bool(annotations.get(READY_ANNOTATION) != "never")


def result(outcome: str, reason: str = "", message: str = "", **more: Any) -> shim_pb2.ExecuteResponse:
    """The last message of a command."""
    value = command_pb2.Outcome.Value(f"OUTCOME_{outcome}")
    return shim_pb2.ExecuteResponse(result=command_pb2.Result(outcome=value, reason=reason, message=message, **more))


class ReferenceShim(shim_pb2_grpc.ShimServiceServicer):
    """The contract in memory. fault: one of FAULTS, or none."""

    def __init__(self, disk: Disk, *, durable: bool = False, fault: str = "") -> None:
        self.disk = disk
        self.fault = fault
        self.durable = durable
        self.instance = "the-same" if fault == "same-instance" else uuid.uuid4().hex
        if not durable:
            disk.entries.clear()
        self.payloads: dict[bytes, bytes] = {}
        self.status_changed = asyncio.Event()
        for entry in disk.entries.values():
            if entry.events and not entry.over:
                entry.say(
                    result("FAILED", "NOT_READY", "the shim was restarted", objects=entry.events[-1].progress.objects)
                )

    async def aclose(self) -> None:
        """End every command that runs, as a killed process does."""
        tasks = [entry.task for entry in self.disk.entries.values() if entry.task and not entry.task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def GetShimInfo(self, request: shim_pb2.GetShimInfoRequest, context: Context) -> shim_pb2.GetShimInfoResponse:
        capabilities = {"apply", "delete", "get", "noop", "status", "put_payload"}
        if self.fault == "claims-logs":
            capabilities.add("logs")
        if self.fault == "hides-noop":
            capabilities.discard("noop")
        return shim_pb2.GetShimInfoResponse(
            name="reference-shim",
            kind="memory",
            version="1",
            protocol_version="v1",
            capabilities=sorted(capabilities),
            instance_id=uuid.uuid4().hex if self.fault == "instance-id-changes" else self.instance,
            memory=shim_pb2.MEMORY_DURABLE
            if self.durable or self.fault == "claims-durable"
            else shim_pb2.MEMORY_INSTANCE,
            max_command_bytes=MAX_BYTES,
        )

    async def Execute(
        self, request: shim_pb2.ExecuteRequest, context: Context
    ) -> AsyncIterator[shim_pb2.ExecuteResponse]:
        for name in request.forget:
            self.disk.entries.pop(name, None)
        digest, command = await self._body(request, context)
        kind = command.WhichOneof("kind") if command else None
        known = self.disk.entries.get(request.dispatch_id)
        if kind in ("get", "logs"):
            yield await self._read(command, context)
            return
        await self._check_id(request.dispatch_id, context)
        if known is None or known.digest is None:
            if command is None:
                if self.fault == "burns-ids":
                    self._remember(request.dispatch_id, b"")
                await refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "PAYLOAD_MISSING: put the payload first")
            if kind == "drain" and self.fault == "executes-drain":
                yield result("SUCCEEDED")
                return
            if kind not in ("apply", "delete", "noop") and self.fault != "unknown-kind-succeeds":
                await refuse(context, grpc.StatusCode.UNIMPLEMENTED, "UNSUPPORTED: this shim does not do that")
        elif known.digest != digest and self.fault != "ignores-content":
            await refuse(context, grpc.StatusCode.ALREADY_EXISTS, "the id was used with other content")
        entry = self._entry(request, digest, command)
        try:
            sent = 0
            while sent < len(entry.events) or not entry.over:
                if sent == len(entry.events):
                    await entry.changed.wait()
                    continue
                if self.fault == "bad-manifest-ends-call" and entry.events[sent].result.reason == "INVALID_MANIFEST":
                    await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "bad manifest")
                yield entry.events[sent]
                sent += 1
            if self.fault == "two-results":
                yield entry.events[-1]
        finally:
            if self.fault == "cancelled-by-lost-call" and not entry.over and entry.task:
                entry.task.cancel()
                entry.say(result("CANCELLED", "CANCELLED"))

    async def _body(
        self, request: shim_pb2.ExecuteRequest, context: Context
    ) -> tuple[bytes, command_pb2.Command | None]:
        """The digest of the command and the command itself, None where its payload is not here."""
        body = request.WhichOneof("body")
        if body == "command":
            data = (
                request.SerializeToString()
                if self.fault == "content-is-the-request"
                else request.command.SerializeToString()
            )
            return hashlib.sha256(data).digest(), request.command
        if body is None:
            await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "there is no command")
        digest = request.payload.sha256
        if digest not in self.payloads:
            return digest, None
        try:
            return digest, command_pb2.Command.FromString(self.payloads[digest])
        except DecodeError:
            await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "the payload is not a command")

    async def _check_id(self, dispatch_id: str, context: Context) -> None:
        good = 0 < len(dispatch_id) <= 128 and dispatch_id.isascii() and dispatch_id.isprintable()
        if not good and self.fault != "accepts-any-id":
            await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "dispatch_id: 1 to 128 printable characters")

    def _remember(self, dispatch_id: str, digest: bytes | None) -> Entry:
        entry = self.disk.entries[dispatch_id] = Entry(digest)
        return entry

    def _entry(self, request: shim_pb2.ExecuteRequest, digest: bytes, command: command_pb2.Command | None) -> Entry:
        """The entry of this id, begun now if it is new."""
        known = self.disk.entries.get(request.dispatch_id)
        forgets = self.fault == "forgets-results" and known is not None and known.over
        forgets |= self.fault == "runs-twice-at-once" and known is not None and not known.over
        forgets |= (
            self.fault == "forgets-failures"
            and known is not None
            and known.over
            and known.events[-1].result.outcome == command_pb2.OUTCOME_FAILED
        )
        if known is not None and not forgets:
            if known.digest is None:
                known.digest = digest
                known.say(result("CANCELLED", "CANCELLED", "cancelled before it came"))
            return known
        if command is None:
            raise AssertionError("a new id has a command")
        entry = self._remember(request.dispatch_id, digest)
        limit = request.timeout.ToTimedelta().total_seconds() if request.HasField("timeout") else None
        if self.fault == "ignores-timeout":
            limit = None
        if command.WhichOneof("kind") == "apply":
            entry.task = asyncio.create_task(self._apply(entry, command.apply, limit), name="apply")
        elif command.WhichOneof("kind") == "delete":
            entry.say(self._delete(command.delete))
        else:
            entry.say(result("SUCCEEDED"))
        return entry

    async def _apply(self, entry: Entry, apply: command_pb2.Apply, limit: float | None) -> None:
        try:
            documents = parse(apply.manifests)
            if self.fault == "applies-half":
                for document in documents:
                    check(document, any_name=False)
                    self._put(document)
            for document in documents:
                check(document, any_name=self.fault == "accepts-path-names")
        except BadManifest as error:
            entry.say(result("FAILED", "INVALID_MANIFEST", str(error)))
            return
        if self.fault == "effect-done-too-early":
            entry.say(shim_pb2.ExecuteResponse(progress=command_pb2.Progress(effect_done=True)))
            await asyncio.sleep(WRONG_SECONDS)
        await asyncio.sleep(WRONG_SECONDS if self.fault in ("cancelled-by-lost-call", "runs-twice-at-once") else 0)
        objects = [self._put(document) for document in documents]
        self.status_changed.set()
        waiting = [each.object.name for each in objects if not each.ready]
        watch = apply.ready_timeout.ToTimedelta().total_seconds() if apply.HasField("ready_timeout") else 300
        if not waiting or watch <= 0:
            entry.say(result("SUCCEEDED", objects=objects))
            return
        message = f"waiting for {', '.join(waiting)}"
        progress = command_pb2.Progress(message=message, objects=objects, effect_done=True)
        entry.say(shim_pb2.ExecuteResponse(progress=progress))
        if self.fault == "takes-effect-done-back":
            entry.say(shim_pb2.ExecuteResponse(progress=command_pb2.Progress(message=message)))
        short = limit is not None and limit < watch
        try:
            await asyncio.wait_for(entry.stop.wait(), limit if short and limit is not None else watch)
        except TimeoutError:
            entry.say(result("FAILED", "DEADLINE_EXCEEDED" if short else "NOT_READY", message, objects=objects))
        else:
            outcome = "CANCELLED" if self.fault == "cancelled-after-effect" else "FAILED"
            entry.say(result(outcome, "CANCELLED", message, objects=objects))

    def _put(self, document: dict[str, Any]) -> command_pb2.ObjectResult:
        metadata = document["metadata"]
        key = key_of(document["kind"], metadata.get("namespace", ""), metadata["name"])
        wanted = json.loads(json.dumps(document))
        if key[1]:
            wanted["metadata"]["namespace"] = key[1]
        before = self.disk.objects.get(key)
        self.disk.objects[key] = wanted
        action = command_pb2.ACTION_CREATED
        if before is not None and self.fault != "always-created":
            action = command_pb2.ACTION_UNCHANGED if before == wanted else command_pb2.ACTION_CONFIGURED
        ref = ref_of(key, wanted)
        if self.fault == "wrong-namespace":
            ref.namespace = ""
        return command_pb2.ObjectResult(object=ref, action=action, ready=ready(wanted))

    def _delete(self, delete: command_pb2.Delete) -> shim_pb2.ExecuteResponse:
        refs = list(delete.objects)
        try:
            for document in parse(delete.manifests) if delete.manifests else []:
                check(document, any_name=False)
                metadata = document["metadata"]
                key = key_of(document["kind"], metadata.get("namespace", ""), metadata["name"])
                refs.append(ref_of(key, document))
        except BadManifest as error:
            return result("FAILED", "INVALID_MANIFEST", str(error))
        objects = []
        for ref in refs:
            gone = self.disk.objects.pop(key_of(ref.kind, ref.namespace, ref.name), None)
            action = command_pb2.ACTION_ABSENT if gone is None else command_pb2.ACTION_DELETED
            objects.append(command_pb2.ObjectResult(object=ref, action=action, ready=True))
        self.status_changed.set()
        return result("SUCCEEDED", objects=objects)

    async def _read(self, command: command_pb2.Command | None, context: Context) -> shim_pb2.ExecuteResponse:
        if command is None or command.WhichOneof("kind") != "get":
            await refuse(context, grpc.StatusCode.UNIMPLEMENTED, "UNSUPPORTED: there are no logs")
        get = command.get
        if not get.kind or (get.name and get.all_namespaces):
            await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "a kind is needed, and one namespace for a name")
        wanted = key_of(get.kind, get.namespace, get.name)
        found = [
            document
            for key, document in sorted(self.disk.objects.items())
            if key[0] == wanted[0]
            and (get.all_namespaces or key[1] == wanted[1])
            and (not get.name or key[2] == get.name or self.fault == "mixes-answers")
        ]
        if get.name and not found:
            return result("FAILED", "NOT_FOUND", f"there is no {get.kind} {get.name}")
        return result("SUCCEEDED", output=json.dumps(found).encode())

    async def Cancel(self, request: shim_pb2.CancelRequest, context: Context) -> shim_pb2.CancelResponse:
        await self._check_id(request.dispatch_id, context)
        entry = self.disk.entries.get(request.dispatch_id)
        if entry is None or self.fault == "cancel-always-unknown":
            if entry is None and self.fault != "cancel-not-remembered":
                self._remember(request.dispatch_id, None)
            return shim_pb2.CancelResponse(state=shim_pb2.CANCEL_STATE_UNKNOWN)
        if entry.digest is None:
            return shim_pb2.CancelResponse(state=shim_pb2.CANCEL_STATE_UNKNOWN)
        if entry.over:
            return shim_pb2.CancelResponse(state=shim_pb2.CANCEL_STATE_FINISHED)
        entry.stop.set()
        return shim_pb2.CancelResponse(state=shim_pb2.CANCEL_STATE_CANCELLING)

    async def PutPayload(
        self, requests: AsyncIterator[shim_pb2.PutPayloadRequest], context: Context
    ) -> shim_pb2.PutPayloadResponse:
        ref: command_pb2.PayloadRef | None = None
        data = bytearray()
        async for request in requests:
            if ref is None:
                if len(request.payload.sha256) != 32:
                    await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "the first message names the payload")
                ref = request.payload
                if ref.size > MAX_BYTES and self.fault != "ignores-size":
                    await refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, f"at most {MAX_BYTES} bytes")
                continue
            data += request.data
            if len(data) > ref.size and self.fault != "ignores-size":
                await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "more bytes than said")
        if ref is None:
            await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "there is no payload")
        if hashlib.sha256(data).digest() != ref.sha256 and self.fault != "ignores-hash":
            await refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "the bytes are not what their hash says")
        self.payloads[ref.sha256] = bytes(data)
        return shim_pb2.PutPayloadResponse()

    async def WatchStatus(
        self, request: shim_pb2.WatchStatusRequest, context: Context
    ) -> AsyncIterator[shim_pb2.WatchStatusResponse]:
        while True:
            counted = Counter(document["kind"] for document in self.disk.objects.values())
            status = shim_pb2.ClusterStatus(ready=True, nodes=1, nodes_ready=1, workloads=counted)
            status.as_of.GetCurrentTime()
            yield shim_pb2.WatchStatusResponse(status=status)
            if self.fault == "status-ends":
                return
            await asyncio.sleep(0.1 if self.fault == "status-floods" else 1)
            await self.status_changed.wait()
            asyncio.get_running_loop().call_soon(self.status_changed.clear)


async def refuse(context: Context, code: grpc.StatusCode, message: str) -> NoReturn:
    """End the call with an error."""
    await context.abort(code, message)
    raise AssertionError("abort does not return")


class ReferenceReflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # has no types
    """Reflection of the contract, as a library that makes descriptors anew may break it."""

    def __init__(self, fault: str) -> None:
        names = ["ote.api.shim.v1.ShimService", health.SERVICE_NAME, reflection.SERVICE_NAME]
        super().__init__([name for name in names if fault != "reflects-no-health" or name != health.SERVICE_NAME])
        self._fault = fault

    async def ServerReflectionInfo(
        self, request_iterator: AsyncIterator[reflection_pb2.ServerReflectionRequest], unused_context: Context
    ) -> AsyncIterator[reflection_pb2.ServerReflectionResponse]:
        async for response in super().ServerReflectionInfo(request_iterator, unused_context):
            if response.HasField("file_descriptor_response"):
                files = response.file_descriptor_response.file_descriptor_proto
                files[:] = [self._spoilt(raw) for raw in files]
            yield response

    def _spoilt(self, raw: bytes) -> bytes:
        file = FileDescriptorProto.FromString(raw)
        if self._fault == "reflects-no-imports":
            del file.dependency[:]
        if self._fault == "reflects-half-names":
            for message in file.message_type:
                for each in message.field:
                    each.type_name = each.type_name.removeprefix(".ote.api.")
        return file.SerializeToString()


class ReferenceServer:
    """A reference shim on a unix socket, which can be killed and started again."""

    def __init__(self, path: str, *, durable: bool = False, fault: str = "") -> None:
        self._path = path
        self._durable = durable
        self._fault = fault
        self._disk = Disk()
        self._server: grpc.aio.Server | None = None
        self._shim: ReferenceShim | None = None

    @property
    def objects(self) -> int:
        """Number of objects in the cluster."""
        return len(self._disk.objects)

    async def start(self) -> None:
        """Serve; what the disk holds is remembered."""
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_BYTES)])
        self._shim = ReferenceShim(self._disk, durable=self._durable, fault=self._fault)
        shim_pb2_grpc.add_ShimServiceServicer_to_server(self._shim, server)
        if self._fault != "no-health":
            servicer = health.aio.HealthServicer()
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
            await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(ReferenceReflection(self._fault), server)
        server.add_insecure_port(f"unix:{self._path}")
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Stop at once, with every command that runs."""
        if self._server is not None and self._shim is not None:
            await self._server.stop(None)
            await self._shim.aclose()

    async def restart(self) -> None:
        """Stop and start."""
        await self.stop()
        await self.start()
