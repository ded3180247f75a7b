"""The parent's end of bulk: pieces for children, outputs from them, payloads from callers; each bounded in number, in
bytes and in time.

Not here: the other end (`bulk`), where pieces come from (`pieces`). The one idea: whoever takes or brings something has
to go on doing so; a call that stands still, or that has been trickling for very long, is ended, and begun anew by
whoever means it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc.aio

from ote.api.route.v1 import route_pb2
from ote.clustercontroller.bulk import within
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.credit import CHUNK, LARGEST_CHUNK
from ote.clustercontroller.outputs import Outputs
from ote.clustercontroller.payloads import MAX_PAYLOAD, Payloads
from ote.clustercontroller.shell import Shell
from ote.clustercontroller.wire.codec import decode_payload
from ote.model.errors import DeadlineExceeded, InvalidArgument, NotFound, PermissionDenied, ResourceExhausted
from ote.rpc.peer import Peer

FIRST = 10.0
"""Seconds until a bulk call says what it is about."""
STANDSTILL = 30.0
"""Seconds in which the other end takes or brings something."""
LONGEST = 600.0
"""Seconds that a piece, an output or a payload may take altogether: 16 MiB at 250 kbit/s."""
_MAX_FETCHES = 64
"""Of one member at once."""
_MAX_PUSHES = 16
"""Outputs of one member at once; each is held until the next hop has it."""
_MAX_PUTS = 8
"""Payloads of one caller at once."""
_PUSHED_BYTES = 2 * MAX_PAYLOAD
"""Of the outputs that one member is bringing."""
_ALL_PUSHED_BYTES = 8 * _PUSHED_BYTES
"""Of those of all members."""

Context = grpc.aio.ServicerContext[Any, Any]


class BulkServing:
    """The bulk calls of one controller's children and callers."""

    def __init__(self, shell: Shell, payloads: Payloads, outputs: Outputs) -> None:
        self._shell = shell
        self._core = shell.core
        self._traffic = shell.budget.traffic
        self._payloads = payloads
        self._outputs = outputs
        self._fetches = Slots(_MAX_FETCHES)
        self._pushes = Slots(_MAX_PUSHES)
        self._puts = Slots(_MAX_PUTS)
        self._pushed: Counter[str] = Counter()

    # --- pieces ---------------------------------------------------------------------------------------------------

    async def send_pieces(self, peer: Peer, context: Context) -> None:
        """The pieces asked for, chunk by chunk as credit is granted."""
        with self._fetches.one_more(peer.uid), self._traffic.bulk(peer.uid):
            first = await _first(context)
            if first is grpc.aio.EOF:
                raise InvalidArgument("BAD_FRAME", "the first message names a payload")
            credit = first.credit_bytes
            chunk = min(LARGEST_CHUNK, max(CHUNK, first.chunk_bytes))
            for index in first.pieces:
                # Looked at for each piece: who is cut off meanwhile gets no more.
                payload = self._payloads.pieces.served(first.payload_sha256, self._shell.links_of(peer.uid))
                async with self._payloads.pieces.held(payload, index, peer.uid) as piece, _not_for_ever():
                    credit = await self._send(piece, index, chunk, credit, context)

    async def _send(self, piece: bytes, index: int, chunk: int, credit: int, context: Context) -> int:
        """Returns the credit that is left."""
        at = 0
        while at < len(piece):
            while credit < min(CHUNK, len(piece) - at):
                more = await within(STANDSTILL, context.read())
                if more is grpc.aio.EOF:
                    raise InvalidArgument("BAD_FRAME", "no more credit is to come for what was asked for")
                credit += more.credit_bytes
            data = piece[at : at + min(chunk, credit)]
            message = route_pb2.FetchPiecesResponse(piece=index, offset=at, data=data)
            await within(STANDSTILL, context.write(message))
            self._traffic.bulk_sent += len(data)
            credit -= len(data)
            at += len(data)
        return credit

    # --- outputs --------------------------------------------------------------------------------------------------

    async def take_output(self, peer: Peer, context: Context) -> None:
        """An output for here or further up, from a child that has its cluster at or below itself."""
        with self._pushes.one_more(peer.uid), self._traffic.bulk(peer.uid):
            first = await _first(context)
            if first is grpc.aio.EOF or not first.HasField("header"):
                raise InvalidArgument("BAD_FRAME", "the first message is a header")
            header = first.header
            if self._core.registry.via(header.target_uid) != peer.uid:
                raise PermissionDenied("NOT_BELOW", f"{peer.name} has no such cluster below it")
            if header.size > MAX_PAYLOAD:
                raise ResourceExhausted("OUTPUT_TOO_LARGE", "an output takes at most 16 MiB")
            self._check_output(header)
            output = bytearray()
            try:
                async with _not_for_ever():
                    await self._take(output, header.size, peer.uid, context)
                await self._outputs.push(header.origin_uid, header.dispatch_id, header.target_uid, bytes(output))
            finally:
                self._pushed[peer.uid] -= len(output)
                if not self._pushed[peer.uid]:
                    del self._pushed[peer.uid]
            await within(STANDSTILL, context.write(route_pb2.PushOutputResponse(complete=True)))

    async def _take(self, output: bytearray, size: int, uid: str, context: Context) -> None:
        while len(output) < size:
            message = await within(STANDSTILL, context.read())
            if message is grpc.aio.EOF:
                raise InvalidArgument("BAD_FRAME", "fewer bytes than the header announced")
            taken = len(message.data)
            output += message.data
            self._pushed[uid] += taken
            self._traffic.bulk_received += taken
            if len(output) > size:
                raise InvalidArgument("BAD_FRAME", "more bytes than the header announced")
            if self._pushed[uid] > _PUSHED_BYTES or self._pushed.total() > _ALL_PUSHED_BYTES:
                raise ResourceExhausted("TOO_MANY_STREAMS", "finish the outputs that were begun first", retry_after=1.0)
            granted = route_pb2.PushOutputResponse(credit_bytes=taken, taken_bytes=len(output))
            await within(STANDSTILL, context.write(granted))

    def _check_output(self, header: route_pb2.OutputHeader) -> None:
        if header.origin_uid == self._core.ctx.uid:
            dispatch = self._core.origin.dispatch(header.dispatch_id)
            if dispatch is None or header.target_uid not in dispatch.targets:
                raise NotFound("DISPATCH_NOT_FOUND", f"{self._core.ctx.name} has no such dispatch to that cluster")
        elif self._core.parents.is_root and not self._core.registry.is_below(header.origin_uid):
            raise NotFound("DISPATCH_NOT_FOUND", "the origin of that dispatch is not known")

    # --- payloads -------------------------------------------------------------------------------------------------

    async def take_payload(self, peer: Peer, context: Context) -> None:
        """A payload from a caller."""
        with self._puts.one_more(peer.id):
            first = await _first(context)
            if first is grpc.aio.EOF or first.WhichOneof("part") != "payload":
                raise InvalidArgument("BAD_PAYLOAD", "the first message names the payload")
            payload: m.Payload = decode_payload(first.payload)

            async def data() -> AsyncIterator[bytes]:
                while (message := await within(STANDSTILL, context.read())) is not grpc.aio.EOF:
                    yield message.data

            async with _not_for_ever():
                await self._payloads.receive(payload, data())


class Slots:
    """How many calls of one kind a peer may have at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used: Counter[str] = Counter()

    @contextlib.contextmanager
    def one_more(self, uid: str) -> Iterator[None]:
        """Errors: ResourceExhausted (TOO_MANY_STREAMS)."""
        if self._used[uid] >= self._most:
            message = f"there are {self._most} of these calls already"
            raise ResourceExhausted("TOO_MANY_STREAMS", message, retry_after=1.0)
        self._used[uid] += 1
        try:
            yield
        finally:
            self._used[uid] -= 1
            if not self._used[uid]:
                del self._used[uid]


async def _first(context: Context) -> Any:
    return await within(FIRST, context.read())


@contextlib.asynccontextmanager
async def _not_for_ever() -> AsyncIterator[None]:
    """Errors: DeadlineExceeded (TOO_SLOW)."""
    try:
        async with asyncio.timeout(LONGEST):
            yield
    except TimeoutError:
        raise DeadlineExceeded("TOO_SLOW", f"it has taken more than {LONGEST:.0f} s") from None
