"""Dispatches as their callers see them: submitted, watched until they are settled, looked up here or at their origin.

What lives here: turning requests into the core's events and the core's rows into streams. What does not: any rule about
dispatches (the core's origin). The one idea: a watcher is told only which target changed and reads its newest state
when it gets there, so a slow one skips what is outdated and holds up nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError

from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.clustercontroller.clusters import select
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.entries import ClusterEntry
from ote.clustercontroller.core.origin_state import OriginDispatch
from ote.clustercontroller.core.records import TargetRow
from ote.clustercontroller.core.states import (
    AWAY,
    CHANGES,
    CONTROLLER_COMMANDS,
    FINAL,
    OFFLINE,
    RUNNING,
    SENT,
)
from ote.clustercontroller.lanes import MAX_ITEM
from ote.clustercontroller.outputs import Outputs
from ote.clustercontroller.payloads import Payloads, check
from ote.clustercontroller.shell import Shell
from ote.clustercontroller.wire import views
from ote.clustercontroller.wire.codec import decode_payload
from ote.model.durations import check_duration
from ote.model.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)
from ote.model.selectors import compile_selector
from ote.rpc.peer import Peer, Role
from ote.runtime.clock import Clock

GET_DISPATCH = "/ote.api.route.v1.RouteService/GetDispatch"
CANCEL_DISPATCH = "/ote.api.route.v1.RouteService/CancelDispatch"
_TTL = 3600.0
_MAX_INLINE = 1024 * 1024
"""A larger command comes by PutPayload."""
_FRAME_ROOM = 24 * 1024
_TARGET_BYTES = 96
_SMALL = 2 * 1024
_MAX_OUTPUTS = 2 * 1024 * 1024
"""Bytes of outputs that one answer takes."""
_MAX_SHOWN_OUTPUT = 64 * 1024
_MAX_SHOWN_OUTPUTS = 128 * 1024
"""A larger output, and more of them, are shown at their origin only."""
_NAMED = 3
"""Names that nobody has and that are told."""
_FOLLOW = 1.0
"""Seconds between two looks at another origin's dispatch that is watched from here."""
_GATHER = 0.01
"""Seconds for which changes gather after several came at once: fewer events, with more in each."""
_SEVERAL = 8
_HEX = frozenset("0123456789abcdef")


class Listener(Protocol):
    """Is told of every change of a target of the dispatches that it listens to."""

    def target_changed(self, dispatch_id: str, uid: str, settled: bool) -> None: ...


