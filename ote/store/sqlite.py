"""A durable key-value store: tables of (key, value) in one SQLite file, written by one thread in group commits.

What lives here: opening, committing, loading, copying. What does not: what the values mean. The one idea: callers
hand over batches and learn when they are on disk; batches that arrive while a commit runs share the next one, and while
that keeps happening the writer pauses a millisecond so that they are fewer and larger. A statement takes many rows:
each gives the interpreter's lock away and has to get it back from a busy loop.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ote.model.errors import FailedPrecondition, OteError, ResourceExhausted

_PAUSE = 0.001
"""Seconds between commits while batches hold more than one: + 60 % throughput, no cost when idle."""
_ROWS = (64, 16, 4, 1)
"""Rows of one statement, the largest that fit first: few enough forms to keep them all prepared."""


@dataclass(slots=True)
class Put:
    """Store `value` under (table, key), in place of what was there."""

    table: str
    key: str
    value: bytes


@dataclass(slots=True)
class Remove:
    """Remove (table, key); nothing happens when it is not there."""

    table: str
    key: str


Write = Put | Remove
_Row = TypeVar("_Row")
_Batch = tuple[Sequence[Write], Callable[[BaseException | None], None]]


class Store:
    """One SQLite file with tables of (key TEXT, value BLOB). Made by `open`; `commit` from the loop that opened it."""

    def __init__(self, path: Path, tables: Sequence[str]) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._connection = _connect(path)
        for table in tables:
            self._connection.execute(
                f'CREATE TABLE IF NOT EXISTS "{table}" (key TEXT PRIMARY KEY, value BLOB NOT NULL)'
            )
        self._connection.commit()
        self._writer = threading.Thread(target=self._write_loop, name=f"store {path.name}", daemon=True)
        self._writer.start()

    @classmethod
    def open(cls, path: Path, *, tables: Sequence[str]) -> Store:
        """Open or create the file (mode 0600) with these tables.

        Errors: FailedPrecondition (STORE_DAMAGED) when the file is not a sound database, those of `commit`.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        try:
            return cls(path, tables)
        except sqlite3.DatabaseError as error:
            raise _unreadable(path, error) from error

    def load(self, table: str) -> list[tuple[str, bytes]]:
        """All rows of a table, in the order in which their keys were first written. For use before the first commit.

        Errors: as `open`.
        """
        try:
            return list(self._connection.execute(f'SELECT key, value FROM "{table}" ORDER BY rowid'))
        except sqlite3.DatabaseError as error:
            raise _unreadable(self._path, error) from error

    def submit(self, writes: Sequence[Write], done: Callable[[BaseException | None], None]) -> None:
        """Commit `writes` together; `done` is called in the writer's thread when they are on disk, or with the
        error."""
        self._queue.put((writes, done))

    async def commit(self, writes: Sequence[Write]) -> None:
        """Commit `writes` together and return when they are on disk.

        Errors: ResourceExhausted (DISK_FULL), or FailedPrecondition (STORE_FAILED); nothing of the batch is kept then.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def done(error: BaseException | None) -> None:
            loop.call_soon_threadsafe(_settle, future, error)

        self.submit(writes, done)
        await future

    def commit_now(self, writes: Sequence[Write]) -> None:
        """Commit `writes` and block until they are on disk; for programs without a loop. Errors: as `commit`."""
        done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self.submit(writes, done.put)
        if (error := done.get()) is not None:
            raise error

    def close(self) -> None:
        """Commit what was submitted, then close the file."""
        self._queue.put(None)
        self._writer.join()
        self._connection.close()

    def _write_loop(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            batches = [first]
            last = False
            while not self._queue.empty():
                batch = self._queue.get()
                if batch is None:
                    last = True
                    break
                batches.append(batch)
            self._commit(batches)
            if last:
                return
            if len(batches) > 1:
                time.sleep(_PAUSE)

    def _commit(self, batches: list[_Batch]) -> None:
        try:
            self._apply([write for writes, _ in batches for write in writes])
        except Exception as error:  # whatever it is, who waits is told, and the writer lives on
            if len(batches) > 1:
                for batch in batches:
                    self._commit([batch])
                return
            batches[0][1](_explain(error))
            return
        for _, done in batches:
            done(None)

    def _apply(self, writes: list[Write]) -> None:
        """Write the last value of each key, table by table, in one transaction."""
        tables: dict[str, dict[str, bytes | None]] = {}
        for write in writes:
            tables.setdefault(write.table, {})[write.key] = write.value if isinstance(write, Put) else None
        connection = self._connection
        try:
            for table, rows in tables.items():
                puts = [(key, value) for key, value in rows.items() if value is not None]
                gone = [key for key, value in rows.items() if value is None]
                for chunk in _chunks(puts):
                    connection.execute(
                        f'INSERT INTO "{table}" (key, value) VALUES {", ".join(["(?, ?)"] * len(chunk))} '
                        "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                        [part for row in chunk for part in row],
                    )
                for keys in _chunks(gone):
                    connection.execute(f'DELETE FROM "{table}" WHERE key IN ({", ".join("?" * len(keys))})', keys)
            connection.commit()
        except BaseException:
            connection.rollback()
            raise


def _chunks(rows: list[_Row]) -> Iterator[list[_Row]]:
    at = 0
    for size in _ROWS:
        while len(rows) - at >= size:
            yield rows[at : at + size]
            at += size


def copy_database(source: Path, target: Path) -> None:
    """Copy a database as of now to a new file (mode 0600), while it may be in use by another process.

    Errors: as `Store.commit`.
    """
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        with closing(sqlite3.connect(source)) as original, closing(sqlite3.connect(target)) as copy:
            original.backup(copy)
    except sqlite3.Error as error:
        raise _explain(error) from error


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False, cached_statements=64)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA cache_size=-1024")
    return connection


def _settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _is_full(error: Exception) -> bool:
    return getattr(error, "sqlite_errorname", "") in ("SQLITE_FULL", "SQLITE_IOERR_WRITE")


def _unreadable(path: Path, error: sqlite3.DatabaseError) -> OteError:
    if _is_full(error) or getattr(error, "sqlite_errorname", "").startswith("SQLITE_IOERR"):
        return _explain(error)
    return FailedPrecondition(
        "STORE_DAMAGED", f"{path} cannot be read as a database ({error}); restore it from a backup"
    )


def _explain(error: Exception) -> OteError:
    if _is_full(error):
        return ResourceExhausted(
            "DISK_FULL", f"the disk is full ({error}); make room, then try again", retry_after=10.0
        )
    return FailedPrecondition("STORE_FAILED", f"the store cannot be written ({error}); check the disk and its room")
