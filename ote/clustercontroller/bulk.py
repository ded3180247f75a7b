"""Bulk on the way to and from the parent: pieces that are fetched, outputs that are pushed, within the link's credit.

What lives here: the child's end of both bulk RPCs, who of them may have how much of the credit under way, and the round
trips that the credit is decided by. What does not: the decision (`core/credit`), what is fetched and kept (`pieces`,
`outputs`), the parent's end (`bulkserving`). The one idea: all bulk of a connection shares one credit, the oldest
transfer first, so that a piece is complete early and can be passed on while the next ones come.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

import grpc.aio

from ote.api.route.v1 import route_pb2, route_pb2_grpc
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.credit import CHUNK, SLOW, START, Credit
from ote.clustercontroller.lanes import Traffic
from ote.model.errors import DeadlineExceeded, OteError
from ote.runtime.clock import MonotonicClock

PIECE = 262_144
_STREAM = 64 * 1024
"""Bytes of one RPC under way: what HTTP/2 itself lets through before it is read."""
_AT_ONCE = 16
"""Transfers of a connection that share its credit; the others wait."""
_STALLED = 1.0
"""Seconds without a byte after which a transfer's grants hold up no others: the other end waits for somebody, too."""
_SILENT = 60.0
"""Seconds after which a transfer that brings nothing is given up."""
_SAMPLE_BYTES = 64 * 1024
_SAMPLE_PAUSE = 0.02
_SAMPLE_WAIT = 1.0
"""A round trip is measured when the credit, and at least so many bytes, has been carried, or after so long; the pause
is the least between two."""
_now = MonotonicClock().now
T = TypeVar("T")


class Share:
    """What one transfer of `size` bytes has of its window."""

    def __init__(self, window: Window, size: int) -> None:
        self._window = window
        self._fresh = 0
        self._ready = asyncio.Event()
        self.size = size
        self.granted = 0
        self.carried = 0
        self.moved = _now()

    @property
    def chunk(self) -> int:
        """Bytes of one message, as of now."""
        return self._window.credit.chunk

    @property
    def under_way(self) -> int:
        """Bytes that were granted and have not come."""
        return max(0, self.granted - self.carried)

    def take(self) -> int:
        """Bytes that were granted since the last call."""
        fresh, self._fresh = self._fresh, 0
        self._ready.clear()
        return fresh

    async def more(self) -> int:
        """As `take`, once there is something."""
        await self._ready.wait()
        return self.take()

    def carry(self, size: int) -> None:
        """So many bytes have come."""
        self.carried += size
        self.moved = _now()
        self._window.carried(size)

    def grant(self, size: int) -> None:
        """For the window: so many bytes more may be sent."""
        if not self.under_way:
            self.moved = _now()
        self.granted += size
        self._fresh += size
        self._ready.set()


class Window:
    """The transfers of one connection. `ping` asks the peer something small on the tunnel."""

    def __init__(self, ping: Callable[[], Awaitable[None]]) -> None:
        self.credit = Credit()
        self._ping = ping
        self._shares: dict[Share, None] = {}
        self._sampling: asyncio.Task[None] | None = None
        self._since_sample = 0
        self._used = False
        self._asked = False
        """The quiet link has been measured; nothing is granted before."""
        self._enough = asyncio.Event()

    @contextlib.contextmanager
    def share(self, size: int) -> Iterator[Share]:
        """A share of the credit for one transfer, as long as the block lasts."""
        share = Share(self, size)
        if not self._shares:
            self.credit.begin(_now())
        self._shares[share] = None
        if self.idle:
            self._sampling = asyncio.create_task(self._sample(), name="bulk round trips")
        self._pump()
        try:
            yield share
        finally:
            del self._shares[share]
            self._enough.set()
            self._pump()

    @property
    def idle(self) -> bool:
        """Nothing goes on here any more."""
        return self._sampling is None or self._sampling.done()

    def carried(self, size: int) -> None:
        """Bytes of some transfer have come."""
        self._since_sample += size
        if self._since_sample >= max(self.credit.bytes, _SAMPLE_BYTES):
            self._enough.set()
        self._pump()

    async def stop(self) -> None:
        """Measure no more."""
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.gather(self._sampling, return_exceptions=True)

    def _pump(self) -> None:
        """Give away what is free of the credit."""
        if not self._asked:
            return
        stalled = _now() - _STALLED
        first = [share for share in islice(self._shares, _AT_ONCE) if not share.under_way or share.moved > stalled]
        free = self.credit.bytes - sum(share.under_way for share in first)
        # Half the messages, where it delays nothing.
        least = CHUNK if self.credit.bytes < 4 * CHUNK else max(2 * CHUNK, self.credit.chunk)
        for share in first:
            left = share.size - share.granted
            room = min(left, _STREAM - share.under_way)
            if room < min(left, least):
                continue
            if free < min(left, least):
                self._used = True
                return
            size = min(room, free)
            if size < left:
                size -= size % CHUNK
            if size:
                share.grant(size)
                free -= size

    async def _sample(self) -> None:
        while self._shares:
            self._enough.clear()
            self._since_sample = 0
            await self._round_trip()
            self._asked, self._used = True, False
            self._pump()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SAMPLE_WAIT):
                    await self._enough.wait()
            # At no certain moment: what is granted when bytes have come meets an empty queue.
            await asyncio.sleep(_SAMPLE_PAUSE + random.uniform(0, self.credit.round_trip))

    async def _round_trip(self) -> None:
        begun = _now()
        asked = asyncio.ensure_future(self._ping())
        try:
            done, _ = await asyncio.wait((asked,), timeout=SLOW)
            if not done:
                self.credit.sample(_now() - begun, _now(), used=False)
                self._asked = True
                self._pump()
            await asked
            self.credit.sample(_now() - begun, _now(), used=self._used)
        except OteError:
            pass  # there is no way at the moment: nothing is known of how quick it is
        finally:
            asked.cancel()


