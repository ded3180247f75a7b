"""The suite's hands: every call of the contract, answered with values instead of exceptions.

A check wants to look at how a call ended as much as at what it brought, so `Answer` holds both. The probe also makes
names, keeps track of the objects that a check makes, and deletes them. What is right or wrong is not decided here,
with one exception: `settled` fails the check when a call does not end with exactly one result.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from ote.api.command.v1 import command_pb2
from ote.api.shim.v1 import shim_pb2, shim_pb2_grpc
from ote.conformance.manifests import POD_IMAGE, Thing, as_json, never_ready, plain_kind, slow_kind
from ote.conformance.verdict import CheckFailed, CheckSkipped, expect
from ote.rpc.errors import LOST_ANSWER

CALL_SECONDS = 40.0
EFFECT_SECONDS = 5.0
"""How long a check waits for effect_done; a shim may never say it, and then takes the next change later."""
PIECE_BYTES = 262_144
PUT_PAUSES = (0.0, 0.02, 0.1, 0.5, 2.0)
"""Seconds after each piece, attempt by attempt."""
_RESTARTED_SECONDS = 30.0

DEADLINE_CODES = ("DEADLINE_EXCEEDED", "CANCELLED")
"""How a call ends whose deadline is over: the server may notice first and reset the stream."""

SERVICE = "ote.api.shim.v1.ShimService"


@dataclass(frozen=True, slots=True)
class Ending:
    """How a call ended: the status code's name, the text, and the reason from its details ("" without details)."""

    code: str
    message: str = ""
    reason: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.code, self.reason, f"({self.message})" if self.message else "") if part)


@dataclass(frozen=True, slots=True)
class Answer:
    """What an Execute call brought and how it ended."""

    events: tuple[shim_pb2.ExecuteResponse, ...]
    ending: Ending

    @property
    def results(self) -> list[command_pb2.Result]:
        """Every result in it; the contract wants exactly one."""
        return [event.result for event in self.events if event.HasField("result")]

    @property
    def progress(self) -> list[command_pb2.Progress]:
        """Every progress in it, in order."""
        return [event.progress for event in self.events if event.HasField("progress")]

    def settled(self) -> command_pb2.Result:
        """The result; fails the check unless the call ended OK with exactly one result as its last message."""
        expect(self.ending.code == "OK", f"expected a result, the call ended {self.ending}")
        expect(len(self.results) == 1, f"expected exactly one result, got {len(self.results)}")
        expect(self.events[-1].HasField("result"), "expected the result as the last message, progress followed it")
        return self.results[0]

    def refused(self, *codes: str, reason: str = "") -> None:
        """Fail the check unless the call ended with one of these codes and without a result. A reason is compared only
        where the shim sent one: details are not every language's strength, codes are."""
        wanted = " or ".join(codes)
        if self.results:
            raise CheckFailed(f"expected the call to end {wanted}, got a result: {told(self.results[0])}")
        expect(self.ending.code in codes, f"expected the call to end {wanted}, it ended {self.ending}")
        if reason and self.ending.reason:
            expect(self.ending.reason == reason, f"expected reason {reason}, got {self.ending.reason}")


def told(result: command_pb2.Result) -> str:
    """A result in one line."""
    outcome = command_pb2.Outcome.Name(result.outcome) if result.outcome in command_pb2.Outcome.values() else "?"
    return " ".join(part for part in (outcome.removeprefix("OUTCOME_"), result.reason, result.message) if part)


def seconds(value: float) -> Duration:
    """A duration."""
    duration = Duration()
    duration.FromNanoseconds(int(value * 1e9))
    return duration


def ending_of(error: grpc.aio.AioRpcError) -> Ending:
    """What an error of gRPC says, with the reason of its ErrorInfo."""
    reason = ""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    reason = info.reason
    return Ending(error.code().name, error.details() or "", reason)


async def _slowly(
    parts: Iterable[shim_pb2.PutPayloadRequest], pause: float
) -> AsyncGenerator[shim_pb2.PutPayloadRequest, None]:
    for part in parts:
        yield part
        await asyncio.sleep(pause)


def payload_ref(data: bytes) -> command_pb2.PayloadRef:
    """The name of these bytes."""
    return command_pb2.PayloadRef(
        sha256=hashlib.sha256(data).digest(),
        size=len(data),
        pieces=[hashlib.sha256(piece).digest() for piece in pieces_of(data)],
    )


def pieces_of(data: bytes) -> list[bytes]:
    """The bytes in pieces as the contract cuts them."""
    return [data[start : start + PIECE_BYTES] for start in range(0, len(data), PIECE_BYTES)]


