"""One controller put together: identity, disk, core, shell, shim, services; started, and stopped in the right order.

Nothing is decided here. The one idea: everything that can fail for a reason of the operator's (names, tokens,
addresses, a folder in use) fails before the core begins, with a sentence that says what next.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import secrets
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import grpc.aio
import msgspec
import structlog

import ote
from ote.api.cluster.v1 import cluster_pb2_grpc
from ote.api.route.v1 import route_pb2
from ote.api.shim.v1 import shim_pb2_grpc
from ote.api.trust.v1 import trust_pb2_grpc
from ote.clustercontroller.admission import KEY_OF, Admission
from ote.clustercontroller.clusters import ClusterServicer
from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import Context, CoreSettings
from ote.clustercontroller.core.controller import Controller
from ote.clustercontroller.core.entries import ClusterEntry
from ote.clustercontroller.core.records import SELF_ROWS, TABLES
from ote.clustercontroller.dispatches import CANCEL_DISPATCH, GET_DISPATCH, Dispatches
from ote.clustercontroller.membership import Membership, console_of
from ote.clustercontroller.observe import Observer, Sources
from ote.clustercontroller.payloads import Outputs, Payloads
from ote.clustercontroller.routes import PING, RouteServicer, add_routes
from ote.clustercontroller.settings import Settings
from ote.clustercontroller.shell import Shell
from ote.clustercontroller.shimlink import NoShim, ShimLink
from ote.clustercontroller.status import StatusReport
from ote.clustercontroller.trust import ENROL, RESERVE, TokenRow, Tree, TrustServicer
from ote.clustercontroller.tunnel import ParentLink
from ote.clustercontroller.wire.views import ClusterViews
from ote.model.errors import FailedPrecondition, InvalidArgument, Unsupported
from ote.model.names import check_label_key, check_label_value, check_name, check_tag
from ote.pki import sign_statement, verify_statement
from ote.rpc.address import MAX_SOCKET_PATH, is_unix, join_host_port, split_host_port
from ote.rpc.calllog import LogInterceptor
from ote.rpc.channel import open_channel
from ote.rpc.errors import ErrorInterceptor
from ote.rpc.policy import POLICY, PolicyInterceptor
from ote.rpc.server import Server
from ote.rpc.tls import TlsIdentity
from ote.runtime.clock import MonotonicClock
from ote.runtime.watch import WatchHub
from ote.store.sqlite import Store
from ote.telemetry.http import TelemetryServer
from ote.telemetry.metrics import Metrics

_log = structlog.get_logger("ote.clustercontroller")


@dataclass(slots=True)
class BuiltInShim:
    """A started shim of this process, to be served to its own controller on a unix socket like a stranger's."""

    servicer: shim_pb2_grpc.ShimServiceServicer
    options: Sequence[tuple[str, int]]
    stop: Callable[[], Awaitable[None]]
    failed: Callable[[], Coroutine[Any, Any, None]]
    """Returns never; raises what ended its work."""


StartShim = Callable[[str, Path], Awaitable[BuiltInShim]]
"""Starts the built-in shim of a kind (process, podman) on a folder."""


