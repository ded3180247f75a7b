"""The controller's side of ShimService: keeps the connection, runs commands, tells the core what comes of them.

Built-in and strangers' shims take this same road. The one idea: a call that breaks says nothing about its command, so
it is reported as lost, and the core decides whether it may be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Protocol

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from ote.api.command.v1 import command_pb2
from ote.api.shim.v1 import shim_pb2, shim_pb2_grpc
from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.origin_ledger import BODY_LIMIT
from ote.clustercontroller.wire.codec import encode_payload
from ote.clustercontroller.wire.totals import totals_of, word
from ote.model.errors import InvalidArgument, OteError
from ote.rpc.errors import translated

_INFO_TIMEOUT = 5.0
_RETRY = (0.2, 0.5, 1.0, 2.0, 5.0)
_MAX_STATUS = 64 * 1024
_MAX_CAPABILITIES = 64
_INLINE = 1024 * 1024
"""Commands up to this size go to the shim in one message."""
_PIECE = 262_144
_HANDED_OVER = 0.5
"""Seconds after which a shim that says nothing has certainly received an Execute."""
_ANSWER_SECONDS = 0.5
"""How long the name of a payload goes alone, where a refusal of it may have been lost among the pieces."""
_REPORT_OUTPUT = 16 * 1024
"""Outputs up to this size travel inside the report."""
_LOST = frozenset({"UNAVAILABLE", "CANCELLED", "INTERNAL", "UNKNOWN", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"})
"""Status codes that say nothing about what happened to the command."""

_HOPELESS = frozenset({"DISK_FULL", "COMMAND_TOO_LARGE"})
"""Reasons of such a status that say: nothing has happened, and asking again will not help."""


class Bodies(Protocol):
    """Where large commands and outputs are kept."""

    def path(self, payload: m.Payload) -> Path: ...

    async def push_output(self, key: str, output: bytes) -> None: ...


class Observer(Protocol):
    """Whom to tell what the shim did, for metrics."""

    def shim_restarted(self) -> None: ...

    def shim_call(self, command: str, outcome: str, seconds: float) -> None:
        """A call has ended so ("succeeded", "failed", "cancelled", or "lost" when that is not known)."""
        ...


class ShimLink:
    """One shim. `open_channel` makes a channel to it; `run` keeps it until cancelled."""

    def __init__(
        self,
        open_channel: Callable[[], grpc.aio.Channel],
        post: Callable[[ev.Event], None],
        bodies: Bodies,
        observer: Observer,
    ) -> None:
        self._observer = observer
        self._instance = ""
        self._open = open_channel
        self._post = post
        self._bodies = bodies
        self._stub: Any = None
        self._running: dict[str, asyncio.Task[None]] = {}
        self._calls: dict[str, _Call] = {}
        self._cancels: dict[str, asyncio.Task[None]] = {}
        self._log = structlog.get_logger("ote.clustercontroller.shim")
        self._status: shim_pb2.ClusterStatus | None = None
        """As the shim told it last, while it is believed."""
        self.error = "not connected yet"
        self.failed_at = time.time()
        """Since when, while there is an error."""

    async def run(self) -> None:
        """Connect, tell the core what the shim can do, follow its status; again and again."""
        try:
            await self._keep()
        finally:
            tasks = [*self._running.values(), *self._cancels.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self) -> None:
        attempt = 0
        while True:
            try:
                async with self._open() as channel:
                    self._stub = shim_pb2_grpc.ShimServiceStub(channel)
                    info = await self._stub.GetShimInfo(
                        shim_pb2.GetShimInfoRequest(protocol_version="v1"),
                        timeout=_INFO_TIMEOUT,
                        wait_for_ready=True,
                    )
                    attempt = 0
                    self.error = ""
                    self._up(info)
                    await self._follow(channel, info)
                    reason = "the shim ended the connection"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            self._stub = None
            if not self.error:
                self.failed_at = time.time()
                self._log.warning("shim lost", reason=reason)
                self._post(ev.ShimDown(reason))
            else:
                self._tell_lost()
            self.error = reason
            await asyncio.sleep(_RETRY[min(attempt, len(_RETRY) - 1)])
            attempt += 1

    def _up(self, info: shim_pb2.GetShimInfoResponse) -> None:
        if self._instance not in ("", info.instance_id):
            self._observer.shim_restarted()
        self._instance = info.instance_id
        self._post(
            ev.ShimUp(
                kind=word(info.kind),
                name=word(info.name),
                version=word(info.version),
                capabilities=[word(capability) for capability in info.capabilities[:_MAX_CAPABILITIES]],
                instance=info.instance_id,
                durable=info.memory == shim_pb2.MEMORY_DURABLE,
                max_command_bytes=info.max_command_bytes,
            )
        )

    def _tell_lost(self) -> None:
        """Those above see that nobody answers for this cluster; a shim that is back at once is not told of."""
        self._post(ev.ShimSilent(round(self.failed_at * 1000)))
        status, self._status = self._status, None
        if status is not None:
            status.ready, status.message = False, "the shim does not answer"
            totals = replace(totals_of(status), clusters_silent=1, pods_failing=0)  # what fails now nobody knows
            self._post(ev.ShimStatus(status.SerializeToString(), totals))

    async def _follow(self, channel: grpc.aio.Channel, info: shim_pb2.GetShimInfoResponse) -> None:
        """Until the connection breaks."""
        if "status" in info.capabilities:
            async for update in self._stub.WatchStatus(shim_pb2.WatchStatusRequest()):
                status = update.status.SerializeToString()
                if len(status) <= _MAX_STATUS:
                    self._status = update.status
                    self._post(ev.ShimStatus(status, totals_of(update.status)))
                else:
                    self._log.warning("status of the shim is too large", bytes=len(status), most=_MAX_STATUS)
            return
        state = channel.get_state(try_to_connect=True)
        while state in (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.CONNECTING):
            await channel.wait_for_state_change(state)
            state = channel.get_state()

    # --- commands -------------------------------------------------------------------------------------------------

    def execute(self, effect: fx.Execute) -> None:
        """Run a command; its end is posted."""
        call = _Call(self._cancels.get(effect.key), change=effect.change)
        task = asyncio.get_running_loop().create_task(self._execute(effect, call), name=f"execute {effect.key}")
        self._running[effect.key], self._calls[effect.key] = task, call
        task.add_done_callback(lambda done: self._ended(effect.key, done))

    def cancel(self, key: str) -> None:
        """Ask the shim to stop a command: after an Execute that was wanted before, and before one that is after.

        A read has no id there, which the shim would keep in mind in vain: losing its call is all that it can be told.
        """
        call = self._calls.get(key)
        if call is not None and not call.change:
            self._running[key].cancel()
            return
        work = self._cancel(key, call)
        task = asyncio.get_running_loop().create_task(work, name=f"cancel {key}")
        self._cancels[key] = task
        task.add_done_callback(lambda done: self._cancelled(key, done))

    def _cancelled(self, key: str, task: asyncio.Task[None]) -> None:
        if self._cancels.get(key) is task:
            del self._cancels[key]

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        if self._running.get(key) is task:
            del self._running[key]
            self._calls.pop(key).over()
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._log.error("execution failed", key=key, exc_info=failure)
            self._post(ev.ShimLost(key, str(failure)))

    async def _cancel(self, key: str, call: _Call | None) -> None:
        if call is not None:
            await call.handed_over()
        if self._stub is None:
            return
        try:
            with translated():
                await self._stub.Cancel(shim_pb2.CancelRequest(dispatch_id=key), timeout=_INFO_TIMEOUT)
        except OteError as error:
            self._log.warning("cancel did not reach the shim", key=key, error=error.message)

    async def _execute(self, effect: fx.Execute, call: _Call) -> None:
        begun = time.monotonic()
        state = "LOST"
        try:
            if call.after is not None:
                await asyncio.wait((call.after,))
            state = await self._call(effect, call)
        finally:
            self._observer.shim_call(effect.command, state.lower(), time.monotonic() - begun)

    async def _call(self, effect: fx.Execute, call: _Call) -> str:
        """How it ended, LOST when that is not known."""
        if self._stub is None:
            self._post(ev.ShimLost(effect.key, "the shim is not reachable"))
            return "LOST"
        try:
            with translated():
                request = await self._request(effect)
                call.begin()
                async for response in self._stub.Execute(request):
                    call.answered.set()
                    if response.WhichOneof("event") == "progress":
                        progress = response.progress
                        body = progress.SerializeToString()
                        told = body if len(body) <= BODY_LIMIT else b""
                        self._post(ev.ShimProgress(effect.key, told, progress.effect_done))
                    else:
                        return await self._result(effect.key, response.result)
            self._post(ev.ShimLost(effect.key, "the shim ended the call without a result"))
        except OteError as error:
            return self._failed(effect, error)
        except _UnreadableError as error:
            self._post(ev.PayloadLost(effect.key, str(error)))
        except DecodeError:  # it will never be readable, and whatever comes after it waits
            return self._failed(effect, InvalidArgument("INVALID_COMMAND", "the command cannot be read"))
        return "LOST"

    async def _request(self, effect: fx.Execute) -> shim_pb2.ExecuteRequest:
        request = shim_pb2.ExecuteRequest(dispatch_id=effect.key if effect.change else "", forget=effect.forget)
        if effect.timeout_ms:
            request.timeout.FromMilliseconds(effect.timeout_ms)
        payload = effect.payload
        if payload is None:
            request.command.MergeFromString(effect.body or b"")
        elif payload.size <= _INLINE:
            with _readable():
                body = await asyncio.to_thread(self._bodies.path(payload).read_bytes)
            request.command.MergeFromString(body)
        else:
            await self._put_payload(payload)
            request.payload.CopyFrom(encode_payload(payload))
        return request

    async def _put_payload(self, payload: m.Payload) -> None:
        with _readable():
            body = self._bodies.path(payload).open("rb")
        with body:
            try:
                await self._put_parts(payload, body, 0)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.INTERNAL:
                    raise
                # gRPC may have lost the answer of a shim that ended the call while we were still sending.
                await self._put_parts(payload, body, _ANSWER_SECONDS)

    async def _put_parts(self, payload: m.Payload, body: IO[bytes], pause: float) -> None:
        failures: list[_UnreadableError] = []

        async def parts() -> Any:
            yield shim_pb2.PutPayloadRequest(payload=encode_payload(payload))
            await asyncio.sleep(pause)
            try:
                with _readable():
                    body.seek(0)
                    while piece := await asyncio.to_thread(body.read, _PIECE):
                        yield shim_pb2.PutPayloadRequest(data=piece)
            except _UnreadableError as failure:  # raised in here it would cancel the call, and us with it
                failures.append(failure)

        try:
            await self._stub.PutPayload(parts())
        finally:
            if failures:
                raise failures[0]

    async def _result(self, key: str, result: command_pb2.Result) -> str:
        state = _STATES.get(result.outcome, "FAILED")
        output = result.output
        size = 0
        if len(output) > _REPORT_OUTPUT:
            size = len(output)
            result.ClearField("output")
            try:
                await self._bodies.push_output(key, output)
            except OteError as error:
                state, size = "FAILED", 0
                result.reason, result.message = error.reason, error.message
        body = result.SerializeToString()
        if len(body) > BODY_LIMIT:
            message = f"{state.lower()}, and said more of it than the {BODY_LIMIT >> 10} KiB that are kept"
            body = command_pb2.Result(
                outcome=result.outcome, reason="RESULT_TOO_LARGE", message=message
            ).SerializeToString()
        self._post(ev.ShimResult(key, state, body, size))
        return state

    def _failed(self, effect: fx.Execute, error: OteError) -> str:
        key = effect.key
        if error.reason == "MESSAGE_TOO_LARGE":  # it would be so each time; of a change nobody knows what it did
            result = command_pb2.Result(
                outcome=command_pb2.OUTCOME_FAILED,
                reason="RESULT_TOO_LARGE",
                message="the shim said more than is taken",
            )
            state = "OUTCOME_UNKNOWN" if effect.change else "FAILED"
            self._post(ev.ShimResult(key, state, result.SerializeToString()))
            return "LOST"
        if error.code in _LOST and error.reason not in _HOPELESS:
            self._post(ev.ShimLost(key, f"{error.code}: {error.message}"))
            return "LOST"
        reason = "UNSUPPORTED" if error.code == "UNIMPLEMENTED" else error.reason
        result = command_pb2.Result(outcome=command_pb2.OUTCOME_FAILED, reason=reason, message=error.message)
        self._post(ev.ShimResult(key, "FAILED", result.SerializeToString()))
        return "FAILED"


class _UnreadableError(Exception):
    """A payload that should be on disk cannot be read."""


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Errors: _UnreadableError."""
    try:
        yield
    except OSError as error:
        raise _UnreadableError(f"the command's payload cannot be read: {error.strerror or error}") from error


