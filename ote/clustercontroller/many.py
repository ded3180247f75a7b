"""DispatchMany: many dispatches on one stream, batched both ways.

The one idea: what happened since the last message goes out in the next one, so the stream carries large batches when it
is busy and single events when it is not.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio

from ote.api.route.v1 import route_pb2
from ote.clustercontroller.core.controller import Controller
from ote.clustercontroller.core.states import FINAL
from ote.clustercontroller.dispatches import Dispatches
from ote.clustercontroller.wire import views
from ote.model.errors import OteError
from ote.rpc.peer import Peer

_MAX_EVENTS = 256
_MAX_OPEN = 4096
"""Dispatches of one stream that are not settled; the stream is not read while there are more."""


class Many:
    """One DispatchMany call."""

    def __init__(self, dispatches: Dispatches, core: Controller, peer: Peer, context: Any) -> None:
        self._dispatches = dispatches
        self._core = core
        self._peer = peer
        self._context = context
        self._events: list[route_pb2.DispatchEvent] = []
        self._ready = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._open = 0
        self._read_all = False

    async def run(self) -> None:
        """Until the caller has half-closed and all is settled."""
        writing = asyncio.create_task(self._write(), name="dispatch many write")
        tasks: set[asyncio.Task[None]] = set()
        try:
            while (batch := await self._context.read()) is not grpc.aio.EOF:
                for request in batch.dispatches:
                    self._open += 1
                    task = asyncio.create_task(self._one(request), name="dispatch many one")
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                if self._open >= _MAX_OPEN:
                    self._room.clear()
                    await self._room.wait()
            self._read_all = True
            self._ready.set()
            await writing
        finally:
            for task in (*tasks, writing):
                task.cancel()
            await asyncio.gather(*tasks, writing, return_exceptions=True)

    async def _one(self, request: route_pb2.DispatchRequest) -> None:
        dispatch_id = request.dispatch_id
        try:
            await self._dispatches.submit(request, self._peer)
            name = f"{self._core.ctx.name}/{dispatch_id}"
            self._tell(route_pb2.DispatchEvent(dispatch_id=dispatch_id, accepted=route_pb2.Accepted(dispatch=name)))
            told: set[str] = set()
            rows = []
            async for rows in self._dispatches.changes(dispatch_id):
                for row in rows:
                    if row.state in FINAL and row.uid not in told:
                        told.add(row.uid)
                        target = self._dispatches.target(dispatch_id, row)
                        self._tell(route_pb2.DispatchEvent(dispatch_id=dispatch_id, target=target))
            dispatch = self._core.origin.dispatch(dispatch_id)
            counts = views.count(target.row for target in dispatch.targets.values()) if dispatch else {}
            self._tell(route_pb2.DispatchEvent(dispatch_id=dispatch_id, summary=route_pb2.Summary(states=counts)))
        except OteError as error:
            self._tell(route_pb2.DispatchEvent(dispatch_id=dispatch_id, error=_error(error)))
        finally:
            self._open -= 1
            if self._open < _MAX_OPEN:
                self._room.set()
            self._ready.set()

    def _tell(self, event: route_pb2.DispatchEvent) -> None:
        self._events.append(event)
        self._ready.set()

    async def _write(self) -> None:
        while True:
            await self._ready.wait()
            self._ready.clear()
            while self._events:
                batch, self._events = self._events[:_MAX_EVENTS], self._events[_MAX_EVENTS:]
                await self._context.write(route_pb2.DispatchManyResponse(events=batch))
            if self._read_all and not self._open and not self._events:
                return


def _error(error: OteError) -> route_pb2.DispatchError:
    return route_pb2.DispatchError(
        code=error.code,
        reason=error.reason,
        message=error.message,
        retry_after_ms=int((error.retry_after or 0.0) * 1000),
    )
