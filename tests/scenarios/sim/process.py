"""One controller's process: its core, and a shell that does what the real one does, in virtual time."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.controller import Controller
from ote.clustercontroller.lanes import OWED
from tests.scenarios.sim.disk import Disk, Writer
from tests.scenarios.sim.links import Link
from tests.scenarios.sim.shim import Shim

if TYPE_CHECKING:
    from tests.scenarios.sim.world import Site, World

_SHIM_RETRY = 0.5
_COMMITS = (0.0005, 0.012)
_PROBE_TIMEOUT = 2.0


def key_of(uid: str) -> bytes:
    """The public key of a member. What is signed with it is known to nobody else by convention."""
    return b"key:" + uid.encode()


def verify(key: bytes, statement: bytes, signature: bytes) -> bool:
    return signature == b"signed:" + key + statement


class Process:
    """From `start` until it is killed or exits. `ends`: its links by number; `answers`: of its requests."""

    def __init__(self, world: World, site: Site, disk: Disk, instance: str) -> None:
        self.world = world
        self.site = site
        self.name = site.member
        self.uid = site.uid
        self.instance = instance
        self.alive = True
        self.died_at = 0.0
        self.asleep = False
        self.exited = ""
        self.ends: dict[int, Link] = {}
        self.dialled: dict[int, Link] = {}
        self.answers: dict[int, fx.Answer] = {}
        self.logs: deque[fx.Log] = deque(maxlen=400)
        self._requests = 0
        self._waiting: dict[int, Callable[[fx.Answer], None]] = {}
        self._inbox: deque[ev.Event] = deque()
        self._busy = False
        self._asleep_inbox: deque[ev.Event] = deque()
        self._timer = 0
        self._commits_at = 0.0
        self._writer = Writer(disk, self._act, self._commit)
        ctx = Context(
            uid=self.uid,
            name=self.name,
            instance=instance,
            public_key=key_of(self.uid),
            settings=world.settings,
            rng=world.child_rng(),
            sign=lambda text: b"signed:" + key_of(self.uid) + text,
            verify=verify,
            software="sim",
            now=self.clock(),
        )
        facts = m.Facts(
            labels=dict(site.labels),
            tags=list(site.tags),
            configured_parent=site.parent.member if site.parent else "",
            advertise=site.address,
        )
        home = None
        if site.parent is not None:
            home = m.Alternate(site.parent.member if site.knows_parent else "", "", site.parent.address)
        self.core = Controller(ctx, home=home, facts=facts, tables=disk.load(), has_shim=site.shim is not None)
        self._handlers: dict[type, Callable[[Any], None]] = {
            fx.Send: self._send,
            fx.CloseLink: self._close_link,
            fx.Dial: self._dial,
            fx.Probe: self._probe,
            fx.WakeAt: self._wake_at,
            fx.Execute: self._execute,
            fx.ExecuteHere: self._execute_here,
            fx.FinishHere: lambda e: self._inbox.append(ev.ShimResult(e.key, e.state, e.reason.encode())),
            fx.CancelExecution: self._cancel,
            fx.FetchPayload: self._fetch,
            fx.Answer: self._answer,
            fx.Ask: self._asked,
            fx.Exit: self._exit,
            fx.Log: self._log,
            fx.TargetChanged: self._target_changed,
        }

    def start(self) -> None:
        self.post(ev.Started())
        if self.site.shim is not None:
            self.world.after(self.world.rng.uniform(0.005, 0.1), self.find_shim)

    def clock(self) -> float:
        """The machine's monotonic clock."""
        return self.world.now + self.site.clock_offset

    # --- events ---------------------------------------------------------------------------------------------------

    def post(self, event: ev.Event) -> None:
        """Let something happen; later, if the process is stopped."""
        if not self.alive:
            return
        if self.asleep:
            self._asleep_inbox.append(event)
            return
        self._inbox.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._inbox and self.alive:
                event = self._inbox.popleft()
                effects = self.core.handle(event, self.clock())
                self._writer.execute(effects)
                self.world.handled(self, event)
        finally:
            self._busy = False

    def request(self, make: Callable[[int], ev.Event], done: Callable[[fx.Answer], None] | None = None) -> int:
        """Post an event that is answered; the answer is kept, and given to `done`."""
        self._requests += 1
        number = self._requests
        if done is not None:
            self._waiting[number] = done
        self.post(make(number))
        return number

    def sleep(self) -> None:
        self.asleep = True

    def wake(self) -> None:
        """Go on, with all that has come meanwhile."""
        self.asleep = False
        waiting, self._asleep_inbox = self._asleep_inbox, deque()
        for event in waiting:
            self.post(event)

    def die(self, silent: bool) -> None:
        """End at once. `silent`: nobody is told (the machine is off)."""
        self.alive = False
        self.died_at = self.world.now
        self._writer.lose()
        ends = list(self.ends.items())
        self.ends.clear()
        for number, link in ends:
            end = link.end_of(self, number)
            if end is not None:
                link.dead(end, silent)

    # --- effects --------------------------------------------------------------------------------------------------

    def _act(self, effect: fx.Effect) -> None:
        handler = self._handlers.get(type(effect))
        if handler is not None:
            handler(effect)
            if self._inbox and not self._busy:
                self.post(self._inbox.popleft())

    def _commit(self, done: Callable[[], None]) -> None:
        """Commits end in the order in which they began."""
        at = max(self._commits_at, self.world.now + self.world.rng.uniform(*_COMMITS))
        self._commits_at = at
        self.world.at(at, done)

    def _dial(self, effect: fx.Dial) -> None:
        self.dialled[effect.link] = Link(self.world, self, effect)

    def parent(self) -> Process | None:
        """The process that this one believes to be its parent."""
        active = self.core.parents.active_link
        link = self.dialled.get(active) if active is not None else None
        return link.parent.process if link is not None and link.parent is not None else None

    def _send(self, effect: fx.Send) -> None:
        link = self.ends.get(effect.link)
        end = link.end_of(self, effect.link) if link is not None else None
        if link is None or end is None:
            return
        item = effect.item
        if link.send(end, item) or type(item) not in OWED:
            return
        if not (isinstance(item, m.News) and self.world.chance(self.world.silent)):
            self._inbox.append(ev.LaneFull(effect.link, item))

    def _close_link(self, effect: fx.CloseLink) -> None:
        link = self.ends.get(effect.link)
        end = link.end_of(self, effect.link) if link is not None else None
        if link is not None and end is not None:
            link.close(end)

    def _wake_at(self, effect: fx.WakeAt) -> None:
        self._timer += 1
        timer = self._timer
        at = max(self.world.now, effect.at - self.site.clock_offset + 1e-9)

        def ring() -> None:
            if timer == self._timer:
                self.post(ev.Wake())

        self.world.at(at, ring)

    def _probe(self, effect: fx.Probe) -> None:
        world, candidate = self.world, effect.candidate
        site = world.site_at(candidate.address)
        delay = 2 * world.latency(self.site.name, site.name if site else "")
        failed = ev.ProbeFailed(candidate, "no answer")
        if site is None or site.off or not world.passes(self.site, site, both=True):
            world.after(_PROBE_TIMEOUT, lambda: self.post(failed))
            return

        def arrive() -> None:
            process = site.process
            if process is None or candidate.name not in ("", process.name):
                self.post(failed)
            elif process.asleep:
                world.after(_PROBE_TIMEOUT, lambda: self.post(failed))
            else:
                process.core.ctx.now = process.clock()
                parents, children = process.core.parents, process.core.children
                answer = ev.ProbeAnswered(candidate, parents.standing, parents.connected, children.draining)
                world.after(delay / 2, lambda: self.post(answer))

        world.after(delay, arrive)

    def _answer(self, effect: fx.Answer) -> None:
        self.answers[effect.request] = effect
        done = self._waiting.pop(effect.request, None)
        if done is not None:
            done(effect)

    def _asked(self, effect: fx.Ask) -> None:
        answer = ev.Answered(effect.id, effect.from_uid, "OK", body=effect.body)
        self.world.after(0.002, lambda: self.post(answer))

    def _exit(self, effect: fx.Exit) -> None:
        self.exited = effect.reason
        self.world.exit(self, effect)

    def _log(self, effect: fx.Log) -> None:
        self.logs.append(effect)
        self.world.logged(self, effect)

    def _target_changed(self, effect: fx.TargetChanged) -> None:
        self.world.target_changed(self, effect)

    # --- the shim, and the controller's own commands ---------------------------------------------------------------

    @property
    def _shim(self) -> Shim:
        assert self.site.shim is not None, "a cluster without shim executes nothing"
        return self.site.shim

    def find_shim(self) -> None:
        """The shim is reachable (again)."""
        if self._shim.up:
            self.post(self._shim.info())
        else:
            self.world.after(_SHIM_RETRY, self.find_shim)

    def _execute(self, effect: fx.Execute) -> None:
        def arrive() -> None:
            if not self._shim.up:
                self.post(ev.ShimLost(effect.key, "the shim is not reachable"))
            elif effect.payload is not None and self.world.chance(self.world.full):
                self.post(ev.PayloadLost(effect.key, "somebody removed it"))
            elif self.alive:
                self._shim.execute(effect, self)

        self.world.after(0.001, arrive)

    def _cancel(self, effect: fx.CancelExecution) -> None:
        def arrive() -> None:
            if self.alive and self._shim.up:
                self._shim.cancel(effect.key)

        self.world.after(0.001, arrive)

    def _execute_here(self, effect: fx.ExecuteHere) -> None:
        body = json.loads(effect.body)
        if effect.command == "drain":
            self._inbox.append(ev.DrainAsked(effect.key, body["off"], body.get("timeout", 30.0)))
        else:
            self._inbox.append(ev.FactsChange(effect.key, body.get("labels", {}), [], body.get("tags", []), []))

    def _fetch(self, effect: fx.FetchPayload) -> None:
        def ended() -> None:
            parents = self.core.parents
            reachable = parents.is_root or parents.active_link is not None
            if reachable and not self.world.chance(self.world.full):
                self.post(ev.PayloadReady(effect.key))
            else:
                self.post(ev.PayloadFailed(effect.key, "the parent is gone", final=False, absent=reachable))

        self.world.after(self.world.rng.uniform(0.01, 0.6), ended)
