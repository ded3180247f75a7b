"""One controller put together: identity, disk, core, shell, shim, services; started, and stopped in the right order.

Nothing is decided here. The one idea: what was started last ends first, and what works in the background ends before
anything that it works on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import grpc.aio
import structlog

from ote.api.cluster.v1 import cluster_pb2_grpc
from ote.api.trust.v1 import trust_pb2_grpc
from ote.clustercontroller.admission import Admission
from ote.clustercontroller.answers import LOOK_UPS, Answers
from ote.clustercontroller.beginning import ALL_TABLES, load_tables, load_tokens, make_core
from ote.clustercontroller.bulk import Uplink
from ote.clustercontroller.clusters import ClusterServicer
from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.controller import Controller
from ote.clustercontroller.core.entries import ClusterEntry
from ote.clustercontroller.details import ClusterDetails
from ote.clustercontroller.dispatches import Dispatches
from ote.clustercontroller.membership import console_of
from ote.clustercontroller.observe import Observer, Sources
from ote.clustercontroller.outputs import Outputs
from ote.clustercontroller.payloads import Payloads
from ote.clustercontroller.routes import PING, RouteServicer, add_routes
from ote.clustercontroller.settings import Settings
from ote.clustercontroller.shell import Shell
from ote.clustercontroller.shimlink import NoShim, ShimLink
from ote.clustercontroller.shimserving import BUILT_IN, BuiltInShim, StartShim, served, shim_channel
from ote.clustercontroller.starting import address_for_children, become_member, check_facts, own_folder, reserved
from ote.clustercontroller.status import StatusReport
from ote.clustercontroller.trust import Tree, TrustServicer
from ote.clustercontroller.tunnel import ParentLink
from ote.clustercontroller.wire.views import ClusterViews
from ote.model.errors import Unavailable
from ote.rpc.address import MAX_SOCKET_PATH, split_host_port
from ote.rpc.calllog import LogInterceptor
from ote.rpc.errors import ErrorInterceptor
from ote.rpc.policy import POLICY, PolicyInterceptor
from ote.rpc.server import Server
from ote.rpc.tls import TlsIdentity
from ote.runtime.clock import MonotonicClock
from ote.runtime.watch import WatchHub
from ote.store.sqlite import Store
from ote.telemetry.metrics import Metrics

_LAST_WORDS = 0.05
"""Seconds for which what was said last may leave before the links are cut."""

_log = structlog.get_logger("ote.clustercontroller")


class Node:
    """Runs from `start` to `stop`."""

    def __init__(self, settings: Settings, metrics: Metrics, start_shim: StartShim) -> None:
        self.settings = settings
        self._metrics = metrics
        self._observer = Observer(metrics, scraped=settings.metrics_listen is not None)
        self._start_built_in = start_shim
        self._shim_address = settings.shim
        self._clock = MonotonicClock()
        self._resources = contextlib.AsyncExitStack()
        self._background: list[asyncio.Task[None]] = []
        self._shim: ShimLink | NoShim = NoShim()

    # --- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> str:
        """Join or found if need be, load, serve. Returns the bound address.

        Errors: whatever the operator has to mend; see the modules of each part.
        """
        async with contextlib.AsyncExitStack() as resources:
            await self._start(resources)
            self._resources = resources.pop_all()
        return self.address

    async def _start(self, resources: contextlib.AsyncExitStack) -> None:
        settings = self.settings
        check_facts(settings)
        self.address = resources.enter_context(reserved(settings.listen))
        resources.enter_context(own_folder(settings.data_dir))
        self.membership = await become_member(settings)
        store = Store.open(settings.data_dir / "store.db", tables=ALL_TABLES)
        resources.callback(store.close)
        self._build(store)
        if self.membership.authority is not None and not self.advertise:
            _log.warning("takes no children: start it with --advertise HOST:PORT")
        if self.membership.member.parent_address == "":
            self._write_admin_context()
        self._server = await self._serve(resources, self.address, self.membership.tls)
        self.membership.changed = lambda: self._server.reload_tls(self.membership.tls)
        console = console_of(settings.data_dir)
        if len(str(console)) <= MAX_SOCKET_PATH:
            await self._serve(resources, f"unix:{console}", None)
        resources.push_async_callback(self.shell.stop)
        resources.push_async_callback(self.payloads.stop)
        built_in = await self._serve_built_in(resources)
        resources.push_async_callback(self._end_background)
        self.shell.post(ev.Started())
        self._keep_payloads()
        if built_in is not None:
            self._run(built_in.failed(), "built-in shim")
        if isinstance(self._shim, ShimLink):
            self._run(self._shim.run(), "shim")
        self._run(self.payloads.keep_clean(), "payloads")
        self._run(self.membership.keep_fresh(lambda: self.shell.core.parents.parent, self._renewed), "renew")
        if settings.metrics_listen:
            from ote.telemetry.http import TelemetryServer  # late: who is not scraped saves 1.6 MB

            host, port = split_host_port(settings.metrics_listen)
            self._run(TelemetryServer(host, port, self._metrics, self.status.not_ready).run(), "telemetry")

    async def _serve_built_in(self, resources: contextlib.AsyncExitStack) -> BuiltInShim | None:
        """Start the built-in shim, if there is to be one."""
        kind = self.settings.shim
        if kind not in BUILT_IN:
            return None
        shim = await self._start_built_in(kind, self.settings.data_dir / "shim")
        self._shim_address = await resources.enter_async_context(served(shim))
        return shim

    def _keep_payloads(self) -> None:
        """Of those on disk, keep what dispatches still need."""
        for dispatch in self.shell.core.origin.newest():
            if dispatch.row.payload is not None and not dispatch.settled:
                self.payloads.hold(dispatch.row.id, dispatch.row.payload)
        self.payloads.sweep(0.0)

    async def stop(self) -> list[str]:
        """Move the children away, leave the parent, then end. Returns names of children that had nowhere to go."""
        grace = self.settings.stop_grace
        stayed: list[str] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace + 2):
                stayed = await self.shell.request(lambda number: ev.Stop(number, grace))
        await asyncio.sleep(_LAST_WORDS)
        await self._resources.aclose()
        return stayed

    @property
    def exit(self) -> asyncio.Future[fx.Exit]:
        """Done when the core wants the process to end."""
        return self.shell.exit

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._background_ended)
        self._background.append(task)

    def _background_ended(self, task: asyncio.Task[None]) -> None:
        """Nothing of it ends by itself: where one does, the process had better end too, and say why."""
        if not task.cancelled() and (failure := task.exception()) is not None and not self.exit.done():
            self.exit.set_result(fx.Exit("BACKGROUND_FAILED", f"{task.get_name()}: {failure}"))

    async def _end_background(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def _write_admin_context(self) -> None:
        path = self.settings.data_dir / "admin.yaml"
        if not path.exists():
            from ote.clustercontroller.people import write_person_context  # late: nobody else needs YAML

            write_person_context(path, self.membership, "admin", self.advertise or self.address)
            _log.info("admin context written", path=str(path))

    @property
    def advertise(self) -> str:
        """Address for children; empty when there may be none."""
        return address_for_children(self.settings, self.membership, self.address)

    def _renewed(self) -> None:
        if self.membership.member.parent_address:
            self.shell.post(ev.Renewed())

    # --- building -------------------------------------------------------------------------------------------------

    def _build(self, store: Store) -> None:
        settings = self.settings
        tables = load_tables(store)
        core = make_core(settings, self.membership, tables, self.advertise, self._clock)
        self.shell = Shell(core, store, self._clock, self.membership)
        self.uplink = Uplink(
            self._parent_channel, self._ping_parent, self.shell.budget.traffic, lambda: core.parents.is_root
        )
        self.payloads = Payloads(settings.data_dir / "payloads", self.shell.post, self.uplink)
        self.outputs = Outputs(lambda: core.ctx.uid, self.uplink)
        for key_, journal in tables["journal"].items():
            if journal.payload is not None:
                self.payloads.hold(key_, journal.payload)
        views = ClusterViews(core.registry, core.load.details, self._wall, lambda: core.parents.path)
        self._details = ClusterDetails(self.shell, views)
        self.hub: WatchHub[str, ClusterEntry] = WatchHub(
            core.ctx.instance, get=core.registry.get, keys=lambda: core.registry.entries
        )
        self.dispatches = Dispatches(self.shell, self.payloads, self.outputs, self._clock)
        if settings.shim != "none":
            self._shim = ShimLink(
                lambda: shim_channel(self._shim_address, self.membership), self.shell.post, self, self._observer
            )
        self.status = StatusReport(
            self.shell,
            self.membership,
            views,
            self._clock,
            self._wall,
            self._shim,
            self._clock.wall(),
        )
        count = self._observer.count
        self._admission = Admission(core, lambda: self.membership.host, self.shell.ask, self.shell.spawn)
        self._trust = TrustServicer(self.membership, self._tree(core), store, self._clock, load_tokens(store), count)
        self.shell.count = count
        self.shell.shim = self._shim
        self.shell.payloads = self.payloads
        self.shell.watchers = self
        answers = Answers(core.ctx.name, self.dispatches, self._trust, self._admission, self._details)
        self.shell.answer = answers.answer
        self.shell.look_ups = LOOK_UPS
        self._views = views
        self._observer.watch(self._sources())

    def _sources(self) -> Sources:
        shim = self._shim
        return Sources(
            shell=self.shell,
            membership=self.membership,
            payloads=self.payloads,
            uplink=self.uplink,
            dispatches=self.dispatches,
            watchers=lambda: self.hub.watchers,
            shim_error=lambda: None if isinstance(shim, NoShim) else shim.error,
            now=self._clock.now,
        )

    async def _serve(self, resources: contextlib.AsyncExitStack, address: str, tls: TlsIdentity | None) -> Server:
        server = self._make_server(address, tls)
        await server.start()
        resources.push_async_callback(server.stop, 0.5)
        return server

    def _make_server(self, address: str, tls: TlsIdentity | None) -> Server:
        interceptors = [
            LogInterceptor(self._metrics.rpc_observer(POLICY)),
            ErrorInterceptor(),
            PolicyInterceptor(POLICY, self._admission.admit),
        ]
        server = Server(address, tls=tls, interceptors=interceptors)
        server.add(
            cluster_pb2_grpc.add_ClusterServiceServicer_to_server,
            ClusterServicer(self.shell, self._views, self._details, self.hub, self.dispatches, lambda: self.status),
            "ote.api.cluster.v1.ClusterService",
        )
        server.add(
            add_routes,
            RouteServicer(self.shell, self.dispatches, self.payloads, self.outputs, self._no_children),
            "ote.api.route.v1.RouteService",
        )
        server.add(trust_pb2_grpc.add_TrustServiceServicer_to_server, self._trust, "ote.api.trust.v1.TrustService")
        return server

    def _no_children(self) -> str:
        if self.advertise:
            return ""
        return f"{self.membership.member.name} takes no children: it was started, or enrolled, without --advertise"

    def _tree(self, core: Controller) -> Tree:
        registry = core.registry

        def uid_of_host(host: str) -> str | None:
            uid = host.split(".", 1)[0]
            known = uid in registry.entries or any(step.uid == uid for step in core.parents.path)
            return uid if known else None

        return Tree(
            holder=registry.name_holder,
            key_of=self._admission.key_of,
            evicted=lambda uid: uid in registry.evicted,
            uid_of_host=uid_of_host,
            below_of_host=lambda host: uid if registry.is_below(uid := host.split(".", 1)[0]) else None,
            connected=lambda: core.parents.connected,
            ask=self.shell.ask,
            advertise=lambda: self.advertise,
            takes_children=lambda uid: (entry := registry.get(uid)) is not None and bool(entry.facts.advertise),
        )

    # --- what the parts ask ---------------------------------------------------------------------------------------

    def _wall(self, at: float) -> float:
        return self._clock.wall() - (self._clock.now() - at)

    def _parent_link(self) -> ParentLink | None:
        link = self.shell.links.get(self.shell.core.parents.active_link or -1)
        return link if isinstance(link, ParentLink) else None

    def _parent_channel(self) -> grpc.aio.Channel | None:
        link = self._parent_link()
        return link.channel if link is not None else None

    async def _ping_parent(self) -> None:
        link = self._parent_link()
        if link is None:
            raise Unavailable("NO_ROUTE", "there is no parent at the moment")
        try:
            await self.shell.ask(link.peer_uid, PING, b"")
        except Unavailable as error:
            if error.reason != "BUSY":  # which is an answer, too
                raise

    def clusters_changed(self, uids: Sequence[str]) -> None:
        self._observer.clusters_changed(uids)
        for uid in uids:
            self.hub.changed(uid)
        self.dispatches.clusters_changed(uids)

    def target_changed(self, dispatch_id: str, uid: str, settled: bool) -> None:
        self.dispatches.changed(dispatch_id, uid, settled)
        if settled:
            self.payloads.drop(dispatch_id)

    def path(self, payload: m.Payload) -> Path:
        return self.payloads.path(payload)

    async def push_output(self, key: str, output: bytes) -> None:
        origin, _, dispatch_id = key.partition("/")
        await self.outputs.push(origin, dispatch_id, self.membership.member.uid, output)
