"""DispatchMany: many dispatches on one stream, batched both ways.

The one idea: what happened since the last message goes out in the next one, so the stream carries large batches when it
is busy and single events when it is not. An event is serialised as it stands in its message, so that a batch is put
together without touching its events again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import grpc
import grpc.aio

from ote.api.route.v1 import route_pb2
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core.controller import Controller
from ote.clustercontroller.core.states import FINAL
from ote.clustercontroller.dispatches import Dispatches
from ote.clustercontroller.wire import views
from ote.clustercontroller.wire.codec import field_of
from ote.model.errors import Internal, OteError
from ote.rpc.peer import Peer

_MAX_EVENTS = 256
_MESSAGE_BYTES = 256 * 1024
"""A message to the caller is full with so many events, or so many bytes: any gRPC client takes 4 MiB."""
_AT_ONCE = 64
"""Dispatches that the core is asked to accept in one go; others have their turn after so many."""
_MAX_OPEN = 4096
"""Dispatches of one stream that are not settled, and events that its caller has not read; the stream is not read while
there are more."""
_MAX_BYTES = 8 * 1024 * 1024
"""The same for the bytes of those events."""

_ID, _ACCEPTED, _TARGET, _SUMMARY, _ERROR = (
    route_pb2.DispatchEvent.DESCRIPTOR.fields_by_name[name].number
    for name in ("dispatch_id", "accepted", "target", "summary", "error")
)
_EVENTS = route_pb2.DispatchManyResponse.DESCRIPTOR.fields_by_name["events"].number
_NAME = route_pb2.Accepted.DESCRIPTOR.fields_by_name["dispatch"].number


@dataclass(slots=True)
class _Followed:
    """A dispatch that is not settled."""

    told: set[str] = field(default_factory=set)
    """Targets whose end was told."""
    times: int = 1
    """How often it was sent: each time has a summary of its own."""


class Many:
    """One DispatchMany call."""

    def __init__(self, dispatches: Dispatches, core: Controller, peer: Peer, context: Any) -> None:
        self._dispatches = dispatches
        self._core = core
        self._peer = peer
        self._context = context
        self._events: deque[bytes] = deque()
        self._bytes = 0
        """Of the events."""
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._followed: dict[str, _Followed] = {}
        self._open = 0
        self._read_all = self._ended = False

    async def run(self) -> None:
        """Until the caller has half-closed and all is settled."""
        writing = asyncio.create_task(self._write(), name="dispatch many write")
        try:
            while (batch := await self._context.read()) is not grpc.aio.EOF:
                await self._take(batch.dispatches)
                while self._full:
                    self._room.clear()
                    await self._room.wait()
            self._read_all = True
            self._ready.set()
            await writing
        finally:
            self._ended = True
            for dispatch_id in self._followed:
                self._dispatches.leave(dispatch_id, self)
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    @property
    def _full(self) -> bool:
        return self._open >= _MAX_OPEN or len(self._events) >= _MAX_OPEN or self._bytes >= _MAX_BYTES

    async def _take(self, requests: Iterable[route_pb2.DispatchRequest]) -> None:
        events: list[ev.Submit] = []
        for request in requests:
            if len(events) == _AT_ONCE:
                self._dispatches.submit_all(events, self._answered)
                events = []
                await asyncio.sleep(0)
            self._open += 1
            try:
                events.append(await self._dispatches.prepare(request, self._peer))
            except OteError as error:
                self._answered(request.dispatch_id, error)
            except BaseException:
                self._dispatches.give_up(events)
                raise
        if events:
            self._dispatches.submit_all(events, self._answered)

    def _answered(self, dispatch_id: str, error: Exception | None) -> None:
        if self._ended:
            return
        if error is not None:
            known = error if isinstance(error, OteError) else Internal("INTERNAL", "an internal fault")
            self._tell(dispatch_id, _ERROR, _error(known).SerializeToString())
            self._close(1)
            return
        name = f"{self._core.ctx.name}/{dispatch_id}"
        self._tell(dispatch_id, _ACCEPTED, field_of(_NAME, name.encode()))
        followed = self._followed.get(dispatch_id)
        if followed is not None:
            followed.times += 1
            return
        self._followed[dispatch_id] = _Followed()
        self._dispatches.listen(dispatch_id, self)
        dispatch = self._core.origin.dispatch(dispatch_id)
        for uid in dispatch.targets if dispatch is not None else ():
            self.target_changed(dispatch_id, uid, False)
        if dispatch is None or dispatch.settled:
            self._settled(dispatch_id)

    def target_changed(self, dispatch_id: str, uid: str, settled: bool) -> None:
        """A target of a dispatch that is followed has changed."""
        followed = self._followed.get(dispatch_id)
        if followed is None:
            return
        dispatch = self._core.origin.dispatch(dispatch_id)
        target = dispatch.targets.get(uid) if dispatch is not None else None
        if target is not None and target.row.state in FINAL and uid not in followed.told:
            followed.told.add(uid)
            view = self._dispatches.target(dispatch_id, target.row)
            self._tell(dispatch_id, _TARGET, view.SerializeToString())
        if settled:
            self._settled(dispatch_id)

    def _settled(self, dispatch_id: str) -> None:
        followed = self._followed.pop(dispatch_id)
        self._dispatches.leave(dispatch_id, self)
        dispatch = self._core.origin.dispatch(dispatch_id)
        counts = views.count(target.row for target in dispatch.targets.values()) if dispatch else {}
        summary = _summary(tuple(counts.items()))
        for _ in range(followed.times):
            self._tell(dispatch_id, _SUMMARY, summary)
        self._close(followed.times)

    def _close(self, number: int) -> None:
        self._open -= number
        if not self._full:
            self._room.set()

    def _tell(self, dispatch_id: str, kind: int, body: bytes) -> None:
        event = field_of(_EVENTS, field_of(_ID, dispatch_id.encode()) + field_of(kind, body))
        self._events.append(event)
        self._bytes += len(event)
        self._ready.set()

    async def _write(self) -> None:
        while True:
            await self._ready.wait()
            self._ready.clear()
            while self._events:
                await self._context.write(self._message())
                if not self._full:
                    self._room.set()
            if self._read_all and not self._open and not self._events:
                return

    def _message(self) -> bytes:
        batch: list[bytes] = []
        size = 0
        while self._events and len(batch) < _MAX_EVENTS and size < _MESSAGE_BYTES:
            batch.append(self._events.popleft())
            size += len(batch[-1])
        self._bytes -= size
        return b"".join(batch)


@lru_cache(maxsize=64)
def _summary(states: tuple[tuple[str, int], ...]) -> bytes:
    return route_pb2.Summary(states=dict(states)).SerializeToString()


def _error(error: OteError) -> route_pb2.DispatchError:
    return route_pb2.DispatchError(
        code=error.code,
        reason=error.reason,
        message=error.message,
        retry_after_ms=int((error.retry_after or 0.0) * 1000),
    )