class _Call:
    """An Execute, for a Cancel that is to reach the shim after it; `after` is a Cancel that is to do so before it.

    gRPC does not tell when a request has left, so it has when there is an answer, or some time after it began.
    """

    def __init__(self, after: asyncio.Task[None] | None, *, change: bool) -> None:
        self.after = after
        self.change = change
        self.begun = asyncio.Event()
        self.answered = asyncio.Event()
        self._since = 0.0

    def begin(self) -> None:
        """The request is made, and handed to gRPC."""
        self._since = time.monotonic()
        self.begun.set()

    def over(self) -> None:
        """It has ended, or was never made."""
        self.begun.set()
        self.answered.set()

    async def handed_over(self) -> None:
        """Until the shim has it."""
        await self.begun.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._since + _HANDED_OVER - time.monotonic()):
                await self.answered.wait()


_STATES = {
    command_pb2.OUTCOME_SUCCEEDED: "SUCCEEDED",
    command_pb2.OUTCOME_FAILED: "FAILED",
    command_pb2.OUTCOME_CANCELLED: "CANCELLED",
}


class NoShim:
    """Stands where a cluster has no shim: the core refuses what is for one, and may only cancel what an earlier process
    had handed to one."""

    error = ""
    failed_at = 0.0

    def execute(self, effect: fx.Execute) -> None:
        pass

    def cancel(self, key: str) -> None:
        pass