@dataclass(slots=True, eq=False)
class Watcher:
    """Which targets changed since they were last looked at."""

    changed: dict[str, None] = field(default_factory=dict)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    def target_changed(self, dispatch_id: str, uid: str, settled: bool) -> None:
        self.changed[uid] = None
        self.wake.set()
        if settled:
            self.settled.set()

    async def gather(self) -> None:
        """Let changes gather for a moment, unless the last one is there."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GATHER):
                await self.settled.wait()


class Dispatches:
    """The dispatches of this controller as origin, and a way to those of others."""

    def __init__(self, shell: Shell, payloads: Payloads, outputs: Outputs, clock: Clock) -> None:
        self._shell = shell
        self._core = shell.core
        self._payloads = payloads
        self._outputs = outputs
        self._clock = clock
        self._listeners: dict[str, tuple[Listener, ...]] = {}
        self._pins: dict[int, str] = {}
        """What keeps the payloads of requests that are not answered yet, by the identity of their event."""

    # --- submitting -----------------------------------------------------------------------------------------------

    async def submit(self, request: route_pb2.DispatchRequest, peer: Peer) -> str:
        """Accept a dispatch; it will not be forgotten when this returns its id. Errors: those of
        RouteService.Dispatch."""
        event = await self.prepare(request, peer)

        def numbered(number: int) -> ev.Submit:
            event.request = number
            return event

        try:
            await self._shell.request(numbered)
        finally:
            self._hold(event)
        return event.dispatch_id

    def submit_all(self, events: list[ev.Submit], answered: Callable[[str, Exception | None], None]) -> None:
        """Accept several at once; `answered` is called for each with its id, and the error when it is refused."""

        def answer(event: ev.Submit, error: Exception | None) -> None:
            self._hold(event)
            answered(event.dispatch_id, error)

        self._shell.submit(events, answer)

    async def prepare(self, request: route_pb2.DispatchRequest, peer: Peer) -> ev.Submit:
        """What the core is asked, without a number; submitted by the caller, or given up. Waits for the disk when the
        command is large. Errors: as `submit`."""
        check_id(request.dispatch_id)
        ttl = _seconds("ttl", request.ttl) if request.HasField("ttl") else _TTL
        timeout = _seconds("timeout", request.timeout) if request.HasField("timeout") else 0.0
        payload = self._named(request)
        pin = self._payloads.pin(payload) if payload is not None else None
        try:
            command, body = (await self._kind_of(payload), b"") if payload is not None else _inline(request)
            if peer.role is Role.VIEWER:
                _check_viewer(command, request)
            entries = self._targets(request, command)
            if payload is None and not fits(len(body), len(entries)):
                payload, pin = await self._payloads.keep(body)
        except BaseException:
            if pin is not None:
                self._payloads.unpin(pin)
            raise
        event = ev.Submit(
            request=0,
            dispatch_id=request.dispatch_id,
            digest=_digest(request),
            command=command,
            inline=body if payload is None else None,
            payload=payload,
            targets=[ev.SubmitTarget(entry.uid, entry.name) for entry in entries],
            ttl=ttl,
            timeout=timeout,
            caller=f"{peer.role}/{peer.name}",
            clusters=request.selector.clusters,
            labels=request.selector.labels,
            created=self._clock.wall(),
        )
        if pin is not None:
            self._pins[id(event)] = pin
        return event

    def give_up(self, events: Iterable[ev.Submit]) -> None:
        """What was prepared will not be submitted."""
        for event in events:
            self._hold(event)

    def _hold(self, event: ev.Submit) -> None:
        """The dispatch, if there is one that is not settled, holds its payload from now on, in place of the request."""
        dispatch = self._core.origin.dispatch(event.dispatch_id)
        if dispatch is not None and not dispatch.settled and dispatch.row.payload is not None:
            self._payloads.hold(event.dispatch_id, dispatch.row.payload)
        if (pin := self._pins.pop(id(event), None)) is not None:
            self._payloads.unpin(pin)

    async def send(self, entry: ClusterEntry, command: command_pb2.Command, caller: str) -> str:
        """Send a command of the controller's own API to one cluster. Returns the dispatch id."""
        dispatch_id = self._core.ctx.new_id()
        body = command.SerializeToString()
        await self._shell.request(
            lambda number: ev.Submit(
                request=number,
                dispatch_id=dispatch_id,
                digest=hashlib.sha256(body).digest(),
                command=command.WhichOneof("kind") or "",
                inline=body,
                payload=None,
                targets=[ev.SubmitTarget(entry.uid, entry.name)],
                ttl=_TTL,
                timeout=0.0,
                caller=caller,
                clusters=entry.name,
                created=self._clock.wall(),
            )
        )
        return dispatch_id

    async def settled(self, dispatch_id: str, timeout: float) -> bool:
        """Whether all targets are final, at the latest after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                async for _ in self.changes(dispatch_id):
                    pass
        except TimeoutError:
            return False
        return True

    def check(self, dispatch_id: str) -> None:
        """Errors: FailedPrecondition (TARGET_FAILED) when a target did not end SUCCEEDED, in the cluster's words."""
        for target in self.get(dispatch_id).targets:
            if target.state != route_pb2.TARGET_STATE_SUCCEEDED:
                state = route_pb2.TargetState.Name(target.state).removeprefix("TARGET_STATE_")
                words = ": ".join(filter(None, (target.cluster, state, target.reason, target.message)))
                raise FailedPrecondition("TARGET_FAILED", words)

    def _named(self, request: route_pb2.DispatchRequest) -> m.Payload | None:
        """The payload that a request names."""
        if request.WhichOneof("body") != "payload":
            return None
        payload = decode_payload(request.payload)
        check(payload)
        return payload

    async def _kind_of(self, payload: m.Payload) -> str:
        """The command that a payload is."""
        if not self._payloads.has(payload):
            raise FailedPrecondition("PAYLOAD_MISSING", "send the payload by PutPayload first, to this controller")
        kind = await asyncio.to_thread(_kind_in, self._payloads.path(payload))
        if kind is None:
            raise InvalidArgument("NO_COMMAND", "the payload is not a command of a kind that is known here")
        return kind

    def _targets(self, request: route_pb2.DispatchRequest, command: str) -> Sequence[ClusterEntry]:
        """Clusters that are meant. For a shim's command a pattern does not mean those without one; a name does."""
        known = self._core.origin.dispatch(request.dispatch_id)
        if known is not None:
            return []
        if not (request.selector.clusters or request.selector.labels):
            raise InvalidArgument("INVALID_SELECTOR", "say which clusters are meant; '*' means all")
        entries = select(self._core, request.selector)
        if len(entries) == 1 and entries[0].name == request.selector.clusters:
            return entries
        named = compile_selector(request.selector.clusters, request.selector.labels).exact_names
        state = self._core.registry.state
        entries = [entry for entry in entries if entry.name in named or state(entry.uid) != AWAY]
        if command not in CONTROLLER_COMMANDS:
            entries = [entry for entry in entries if entry.name in named or not _has_no_shim(entry)]
        if not entries and not request.allow_no_match:
            raise NotFound("NO_MATCH", f"the selector matches {self._why_none(request, command)}")
        return entries

    def _why_none(self, request: route_pb2.DispatchRequest, command: str) -> str:
        """What no cluster is, and what to do."""
        what = "no cluster" if command in CONTROLLER_COMMANDS else "no cluster with a shim"
        names = compile_selector(request.selector.clusters, request.selector.labels).exact_names
        for entry in self._core.registry.entries.values() if names else ():
            for tag in names & set(entry.tags):
                return f"{what}; {tag} is a tag: write -l {tag}"
        unknown = [name for name in sorted(names) if self._core.registry.find(name) is None]
        called = f": none here is called {' or '.join(unknown[:_NAMED])}" if unknown else ""
        return f"{what}{called}; 'ote-ctl cluster list' shows all, and with --explain NAME why one is not meant"

    # --- watching -------------------------------------------------------------------------------------------------

    @property
    def watchers(self) -> int:
        """How many calls wait for changes of dispatches."""
        return sum(map(len, self._listeners.values()))

    def changed(self, dispatch_id: str, uid: str, settled: bool) -> None:
        """A target changed."""
        for listener in self._listeners.get(dispatch_id, ()):
            listener.target_changed(dispatch_id, uid, settled)

    def clusters_changed(self, uids: Sequence[str]) -> None:
        """Clusters went, moved or came back: what is shown of targets that were sent to them is not the same."""
        moved = dict.fromkeys(uids)
        for dispatch_id in self._listeners:
            dispatch = self._core.origin.dispatch(dispatch_id)
            targets = dispatch.targets if dispatch is not None else {}
            few, many = (targets, moved) if len(targets) < len(moved) else (moved, targets)
            for uid in [uid for uid in few if uid in many]:
                if targets[uid].row.state in (SENT, RUNNING):
                    self.changed(dispatch_id, uid, settled=False)

    def listen(self, dispatch_id: str, listener: Listener) -> None:
        """Tell `listener` of every change from now on, until `leave`."""
        self._listeners[dispatch_id] = (*self._listeners.get(dispatch_id, ()), listener)

    def leave(self, dispatch_id: str, listener: Listener) -> None:
        """Tell it no more."""
        others = tuple(other for other in self._listeners.get(dispatch_id, ()) if other is not listener)
        if others:
            self._listeners[dispatch_id] = others
        else:
            self._listeners.pop(dispatch_id, None)

    async def changes(self, dispatch_id: str) -> AsyncIterator[list[TargetRow]]:
        """First all targets, then those that changed, until all are final. Errors: NotFound."""
        dispatch = self._core.origin.dispatch(dispatch_id)
        if dispatch is None:
            raise NotFound("DISPATCH_NOT_FOUND", f"{self._core.ctx.name} knows no dispatch {dispatch_id!r}")
        watcher, targets = Watcher(), dispatch.targets
        self.listen(dispatch_id, watcher)
        try:
            yield [target.row for target in targets.values()]
            while not dispatch.settled or watcher.changed:
                await watcher.wake.wait()
                watcher.wake.clear()
                changed, watcher.changed = watcher.changed, {}
                yield [targets[uid].row for uid in changed if uid in targets]
                if len(changed) >= _SEVERAL and not dispatch.settled:
                    await watcher.gather()
        finally:
            self.leave(dispatch_id, watcher)

    def targets(
        self, dispatch_id: str, rows: Iterable[TargetRow], room: int
    ) -> tuple[list[route_pb2.Target], list[TargetRow]]:
        """Targets as they are now, and the rows of those whose outputs are left out: all outputs take `room` bytes."""
        shown: list[route_pb2.Target] = []
        without: list[TargetRow] = []
        for row in rows:
            view = self.target(dispatch_id, row)
            if len(view.output) > room:
                view.ClearField("output")
                without.append(row)
            room -= len(view.output)
            shown.append(view)
        return shown, without

    def target(self, dispatch_id: str, row: TargetRow) -> route_pb2.Target:
        """One target as it is now, with its output."""
        view = views.target(row, self._outputs.get(dispatch_id, row.uid))
        if row.state not in (SENT, RUNNING):
            return view
        if self._core.registry.state(row.uid) in (OFFLINE, AWAY):
            view.message = "went away after it was sent; how it ended is asked for when it is back"
        elif self._waits_for_shim(dispatch_id, row.uid):
            view.message = "waits: the shim does not answer"
        return view

    def _waits_for_shim(self, dispatch_id: str, uid: str) -> bool:
        dispatch, cluster = self._core.origin.dispatch(dispatch_id), self._core.registry.get(uid)
        if dispatch is None or cluster is None or dispatch.row.command in CONTROLLER_COMMANDS:
            return False
        return cluster.facts.shim_silent_since_ms > 0

    # --- looking up -----------------------------------------------------------------------------------------------

    def split(self, name: str) -> tuple[str, str]:
        """(uid of the origin, id) of "ORIGIN/ID" or "ID". Errors: NotFound (DISPATCH_NOT_FOUND)."""
        origin, slash, dispatch_id = name.rpartition("/")
        check_id(dispatch_id)
        if not slash or origin in (self._core.ctx.name, self._core.ctx.uid):
            return self._core.ctx.uid, dispatch_id
        entry = self._core.registry.find(origin)
        if entry is not None:
            return entry.uid, dispatch_id
        for step in self._core.parents.path:
            if step.name == origin:
                return step.uid, dispatch_id
        raise NotFound("DISPATCH_NOT_FOUND", f"no controller {origin!r} is known to {self._core.ctx.name}")

    def get(self, dispatch_id: str) -> route_pb2.Dispatch:
        """A dispatch of this origin, with targets and as many of their outputs as one message takes.

        Errors: NotFound (DISPATCH_NOT_FOUND).
        """
        dispatch = self._core.origin.dispatch(dispatch_id)
        if dispatch is None:
            raise NotFound(
                "DISPATCH_NOT_FOUND",
                f"{self._core.ctx.name} knows no dispatch {dispatch_id!r}; see 'ote-ctl dispatch list'",
            )
        view = self.summary(dispatch)
        rows = (target.row for target in dispatch.targets.values())
        view.targets.extend(self.targets(dispatch_id, rows, _MAX_OUTPUTS)[0])
        return view

    def shown_to(self, dispatch_id: str, asker: str) -> route_pb2.Dispatch:
        """As `get`, for another controller, with the outputs for which there is room: one that is not above this one
        sees outputs of its own subtree only.

        Errors: NotFound, ResourceExhausted (ANSWER_TOO_LARGE) when it is more than a tunnel carries.
        """
        view = self.get(dispatch_id)
        if not any(step.uid == asker for step in self._core.parents.path):
            for target in view.targets:
                if not self._core.registry.is_at_or_below(target.uid, asker):
                    target.ClearField("output")
        room = _MAX_SHOWN_OUTPUTS
        for target in view.targets:
            if len(target.output) > min(room, _MAX_SHOWN_OUTPUT):
                target.ClearField("output")
            room -= len(target.output)
        if view.ByteSize() > MAX_ITEM // 2:
            raise ResourceExhausted(
                "ANSWER_TOO_LARGE", f"the dispatch is too large to be shown from afar: ask at {self._core.ctx.name}"
            )
        return view

    def summary(self, dispatch: OriginDispatch) -> route_pb2.Dispatch:
        """A dispatch of this origin without its targets."""
        return views.dispatch(self._core.ctx.name, dispatch.row, [target.row for target in dispatch.targets.values()])

    async def follow(self, origin: str, dispatch_id: str) -> AsyncIterator[route_pb2.Dispatch]:
        """Another origin's dispatch, asked for again and again until it is settled."""
        request = route_pb2.GetDispatchRequest(dispatch=dispatch_id).SerializeToString()
        while True:
            answer = await self.ask(origin, GET_DISPATCH, request)
            dispatch = route_pb2.GetDispatchResponse.FromString(answer).dispatch
            yield dispatch
            if dispatch.settled:
                return
            await asyncio.sleep(_FOLLOW)

    async def ask(self, uid: str, method: str, body: bytes) -> bytes:
        """Ask another controller. Errors: its own, Unavailable (NO_ROUTE)."""
        return await self._shell.ask(uid, method, body)

    async def cancel(self, dispatch_id: str) -> route_pb2.Dispatch:
        """End what is not final."""
        await self._shell.request(lambda number: ev.CancelDispatch(number, dispatch_id))
        return self.get(dispatch_id)


