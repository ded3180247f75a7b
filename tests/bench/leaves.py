"""Many leaf controllers in one process: `python -m tests.bench.leaves FOLDER PARENT TOKEN FIRST COUNT HEARTBEAT DEAD`.

Each has its own identity, core, shell and tunnel, of the real parts; what a leaf without children and shim does not
use is left out: a listening server, payloads, callers. One store is shared, so leaves of a process share its commits.
Lines on standard output: `ready`, once all are attached; after `left NAME` on standard input, `moved SECONDS` (of the
monotonic clock) once all have another parent than that.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc.aio

from ote.clustercontroller.bulk import Uplink
from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import Context, CoreSettings
from ote.clustercontroller.core.controller import Controller
from ote.clustercontroller.core.records import TABLES
from ote.clustercontroller.membership import Membership
from ote.clustercontroller.payloads import Payloads
from ote.clustercontroller.shell import Shell
from ote.clustercontroller.shimlink import NoShim
from ote.clustercontroller.tunnel import ParentLink
from ote.model.errors import OteError, Unsupported
from ote.pki import apart, sign_statement, verify_statement
from ote.rpc.channel import open_channel
from ote.rpc.tls import TlsIdentity
from ote.runtime.clock import MonotonicClock
from ote.runtime.main import run_main
from ote.store.sqlite import Put, Remove, Store, Write
from ote.telemetry.logs import set_up_logs

_AT_ONCE = 4
_LIFETIME = 86400.0


class _Part:
    """One leaf's keys in the shared store."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    def submit(self, writes: Sequence[Write], done: Callable[[BaseException | None], None]) -> None:
        """As `Store.submit`."""
        self._store.submit([self._own(write) for write in writes], done)

    def _own(self, write: Write) -> Write:
        key = f"{self._prefix}/{write.key}"
        return Put(write.table, key, write.value) if isinstance(write, Put) else Remove(write.table, key)


class _Quiet:
    """Nobody watches a leaf of the bench."""

    def clusters_changed(self, uids: Sequence[str]) -> None: ...

    def target_changed(self, dispatch_id: str, uid: str, settled: bool) -> None: ...


class Leaf:
    """One leaf controller."""

    def __init__(self, folder: Path, name: str, store: Store, settings: CoreSettings) -> None:
        self.name = name
        self._folder = folder / name
        self._store = _Part(store, name)
        self._settings = settings
        self._clock = MonotonicClock()
        self.shell: Shell

    async def start(self, parent: str, token: str, dial: str = "") -> None:
        """Join at `parent`, then keep a tunnel to it; `dial` is where, if it is another address."""
        membership = Membership.open(self._folder, self.name, _LIFETIME)
        await _patiently(lambda: membership.join(parent, token, wants_children=False))
        if dial:
            membership.set_home(dial, membership.member.parent_name, membership.member.parent_uid)
        key, member = membership.key, membership.member
        ctx = Context(
            uid=member.uid,
            name=member.name,
            instance=secrets.token_hex(8),
            public_key=membership.public_key,
            settings=self._settings,
            rng=random.Random(secrets.randbits(64)),
            sign=lambda statement: sign_statement(key, statement),
            verify=verify_statement,
            now=self._clock.now(),
        )
        tables: dict[str, Any] = {table: {} for table in ("self", *TABLES)}
        facts = m.Facts(labels={"bench": "leaf"}, configured_parent=member.parent_name)
        core = Controller(ctx, home=membership.home(), facts=facts, tables=tables, has_shim=False)
        self.shell = Shell(core, self._store, self._clock, _Dialer(membership))  # type: ignore[arg-type]  # what it uses
        self.shell.shim = NoShim()
        self.shell.payloads = Payloads(
            self._folder / "payloads", self.shell.post, Uplink(self.channel, self._ping_parent)
        )
        self.shell.watchers = _Quiet()
        self.shell.answer = _answer
        self.shell.look_ups = frozenset()
        self.shell.post(ev.Started())

    @property
    def parent(self) -> str:
        """Name of the parent it is attached to; empty while there is none."""
        parent = self.shell.core.parents.parent
        return parent.name if parent is not None and self.shell.core.parents.connected else ""

    async def _ping_parent(self) -> None:
        parent = self.shell.core.parents.parent
        await self.shell.ask(parent.uid if parent is not None else "", "ping", b"")

    def channel(self) -> grpc.aio.Channel | None:
        """The connection to the parent."""
        link = self.shell.links.get(self.shell.core.parents.active_link or -1)
        return link.channel if isinstance(link, ParentLink) else None


class _Dialer:
    """As `Membership.connect`, with the identity read once: a leaf's certificate does not change here."""

    def __init__(self, membership: Membership) -> None:
        self._tls: TlsIdentity = membership.tls

    async def connect(self, candidate: m.Alternate) -> grpc.aio.Channel:
        return open_channel(candidate.address, tls=self._tls, server_name=f"{candidate.name}.ote")


async def _answer(ask: fx.Ask) -> bytes:
    if ask.method == "ping":
        return b""
    raise Unsupported("UNSUPPORTED", "a leaf of the bench answers nothing else")


async def _patiently(call: Callable[[], Awaitable[None]]) -> None:
    for _ in range(20):
        try:
            await call()
        except OteError:
            await asyncio.sleep(0.5)
        else:
            return
    await call()


def leaf_store(folder: Path) -> Store:
    """A store for leaves."""
    return Store.open(folder / "leaves.db", tables=["self", *TABLES])


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.02)


async def _serve(folder: Path, parent: str, token: str, first: int, count: int, settings: CoreSettings) -> None:
    set_up_logs(level="warning", fmt="plain", cluster="leaves")
    apart.load()
    store = leaf_store(folder)
    turns = asyncio.Semaphore(_AT_ONCE)
    leaves = [Leaf(folder, f"leaf-{number}", store, settings) for number in range(first, first + count)]

    async def start(leaf: Leaf) -> None:
        async with turns:
            await leaf.start(parent, token)

    await asyncio.gather(*(start(leaf) for leaf in leaves))
    await _until(lambda: all(leaf.parent for leaf in leaves))
    print("ready", flush=True)
    left = (await asyncio.to_thread(sys.stdin.readline)).split()[1]
    threading.Thread(target=_end_with_the_bench, daemon=True).start()
    await _until(lambda: all(leaf.parent not in ("", left) for leaf in leaves))
    print(f"moved {time.monotonic()}", flush=True)
    await asyncio.sleep(3600)


def _end_with_the_bench() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    where, above, secret, begin, number, beat, dead = sys.argv[1:]
    Path(where).mkdir(parents=True, exist_ok=True)
    core = CoreSettings(heartbeat=float(beat), dead_after=float(dead))
    run_main(_serve(Path(where), above, secret, int(begin), int(number), core))
