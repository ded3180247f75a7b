"""What one cluster has and uses, asked for when somebody wants to see it.

What lives here: asking the cluster, or its parent while it is away, and answering those above who ask so. What does
not: the sums (`core.load`). Ages cross links, never times.
"""

from __future__ import annotations

import asyncio
import contextlib

import msgspec
from google.protobuf.message import DecodeError

from ote.api.cluster.v1 import cluster_pb2
from ote.clustercontroller.core.entries import ClusterEntry
from ote.clustercontroller.shell import Shell
from ote.clustercontroller.wire.totals import encode_totals
from ote.clustercontroller.wire.views import ClusterViews
from ote.model.errors import NotFound, OteError

STATUS_OF = "status-of"
HOME_OF = "home-of"
_PATIENCE = 2.0
"""Seconds for which somebody is asked; who looks at a cluster does not wait for one that hangs."""

_Body = tuple[int, bytes, bytes]
"""Age in milliseconds, a serialized ClusterStatus, serialized Totals."""
_Away = tuple[int, str]
"""For how many milliseconds it is not at home, and why home was not taken when it was tried last."""
_Told = tuple[float, bytes, cluster_pb2.Totals]


class ClusterDetails:
    """Owned by the node."""

    def __init__(self, shell: Shell, views: ClusterViews) -> None:
        self._shell = shell
        self._views = views

    def told(self, uid: str) -> bytes:
        """For those above: what is known here of this cluster, or of a child; nothing when it is not known."""
        core = self._shell.look()
        details = core.load.details(uid)
        if details is None:
            return b""
        status, age = details.status, max(0.0, core.ctx.now - details.at)
        totals = encode_totals(status.totals).SerializeToString()
        return msgspec.msgpack.encode((round(age * 1000), status.cluster_status, totals))

    def away(self) -> bytes:
        """For those above: since when and why this cluster is not at home; nothing when it is."""
        away = self._shell.look().parents.away_from_home
        if away is None:
            return b""
        since, problem = away
        return msgspec.msgpack.encode((round((self._shell.core.ctx.now - since) * 1000), problem))

    async def view(self, entry: ClusterEntry) -> cluster_pb2.Cluster:
        """The cluster with its status, as fresh as it can be had. Errors: NotFound (CLUSTER_NOT_FOUND)."""
        core = self._shell.core
        told: _Told | None = None
        live = core.registry.is_up(entry.uid)
        if entry is not core.registry.own:
            told = await self._ask(entry.uid, entry.uid) if live else None
            live = told is not None
            if told is None and entry.parent_uid != core.ctx.uid and core.registry.is_up(entry.parent_uid):
                told = await self._ask(entry.parent_uid, entry.uid)
        if entry.uid not in core.registry.entries:
            raise NotFound("CLUSTER_NOT_FOUND", f"{entry.name} was evicted just now")
        now = self._shell.look().ctx.now
        view = self._views.cluster(entry)
        if told is not None:
            age, status, totals = told
            self._views.show_details(view, status, totals, at=now - age, stale=not live)
        elif view.HasField("status_as_of"):
            view.status_stale = not live
        if view.configured_parent != view.parent:
            await self._show_home(view)
        return view

    async def _show_home(self, view: cluster_pb2.Cluster) -> None:
        core = self._shell.core
        with contextlib.suppress(msgspec.DecodeError):
            body = self.away() if view.uid == core.ctx.uid else await self._answer(view.uid, HOME_OF, b"")
            if body:
                age, view.home_problem = msgspec.msgpack.decode(body, type=_Away)
                view.away_from_home_since.CopyFrom(self._views.moment(core.ctx.now - age / 1000))

    async def _ask(self, asked: str, uid: str) -> _Told | None:
        try:
            body = await self._answer(asked, STATUS_OF, uid.encode())
            if not body:
                return None
            age, status, totals = msgspec.msgpack.decode(body, type=_Body)
            return age / 1000, status, cluster_pb2.Totals.FromString(totals)
        except (msgspec.DecodeError, DecodeError):
            return None

    async def _answer(self, asked: str, method: str, body: bytes) -> bytes:
        """What it answers; nothing where it does not."""
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._shell.ask(asked, method, body)
        except (OteError, TimeoutError):
            return b""
