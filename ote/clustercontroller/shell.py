"""Carries out what the core decides: the only place where its effects meet sockets, disk, time and the shim.

What lives here: the inbox, the barrier, links, timers, requests and their answers. What does not: any decision. The one
idea: everything runs on one loop; an event is handled to its end before the next, its effects are queue operations that
never wait, and what must wait for the disk is kept with the commit that it waits for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import grpc.aio
import msgspec
import structlog
from google.protobuf.message import DecodeError

from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2, route_pb2_grpc
from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.controller import Controller
from ote.clustercontroller.lanes import OWED, Budget
from ote.clustercontroller.tunnel import ChildLink, Link, ParentLink
from ote.model.errors import BY_CODE, Internal, OteError
from ote.rpc.channel import knock
from ote.rpc.peer import Peer
from ote.runtime.clock import Clock
from ote.store import sqlite as store

_PROBE_TIMEOUT = 2.0
_PROBE_BYTES = 4096
_RETRY_COMMIT = 1.0
_MAX_ANSWERING = 256
_MAX_LOOKING_UP = 4
"""Look-ups that are answered at once: a child that floods with them gets BUSY, and takes no more of the loop."""
_AT_ONCE = frozenset({fx.Put, fx.Remove, fx.WakeAt})
"""Done at once, whatever barrier stands before them, so that they happen in the order of the events."""
_SAID_AGAIN = frozenset({m.Deliver, m.Deliveries, m.Revoke, m.Report, m.Reports, m.Ack})
"""What its ends say again until it is answered: while the disk fails it is not kept for the time when it does not."""
_LAZY = 0.02
"""Seconds for which writes wait that nobody waits for, but the acknowledgement of a result: they go with the next
commit that somebody waits for, if one comes so soon, and do not stand in its way."""

_OUTCOMES = {name.removeprefix("OUTCOME_"): number for name, number in command_pb2.Outcome.items()}
"""By the state of a target; how one ended whose outcome is unknown nobody can say."""
_AFTER_FAULT = 1.0
"""Seconds after which the core is woken where it could not say when it wants to be."""
_PAUSE = 0.001
"""Seconds between two commits while more than one event waits for each: they become fewer and larger, and so do the
frames that follow them. A single one never waits."""


class Dialer(Protocol):
    """Opens channels to members of the tree."""

    async def connect(self, candidate: m.Alternate) -> grpc.aio.Channel: ...


class Shim(Protocol):
    """The way to this cluster's shim."""

    def execute(self, effect: fx.Execute) -> None: ...

    def cancel(self, key: str) -> None: ...


class Payloads(Protocol):
    """Large bodies: on disk, and on their way."""

    def fetch(self, key: str, payload: m.Payload) -> None: ...

    def drop(self, key: str) -> None: ...

    def serve(self, link: int, payload: m.Payload) -> None: ...


class Watchers(Protocol):
    """Whom to tell of changes."""

    def clusters_changed(self, uids: Sequence[str]) -> None: ...

    def target_changed(self, dispatch_id: str, uid: str, settled: bool) -> None: ...


Answerer = Callable[[fx.Ask], Awaitable[bytes]]
"""Answers another controller's question; raises OteError."""


Count = Callable[[str, tuple[str, ...], float], None]
"""Adds to a metric: its name, label values, and how much."""


