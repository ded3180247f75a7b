"""Both ends of a tunnel: a writer task that turns lanes into frames, a reader that turns frames into events.

What lives here: streams, frames, time limits of opening and closing. What does not: what an item means (the core).
The one idea: a stream has exactly one reader and one writer, neither of which is ever cancelled in the middle of an
operation while the link should live; grpc.aio kills the call otherwise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from ote.api.route.v1 import tunnel_pb2
from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.lanes import LANE_OF, Budget, Lanes, Overflow, Pace
from ote.clustercontroller.wire.codec import decode_down, decode_up, write_down, write_up
from ote.clustercontroller.wire.limits import check_frame, check_item
from ote.model.errors import FailedPrecondition, InvalidArgument, OteError, PermissionDenied, Unauthenticated
from ote.rpc.channel import knock
from ote.rpc.errors import from_rpc_error
from ote.rpc.peer import Peer
from ote.runtime.clock import MonotonicClock

HELLO_TIMEOUT = 5.0
FLUSH_TIMEOUT = 5.0
CONNECT = "/ote.api.route.v1.RouteService/Connect"
_AT_ONCE = 64
"""Items of one frame that are handled before others have their turn."""
_SHARE = 0.25
"""Of the loop's time, what the items of one child may take while there are other children."""
_SHARE_BURST = 0.02
"""Seconds of work that a child may be ahead of its share."""
_GATHER = 0.01
"""Seconds for which a report waits for those of other targets, once such have come: fewer frames, with more in each."""
_now = MonotonicClock().now

Post = Callable[[ev.Event], None]


class Link(Protocol):
    """What the shell keeps of a link of either kind."""

    peer: str
    peer_uid: str
    is_up: bool
    since: float
    heard: float
    received_bytes: int
    lanes: Lanes[bytes]

    def send(self, item: m.Item) -> bool: ...

    def close(self, reason: str) -> None: ...


class _Writer:
    """Drains lanes into a stream until closed, or until the stream breaks."""

    def __init__(self, lanes: Lanes[bytes], write: Callable[[bytes], Awaitable[None]]) -> None:
        self.lanes = lanes
        self._write = write
        self._pace = Pace()
        self._idle: asyncio.Future[None] | None = None
        """Done when there is something to write again; a bare future, for there are thousands of tunnels."""
        self._closing = False
        self._soon: asyncio.TimerHandle | None = None
        self.broken = False

    def wake(self) -> None:
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def wake_soon(self) -> None:
        """As `wake`, a little later: more may come, and goes in the same frame."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(_GATHER, self._is_soon)

    def _is_soon(self) -> None:
        self._soon = None
        self.wake()

    def close(self) -> None:
        """Write what is queued, then end."""
        self._closing = True
        self.wake()

    async def run(self) -> None:
        try:
            while True:
                items = self.lanes.take(self._pace.room(_now()))
                if items:
                    frame = b"".join(items)
                    await self._write(frame)
                    self._pace.wrote(len(frame), _now())
                elif self._closing:
                    return
                else:
                    self._idle = asyncio.get_running_loop().create_future()
                    await self._idle
        except (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError, grpc.RpcError):
            self.broken = True
        finally:
            self.lanes.close()
            if self._soon is not None:
                self._soon.cancel()


class _Share:
    """How long one child's items keep the loop busy; who is over its share is read again later."""

    def __init__(self) -> None:
        self._left = _SHARE_BURST
        self._at = time.perf_counter()

    def pause(self, begun: float, ended: float) -> float:
        """Seconds to wait after work that began and ended then."""
        self._left = min(_SHARE_BURST, self._left + (ended - self._at) * _SHARE) - (ended - begun)
        self._at = ended
        return -self._left / _SHARE if self._left < 0 else 0.0