class Running:
    """An Execute call that is under way."""

    def __init__(self, call: grpc.aio.UnaryStreamCall[Any, shim_pb2.ExecuteResponse]) -> None:
        self._call = call
        self._events: list[shim_pb2.ExecuteResponse] = []
        self._ending: Ending | None = None
        self._dropped = False
        self._changed = asyncio.Event()
        self._reader = asyncio.create_task(self._read(), name="conformance-execute")

    async def _read(self) -> None:
        try:
            async for event in self._call:
                self._events.append(event)
                self._changed.set()
            self._ending = Ending("OK")
        except grpc.aio.AioRpcError as error:
            self._ending = ending_of(error)
        except asyncio.CancelledError:
            # grpc.aio tells a reader that its call was cancelled this way.
            if not self._dropped:
                raise
            self._ending = Ending("CANCELLED")
        self._changed.set()

    @property
    def answer(self) -> Answer:
        """What has come so far."""
        return Answer(tuple(self._events), self._ending or Ending("RUNNING"))

    @property
    def over(self) -> bool:
        """Whether the call has ended."""
        return self._ending is not None

    async def until_effect(self) -> bool:
        """Wait a while until the shim says effect_done or the call ends; whether it said so."""
        loop = asyncio.get_running_loop()
        end = loop.time() + EFFECT_SECONDS
        while not self.over and not any(progress.effect_done for progress in self.answer.progress):
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), end - loop.time())
            except TimeoutError:
                break
        return any(progress.effect_done for progress in self.answer.progress)

    async def ended_within(self, at_most: float) -> bool:
        """Whether the call ends within that many seconds."""
        done, _ = await asyncio.wait({self._reader}, timeout=at_most)
        return bool(done)

    async def finish(self, at_most: float = CALL_SECONDS) -> Answer:
        """Wait for the end; fails the check when it does not come within `at_most` seconds."""
        done, _ = await asyncio.wait({self._reader}, timeout=at_most)
        if not done:
            await self.drop()
            raise CheckFailed(f"the command did not end within {at_most:g} s")
        return self.answer

    async def drop(self) -> None:
        """Lose the call, as a controller that is killed does."""
        self._dropped = True
        self._call.cancel()
        await asyncio.wait({self._reader}, timeout=5)