def _inline(request: route_pb2.DispatchRequest) -> tuple[str, bytes]:
    """(command, its bytes) of a request that has it inside."""
    if request.WhichOneof("body") != "command":
        raise InvalidArgument("NO_COMMAND", "the request has neither a command nor a payload")
    kind = request.command.WhichOneof("kind")
    if kind is None:
        raise InvalidArgument("NO_COMMAND", "the request has a command of a kind that is not known here")
    body = request.command.SerializeToString()
    if len(body) > _MAX_INLINE:
        raise ResourceExhausted("COMMAND_TOO_LARGE", "a command over 1 MiB is sent ahead by PutPayload, up to 16 MiB")
    return kind, body


def _check_viewer(command: str, request: route_pb2.DispatchRequest) -> None:
    """Errors: PermissionDenied (ROLE_NOT_ALLOWED)."""
    if command in CHANGES:
        raise PermissionDenied("ROLE_NOT_ALLOWED", f"a viewer may get and read logs, not {command}")
    if request.WhichOneof("body") != "command":
        raise PermissionDenied("ROLE_NOT_ALLOWED", "a viewer sends its commands in the request, not as a payload")
    if "secret" in request.command.get.kind.lower():  # however a shim may want its kinds to be written
        raise PermissionDenied(
            "ROLE_NOT_ALLOWED",
            "a viewer may not get Secrets: that needs a context of an operator ('admin-context --role operator')",
        )


