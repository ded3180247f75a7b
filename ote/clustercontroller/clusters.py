"""ClusterService: what the registry knows, and changes of it. Thin: parse, ask the core, show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import grpc.aio

from ote.api.cluster.v1 import cluster_pb2, cluster_pb2_grpc
from ote.api.command.v1 import command_pb2
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core.controller import Controller
from ote.clustercontroller.core.entries import ClusterEntry
from ote.clustercontroller.core.states import NAME_CONFLICT
from ote.clustercontroller.details import ClusterDetails
from ote.clustercontroller.shell import Shell
from ote.clustercontroller.status import StatusReport
from ote.clustercontroller.wire.views import ClusterViews
from ote.model.errors import FailedPrecondition, InvalidArgument, NotFound
from ote.model.names import check_label_key, check_label_value, check_tag, is_name, is_uid
from ote.model.selectors import Selector, compile_selector
from ote.rpc.paging import page_of
from ote.rpc.peer import peer_of
from ote.runtime.watch import ChangeKind, WatchHub

_SETTLE = 5.0
"""How long UpdateCluster waits for the cluster before it answers that the change is on its way."""
_MAX_PAGE = 5000
_AT_ONCE = 200
"""Clusters shown before others have their turn."""
_DEFAULT_PAGE = 500
_EMPTY = cluster_pb2.Selector()

Context = grpc.aio.ServicerContext[Any, Any]


class Sender(Protocol):
    """Sends a command to one cluster, as a dispatch of this controller."""

    async def send(self, entry: ClusterEntry, command: command_pb2.Command, caller: str) -> str: ...

    async def settled(self, dispatch_id: str, timeout: float) -> bool: ...

    def check(self, dispatch_id: str) -> None:
        """Raises what the cluster said if it did not do it."""
        ...


def find(core: Controller, name: str) -> ClusterEntry:
    """The cluster of that name. Errors: NotFound (CLUSTER_NOT_FOUND)."""
    entry = core.registry.find(name) if name else None
    if entry is None:
        raise NotFound(
            "CLUSTER_NOT_FOUND", f"no cluster {name!r} is known to {core.ctx.name}; see 'ote-ctl cluster list'"
        )
    return entry


def select(core: Controller, selector: cluster_pb2.Selector, *, in_order: bool = False) -> list[ClusterEntry]:
    """Clusters that a selector matches, `in_order` of their names. Errors: InvalidArgument (INVALID_SELECTOR)."""
    if not selector.labels and is_name(selector.clusters):
        holder = core.registry.name_holder(selector.clusters)
        return [core.registry.entries[holder]] if holder is not None else []
    compiled = compile_selector(selector.clusters, selector.labels)
    entries = core.registry.in_order() if in_order else core.registry.entries.values()
    return [entry for entry in compiled.select(entries) if _selectable(core, entry)]


def _selectable(core: Controller, entry: ClusterEntry) -> bool:
    return core.registry.state(entry.uid) != NAME_CONFLICT


class ClusterServicer(cluster_pb2_grpc.ClusterServiceServicer):
    """`hub` holds the entries by uid; `sender` carries changes to their clusters."""

    def __init__(
        self,
        shell: Shell,
        views: ClusterViews,
        details: ClusterDetails,
        hub: WatchHub[str, ClusterEntry],
        sender: Sender,
        status: Callable[[], StatusReport],
    ) -> None:
        self._shell = shell
        self._core = shell.core
        self._views = views
        self._details = details
        self._hub = hub
        self._sender = sender
        self._status = status

    async def GetCluster(
        self, request: cluster_pb2.GetClusterRequest, context: Context
    ) -> cluster_pb2.GetClusterResponse:
        return cluster_pb2.GetClusterResponse(cluster=await self._details.view(find(self._core, request.name)))

    async def ListClusters(
        self, request: cluster_pb2.ListClustersRequest, context: Context
    ) -> cluster_pb2.ListClustersResponse:
        selector = request.selector
        everything = selector == _EMPTY
        entries = self._core.registry.in_order() if everything else select(self._core, selector, in_order=True)
        page, token = page_of(
            entries,
            by_name,
            size=request.page_size,
            token=request.page_token,
            scope=f"{selector.clusters}\n{selector.labels}",
            default=_DEFAULT_PAGE,
            most=_MAX_PAGE,
        )
        response = cluster_pb2.ListClustersResponse(next_page_token=token, total=len(entries))
        known = self._core.registry.entries
        for some in range(0, len(page), _AT_ONCE):
            batch = page[some : some + _AT_ONCE]
            response.clusters.extend(self._views.cluster(entry) for entry in batch if entry.uid in known)
            await asyncio.sleep(0)
        return response

    async def WatchClusters(
        self, request: cluster_pb2.WatchClustersRequest, context: Context
    ) -> AsyncIterator[cluster_pb2.WatchClustersResponse]:
        match = self._matcher(request.selector)
        async for change in self._hub.watch(request.resume_token, match=match):
            response = cluster_pb2.WatchClustersResponse(resume_token=change.token)
            if change.kind is ChangeKind.PUT and change.value is not None:
                response.put.CopyFrom(self._views.cluster(change.value))
            elif change.kind is ChangeKind.REMOVED:
                response.removed = change.key or ""
            else:
                response.bookmark.CopyFrom(cluster_pb2.Bookmark())
            yield response

    def _matcher(self, selector: cluster_pb2.Selector) -> Callable[[ClusterEntry], bool] | None:
        if selector == _EMPTY:
            return None
        compiled: Selector = compile_selector(selector.clusters, selector.labels)
        return lambda entry: compiled.matches(entry) and _selectable(self._core, entry)

    async def UpdateCluster(
        self, request: cluster_pb2.UpdateClusterRequest, context: Context
    ) -> cluster_pb2.UpdateClusterResponse:
        entry = find(self._core, request.name)
        for key, value in request.labels.items():
            check_label_key(key)
            check_label_value(value)
        for tag in request.tags:
            check_tag(tag)
        if not (request.labels or request.remove_labels or request.tags or request.remove_tags):
            raise InvalidArgument("NOTHING_TO_DO", "name labels or tags to set or to remove")
        facts = command_pb2.SetFacts(
            labels=request.labels,
            remove_labels=request.remove_labels,
            tags=request.tags,
            remove_tags=request.remove_tags,
        )
        peer = peer_of(context)
        command = command_pb2.Command(set_facts=facts)
        dispatch_id = await self._sender.send(entry, command, f"{peer.role}/{peer.name}")
        settled = await self._sender.settled(dispatch_id, _SETTLE)
        if settled:
            self._sender.check(dispatch_id)
            await asyncio.sleep(0)
        return cluster_pb2.UpdateClusterResponse(
            cluster=self._views.cluster(find(self._core, entry.uid)),
            dispatch=f"{self._core.ctx.name}/{dispatch_id}",
            settled=settled,
        )

    async def EvictCluster(
        self, request: cluster_pb2.EvictClusterRequest, context: Context
    ) -> cluster_pb2.EvictClusterResponse:
        uid = self._uid_to_evict(request.name)
        if uid == self._core.ctx.uid:
            raise FailedPrecondition("CANNOT_EVICT_SELF", "a controller cannot evict itself; ask one above it")
        uid, orphans, delivered = await self._shell.request(lambda number: ev.Evict(number, uid))
        return cluster_pb2.EvictClusterResponse(uid=uid, orphans=sorted(orphans), delivered=delivered)

    def _uid_to_evict(self, name: str) -> str:
        """A root that was set back does not know all that it once took: below it they are known, and named by uid."""
        if self._core.parents.is_root and is_uid(name) and self._core.registry.find(name) is None:
            return name
        return find(self._core, name).uid

    async def GetControllerStatus(
        self, request: cluster_pb2.GetControllerStatusRequest, context: Context
    ) -> cluster_pb2.GetControllerStatusResponse:
        return self._status().response()


def by_name(entry: ClusterEntry) -> str:
    """Sorts clusters for lists and their pages."""
    return f"{entry.name}\n{entry.uid}"