class Probe:
    """One shim under test. Commands that a check gives it get fresh ids unless the check names one."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        info: shim_pb2.GetShimInfoResponse,
        *,
        restart: Callable[[], Awaitable[None]] | None,
        pod_image: str = POD_IMAGE,
    ) -> None:
        self.channel = channel
        self.info = info
        self.stub = shim_pb2_grpc.ShimServiceStub(channel)
        self.kind = plain_kind(info.object_kinds)
        self.slow_kind = slow_kind(info.object_kinds)
        self._restart = restart
        self._pod_image = pod_image
        self._made: list[command_pb2.ObjectRef] = []
        self._running: list[Running] = []
        self._execute_raw: grpc.aio.UnaryStreamMultiCallable[bytes, shim_pb2.ExecuteResponse] = channel.unary_stream(
            f"/{SERVICE}/Execute", response_deserializer=shim_pb2.ExecuteResponse.FromString
        )

    # Names and objects

    def can(self, word: str) -> bool:
        """Whether the shim says that it can; "change" is any command that is remembered."""
        if word == "change":
            return self.can("noop") or self.can("apply")
        return word in self.info.capabilities

    @staticmethod
    def new_id() -> str:
        """A dispatch id that was never used."""
        return f"conformance-{secrets.token_hex(16)}"

    def thing(self, value: str = "one", *, namespace: str = "") -> Thing:
        """A new object to apply, deleted after the check."""
        thing = Thing(self.kind, f"ote-conformance-{secrets.token_hex(6)}", namespace, value)
        self._made.append(thing.ref())
        return thing

    def track(self, thing: Thing) -> None:
        """Have an object deleted after the check that the check named itself."""
        self._made.append(thing.ref())

    def unready(self, ready_timeout: float) -> tuple[Thing, command_pb2.Command]:
        """An object that never becomes ready, and the command that applies it and watches it that many seconds."""
        thing = Thing(self.slow_kind, f"ote-conformance-{secrets.token_hex(6)}")
        self._made.append(thing.ref())
        manifests = as_json([self.unready_manifest(thing)])
        return thing, self.apply_command(manifests, ready_timeout=ready_timeout)

    def unready_manifest(self, thing: Thing) -> dict[str, Any]:
        """The manifest that `unready` applies."""
        return never_ready(thing.kind, thing.name, self._pod_image)

    @staticmethod
    def apply_command(manifests: bytes | Iterable[Thing], *, ready_timeout: float | None = None) -> command_pb2.Command:
        """An apply of manifests, or of these objects."""
        data = manifests if isinstance(manifests, bytes) else as_json(thing.manifest() for thing in manifests)
        apply = command_pb2.Apply(manifests=data)
        if ready_timeout is not None:
            apply.ready_timeout.CopyFrom(seconds(ready_timeout))
        return command_pb2.Command(apply=apply)

    def small_change(self) -> command_pb2.Command:
        """Some change: a noop where the shim takes one, else the apply of a small object."""
        if self.can("noop"):
            return command_pb2.Command(noop=command_pb2.Noop(padding=secrets.token_bytes(8)))
        return self.apply_command([self.thing()])

    # Calls

    async def execute(
        self,
        command: command_pb2.Command | None = None,
        *,
        dispatch_id: str | None = None,
        payload: command_pb2.PayloadRef | None = None,
        timeout: float | None = None,
        forget: Sequence[str] = (),
        call_timeout: float = CALL_SECONDS,
    ) -> Answer:
        """Execute to the end. dispatch_id: None makes a fresh one, "" sends none. timeout: the command's, in seconds;
        call_timeout: the call's."""
        request = self.request(command, dispatch_id=dispatch_id, payload=payload, timeout=timeout, forget=forget)
        return await self._to_end(self.stub.Execute(request, timeout=call_timeout))

    def request(
        self,
        command: command_pb2.Command | None,
        *,
        dispatch_id: str | None = None,
        payload: command_pb2.PayloadRef | None = None,
        timeout: float | None = None,
        forget: Sequence[str] = (),
    ) -> shim_pb2.ExecuteRequest:
        """The request that `execute` sends."""
        return shim_pb2.ExecuteRequest(
            dispatch_id=self.new_id() if dispatch_id is None else dispatch_id,
            command=command,
            payload=payload,
            timeout=None if timeout is None else seconds(timeout),
            forget=forget,
        )

    async def execute_raw(self, data: bytes) -> Answer:
        """Execute with a request that is sent as these bytes."""
        return await self._to_end(self._execute_raw(data, timeout=CALL_SECONDS))

    async def _to_end(self, call: grpc.aio.UnaryStreamCall[Any, shim_pb2.ExecuteResponse]) -> Answer:
        events: list[shim_pb2.ExecuteResponse] = []
        try:
            async for event in call:
                events.append(event)
        except grpc.aio.AioRpcError as error:
            return Answer(tuple(events), ending_of(error))
        return Answer(tuple(events), Ending("OK"))

    def start(self, command: command_pb2.Command, *, dispatch_id: str, timeout: float | None = None) -> Running:
        """Begin an Execute and leave it under way; it is dropped after the check."""
        request = self.request(command, dispatch_id=dispatch_id, timeout=timeout)
        running = Running(self.stub.Execute(request, timeout=60))
        self._running.append(running)
        return running

    async def done(self, command: command_pb2.Command, *, dispatch_id: str | None = None) -> command_pb2.Result:
        """Execute and fail the check unless it ends SUCCEEDED."""
        result = (await self.execute(command, dispatch_id=dispatch_id)).settled()
        expect(result.outcome == command_pb2.OUTCOME_SUCCEEDED, f"expected SUCCEEDED, got {told(result)}")
        return result

    async def apply(self, *things: Thing) -> command_pb2.Result:
        """Apply these objects and fail the check unless that succeeds."""
        return await self.done(self.apply_command(things))

    async def get(self, kind: str, name: str = "", *, namespace: str = "", everywhere: bool = False) -> Answer:
        """Read objects."""
        get = command_pb2.Get(kind=kind, name=name, namespace=namespace, all_namespaces=everywhere)
        return await self.execute(command_pb2.Command(get=get), dispatch_id="")

    async def found(self, thing: Thing) -> dict[str, Any] | None:
        """The object as the shim has it now, None where it has none."""
        result = (await self.get(thing.kind, thing.name, namespace=thing.namespace)).settled()
        if result.outcome == command_pb2.OUTCOME_SUCCEEDED:
            items = objects_in(result)
            return items[0] if items else None
        expect(result.reason == "NOT_FOUND", f"expected an object or NOT_FOUND, got {told(result)}")
        return None

    async def cancel(self, dispatch_id: str) -> str:
        """Cancel; the state's name without its prefix. Fails the check on an error."""
        ending, response = await self.try_cancel(dispatch_id)
        if response is None:
            raise CheckFailed(f"expected Cancel to answer, it ended {ending}")
        expect(response.state in shim_pb2.CancelState.values(), f"cancel state {response.state} is not of the contract")
        return shim_pb2.CancelState.Name(response.state).removeprefix("CANCEL_STATE_")

    async def try_cancel(self, dispatch_id: str) -> tuple[Ending, shim_pb2.CancelResponse | None]:
        """Cancel, whatever comes."""
        try:
            response = await self.stub.Cancel(shim_pb2.CancelRequest(dispatch_id=dispatch_id), timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            return ending_of(error), None
        return Ending("OK"), response

    async def put(self, ref: command_pb2.PayloadRef | None, pieces: Sequence[bytes]) -> Ending:
        """Put a payload under this name, in these pieces; None sends no name.

        grpc.aio may lose why a shim refused what was still being written. PutPayload may be made again: then more
        slowly, so that a refusal is heard before the next piece is written.
        """
        parts = [] if ref is None else [shim_pb2.PutPayloadRequest(payload=ref)]
        parts += [shim_pb2.PutPayloadRequest(data=piece) for piece in pieces]
        ending = Ending("OK")
        for pause in PUT_PAUSES:
            try:
                await self.stub.PutPayload(_slowly(parts, pause), timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                ending = ending_of(error)
                if ending.message == LOST_ANSWER:
                    continue
                return ending
            return Ending("OK")
        return ending

    async def put_whole(self, command: command_pb2.Command) -> command_pb2.PayloadRef:
        """Put a command as the contract wants it, and fail the check when that is refused."""
        data = command.SerializeToString()
        ending = await self.put(payload_ref(data), pieces_of(data))
        expect(ending.code == "OK", f"expected PutPayload to take {len(data)} bytes, it ended {ending}")
        return payload_ref(data)

    async def statuses(self, at_most: float) -> AsyncGenerator[shim_pb2.ClusterStatus, None]:
        """The statuses that come within `at_most` seconds."""
        call = self.stub.WatchStatus(shim_pb2.WatchStatusRequest(), timeout=at_most)
        try:
            async for response in call:
                yield response.status
        except grpc.aio.AioRpcError as error:
            ending = ending_of(error)
            expect(ending.code in DEADLINE_CODES, f"expected WatchStatus to go on, it ended {ending}")
        else:
            raise CheckFailed("expected WatchStatus to go on, the shim ended it")
        finally:
            call.cancel()

    async def ask_info(self) -> shim_pb2.GetShimInfoResponse:
        """GetShimInfo again, waiting for the connection; fails the check on an error."""
        try:
            request = shim_pb2.GetShimInfoRequest(protocol_version="v1")
            return await self.stub.GetShimInfo(request, timeout=CALL_SECONDS, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            raise CheckFailed(f"expected GetShimInfo to answer, it ended {ending_of(error)}") from None

    async def alive(self) -> None:
        """Fail the check unless the same instance still answers."""
        info = await self.ask_info()
        expect(info.instance_id == self.info.instance_id, "the shim started anew: it did not survive the check")

    async def restart(self) -> None:
        """Restart the shim and wait until it answers; what it says then becomes `info`."""
        if self._restart is None:
            raise CheckSkipped("no way to restart the shim was given")
        await self._restart()
        try:
            async with asyncio.timeout(_RESTARTED_SECONDS):
                info = await self._info_if_there() or await self.ask_info()
        except TimeoutError:
            raise CheckFailed(f"the shim does not answer within {_RESTARTED_SECONDS:.0f} s of its restart") from None
        self.info = info

    async def _info_if_there(self) -> shim_pb2.GetShimInfoResponse | None:
        """None while the connection is the one to the process that ended: only its first use may show that."""
        try:
            return await self.stub.GetShimInfo(shim_pb2.GetShimInfoRequest(protocol_version="v1"), wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise CheckFailed(
                    f"expected GetShimInfo to answer after the restart, it ended {ending_of(error)}"
                ) from None
            return None

    async def clean_up(self) -> None:
        """Drop the calls that a check left under way and delete the objects that it made, where the shim can."""
        for running in self._running:
            await running.drop()
        self._running.clear()
        made, self._made = self._made, []
        if made and self.can("delete"):
            await self.execute(command_pb2.Command(delete=command_pb2.Delete(objects=made)))


def objects_in(result: command_pb2.Result) -> list[dict[str, Any]]:
    """The objects that a get brought; fails the check unless they are a JSON array of objects."""
    try:
        items = json.loads(result.output.decode("utf-8"))
    except ValueError as error:
        raise CheckFailed(f"expected output to be a JSON array in UTF-8: {error}") from None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise CheckFailed("expected output to be a JSON array of objects")
    return items
