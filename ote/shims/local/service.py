"""ShimService as the contract has it: checks what comes in, hands it on, streams what comes back.

Not here: what commands do (`commands`, `reads`). The one idea: a handler owns nothing, so one that is cut off leaves
nothing undone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from google.protobuf.message import DecodeError

import ote
from ote.api.command.v1 import command_pb2
from ote.api.shim.v1 import shim_pb2 as pb
from ote.api.shim.v1 import shim_pb2_grpc
from ote.model.errors import InvalidArgument, ResourceExhausted, Unsupported
from ote.shims.local import reads
from ote.shims.local.commands import Commands, Running
from ote.shims.local.core.names import KINDS
from ote.shims.local.keeper import Keeper
from ote.shims.local.payloads import MAX_COMMAND, PIECE, Payloads
from ote.shims.local.ports import Driver
from ote.shims.local.status import StatusSource

_Context = grpc.aio.ServicerContext[Any, Any]
_CHANGES = ("apply", "delete", "noop")
_READS = ("get", "logs")
_MAX_READS = 64
CAPABILITIES = (*_CHANGES, *_READS, "status", "put_payload")
"""What the local shim can do."""


class LocalShimService(shim_pb2_grpc.ShimServiceServicer):
    """Serves one local cluster."""

    def __init__(
        self,
        keeper: Keeper,
        commands: Commands,
        payloads: Payloads,
        driver: Driver,
        status: StatusSource,
        instance_id: str,
    ) -> None:
        self._keeper = keeper
        self._commands = commands
        self._payloads = payloads
        self._driver = driver
        self._status = status
        self._instance_id = instance_id
        self._reading = 0

    async def GetShimInfo(self, request: pb.GetShimInfoRequest, context: _Context) -> pb.GetShimInfoResponse:
        """Who this is."""
        return pb.GetShimInfoResponse(
            name="ote-local-shim",
            kind="local",
            version=ote.__version__,
            protocol_version="v1",
            capabilities=CAPABILITIES,
            instance_id=self._instance_id,
            memory=pb.MEMORY_DURABLE,
            max_command_bytes=MAX_COMMAND,
            object_kinds=list(KINDS),
        )

    async def Execute(self, request: pb.ExecuteRequest, context: _Context) -> AsyncIterator[pb.ExecuteResponse]:
        """Begins, finds again or reads, and streams what comes of it."""
        self._commands.forget(request.forget)
        command = await self._command(request)
        kind = command.WhichOneof("kind")
        if kind is None and command.ByteSize() == 0:
            raise InvalidArgument("NO_COMMAND", "the command says nothing to do")
        if kind not in (*_CHANGES, *_READS):
            raise Unsupported("UNSUPPORTED", f"the local shim does not know the command {kind or 'of this number'}")
        if kind in _READS:
            yield pb.ExecuteResponse(result=await self._read(command))
            return
        _check_id(request.dispatch_id)
        timeout = request.timeout.ToNanoseconds() / 1e9 if request.HasField("timeout") else None
        found = self._commands.submit(request.dispatch_id, command, timeout)
        if not isinstance(found, Running):
            yield pb.ExecuteResponse(result=found)
            return
        async for news in found.listen():
            if isinstance(news, command_pb2.Progress):
                yield pb.ExecuteResponse(progress=news)
            else:
                yield pb.ExecuteResponse(result=news)

    async def Cancel(self, request: pb.CancelRequest, context: _Context) -> pb.CancelResponse:
        """Asks a command to stop."""
        _check_id(request.dispatch_id)
        known = await self._commands.cancel(request.dispatch_id)
        if known is None:
            return pb.CancelResponse(state=pb.CANCEL_STATE_UNKNOWN)
        return pb.CancelResponse(state=pb.CANCEL_STATE_CANCELLING if known else pb.CANCEL_STATE_FINISHED)

    async def PutPayload(
        self, request_iterator: AsyncIterator[pb.PutPayloadRequest], context: _Context
    ) -> pb.PutPayloadResponse:
        """Takes the bytes of a large command."""
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("part") != "payload":
            raise InvalidArgument("INVALID_PAYLOAD", "the first message must name the payload")
        reference = first.payload
        await self._payloads.put(reference.sha256, reference.size, _pieces(request_iterator))
        return pb.PutPayloadResponse()

    async def WatchStatus(
        self, request: pb.WatchStatusRequest, context: _Context
    ) -> AsyncIterator[pb.WatchStatusResponse]:
        """Streams the status."""
        async for status in self._status.watch():
            yield pb.WatchStatusResponse(status=status)

    async def _command(self, request: pb.ExecuteRequest) -> command_pb2.Command:
        body = request.WhichOneof("body")
        if body == "command":
            return request.command
        if body is None:
            raise InvalidArgument("NO_COMMAND", "there is no command in the request")
        try:
            return command_pb2.Command.FromString(await self._payloads.take(request.payload.sha256))
        except DecodeError:
            raise InvalidArgument("INVALID_PAYLOAD", "the payload is not a command") from None

    async def _read(self, command: command_pb2.Command) -> command_pb2.Result:
        if self._reading >= _MAX_READS:
            raise ResourceExhausted("TOO_MANY_COMMANDS", f"{_MAX_READS} reads run already", retry_after=0.5)
        self._reading += 1
        try:
            if command.HasField("get"):
                return reads.get(self._keeper, command.get)
            return await reads.logs(self._keeper, self._driver, command.logs)
        finally:
            self._reading -= 1


async def _pieces(requests: AsyncIterator[pb.PutPayloadRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "data":
            raise InvalidArgument("INVALID_PAYLOAD", f"after the name come pieces of at most {PIECE} bytes")
        yield request.data


def _check_id(dispatch_id: str) -> None:
    if not 0 < len(dispatch_id) <= 128 or not all(" " <= letter <= "~" for letter in dispatch_id):
        raise InvalidArgument(
            "INVALID_DISPATCH_ID", "a change needs a dispatch id of 1 to 128 printable ASCII characters"
        )
