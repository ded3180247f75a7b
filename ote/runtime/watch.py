"""Watches: everything as it is, then every change, with resume; for any set of keyed things.

Not here: the things. The one idea: the hub stores no values, only which key changed when; a watcher that wakes up
asks for the newest value, so a slow one skips what is outdated and never holds a copy.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Hashable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from ote.model.errors import InvalidArgument, OteError, OutOfRange, ResourceExhausted, Unavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

HISTORY = 10_000
"""Changes that a token may be behind."""

MAX_PENDING = 20_000
"""Keys that may wait for one watcher before it is cut."""


class ChangeKind(StrEnum):
    """What a watch event says."""

    PUT = "put"
    REMOVED = "removed"
    BOOKMARK = "bookmark"


@dataclass(frozen=True, slots=True)
class Change(Generic[K, V]):
    """One event of a watch.

    PUT has key and value, REMOVED the key, BOOKMARK neither. token: where to resume once this was handled; empty inside
    the first listing, which can only be had as a whole.
    """

    kind: ChangeKind
    token: str
    key: K | None = None
    value: V | None = None


class WatchHub(Generic[K, V]):
    """Tells watchers what changed.

    instance: id of this process, so that a token of another is not taken. get: value of a key now, None when it is
    gone. keys: all there are now. Both are called from the loop and must be quick. Not for several threads.
    """

    def __init__(
        self,
        instance: str,
        *,
        get: Callable[[K], V | None],
        keys: Callable[[], Iterable[K]],
        history: int = HISTORY,
        max_pending: int = MAX_PENDING,
    ) -> None:
        self._instance = instance
        self._get = get
        self._keys = keys
        self._version = 0
        self._history: deque[tuple[int, K]] = deque(maxlen=history)
        self._max_pending = max_pending
        self._watchers: set[_Watcher[K]] = set()
        self._closed: OteError | None = None

    @property
    def watchers(self) -> int:
        """How many are watching."""
        return len(self._watchers)

    @property
    def token(self) -> str:
        """Token of the state as it is now."""
        return self._token(self._version)

    def changed(self, key: K) -> None:
        """Says that the value of a key is another, or gone. Call it after the change."""
        self._version += 1
        self._history.append((self._version, key))
        for watcher in self._watchers:
            watcher.note(key, self._version)

    def close(self, error: OteError | None = None) -> None:
        """Ends all watches, and those to come, with the error (UNAVAILABLE): watchers resume elsewhere or later."""
        self._closed = error or Unavailable("SHUTTING_DOWN", "the controller is stopping: resume the watch")
        for watcher in self._watchers:
            watcher.fail(self._closed)

    async def watch(
        self, token: str = "", *, match: Callable[[V], bool] | None = None
    ) -> AsyncGenerator[Change[K, V], None]:
        """Without a token everything as PUT and a BOOKMARK, then changes; with one, a BOOKMARK-less stream of changes.

        match: which values the watcher wants; one that stops matching is REMOVED. After a resume REMOVED may name a key
        that was never put, as the token does not say what was. Raises InvalidArgument
        (INVALID_RESUME_TOKEN), OutOfRange (RESUME_TOKEN_EXPIRED), ResourceExhausted (SLOW_READER), Unavailable.
        """
        if self._closed is not None:
            raise self._closed
        watcher = _Watcher[K](self._max_pending)
        sent: set[K] | None = None
        listed: list[K] = []
        begun = self._version
        if token:
            for version, key in self._since(token):
                watcher.note(key, version)
        else:
            listed = list(self._keys())
            sent = set() if match is not None else None
        self._watchers.add(watcher)
        try:
            for key in listed:
                value = self._get(key)
                if value is not None and (match is None or match(value)):
                    if sent is not None:
                        sent.add(key)
                    yield Change(ChangeKind.PUT, "", key, value)
            if not token:
                listed.clear()
                yield Change(ChangeKind.BOOKMARK, self._token(begun))
            while True:
                key, version = await watcher.next()
                change = self._change(key, version, match, sent)
                if change is not None:
                    yield change
        finally:
            self._watchers.discard(watcher)

    def _change(
        self, key: K, version: int, match: Callable[[V], bool] | None, sent: set[K] | None
    ) -> Change[K, V] | None:
        value = self._get(key)
        if value is not None and (match is None or match(value)):
            if sent is not None:
                sent.add(key)
            return Change(ChangeKind.PUT, self._token(version), key, value)
        if sent is not None:
            if key not in sent:
                return None
            sent.discard(key)
        return Change(ChangeKind.REMOVED, self._token(version), key)

    def _token(self, version: int) -> str:
        return f"{self._instance}.{version}"

    def _since(self, token: str) -> list[tuple[int, K]]:
        instance, dot, number = token.rpartition(".")
        if not dot or not number.isascii() or not number.isdigit():
            raise InvalidArgument("INVALID_RESUME_TOKEN", "resume_token is not from a watch event")
        after = int(number)
        oldest = self._history[0][0] if self._history else self._version + 1
        if instance != self._instance or after > self._version or after + 1 < oldest:
            raise OutOfRange("RESUME_TOKEN_EXPIRED", "resume_token is too old: watch again without it")
        return [(version, key) for version, key in self._history if version > after]


class _Watcher(Generic[K]):
    """Keys that wait for one watcher, in the order of their last change."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pending: OrderedDict[K, int] = OrderedDict()
        self._error: OteError | None = None
        self._wake = asyncio.Event()

    def note(self, key: K, version: int) -> None:
        if self._error is not None:
            return
        self._pending[key] = version
        self._pending.move_to_end(key)
        if len(self._pending) > self._limit:
            self._pending.clear()
            self.fail(ResourceExhausted("SLOW_READER", "the watch was read too slowly: watch again without a token"))
            return
        self._wake.set()

    def fail(self, error: OteError) -> None:
        self._error = error
        self._wake.set()

    async def next(self) -> tuple[K, int]:
        while True:
            if self._error is not None:
                raise self._error
            if self._pending:
                return self._pending.popitem(last=False)
            self._wake.clear()
            await self._wake.wait()
