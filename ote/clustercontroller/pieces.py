"""Pieces of payloads in memory: those on their way here, those that children take, those kept for the next child.

What lives here: the bounded cache, who may have which payload, trying again while the path moves. What does not: files
(`payloads`), RPCs (`bulk`, `bulkserving`). The one idea: a piece is named by its hash, so whoever wants it shares one
copy and one transfer, it may come from whoever is the parent now, and may be forgotten when nobody holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from ote.clustercontroller.bulk import PIECE, Uplink, fetch_piece
from ote.clustercontroller.core import messages as m
from ote.model.errors import InvalidArgument, NotFound, OteError, Unavailable
from ote.rpc.errors import translated

_MEMORY = 32 * 1024 * 1024
"""Bytes of pieces in memory, and one piece more for each child that holds no other."""
_SERVED = 4096
"""Payloads that children may fetch."""
RETRIES = 40
RETRY_DELAY = 0.5

T = TypeVar("T")


class Folder(Protocol):
    """Whole payloads on disk."""

    def has(self, payload: m.Payload) -> bool: ...

    def belongs_here(self, payload: m.Payload) -> bool: ...

    def path(self, payload: m.Payload) -> Path: ...


class _Hold:
    """One wish for a piece by somebody, until it is let go."""

    def __init__(self, by: str) -> None:
        self.by = by
        self.has_room = False


class Pieces:
    """All pieces that one controller has in memory."""

    def __init__(self, folder: Folder, uplink: Uplink) -> None:
        self._folder = folder
        self._uplink = uplink
        self._serving: OrderedDict[bytes, tuple[m.Payload, set[int]]] = OrderedDict()
        """Payloads that children may fetch, with the links of those that may, by hash."""
        self._by_link: dict[int, set[bytes]] = {}
        self._loaded: OrderedDict[bytes, bytes] = OrderedDict()
        self._loading: dict[bytes, asyncio.Task[bytes]] = {}
        self._holds: dict[bytes, set[_Hold]] = {}
        """Who wants or has each piece."""
        self._having: Counter[str] = Counter()
        """Pieces that there was room for, by who holds them."""
        self._bytes = 0
        self._room = asyncio.Event()
        self._log = structlog.get_logger("ote.clustercontroller.pieces")

    @property
    def in_memory(self) -> int:
        """Bytes of pieces in memory, with those that are on their way."""
        return self._bytes

    # --- who may have what ----------------------------------------------------------------------------------------

    def serve(self, link: int, payload: m.Payload) -> None:
        """Children on `link` may fetch this payload here."""
        _, links = self._serving.setdefault(payload.sha256, (payload, set()))
        links.add(link)
        self._by_link.setdefault(link, set()).add(payload.sha256)
        self._serving.move_to_end(payload.sha256)
        while len(self._serving) > _SERVED:
            sha256, (_, links) = self._serving.popitem(last=False)
            for other in links:
                self._by_link[other].discard(sha256)

    def forget(self, link: int) -> None:
        """The link has ended."""
        for sha256 in self._by_link.pop(link, ()):
            _, links = self._serving[sha256]
            links.discard(link)
            if not links:
                del self._serving[sha256]

    def served(self, sha256: bytes, links: set[int]) -> m.Payload:
        """The payload of that hash, if a child on one of `links` has a delivery naming it. Errors: NotFound."""
        payload, allowed = self._serving.get(sha256, (None, set()))
        if payload is None or not allowed & links:
            raise NotFound("PAYLOAD_UNKNOWN", "no delivery to this cluster names that payload")
        return payload

    # --- the pieces -----------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def held(self, payload: m.Payload, index: int, by: str = "") -> AsyncIterator[bytes]:
        """One piece, from here or from above, in memory as long as the block lasts. It waits while there is no room,
        unless somebody wants it who has no other. Errors: Unavailable (PIECE_NOT_HERE_YET), InvalidArgument
        (BAD_PAYLOAD), NotFound (PAYLOAD_UNKNOWN, PAYLOAD_MISSING)."""
        if not 0 <= index < len(payload.pieces):
            raise InvalidArgument("BAD_PAYLOAD", f"the payload has no piece {index}")
        sha256 = payload.pieces[index]
        hold = _Hold(by)
        self._holds.setdefault(sha256, set()).add(hold)
        self._room.set()
        try:
            piece = await self._get(payload, index)
            self._has_room(hold)
            yield piece
        finally:
            self._holds[sha256].discard(hold)
            if not self._holds[sha256]:
                del self._holds[sha256]
                self._let_go(sha256, keep=payload.sha256 in self._serving and not self._folder.has(payload))
            if hold.has_room:
                _less(self._having, by)
            self._room.set()

    async def stop(self) -> None:
        """End what is on its way here."""
        tasks = list(self._loading.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._uplink.stop()

    async def _get(self, payload: m.Payload, index: int) -> bytes:
        sha256 = payload.pieces[index]
        loaded = self._loaded.get(sha256)
        if loaded is not None:
            self._loaded.move_to_end(sha256)
            return loaded
        loading = self._loading.get(sha256)
        if loading is None:
            loading = asyncio.create_task(self._load(payload, index), name="fetch piece")
            self._loading[sha256] = loading
            loading.add_done_callback(lambda task: self._done(sha256, task))
        return await asyncio.shield(loading)

    async def _load(self, payload: m.Payload, index: int) -> bytes:
        sha256, size = payload.pieces[index], min(PIECE, payload.size - index * PIECE)
        while not self._make_room(size) and all(self._having[hold.by] for hold in self._holds[sha256]):
            self._room.clear()
            await self._room.wait()
        self._bytes += size
        for hold in self._holds[sha256]:
            self._has_room(hold)
        try:
            if self._folder.has(payload):
                data = await asyncio.to_thread(_read, self._folder.path(payload), index)
            else:
                data = await self._from_above(payload, index, size)
        except BaseException:
            self._gone(size)
            raise
        self._loaded[sha256] = data
        return data

    async def _from_above(self, payload: m.Payload, index: int, size: int) -> bytes:
        """Fetch one piece from the parent; try again while the path moves, but not where somebody has not got it."""
        traffic = self._uplink.traffic
        for _ in range(RETRIES):
            if (up := self._uplink.now()) is not None:
                channel, window = up
                try:
                    with window.share(size) as share, traffic.bulk(), translated():
                        data = await fetch_piece(channel, payload, index, share)
                except NotFound:
                    raise
                except OteError as error:
                    self._log.debug("piece not fetched", reason=error.reason, error=error.message)
                else:
                    traffic.bulk_received += len(data)
                    if len(data) != size or hashlib.sha256(data).digest() != payload.pieces[index]:
                        raise InvalidArgument("BAD_PAYLOAD", "a piece does not have its hash")
                    return data
            elif self._uplink.is_top() or self._folder.belongs_here(payload):
                raise NotFound("PAYLOAD_MISSING", "no controller has the command's payload any more; send it again")
            await asyncio.sleep(RETRY_DELAY)
        raise Unavailable("PIECE_NOT_HERE_YET", "the piece cannot be fetched now; try again", retry_after=2.0)

    # --- room -----------------------------------------------------------------------------------------------------

    def _done(self, sha256: bytes, task: asyncio.Task[bytes]) -> None:
        if self._loading.get(sha256) is task:
            del self._loading[sha256]
        if not task.cancelled() and task.exception() is None and sha256 not in self._holds:
            self._let_go(sha256, keep=False)

    def _let_go(self, sha256: bytes, *, keep: bool) -> None:
        """Nobody holds it any more."""
        if sha256 in self._loading:
            self._loading.pop(sha256).cancel()
        elif sha256 in self._loaded and not keep:
            self._gone(len(self._loaded.pop(sha256)))

    def _has_room(self, hold: _Hold) -> None:
        if not hold.has_room:
            hold.has_room = True
            self._having[hold.by] += 1

    def _make_room(self, size: int) -> bool:
        for sha256 in [sha256 for sha256 in self._loaded if sha256 not in self._holds]:
            if self._bytes + size <= _MEMORY:
                break
            self._gone(len(self._loaded.pop(sha256)))
        return self._bytes + size <= _MEMORY

    def _gone(self, size: int) -> None:
        self._bytes -= size
        self._room.set()


def _read(path: Path, index: int) -> bytes:
    with path.open("rb") as file:
        file.seek(index * PIECE)
        return file.read(PIECE)


def _less(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
