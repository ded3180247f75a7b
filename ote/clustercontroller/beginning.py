"""The core as it begins: who it is, its settings, and what was on disk.

Not here: what it does with them (`core`), how it is run (`shell`). The one idea: the core gets the system's randomness,
its key and its memory as values, so that the simulator can give it others.
"""

from __future__ import annotations

import random
import secrets
from typing import Any

import msgspec

import ote
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import Context, CoreSettings
from ote.clustercontroller.core.controller import Controller, Tables
from ote.clustercontroller.core.records import SELF_ROWS, TABLES
from ote.clustercontroller.membership import Membership
from ote.clustercontroller.settings import Settings
from ote.clustercontroller.trust import TokenRow
from ote.pki import sign_statement, verify_statement
from ote.runtime.clock import Clock
from ote.store.sqlite import Store

ALL_TABLES = ("self", "tokens", *TABLES)


def make_core(settings: Settings, membership: Membership, tables: Tables, advertise: str, clock: Clock) -> Controller:
    """The core of this member; `advertise` is its address for children."""
    now = clock.now()
    member, key = membership.member, membership.key
    ctx = Context(
        uid=member.uid,
        name=member.name,
        instance=secrets.token_hex(8),
        public_key=membership.public_key,
        settings=_core_settings(settings),
        rng=_Random(),
        sign=lambda statement: sign_statement(key, statement),
        verify=verify_statement,
        software=ote.__version__,
        wall_at_zero=clock.wall() - now,
        now=now,
    )
    facts = m.Facts(
        labels=dict(settings.label),
        tags=sorted(set(settings.tag)),
        configured_parent=member.parent_name or member.parent_address,
        advertise=advertise,
        shim_kind="" if settings.shim == "none" else "unknown",
    )
    return Controller(
        ctx,
        home=membership.home(),
        facts=facts,
        tables=tables,
        allowed=frozenset(settings.allow) if settings.allow else None,
        has_shim=settings.shim != "none",
    )


def load_tokens(store: Store) -> list[TokenRow]:
    """The join tokens that were made here."""
    return [msgspec.msgpack.decode(value, type=TokenRow) for _, value in store.load("tokens")]


def load_tables(store: Store) -> Tables:
    """What the core has put on disk."""
    decode = msgspec.msgpack.decode
    tables: dict[str, dict[str, Any]] = {
        table: {key: decode(value, type=kind) for key, value in store.load(table)} for table, kind in TABLES.items()
    }
    tables["self"] = {key: decode(value, type=SELF_ROWS[key]) for key, value in store.load("self") if key in SELF_ROWS}
    return tables


def _core_settings(settings: Settings) -> CoreSettings:
    never = settings.leave_cut_off_after == float("inf")
    return CoreSettings(
        heartbeat=settings.heartbeat,
        dead_after=settings.dead_after,
        island_after=settings.island_after,
        leave_cut_off_after=None if never else settings.leave_cut_off_after,
        keep_dispatches=settings.keep_dispatches,
        keep_settled_for=settings.keep_settled_for,
    )


class _Random(random.Random):
    """Ids are the system's random bits; for jitter its own generator is good enough, and does not call the system."""

    def getrandbits(self, k: int, /) -> int:
        return secrets.randbits(k)
