"""What survives a process: rows as bytes, writes that become durable in order and a moment later.

The one idea is that of the shell: a list of effects is split at its barrier, what follows waits for the commit that all
earlier writes are in, and a crash loses whatever has not been committed. Rows are encoded when they are put, as in the
real store, so that a core that changes a row later does not change the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core.records import SELF_ROWS, TABLES

Rows = dict[str, dict[str, bytes]]
_encode = msgspec.msgpack.Encoder().encode


@dataclass
class Disk:
    """Rows that are durable, by table and key."""

    rows: Rows = field(default_factory=dict)

    def copy(self) -> Disk:
        return Disk({table: dict(rows) for table, rows in self.rows.items()})

    def load(self) -> Mapping[str, Mapping[str, Any]]:
        """Everything on it, decoded as the controller decodes it at its start."""
        decode = msgspec.msgpack.decode
        tables: dict[str, dict[str, Any]] = {}
        for table, kind in TABLES.items():
            tables[table] = {key: decode(value, type=kind) for key, value in self.rows.get(table, {}).items()}
        own = self.rows.get("self", {})
        tables["self"] = {key: decode(value, type=SELF_ROWS[key]) for key, value in own.items()}
        return tables


_Write = tuple[str, str, bytes | None]
_AT_ONCE = (fx.Put, fx.Remove, fx.WakeAt)


class Writer:
    """The effects of one process on their way: `act` carries one out, `later(seconds, call)` is the world's time."""

    def __init__(
        self, disk: Disk, act: Callable[[fx.Effect], None], later: Callable[[Callable[[], None]], None]
    ) -> None:
        self._disk = disk
        self._act = act
        self._later = later
        self._writes: list[_Write] = []
        self._after_commit: list[list[fx.Effect]] = []
        self._in_flight = 0
        self._planned = False
        self._lost = False

    def execute(self, effects: list[fx.Effect]) -> None:
        """Do what needs no disk, and plan a commit for the rest."""
        for effect in effects:
            if isinstance(effect, fx.Put):
                self._writes.append((effect.table, effect.key, _encode(effect.value)))
            elif isinstance(effect, fx.Remove):
                self._writes.append((effect.table, effect.key, None))
            elif isinstance(effect, fx.WakeAt):
                self._act(effect)
        for index, effect in enumerate(effects):
            if isinstance(effect, fx.Barrier):
                if self._writes or self._in_flight:
                    late: list[fx.Effect] = [rest for rest in effects[index + 1 :] if not isinstance(rest, _AT_ONCE)]
                    self._after_commit.append(late)
                    break
            elif not isinstance(effect, _AT_ONCE):
                self._act(effect)
        if (self._writes or self._after_commit) and not self._planned:
            self._planned = True
            self._flush()

    def lose(self) -> None:
        """The process is gone, and what was not committed with it."""
        self._lost = True

    def _flush(self) -> None:
        self._planned = False
        self._in_flight += 1
        writes, self._writes = self._writes, []
        waiting, self._after_commit = self._after_commit, []

        def committed() -> None:
            if self._lost:
                return
            for table, key, value in writes:
                rows = self._disk.rows.setdefault(table, {})
                if value is None:
                    rows.pop(key, None)
                else:
                    rows[key] = value
            self._in_flight -= 1
            for effects in waiting:
                if not self._lost:
                    self.execute(effects)

        self._later(committed)