def _kind_in(file: Path) -> str | None:
    """The kind of the command in a file, None where there is no such kind."""
    try:
        return command_pb2.Command.FromString(file.read_bytes()).WhichOneof("kind")
    except DecodeError:
        return None


def _has_no_shim(entry: ClusterEntry) -> bool:
    """Whether a cluster has told that it has no shim; one that has told nothing yet may have one."""
    return entry.facts.version > 0 and not entry.facts.shim_kind


def is_final(view: route_pb2.Target) -> bool:
    """Whether a target is settled."""
    return route_pb2.TargetState.Name(view.state).removeprefix("TARGET_STATE_") in FINAL


def check_id(dispatch_id: str) -> None:
    """Errors: InvalidArgument (INVALID_ID)."""
    if len(dispatch_id) != 32 or not _HEX.issuperset(dispatch_id):
        raise InvalidArgument("INVALID_ID", "a dispatch id is 32 hexadecimal digits in lower case, made by the caller")


def fits(body: int, targets: int) -> bool:
    """Whether a command travels inside its deliveries: a small one always, a larger one if all fits one frame."""
    return body <= _SMALL or body + targets * _TARGET_BYTES <= _FRAME_ROOM


def _digest(request: route_pb2.DispatchRequest) -> bytes:
    return hashlib.sha256(request.SerializeToString(deterministic=True)).digest()


def _seconds(name: str, duration: Duration) -> float:
    return check_duration(name, duration.seconds + duration.nanos / 1e9)