class Uplink:
    """The way up: the connection to whoever is the parent now, with the window of its bulk.

    `channel` is that connection, None while there is none; `ping` asks the parent something small on the tunnel;
    `is_top`: there is no parent, and there will be none.
    """

    def __init__(
        self,
        channel: Callable[[], grpc.aio.Channel | None],
        ping: Callable[[], Awaitable[None]],
        traffic: Traffic | None = None,
        is_top: Callable[[], bool] = lambda: False,
    ) -> None:
        self.is_top = is_top
        self.traffic = traffic or Traffic()
        self._channel = channel
        self._ping = ping
        self._last: tuple[grpc.aio.Channel, Window] | None = None
        self._left: list[Window] = []
        """Those of earlier connections in which something goes on."""

    def now(self) -> tuple[grpc.aio.Channel, Window] | None:
        """The connection to the present parent and its window."""
        channel = self._channel()
        if channel is None:
            return None
        if self._last is None or self._last[0] is not channel:
            if self._last is not None:
                self._left = [window for window in (*self._left, self._last[1]) if not window.idle]
            self._last = (channel, Window(self._ping))
        return self._last

    @property
    def credit(self) -> Credit:
        """That of the newest connection."""
        return self._last[1].credit if self._last is not None else Credit()

    async def stop(self) -> None:
        """End what goes on in the background; all transfers have ended."""
        for window in (*self._left, *([self._last[1]] if self._last is not None else [])):
            await window.stop()


async def fetch_piece(channel: grpc.aio.Channel, payload: m.Payload, index: int, share: Share) -> bytes:
    """One piece from the controller at the other end, chunk by chunk as it is granted credit.

    No more is granted than the piece has: a write to a call that the other end has finished fails it.
    """
    stub: Any = route_pb2_grpc.RouteServiceStub(channel)
    credit = await share.more()
    call = stub.FetchPieces()
    try:
        request = route_pb2.FetchPiecesRequest(
            payload_sha256=payload.sha256, pieces=[index], credit_bytes=credit, chunk_bytes=share.chunk
        )
        await call.write(request)
        data = bytearray()
        while len(data) < share.size:
            if credit := share.take() if share.under_way else await share.more():
                await call.write(route_pb2.FetchPiecesRequest(credit_bytes=credit))
            chunk = await within(_SILENT, call.read())
            if chunk is grpc.aio.EOF:
                break
            data += chunk.data
            share.carry(len(chunk.data))
        return bytes(data)
    finally:
        call.cancel()


async def push_output(channel: grpc.aio.Channel, header: route_pb2.OutputHeader, output: bytes, share: Share) -> None:
    """Hand an output to the controller at the other end, within its credit and that of the link."""
    stub: Any = route_pb2_grpc.RouteServiceStub(channel)
    call = stub.PushOutput()
    try:
        await call.write(route_pb2.PushOutputRequest(header=header))
        credit, mine, at = START, share.take(), 0
        while at < len(output):
            need = min(CHUNK, len(output) - at)
            if mine < need and share.under_way <= mine:
                mine += await share.more()
            elif credit < need or mine < need:
                answer = await _granted(call)
                credit += answer.credit_bytes
                share.carry((answer.taken_bytes - share.carried) if answer.taken_bytes else answer.credit_bytes)
                mine += share.take()
            else:
                await call.write(route_pb2.PushOutputRequest(data=output[at : at + need]))
                credit, mine, at = credit - need, mine - need, at + need
        await call.done_writing()
        while not (await _granted(call)).complete:
            pass
    finally:
        call.cancel()


async def within(seconds: float, operation: Awaitable[T]) -> T:
    """One read or write of a call that ends if the other side keeps it waiting. Errors: DeadlineExceeded (TOO_SLOW)."""
    try:
        async with asyncio.timeout(seconds):
            return await operation
    except TimeoutError:
        raise DeadlineExceeded("TOO_SLOW", f"nothing was taken or sent for {seconds:.0f} s") from None


async def _granted(call: Any) -> route_pb2.PushOutputResponse:
    answer = await within(_SILENT, call.read())
    if answer is grpc.aio.EOF:
        code = await call.code()
        raise grpc.aio.AioRpcError(
            code, await call.initial_metadata(), await call.trailing_metadata(), await call.details()
        )
    granted: route_pb2.PushOutputResponse = answer
    return granted
