"""Large bodies: commands on their way down in pieces, outputs of reads on their way up.

What lives here: the folder of payloads, the cache of pieces that only pass through, both bulk RPCs with their credit.
What does not: when something is fetched (the core says so). The one idea: a payload is named by its hash, so a piece
may come from whoever is the parent now, and what a hop keeps may be thrown away at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import structlog

from ote.api.route.v1 import route_pb2, route_pb2_grpc
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.lanes import Traffic
from ote.model.errors import InvalidArgument, NotFound, OteError, ResourceExhausted, Unavailable
from ote.pki import write_private
from ote.rpc.errors import translated

PIECE = 262_144
MAX_PAYLOAD = 16 * 1024 * 1024 + 4096
CHUNK = 16 * 1024
"""Bytes of one bulk message: what a heartbeat waits for at most on a thin link."""
CREDIT = 32 * 1024
"""Bytes under way on one bulk RPC that the receiver has not taken yet."""
_CACHE_BYTES = 32 * 1024 * 1024
_OUTPUT_BYTES = 64 * 1024 * 1024
_KEPT_UNUSED = 3600.0
_RETRIES = 40
_RETRY_DELAY = 0.5

Parent = Callable[[], grpc.aio.Channel | None]
"""The channel to whoever is the parent now."""


@dataclass(slots=True)
class _Serving:
    """A payload that children may fetch here."""

    payload: m.Payload
    links: set[int] = field(default_factory=set)


class Payloads:
    """All large bodies of one controller. `folder` holds whole payloads, one file each, named by hash."""

    def __init__(
        self, folder: Path, post: Callable[[ev.Event], None], parent: Parent, traffic: Traffic | None = None
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.traffic = traffic or Traffic()
        self._folder = folder
        self._post = post
        self._parent = parent
        self._keys: dict[str, bytes] = {}
        self._pieces: dict[bytes, asyncio.Task[bytes]] = {}
        """Those on their way here, by hash."""
        self._serving: OrderedDict[bytes, _Serving] = OrderedDict()
        self._cache: OrderedDict[bytes, bytes] = OrderedDict()
        self._cached = 0
        self._fetching: dict[str, asyncio.Task[None]] = {}
        """Whole payloads on their way here, by key."""
        self._log = structlog.get_logger("ote.clustercontroller.payloads")

    @property
    def cached_bytes(self) -> int:
        """Bytes of pieces that are kept for children."""
        return self._cached

    # --- whole payloads -------------------------------------------------------------------------------------------

    def path(self, payload: m.Payload) -> Path:
        """The file of a payload that is here."""
        return self._folder / payload.sha256.hex()

    def has(self, payload: m.Payload) -> bool:
        return self.path(payload).is_file()

    def keep(self, body: bytes) -> m.Payload:
        """Store a body; returns its name."""
        pieces = [hashlib.sha256(body[at : at + PIECE]).digest() for at in range(0, len(body), PIECE)]
        payload = m.Payload(hashlib.sha256(body).digest(), len(body), pieces)
        if not self.has(payload):
            self._write(payload, body)
        return payload

    async def receive(self, payload: m.Payload, pieces: AsyncIterator[bytes]) -> None:
        """Store a payload that a caller sends. Errors: InvalidArgument (BAD_PAYLOAD), ResourceExhausted."""
        check(payload)
        body = bytearray()
        async for piece in pieces:
            body += piece
            if len(body) > payload.size:
                raise InvalidArgument("BAD_PAYLOAD", f"more than the {payload.size} bytes that were announced")
        if len(body) != payload.size or hashlib.sha256(body).digest() != payload.sha256:
            raise InvalidArgument("BAD_PAYLOAD", "the bytes do not have the hash and size that were announced")
        await asyncio.to_thread(self._write, payload, bytes(body))

    def fetch(self, key: str, payload: m.Payload) -> None:
        """Bring a payload here for `key`; PayloadReady or PayloadFailed follows."""
        self._keys[key] = payload.sha256
        if self.has(payload):
            self._post(ev.PayloadReady(key))
        elif key not in self._fetching:
            task = asyncio.get_running_loop().create_task(self._fetch(key, payload), name=f"fetch payload {key}")
            self._fetching[key] = task
            task.add_done_callback(lambda done: self._fetched(key, done))

    def _fetched(self, key: str, task: asyncio.Task[None]) -> None:
        del self._fetching[key]
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._log.error("payload not fetched", key=key, exc_info=failure)
            self._post(ev.PayloadFailed(key, str(failure), False))

    async def stop(self) -> None:
        """End what is on its way here."""
        tasks = [*self._fetching.values(), *self._pieces.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def drop(self, key: str) -> None:
        """`key` needs its payload no more."""
        sha256 = self._keys.pop(key, None)
        if sha256 is not None and sha256 not in self._keys.values():
            (self._folder / sha256.hex()).unlink(missing_ok=True)

    def hold(self, key: str, payload: m.Payload) -> None:
        """Keep a payload that is here for `key`, until `drop`."""
        self._keys[key] = payload.sha256

    async def keep_clean(self) -> None:
        """For ever: remove payloads that were put an hour ago and that no dispatch names."""
        while True:
            await asyncio.sleep(_KEPT_UNUSED / 4)
            self.sweep(_KEPT_UNUSED)

    def sweep(self, unused_for: float) -> None:
        """Remove what nobody needs and was put more than `unused_for` seconds ago; at start after all `hold`: 0."""
        needed = {sha256.hex() for sha256 in self._keys.values()}
        now = time.time()
        for file in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if file.name not in needed and now - file.stat().st_mtime >= unused_for:
                    file.unlink()

    def _write(self, payload: m.Payload, body: bytes) -> None:
        """Errors: ResourceExhausted (DISK_FULL)."""
        try:
            write_private(self.path(payload), body)
        except OSError as error:
            raise ResourceExhausted("DISK_FULL", f"cannot keep the payload: {error.strerror}; make room") from None

    async def _fetch(self, key: str, payload: m.Payload) -> None:
        try:
            check(payload)
            body = b"".join([await self._piece(payload, index) for index in range(len(payload.pieces))])
            if hashlib.sha256(body).digest() != payload.sha256:
                raise InvalidArgument("BAD_PAYLOAD", "the pieces do not have the hash of the whole")
            await asyncio.to_thread(self._write, payload, body)
        except OteError as error:
            final = isinstance(error, InvalidArgument | ResourceExhausted)
            self._post(ev.PayloadFailed(key, error.message, final))
        else:
            self._post(ev.PayloadReady(key))

    # --- pieces ---------------------------------------------------------------------------------------------------

    def serve(self, link: int, payload: m.Payload) -> None:
        """Children on `link` may fetch this payload here."""
        serving = self._serving.setdefault(payload.sha256, _Serving(payload))
        serving.links.add(link)
        self._serving.move_to_end(payload.sha256)
        while len(self._serving) > 4096:
            self._serving.popitem(last=False)

    def served(self, sha256: bytes, links: set[int]) -> m.Payload:
        """The payload of that hash, if a child on one of `links` has a delivery naming it. Errors: NotFound."""
        serving = self._serving.get(sha256)
        if serving is None or not serving.links & links:
            raise NotFound("PAYLOAD_UNKNOWN", "no delivery to this cluster names that payload")
        return serving.payload

    async def piece(self, payload: m.Payload, index: int) -> bytes:
        """One piece, from here or from above. Errors: Unavailable (PIECE_NOT_HERE_YET), InvalidArgument."""
        if not 0 <= index < len(payload.pieces):
            raise InvalidArgument("BAD_PAYLOAD", f"the payload has no piece {index}")
        return await self._piece(payload, index)

    async def _piece(self, payload: m.Payload, index: int) -> bytes:
        sha256 = payload.pieces[index]
        if self.has(payload):
            return await asyncio.to_thread(self._read, payload, index)
        cached = self._cache.get(sha256)
        if cached is not None:
            self._cache.move_to_end(sha256)
            return cached
        running = self._pieces.get(sha256)
        if running is None:
            running = asyncio.create_task(self._from_above(payload, index), name="fetch piece")
            self._pieces[sha256] = running
            running.add_done_callback(lambda _: self._pieces.pop(sha256, None))
        return await asyncio.shield(running)

    def _read(self, payload: m.Payload, index: int) -> bytes:
        with self.path(payload).open("rb") as file:
            file.seek(index * PIECE)
            return file.read(PIECE)

    async def _from_above(self, payload: m.Payload, index: int) -> bytes:
        """Fetch one piece from the parent; try again while the path moves."""
        for _ in range(_RETRIES):
            channel = self._parent()
            if channel is not None:
                try:
                    with self.traffic.bulk(), translated():
                        data = await fetch_piece(channel, payload, index)
                except OteError as error:
                    self._log.debug("piece not fetched", reason=error.reason, error=error.message)
                else:
                    self.traffic.bulk_received += len(data)
                    if hashlib.sha256(data).digest() != payload.pieces[index]:
                        raise InvalidArgument("BAD_PAYLOAD", "a piece does not have its hash")
                    self._remember(payload.pieces[index], data)
                    return data
            await asyncio.sleep(_RETRY_DELAY)
        raise Unavailable("PIECE_NOT_HERE_YET", "the piece cannot be fetched now; try again", retry_after=2.0)

    def _remember(self, sha256: bytes, data: bytes) -> None:
        self._cache[sha256] = data
        self._cached += len(data)
        while self._cached > _CACHE_BYTES and len(self._cache) > 1:
            _, old = self._cache.popitem(last=False)
            self._cached -= len(old)


class Slots:
    """How many calls of one kind a peer may have at once; `reason` is that of the refusal."""

    def __init__(self, most: int, reason: str) -> None:
        self._most = most
        self._reason = reason
        self._used: Counter[str] = Counter()

    @contextlib.contextmanager
    def one_more(self, uid: str) -> Iterator[None]:
        """Errors: ResourceExhausted."""
        if self._used[uid] >= self._most:
            raise ResourceExhausted(self._reason, f"there are {self._most} of these calls already", retry_after=1.0)
        self._used[uid] += 1
        try:
            yield
        finally:
            self._used[uid] -= 1
            if not self._used[uid]:
                del self._used[uid]


def check(payload: m.Payload) -> None:
    """Refuse a payload whose name cannot be right. Errors: ResourceExhausted, InvalidArgument (BAD_PAYLOAD)."""
    if payload.size > MAX_PAYLOAD:
        raise ResourceExhausted(
            "PAYLOAD_TOO_LARGE", f"a command takes at most 16 MiB, this one has {payload.size} bytes"
        )
    hashes = [payload.sha256, *payload.pieces]
    if len(payload.pieces) != -(-payload.size // PIECE) or any(len(sha256) != 32 for sha256 in hashes):
        raise InvalidArgument("BAD_PAYLOAD", "size and pieces do not fit, or a hash is not SHA-256")


async def fetch_piece(channel: grpc.aio.Channel, payload: m.Payload, index: int) -> bytes:
    """One piece from the controller at the other end, chunk by chunk as it is granted credit.

    No more is granted than the piece has: a write to a call that the other end has finished fails it.
    """
    size = min(PIECE, payload.size - index * PIECE)
    stub: Any = route_pb2_grpc.RouteServiceStub(channel)
    call = stub.FetchPieces()
    try:
        granted = CREDIT
        request = route_pb2.FetchPiecesRequest(payload_sha256=payload.sha256, pieces=[index], credit_bytes=granted)
        await call.write(request)
        data = bytearray()
        while len(data) <= size and (chunk := await call.read()) is not grpc.aio.EOF:
            data += chunk.data
            if granted < size:
                granted += len(chunk.data)
                await call.write(route_pb2.FetchPiecesRequest(credit_bytes=len(chunk.data)))
        return bytes(data)
    finally:
        call.cancel()


class Outputs:
    """Outputs of reads: kept at the origin until looked at and out of room, pushed hop by hop to get there."""

    def __init__(self, me: Callable[[], str], parent: Parent, traffic: Traffic | None = None) -> None:
        self._traffic = traffic or Traffic()
        self._me = me
        self._parent = parent
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._bytes = 0

    def get(self, dispatch_id: str, uid: str) -> bytes:
        """The output of a target; empty when it was small, or is gone."""
        return self._kept.get((dispatch_id, uid), b"")

    def keep(self, dispatch_id: str, uid: str, output: bytes) -> None:
        """Keep an output here; the oldest go when there is no room."""
        self._bytes += len(output) - len(self._kept.pop((dispatch_id, uid), b""))
        self._kept[(dispatch_id, uid)] = output
        while self._bytes > _OUTPUT_BYTES and len(self._kept) > 1:
            _, old = self._kept.popitem(last=False)
            self._bytes -= len(old)

    async def push(self, origin: str, dispatch_id: str, uid: str, output: bytes) -> None:
        """Bring an output to its origin. Errors: Unavailable (OUTPUT_NOT_DELIVERED) after a minute of trying."""
        if origin == self._me():
            self.keep(dispatch_id, uid, output)
            return
        header = route_pb2.OutputHeader(origin_uid=origin, dispatch_id=dispatch_id, target_uid=uid, size=len(output))
        for _ in range(2 * _RETRIES):
            channel = self._parent()
            if channel is not None:
                with contextlib.suppress(OteError), self._traffic.bulk(), translated():
                    await push_output(channel, header, output)
                    self._traffic.bulk_sent += len(output)
                    return
            await asyncio.sleep(_RETRY_DELAY)
        raise Unavailable("OUTPUT_NOT_DELIVERED", "the output could not be brought to the origin; ask again")


async def push_output(channel: grpc.aio.Channel, header: route_pb2.OutputHeader, output: bytes) -> None:
    """Hand an output to the controller at the other end, within the credit that it grants."""
    stub: Any = route_pb2_grpc.RouteServiceStub(channel)
    call = stub.PushOutput()
    try:
        await call.write(route_pb2.PushOutputRequest(header=header))
        credit, at = CREDIT, 0
        while at < len(output):
            while credit < min(CHUNK, len(output) - at):
                credit += (await _granted(call)).credit_bytes
            chunk = output[at : at + CHUNK]
            await call.write(route_pb2.PushOutputRequest(data=chunk))
            credit -= len(chunk)
            at += len(chunk)
        await call.done_writing()
        while not (await _granted(call)).complete:
            pass
    finally:
        call.cancel()


async def _granted(call: Any) -> route_pb2.PushOutputResponse:
    answer = await call.read()
    if answer is grpc.aio.EOF:
        code = await call.code()
        raise grpc.aio.AioRpcError(
            code, await call.initial_metadata(), await call.trailing_metadata(), await call.details()
        )
    granted: route_pb2.PushOutputResponse = answer
    return granted