class Shell:
    """Runs one core. `post` may be called from the loop at any time; `request` awaits the answer of an event."""

    shim: Shim
    payloads: Payloads
    watchers: Watchers
    answer: Answerer
    look_ups: frozenset[str]
    """Questions that are answered from memory."""

    def __init__(self, core: Controller, disk: store.Store, clock: Clock, dialer: Dialer) -> None:
        self.core = core
        self.links: dict[int, Link] = {}
        self.budget = Budget()
        self.exit: asyncio.Future[fx.Exit] = asyncio.get_running_loop().create_future()
        self.commit_error: str = ""
        self.commit_failed_at = 0.0
        """Since when, while there is an error."""
        self.count: Count = lambda name, labels, value: None
        self._disk = disk
        self._clock = clock
        self._dialer = dialer
        self._loop = asyncio.get_running_loop()
        self._log = structlog.get_logger("ote.clustercontroller")
        self._inbox: deque[ev.Event] = deque()
        self._busy = False
        self._writes: list[store.Write] = []
        self._after_commit: list[Sequence[fx.Effect]] = []
        self._urgent = False
        """Somebody waits for what has gathered."""
        self._flush_later: asyncio.TimerHandle | None = None
        self._in_flight: list[store.Write] | None = None
        """What is being committed."""
        self._timer: asyncio.TimerHandle | None = None
        self._requests: dict[int, Callable[[Any, Exception | None], None]] = {}
        """Who is told of an answer, by the number of the request."""
        self._last_request = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._answering = {False: 0, True: 0}
        """Questions of other controllers that are being answered, by whether they are look-ups."""
        self._encode = msgspec.msgpack.Encoder().encode
        self._effects: dict[type, Callable[[Any], None]] = {
            fx.Put: lambda e: self._writes.append(store.Put(e.table, e.key, self._encode(e.value))),
            fx.Remove: lambda e: self._writes.append(store.Remove(e.table, e.key)),
            fx.Send: self._send,
            fx.CloseLink: self._close_link,
            fx.Dial: self._dial,
            fx.Probe: lambda e: self.spawn(self._probe(e.candidate), "probe"),
            fx.WakeAt: self._wake_at,
            fx.Execute: lambda e: self.shim.execute(e),
            fx.ExecuteHere: self._execute_here,
            fx.FinishHere: self._finish_here,
            fx.CancelExecution: lambda e: self.shim.cancel(e.key),
            fx.FetchPayload: lambda e: self.payloads.fetch(e.key, e.payload),
            fx.DropPayload: lambda e: self.payloads.drop(e.key),
            fx.ServePayload: self._serve_payload,
            fx.ClustersChanged: lambda e: self.watchers.clusters_changed(e.uids),
            fx.TargetChanged: lambda e: self.watchers.target_changed(e.dispatch_id, e.uid, e.settled),
            fx.Answer: self._answer,
            fx.Ask: self._ask,
            fx.Exit: self._exit,
            fx.Count: lambda e: self.count(e.name, e.labels, e.value),
            fx.Log: lambda e: getattr(self._log, e.level)(e.message, **e.fields),
        }

    # --- events ---------------------------------------------------------------------------------------------------

    def post(self, event: ev.Event) -> None:
        """Let something happen."""
        self._inbox.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._inbox:
                event = self._inbox.popleft()
                try:
                    effects = self.core.handle(event, self._clock.now())
                except Exception as failure:  # whatever a peer sent, the others must not suffer from our fault
                    effects = self._fault(event, failure)
                self._execute(effects)
        finally:
            self._busy = False

    def _fault(self, event: ev.Event, failure: Exception) -> list[fx.Effect]:
        """The core failed on an event: a fault of ours. What it came by ends, all else goes on."""
        self._log.error("the core failed", on=type(event).__name__, exc_info=failure)
        effects = self.core.failed()
        asked = event.submits if isinstance(event, ev.SubmitMany) else [event]
        for number in [number for one in asked if (number := getattr(one, "request", None)) is not None]:
            effects.append(fx.Answer(number, error=Internal("INTERNAL", "an internal fault; the log has more")))
        link = getattr(event, "link", None)
        effects.append(fx.WakeAt(self._clock.now() + _AFTER_FAULT))
        if isinstance(event, ev.FromChild | ev.FromParent | ev.ChildHello) and link in self.links:
            self.links.pop(link).close("INTERNAL")
            self._inbox.append(ev.LinkLost(link, "an internal fault"))
        return effects

    def look(self) -> Controller:
        """The core, to be read as of now."""
        self.core.ctx.now = self._clock.now()
        return self.core

    async def request(self, make: Callable[[int], ev.Event]) -> Any:
        """Post the event that `make` makes of a request number, and return the core's answer or raise its error."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def answered(value: Any, error: Exception | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)

        number = self._expect(answered)
        try:
            self.post(make(number))
            return await future
        finally:
            self._requests.pop(number, None)

    def submit(self, events: list[ev.Submit], answered: Callable[[ev.Submit, Exception | None], None]) -> None:
        """Post several dispatches as one event; `answered` is called for each, with the error when it is refused."""
        for event in events:
            event.request = self._expect(lambda _, error, event=event: answered(event, error))  # type: ignore[misc]
        self.post(ev.SubmitMany(events))

    def _expect(self, answered: Callable[[Any, Exception | None], None]) -> int:
        self._last_request += 1
        self._requests[self._last_request] = answered
        return self._last_request

    async def ask(self, uid: str, method: str, body: bytes) -> bytes:
        """Ask another controller ("" is the root). Errors: its own, Unavailable (NO_ROUTE), DeadlineExceeded."""
        reply: m.Reply = await self.request(lambda number: ev.Asked(number, uid, method, body))
        if reply.code != "OK":
            raise BY_CODE.get(reply.code, OteError)(reply.reason, reply.message)
        return reply.body

    def spawn(self, work: Awaitable[None], name: str) -> None:
        """Run something in the background until it ends, or the shell does."""
        task: asyncio.Task[None] = asyncio.ensure_future(work)
        task.set_name(name)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_done)

    async def stop(self) -> None:
        """End all background work; the core is not used after."""
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._flush_later is not None:
            self._flush_later.cancel()
        # With what is being committed, which may fail: nothing is to be there without what was written before it.
        self._disk.submit([*(self._in_flight or ()), *self._writes], lambda error: None)

    def _spawned_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._log.error("background task failed", task=task.get_name(), exc_info=failure)

    # --- effects --------------------------------------------------------------------------------------------------

    def _execute(self, effects: Sequence[fx.Effect]) -> None:
        late: list[fx.Effect] | None = None
        for effect in effects:
            kind = type(effect)
            if kind is fx.Barrier:
                if late is None and (self._writes or self._in_flight is not None):
                    late = []
            elif late is not None and kind not in _AT_ONCE:
                if not (self.commit_error and isinstance(effect, fx.Send) and type(effect.item) in _SAID_AGAIN):
                    late.append(effect)
            else:
                try:
                    self._effects[kind](effect)
                except Exception as failure:  # such as a number that no message holds: all else goes on
                    self._log.error("an effect failed", effect=kind.__name__, exc_info=failure)
        if late is not None:
            self._after_commit.append(late)
        if self._writes or self._after_commit:
            self._plan_flush(late is not None and not all(map(_can_wait, late)))

    def _plan_flush(self, urgent: bool) -> None:
        if urgent and not self._urgent:
            self._urgent = True
            if self._in_flight is None:
                self._loop.call_soon(self._flush)
        elif not urgent and self._flush_later is None:
            self._flush_later = self._loop.call_later(_LAZY, self._flush)

    def _flush(self) -> None:
        """Commit what has gathered; while a commit is under way it goes with the next, so that they stay in order."""
        if self._flush_later is not None:
            self._flush_later.cancel()
            self._flush_later = None
        if self._in_flight is not None:
            self._urgent = True
            return
        self._urgent = False
        if not (self._writes or self._after_commit):
            return
        writes = self._in_flight = self._writes
        self._writes = []
        waiting, self._after_commit = self._after_commit, []
        self._commit(writes, waiting)

    def _commit(self, writes: list[store.Write], waiting: list[Sequence[fx.Effect]]) -> None:
        def done(error: BaseException | None) -> None:
            self._loop.call_soon_threadsafe(self._committed, writes, waiting, error)

        self._disk.submit(writes, done)

    def _committed(
        self, writes: list[store.Write], waiting: list[Sequence[fx.Effect]], error: BaseException | None
    ) -> None:
        if error is not None:
            if not self.commit_error:
                self.commit_failed_at = self._clock.now()
                self._log.error("cannot write to disk, trying again", error=str(error))
            self.commit_error = str(error)
            self._writes = list({(write.table, write.key): write for write in self._writes}.values())
            self._loop.call_later(_RETRY_COMMIT, self._commit, writes, waiting)
            return
        self.commit_error = ""
        self._in_flight = None
        busy, self._busy = self._busy, True
        try:
            for effects in waiting:
                self._execute(effects)
        finally:
            self._busy = busy
        if self._urgent and len(waiting) > 1:
            self._loop.call_later(_PAUSE, self._flush)
        elif self._urgent:
            self._flush()
        if self._inbox and not self._busy:
            self.post(self._inbox.popleft())

    def _send(self, effect: fx.Send) -> None:
        link = self.links.get(effect.link)
        if link is not None and not link.send(effect.item) and type(effect.item) in OWED:
            self._inbox.append(ev.LaneFull(effect.link, effect.item))

    def _serve_payload(self, effect: fx.ServePayload) -> None:
        if effect.link in self.links:  # else nobody would ever say that it has ended
            self.payloads.serve(effect.link, effect.payload)

    def _close_link(self, effect: fx.CloseLink) -> None:
        link = self.links.pop(effect.link, None)
        if link is not None:
            link.close(effect.reason)

    def _wake_at(self, effect: fx.WakeAt) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, effect.at - self._clock.now())
        self._timer = self._loop.call_later(delay, self.post, ev.Wake())

    def _answer(self, effect: fx.Answer) -> None:
        answered = self._requests.pop(effect.request, None)
        if answered is not None:
            answered(effect.value, effect.error)

    def _exit(self, effect: fx.Exit) -> None:
        if not self.exit.done():
            self.exit.set_result(effect)

    # --- links ----------------------------------------------------------------------------------------------------

    def child_link(self, peer: Peer) -> ChildLink:
        """A link for a child's Connect call, known from now on."""
        link = ChildLink(self.core.ctx.new_link(), self.post, self.budget, peer)
        self.links[link.number] = link
        return link

    def links_of(self, uid: str) -> set[int]:
        """Numbers of the links of a child."""
        return {number for number, link in self.links.items() if isinstance(link, ChildLink) and link.peer_uid == uid}

    def forget_link(self, number: int) -> None:
        """The link has ended."""
        self.links.pop(number, None)

    def _dial(self, effect: fx.Dial) -> None:
        link = ParentLink(
            effect, self.post, self.budget, lambda: self._dialer.connect(effect.candidate), self.forget_link
        )
        self.links[link.number] = link
        self.spawn(link.run(), f"tunnel to {effect.candidate.name}")

    async def _probe(self, candidate: m.Alternate) -> None:
        channel: grpc.aio.Channel | None = None
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT):
                await knock(candidate.address)
            channel = await self._dialer.connect(candidate)
            stub: Any = route_pb2_grpc.RouteServiceStub(channel)
            answer = await stub.Probe(route_pb2.ProbeRequest(padding=bytes(_PROBE_BYTES)), timeout=_PROBE_TIMEOUT)
        except (grpc.aio.AioRpcError, OteError, TimeoutError) as error:
            self.post(ev.ProbeFailed(candidate, _reason(error)))
            return
        finally:
            if channel is not None:
                await channel.close()
        standing = m.Standing(answer.standing.beat, answer.standing.depth)
        self.post(ev.ProbeAnswered(candidate, standing, answer.connected, answer.draining))

    # --- the controller's own commands ----------------------------------------------------------------------------

    def _execute_here(self, effect: fx.ExecuteHere) -> None:
        try:
            command = command_pb2.Command.FromString(effect.body)
        except DecodeError:
            message = f"what came as {effect.command} cannot be read here"
            self._finish_here(fx.FinishHere(effect.key, "FAILED", "INTERNAL", message))
            return
        if effect.command == "set_facts":
            facts = command.set_facts
            self._inbox.append(
                ev.FactsChange(
                    effect.key,
                    dict(facts.labels),
                    list(facts.remove_labels),
                    list(facts.tags),
                    list(facts.remove_tags),
                )
            )
        else:
            drain = command.drain
            timeout = drain.timeout.seconds + drain.timeout.nanos / 1e9 if drain.HasField("timeout") else 30.0
            now_ms = round(self._clock.wall() * 1000)
            self._inbox.append(ev.DrainAsked(effect.key, drain.off, timeout, now_ms))

    def _finish_here(self, effect: fx.FinishHere) -> None:
        result = command_pb2.Result(
            outcome=_OUTCOMES.get(effect.state, command_pb2.OUTCOME_UNSPECIFIED),
            reason=effect.reason,
            message=effect.message,
        )
        self._inbox.append(ev.ShimResult(effect.key, effect.state, result.SerializeToString()))

    # --- questions of other controllers ---------------------------------------------------------------------------

    def _ask(self, ask: fx.Ask) -> None:
        quick = ask.method in self.look_ups
        if self._answering[quick] >= (_MAX_LOOKING_UP if quick else _MAX_ANSWERING):
            self.post(ev.Answered(ask.id, ask.from_uid, "UNAVAILABLE", "BUSY", "too many questions at once; try again"))
            return
        self._answering[quick] += 1
        self.spawn(self._asked(ask), "answer")

    async def _asked(self, ask: fx.Ask) -> None:
        try:
            body = await self.answer(ask)
        except OteError as error:
            self.post(ev.Answered(ask.id, ask.from_uid, error.code, error.reason, error.message))
        except (ValueError, DecodeError, msgspec.MsgspecError):
            self.post(ev.Answered(ask.id, ask.from_uid, "INVALID_ARGUMENT", "BAD_FRAME", "not a question of that kind"))
        else:
            self.post(ev.Answered(ask.id, ask.from_uid, "OK", body=body))
        finally:
            self._answering[ask.method in self.look_ups] -= 1


def _can_wait(effect: fx.Effect) -> bool:
    return type(effect) is fx.Send and type(effect.item) is m.Ack


def _reason(error: grpc.aio.AioRpcError | OteError | TimeoutError) -> str:
    if isinstance(error, OteError):
        return error.message
    if isinstance(error, TimeoutError):
        return "nobody answers"
    return f"{error.code().name}: {error.details()}"