class Node:
    """Runs from `start` to `stop`."""

    def __init__(self, settings: Settings, metrics: Metrics, start_shim: StartShim) -> None:
        self.settings = settings
        self._metrics = metrics
        self._observer = Observer(metrics, scraped=settings.metrics_listen is not None)
        self._start_built_in = start_shim
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
        self.address = _bindable(settings.listen)
        _make_folder(settings.data_dir)
        resources.enter_context(_only_one(settings.data_dir))
        for key, value in settings.label.items():
            check_label_key(key)
            check_label_value(value)
        for tag in settings.tag:
            check_tag(tag)
        self.membership = await self._become_member()
        store = Store.open(settings.data_dir / "store.db", tables=["self", "tokens", *TABLES])
        resources.callback(store.close)
        self._build(store)
        if self.membership.member.parent_address == "":
            self._write_admin_context()
        self._server = await self._serve(resources, self.address, self.membership.tls)
        self.membership.changed = lambda: self._server.reload_tls(self.membership.tls)
        console = console_of(settings.data_dir)
        if len(str(console)) <= MAX_SOCKET_PATH:
            await self._serve(resources, f"unix:{console}", None)
        resources.push_async_callback(self._end_background)
        resources.push_async_callback(self.shell.stop)
        self.shell.post(ev.Started())
        self._keep_payloads()
        if not isinstance(self._shim, NoShim):
            await self._start_shim(resources)
        self._run(self.payloads.keep_clean(), "payloads")
        self._run(self.membership.keep_fresh(lambda: self.shell.core.parents.parent, self._renewed), "renew")
        if settings.metrics_listen:
            host, port = split_host_port(settings.metrics_listen)
            self._run(TelemetryServer(host, port, self._metrics, self.status.not_ready).run(), "telemetry")

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
        await asyncio.sleep(0.05)
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

    # --- identity -------------------------------------------------------------------------------------------------

    async def _become_member(self) -> Membership:
        settings = self.settings
        known = (settings.data_dir / "identity" / "member.json").exists()
        if not known and not settings.name:
            raise InvalidArgument("MISSING_SETTING", "--name is needed at the first start")
        if settings.name:
            check_name(settings.name)
        membership = Membership.open(settings.data_dir, settings.name, settings.certificate_lifetime)
        if not membership.joined:
            if settings.parent is None:
                membership.found()
                _log.info("tree founded", cluster=membership.member.name, uid=membership.member.uid)
            elif not settings.join_token:
                raise FailedPrecondition(
                    "JOIN_TOKEN_NEEDED",
                    f"{membership.member.name} is no member yet: add --join-token; 'ote-ctl token create' makes one",
                )
            else:
                await membership.join(
                    settings.parent, settings.join_token, wants_children=settings.advertise is not None
                )
                _log.info("joined", cluster=membership.member.name, parent=membership.member.parent_name)
        elif settings.parent is not None:
            if not membership.member.parent_address:
                raise FailedPrecondition(
                    "ROOT_HAS_NO_PARENT",
                    f"{settings.data_dir} is a root, which cannot be put under another controller: "
                    "take another --data-dir, or remove this one if its tree is not needed",
                )
            membership.set_home(settings.parent)
        return membership

    def _write_admin_context(self) -> None:
        path = self.settings.data_dir / "admin.yaml"
        if not path.exists():
            from ote.clustercontroller.people import write_person_context  # late: nobody else needs YAML

            write_person_context(path, self.membership, "admin", self.advertise or self.address)
            _log.info("admin context written", path=str(path))

    @property
    def advertise(self) -> str:
        """Address for children; empty when there may be none."""
        if self.settings.advertise:
            return self.settings.advertise if self.membership.authority is not None else ""
        is_root = self.membership.member.parent_address == ""
        return self.address if is_root and not _unspecified(self.address) else ""

    def _renewed(self) -> None:
        if self.membership.member.parent_address:
            self.shell.post(ev.Renewed())

    # --- building -------------------------------------------------------------------------------------------------

    def _build(self, store: Store) -> None:
        settings, member = self.settings, self.membership.member
        tables = _load(store)
        key = self.membership.key
        ctx = Context(
            uid=member.uid,
            name=member.name,
            instance=secrets.token_hex(8),
            public_key=self.membership.public_key,
            settings=_core_settings(settings),
            rng=_Random(),
            sign=lambda statement: sign_statement(key, statement),
            verify=verify_statement,
            software=ote.__version__,
            now=self._clock.now(),
        )
        facts = m.Facts(
            labels=dict(settings.label),
            tags=sorted(set(settings.tag)),
            configured_parent=member.parent_name,
            advertise=self.advertise,
            shim_kind="" if settings.shim == "none" else "unknown",
        )
        allowed = frozenset(settings.allow) if settings.allow else None
        core = Controller(
            ctx,
            home=self.membership.home(),
            facts=facts,
            tables=tables,
            allowed=allowed,
            has_shim=settings.shim != "none",
        )
        self.shell = Shell(core, store, self._clock, self.membership)
        traffic = self.shell.budget.traffic
        self.payloads = Payloads(settings.data_dir / "payloads", self.shell.post, self._parent_channel, traffic)
        self.outputs = Outputs(lambda: ctx.uid, self._parent_channel, traffic)
        for key_, journal in tables["journal"].items():
            if journal.payload is not None:
                self.payloads.hold(key_, journal.payload)
        views = ClusterViews(core.registry, self._wall, lambda: core.parents.path)
        self.hub: WatchHub[str, ClusterEntry] = WatchHub(
            ctx.instance, get=core.registry.get, items=lambda: list(core.registry.entries.items())
        )
        self.dispatches = Dispatches(self.shell, self.payloads, self.outputs, self._clock)
        if settings.shim != "none":
            self._shim = ShimLink(self._shim_channel, self.shell.post, self, self._observer)
        self.status = StatusReport(
            self.shell,
            self.membership,
            views,
            self._clock,
            self._wall,
            lambda: self._shim.error,
            self._clock.wall(),
        )
        count = self._observer.count
        self._admission = Admission(core, lambda: self.membership.host, self.shell.ask, self.shell.spawn)
        self._trust = TrustServicer(self.membership, self._tree(core), store, self._clock, _tokens(store), count)
        self.shell.count = count
        self.shell.shim = self._shim
        self.shell.payloads = self.payloads
        self.shell.watchers = self
        self.shell.answer = self._answer
        self._views = views
        self._observer.watch(self._sources())

    def _sources(self) -> Sources:
        shim = self._shim
        return Sources(
            shell=self.shell,
            membership=self.membership,
            payloads=self.payloads,
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
            ClusterServicer(self.shell, self._views, self.hub, self.dispatches, lambda: self.status),
            "ote.api.cluster.v1.ClusterService",
        )
        server.add(
            add_routes,
            RouteServicer(self.shell, self.dispatches, self.payloads, self.outputs, self._clock, self._no_children),
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

    def _parent_channel(self) -> grpc.aio.Channel | None:
        link = self.shell.links.get(self.shell.core.parents.active_link or -1)
        return link.channel if isinstance(link, ParentLink) else None

    def clusters_changed(self, uids: Sequence[str]) -> None:
        self._observer.clusters_changed(uids)
        for uid in uids:
            self.hub.changed(uid)

    def target_changed(self, dispatch_id: str, uid: str, settled: bool) -> None:
        self.dispatches.changed(dispatch_id, uid, settled)
        if settled:
            self.payloads.drop(dispatch_id)

    def path(self, payload: m.Payload) -> Path:
        return self.payloads.path(payload)

    async def push_output(self, key: str, output: bytes) -> None:
        origin, _, dispatch_id = key.partition("/")
        await self.outputs.push(origin, dispatch_id, self.membership.member.uid, output)

    async def _answer(self, ask: fx.Ask) -> bytes:
        if ask.method == PING:
            return b""
        if ask.method == GET_DISPATCH:
            wanted = route_pb2.GetDispatchRequest.FromString(ask.body).dispatch
            shown = self.dispatches.shown_to(wanted, ask.from_uid)
            return route_pb2.GetDispatchResponse(dispatch=shown).SerializeToString()
        if ask.method == CANCEL_DISPATCH and ask.from_above:
            wanted = route_pb2.CancelDispatchRequest.FromString(ask.body).dispatch
            dispatch = await self.dispatches.cancel(wanted)
            return route_pb2.CancelDispatchResponse(dispatch=dispatch).SerializeToString()
        if ask.method == ENROL:
            return await self._trust.handed_on(ask.body)
        if ask.method == RESERVE:
            name, uid = msgspec.msgpack.decode(ask.body, type=tuple[str, str])
            self._trust.reserve_for(ask.from_uid, name, uid)
            return b""
        if ask.method == KEY_OF:
            return self._admission.key_of(ask.body.decode("ascii", "replace"))
        raise Unsupported("UNSUPPORTED", f"{self.membership.member.name} does not answer {ask.method} from there")

    # --- shim -----------------------------------------------------------------------------------------------------

    def _shim_channel(self) -> grpc.aio.Channel:
        address = self._shim_address
        if is_unix(address):
            return open_channel(address, options=_SHIM_OPTIONS)
        host, _ = split_host_port(address)
        if host in ("127.0.0.1", "localhost", "::1"):
            return open_channel(address, options=_SHIM_OPTIONS)
        name = f"{self.membership.member.name}.shim.ote"
        return open_channel(address, tls=self.membership.tls, server_name=name, options=_SHIM_OPTIONS)

    async def _start_shim(self, resources: contextlib.AsyncExitStack) -> None:
        kind = self.settings.shim
        self._shim_address = kind
        if kind in ("process", "podman"):
            self._shim_address = await resources.enter_async_context(self._serve_built_in(kind))
        link = self._shim
        assert isinstance(link, ShimLink)
        self._run(link.run(), "shim")

    @contextlib.asynccontextmanager
    async def _serve_built_in(self, kind: str) -> AsyncIterator[str]:
        shim = await self._start_built_in(kind, self.settings.data_dir / "shim")
        folder = tempfile.mkdtemp(prefix="ote-")
        address = f"unix:{folder}/shim.sock"
        server = Server(address, interceptors=[ErrorInterceptor()], options=shim.options)
        server.add(shim_pb2_grpc.add_ShimServiceServicer_to_server, shim.servicer, "ote.api.shim.v1.ShimService")
        await server.start()
        self._run(shim.failed(), "built-in shim")
        try:
            yield address
        finally:
            await server.stop(0.5)
            await shim.stop()
            with contextlib.suppress(OSError):
                os.rmdir(folder)


_SHIM_OPTIONS = (("grpc.max_receive_message_length", 20 * 1024 * 1024),)
"""Outputs of reads come whole."""


class _Random(random.Random):
    """Ids are the system's random bits; for jitter its own generator is good enough, and does not call the system."""

    def getrandbits(self, k: int, /) -> int:
        return secrets.randbits(k)


def _load(store: Store) -> dict[str, dict[str, Any]]:
    decode = msgspec.msgpack.decode
    tables: dict[str, dict[str, Any]] = {
        table: {key: decode(value, type=kind) for key, value in store.load(table)} for table, kind in TABLES.items()
    }
    tables["self"] = {key: decode(value, type=SELF_ROWS[key]) for key, value in store.load("self") if key in SELF_ROWS}
    return tables


def _tokens(store: Store) -> list[TokenRow]:
    return [msgspec.msgpack.decode(value, type=TokenRow) for _, value in store.load("tokens")]


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


def _bindable(address: str) -> str:
    """The address, with a free port instead of 0, if it can be listened on. Errors: FailedPrecondition."""
    host, port = split_host_port(address)
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            return join_host_port(host, probe.getsockname()[1])
    except OSError as error:
        raise FailedPrecondition("ADDRESS_NOT_USABLE", f"cannot listen on {address}: {error.strerror}") from None


def _make_folder(data_dir: Path) -> None:
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (data_dir / "lock").touch()
    except OSError as error:
        raise FailedPrecondition("DATA_DIR_NOT_USABLE", f"cannot use {data_dir}: {error.strerror}") from None


def _unspecified(address: str) -> bool:
    return split_host_port(address)[0] in ("0.0.0.0", "::")


@contextlib.contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Errors: FailedPrecondition (DATA_DIR_IN_USE)."""
    file: IO[str] = (data_dir / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise FailedPrecondition("DATA_DIR_IN_USE", f"another controller runs on {data_dir}: stop it first") from None
    try:
        yield
    finally:
        file.close()