class ChildLink:
    """The parent's end. `serve` is the handler of the Connect RPC and returns when the link has ended."""

    is_up = False

    def __init__(self, number: int, post: Post, budget: Budget, peer: Peer) -> None:
        self.number = number
        self.peer = peer.name
        self.peer_uid = peer.uid
        self._certificate = peer
        self.since = self.heard = _now()
        self.received_bytes = 0
        self.lanes: Lanes[bytes] = Lanes(budget)
        self._traffic = budget.traffic
        self._post = post
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writer: _Writer | None = None
        self._error: OteError | None = None
        self._opening: asyncio.TimerHandle | None = None
        self._greeted = False
        self._budget = budget
        self._share = _Share()
        self._beat: m.Beat | None = None

    def send(self, item: m.Item) -> bool:
        """Queue an item; False when its lane refused it."""
        if isinstance(item, m.Beat):
            before, waits = self._beat, self.lanes.waiting_beat is not None
            if waits and before is not None and before.path and not item.path:
                item = replace(item, path=before.path)  # it takes the place of one that nobody has heard
            self._beat = item
        try:
            taken = self.lanes.put(LANE_OF[type(item)], write_down(item))  # type: ignore[arg-type]
        except Overflow:
            self.lanes.clear()
            self.close("OVERFLOW")
            self._post(ev.LinkLost(self.number, "the child does not read"))
            return True
        if self._writer is not None:
            self._writer.wake()
        return taken

    def close(self, reason: str) -> None:
        """End the link once what is queued has been written."""
        if reason not in ("", "drained", "REPLACED"):
            self._error = FailedPrecondition("REFUSED", f"the parent ended the tunnel: {reason}")
        if not self._closed.done():
            self._closed.set_result(None)

    def end(self, reason: str) -> None:
        """End the link for a reason that the core does not know yet."""
        self.close(reason)
        self._post(ev.LinkLost(self.number, reason))

    async def serve(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Run the link. Raises what the child is to be told as the RPC's status."""
        self._writer = _Writer(self.lanes, context.write)
        self._budget.children += 1
        writing = asyncio.create_task(self._writer.run(), name=f"tunnel {self.peer} write")
        reading = asyncio.create_task(self._read(context), name=f"tunnel {self.peer} read")
        told = False
        try:
            await asyncio.wait((reading, writing, self._closed), return_when=asyncio.FIRST_COMPLETED)
            if reading.done() and (failure := reading.exception()) is not None:
                self._error = _as_ours(failure)
            told = True
            if not self._closed.done():
                self._post(ev.LinkLost(self.number, str(self._error or "the stream ended")))
            self._writer.close()
            await asyncio.wait((writing,), timeout=FLUSH_TIMEOUT)
        finally:
            if not told and not self._closed.done():
                self._post(ev.LinkLost(self.number, "the call ended"))
            self._budget.children -= 1
            for task in (writing, reading):
                task.cancel()
            await asyncio.gather(writing, reading, return_exceptions=True)
            if self._opening is not None:
                self._opening.cancel()
        if self._error is not None:
            raise self._error

    async def _read(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._opening = asyncio.get_running_loop().call_later(HELLO_TIMEOUT, self._no_hello)
        while True:
            frame = await context.read()
            if frame is grpc.aio.EOF:
                return
            self.heard = _now()
            self.received_bytes += len(frame)
            self._traffic.took(len(frame))
            raws = _parse(tunnel_pb2.ConnectRequest, frame).items
            for start in range(0, max(1, len(raws)), _AT_ONCE):
                begun = time.perf_counter()
                self._take(raws[start : start + _AT_ONCE])
                pause = self._share.pause(begun, time.perf_counter()) if self._budget.children > 1 else 0.0
                if pause or len(raws) > _AT_ONCE:
                    await asyncio.sleep(pause)

    def _take(self, raws: Sequence[tunnel_pb2.UpItem]) -> None:
        """Let the core have some items of a frame."""
        items: list[m.UpItem] = [item for raw in raws if (item := decode_up(raw)) is not None]
        for item in items:
            check_item(item)
        if not self._greeted:
            if not items or not isinstance(items[0], m.Hello):
                raise InvalidArgument("BAD_FRAME", "the first item of a tunnel is hello")
            if self._opening is not None:
                self._opening.cancel()
            self._greeted = True
            peer = self._certificate
            hello = ev.ChildHello(self.number, items[0], peer.uid, peer.name, peer.public_key, leaf=not peer.parent)
            self._post(hello)
            items = items[1:]
        if any(isinstance(item, m.Hello) for item in items):
            raise InvalidArgument("BAD_FRAME", "hello comes once")
        if items:
            self._post(ev.FromChild(self.number, items))

    def _no_hello(self) -> None:
        self.close("no hello within 5 s")


class ParentLink:
    """The child's end: dials, says hello, and then runs until the link ends. `run` owns the channel."""

    is_up = True

    def __init__(
        self,
        dial: fx.Dial,
        post: Post,
        budget: Budget,
        connect: Callable[[], Awaitable[grpc.aio.Channel]],
        closed: Callable[[int], None],
    ) -> None:
        self.number = dial.link
        self.peer, self.peer_uid = dial.candidate.name, dial.candidate.uid
        self.candidate = dial.candidate
        self.since = self.heard = _now()
        self.received_bytes = 0
        self.lanes: Lanes[bytes] = Lanes(budget)
        self._traffic = budget.traffic
        self.channel: grpc.aio.Channel | None = None
        self._hello = dial.hello
        self._post = post
        self._connect = connect
        self._on_closed = closed
        self._closed = asyncio.Event()
        self._welcomed = False
        self._writer: _Writer | None = None
        self._told = ("", 0.0)
        """The target of the last report, and when it came."""

    def send(self, item: m.Item) -> bool:
        """Queue an item; False when its lane refused it."""
        try:
            taken = self.lanes.put(LANE_OF[type(item)], write_up(item))  # type: ignore[arg-type]
        except Overflow:
            self.lanes.clear()
            self.close("OVERFLOW")
            self._post(ev.LinkLost(self.number, "the parent does not read"))
            return True
        if self._writer is not None:
            if isinstance(item, m.Report | m.Reports) and self._one_of_many(item.target_uid):
                self._writer.wake_soon()
            else:
                self._writer.wake()
        return taken

    def _one_of_many(self, target_uid: str) -> bool:
        """Whether other targets have said something just before: their dispatch waits for all of them."""
        now, (before, at) = _now(), self._told
        self._told = target_uid, now
        return before != target_uid and now - at < _GATHER

    def close(self, reason: str) -> None:
        """End the link once what is queued has been written."""
        self._closed.set()

    async def run(self) -> None:
        """Dial and keep the link; posts DialReached; DialWelcome, DialRefused or DialFailed; what comes; LinkLost."""
        reading = asyncio.create_task(self._open_and_read(), name=f"tunnel to {self.candidate.name} read")
        closing = asyncio.create_task(self._closed.wait(), name=f"tunnel to {self.candidate.name} close")
        reason = ""
        try:
            await asyncio.wait((reading, closing), return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reason = _why(reading)
                self._ended(reason, _refusal(reading))
        finally:
            if self._writer is not None and not self._writer.broken and reason == "":
                self._writer.close()
                await asyncio.wait((self._writing,), timeout=FLUSH_TIMEOUT)
            for task in (reading, closing):
                task.cancel()
            await asyncio.gather(reading, closing, return_exceptions=True)
            if self._writer is not None:
                self._writing.cancel()
                await asyncio.gather(self._writing, return_exceptions=True)
            if self.channel is not None:
                await self.channel.close()
            self._on_closed(self.number)

    def _ended(self, reason: str, refused: m.Refused | None = None) -> None:
        if self._closed.is_set():
            return
        if self._welcomed:
            self._post(ev.LinkLost(self.number, reason))
        elif refused is not None:
            self._post(ev.DialRefused(self.number, refused))
        else:
            self._post(ev.DialFailed(self.number, reason))
        self._closed.set()

    async def _open_and_read(self) -> None:
        await knock(self.candidate.address)
        self._post(ev.DialReached(self.number))
        self.channel = await self._connect()
        call: Any = self.channel.stream_stream(CONNECT)()
        await call.write(write_up(self._hello))
        while True:
            frame = await call.read()
            if frame is grpc.aio.EOF:
                code = await call.code()
                if code != grpc.StatusCode.OK:
                    raise grpc.aio.AioRpcError(
                        code, await call.initial_metadata(), await call.trailing_metadata(), await call.details()
                    )
                return
            self.heard = _now()
            self.received_bytes += len(frame)
            self._traffic.took(len(frame))
            raws = _parse(tunnel_pb2.ConnectResponse, frame).items
            items: Sequence[m.DownItem] = [item for raw in raws if (item := decode_down(raw)) is not None]
            if not self._welcomed:
                items = answer_first(items)
                if not self._open(items[0] if items else None, call):
                    return
                items = items[1:]
            if items:
                self._post(ev.FromParent(self.number, list(items)))

    def _open(self, first: m.DownItem | None, call: Any) -> bool:
        """Take the parent's first word; False when the link has ended with it."""
        if isinstance(first, m.Welcome):
            self._welcomed = True
            self.peer, self.peer_uid = first.name, first.uid
            self._writer = _Writer(self.lanes, call.write)
            self._writing = asyncio.create_task(self._write(self._writer, call), name=f"tunnel to {first.name} write")
            self._post(ev.DialWelcome(self.number, first))
            return True
        if isinstance(first, m.Refused):
            self._closed.set()
            self._post(ev.DialRefused(self.number, first))
        return False

    async def _write(self, writer: _Writer, call: Any) -> None:
        await writer.run()
        if not writer.broken:
            await call.done_writing()


def answer_first(items: Sequence[m.DownItem]) -> Sequence[m.DownItem]:
    """Of a parent's first frame: a beat made right after the answer to hello overtakes it in the lanes."""
    return sorted(items, key=lambda item: not isinstance(item, m.Welcome | m.Refused))


def _as_ours(failure: BaseException) -> OteError | None:
    """What the child is told of how reading ended; None when it is gone anyway."""
    if isinstance(failure, OteError):
        return failure
    if isinstance(failure, grpc.aio.AioRpcError | grpc.RpcError | grpc.aio.UsageError):
        return None
    return InvalidArgument("BAD_FRAME", "a frame that cannot be read")


def add_connect(handler: Callable[[Any, Any], Awaitable[None]], server: grpc.aio.Server) -> None:
    """Serve Connect with frames as bytes, in place of the generated service's own, which was added before."""
    service, _, method = CONNECT.strip("/").partition("/")
    server.add_registered_method_handlers(service, {method: grpc.stream_stream_rpc_method_handler(handler)})


def _parse(kind: Any, frame: bytes) -> Any:
    try:
        parsed = kind.FromString(frame)
    except DecodeError:
        raise InvalidArgument("BAD_FRAME", "a frame that cannot be read") from None
    check_frame(parsed, len(frame))
    return parsed


def _why(reading: asyncio.Task[None]) -> str:
    failure = reading.exception()
    if failure is None:
        return "the stream ended"
    if isinstance(failure, grpc.aio.AioRpcError):
        return from_rpc_error(failure).message
    return str(failure) or type(failure).__name__


def _refusal(reading: asyncio.Task[None]) -> m.Refused | None:
    """What the other side said of us, when it answered and did not take us: an error of ours, with a reason."""
    failure = reading.exception()
    if isinstance(failure, grpc.aio.AioRpcError):
        failure = from_rpc_error(failure)
    if isinstance(failure, PermissionDenied | FailedPrecondition | Unauthenticated):
        return m.Refused(failure.reason, failure.message)
    return None
