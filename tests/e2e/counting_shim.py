"""A shim whose effects can be counted: a process of its own that appends every effect to a file and syncs it.

`python -m tests.e2e.counting_shim SOCKET FILE`. Its memory of dispatches is that file, so it is durable. The one idea:
it trusts nobody. What it was told to forget and is asked to do again is a second effect, and is written down as one.

The manifests of an apply are JSON: {"note": TEXT, "hold": PATH, "ready": PATH}. The effect waits until the file `hold`
exists, and is observed until the file `ready` does. A get answers with the number of effects.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from ote.api.command.v1 import command_pb2
from ote.api.shim.v1 import shim_pb2 as pb
from ote.api.shim.v1 import shim_pb2_grpc
from ote.runtime.main import run_main, stop_on_signals

_MAX_COMMAND = 17 * 1024 * 1024
_POLL = 0.02
_Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Effect:
    """One line of the file. key: the id that the shim was given; note: what the manifest said."""

    key: str
    note: str


def read_effects(file: Path) -> list[Effect]:
    """Every effect so far, in order; a line that is being written does not count yet."""
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    rows = [json.loads(line) for line in lines]
    return [Effect(row["effect"], row["note"]) for row in rows if "effect" in row]


@dataclass(slots=True)
class Running:
    """A command that has not ended."""

    cancelled: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    effect_done: asyncio.Event = field(default_factory=asyncio.Event)


class CountingShim(shim_pb2_grpc.ShimServiceServicer):
    """Serves one cluster that consists of a list of effects."""

    def __init__(self, file: Path) -> None:
        self._results: dict[str, command_pb2.Result] = {}
        self._done: set[str] = set()
        self._running: dict[str, Running] = {}
        self._payloads: dict[bytes, bytes] = {}
        self._effects = len(read_effects(file))
        self._tasks: set[asyncio.Task[None]] = set()
        self._load(file)
        self._file = file.open("a")
        self._instance = os.urandom(8).hex()

    def _load(self, file: Path) -> None:
        lines = file.read_text().split("\n") if file.exists() else []
        whole, torn = lines[:-1], lines[-1:] != [""]
        for row in map(json.loads, whole):
            for kind, key in row.items():
                if kind == "effect":
                    self._done.add(key)
                elif kind == "end":
                    self._results[key] = command_pb2.Result(
                        outcome=row["outcome"], reason=row["reason"], message=row["message"]
                    )
                elif kind == "forgotten":
                    self._done.discard(key)
                    self._results.pop(key, None)
        if lines and torn:
            with file.open("w") as again:
                again.write("".join(f"{line}\n" for line in whole))

    def _write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    async def GetShimInfo(self, request: pb.GetShimInfoRequest, context: _Context) -> pb.GetShimInfoResponse:
        return pb.GetShimInfoResponse(
            name="counting-shim",
            kind="counting",
            version="1",
            protocol_version="v1",
            capabilities=["apply", "get", "put_payload"],
            instance_id=self._instance,
            memory=pb.MEMORY_DURABLE,
            max_command_bytes=_MAX_COMMAND,
        )

    async def PutPayload(
        self, request_iterator: AsyncIterator[pb.PutPayloadRequest], context: _Context
    ) -> pb.PutPayloadResponse:
        parts: list[bytes] = []
        sha256 = b""
        async for part in request_iterator:
            if part.HasField("payload"):
                sha256 = part.payload.sha256
            else:
                parts.append(part.data)
        self._payloads[sha256] = b"".join(parts)
        return pb.PutPayloadResponse()

    async def Execute(self, request: pb.ExecuteRequest, context: _Context) -> AsyncIterator[pb.ExecuteResponse]:
        for key in request.forget:
            if key in self._results:
                self._write({"forgotten": key})
                self._done.discard(key)
                del self._results[key]
        command = request.command
        if request.HasField("payload"):
            command = command_pb2.Command.FromString(self._payloads.pop(request.payload.sha256))
        if command.HasField("get"):
            output = json.dumps([{"effects": self._effects}]).encode()
            yield pb.ExecuteResponse(result=command_pb2.Result(outcome=command_pb2.OUTCOME_SUCCEEDED, output=output))
            return
        key = request.dispatch_id
        if key not in self._results:
            running = self._begin(key, json.loads(command.apply.manifests))
            await running.effect_done.wait()
            if not running.ended.is_set():
                yield pb.ExecuteResponse(progress=command_pb2.Progress(message="observing", effect_done=True))
            await running.ended.wait()
        yield pb.ExecuteResponse(result=self._results[key])

    async def Cancel(self, request: pb.CancelRequest, context: _Context) -> pb.CancelResponse:
        key = request.dispatch_id
        if key in self._running:
            self._running[key].cancelled = True
            return pb.CancelResponse(state=pb.CANCEL_STATE_CANCELLING)
        if key in self._results or key in self._done:  # Done by an earlier process: only how it ended is not written.
            return pb.CancelResponse(state=pb.CANCEL_STATE_FINISHED)
        self._end(key, command_pb2.OUTCOME_CANCELLED, "CANCELLED", "cancelled before it was known")
        return pb.CancelResponse(state=pb.CANCEL_STATE_UNKNOWN)

    async def WatchStatus(
        self, request: pb.WatchStatusRequest, context: _Context
    ) -> AsyncIterator[pb.WatchStatusResponse]:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not among the capabilities")
        yield pb.WatchStatusResponse()

    def _begin(self, key: str, manifest: dict[str, str]) -> Running:
        if key not in self._running:
            self._running[key] = Running()
            task = asyncio.get_running_loop().create_task(self._run(key, self._running[key], manifest))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return self._running[key]

    async def _run(self, key: str, running: Running, manifest: dict[str, str]) -> None:
        if key not in self._done:
            if not await _exists(manifest.get("hold", ""), running):
                self._end(key, command_pb2.OUTCOME_CANCELLED, "CANCELLED", "cancelled before its effect")
                return
            self._write({"effect": key, "note": manifest["note"]})
            self._done.add(key)
            self._effects += 1
        running.effect_done.set()
        if await _exists(manifest.get("ready", ""), running):
            self._end(key, command_pb2.OUTCOME_SUCCEEDED, "", "done")
        else:
            self._end(key, command_pb2.OUTCOME_FAILED, "CANCELLED", "cancelled while it was observed")

    def _end(self, key: str, outcome: command_pb2.Outcome.ValueType, reason: str, message: str) -> None:
        self._write({"end": key, "outcome": outcome, "reason": reason, "message": message})
        self._results[key] = command_pb2.Result(outcome=outcome, reason=reason, message=message)
        running = self._running.pop(key, None)
        if running is not None:
            running.effect_done.set()
            running.ended.set()


async def _exists(path: str, running: Running) -> bool:
    """Wait until a file exists; False when the command was cancelled first."""
    while path and not await asyncio.to_thread(os.path.exists, path):
        if running.cancelled:
            return False
        await asyncio.sleep(_POLL)
    return True


async def serve(socket: str, file: Path) -> int:
    """Serve on a unix socket until a signal."""
    stopping = stop_on_signals()
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", _MAX_COMMAND)])
    shim_pb2_grpc.add_ShimServiceServicer_to_server(CountingShim(file), server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    await stopping.wait()
    await server.stop(0)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_main(serve(sys.argv[1], Path(sys.argv[2]))))
