"""Virtual time, machines, the net between them, and what a test can do to all of it.

A `Site` is a machine with a disk and at most one process; a member (name, uid) lives on it. Every random choice comes
from one seeded generator, so a seed is a history.
"""

from __future__ import annotations

import heapq
import json
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import CoreSettings
from ote.clustercontroller.core.states import CHANGES
from ote.clustercontroller.lanes import Lane
from tests.scenarios.sim.disk import Disk
from tests.scenarios.sim.process import Process
from tests.scenarios.sim.shim import Shim

_START = 1000.0


class Watcher(Protocol):
    """Who looks at everything that happens: checks, traces."""

    def handled(self, process: Process, event: ev.Event) -> None: ...

    def seen(self, sender: Process, receiver: Process, item: m.Item) -> None: ...

    def logged(self, process: Process, log: fx.Log) -> None: ...

    def exited(self, process: Process, effect: fx.Exit) -> None: ...

    def effect(self, shim: str, key: str) -> None: ...

    def target_changed(self, process: Process, effect: fx.TargetChanged) -> None: ...


@dataclass(eq=False)
class Site:
    """A machine. `member` is the name of the cluster on it; clones are sites of their own with the same member."""

    name: str
    member: str
    uid: str
    parent: Site | None
    address: str
    shim: Shim | None
    labels: dict[str, str] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    knows_parent: bool = True
    """The configured parent's name is known from the join; without, only its address is."""
    disk: Disk = field(default_factory=Disk)
    process: Process | None = None
    off: bool = False
    clock_offset: float = 0.0
    starts: int = 0
    snapshots: list[Disk] = field(default_factory=list)
    evicted: bool = False
    clone_of: Site | None = None
    exited: str = ""
    """Why its last process has ended itself."""

    def shim_away(self) -> None:
        """The shim's process dies."""
        assert self.shim is not None
        self.shim.restart()
        self.shim.up = False
        if self.process is not None:
            self.process.post(ev.ShimDown("the shim is gone"))

    def shim_back(self) -> None:
        """And is started again."""
        assert self.shim is not None
        self.shim.up = True
        if self.process is not None:
            self.process.find_shim()


@dataclass(eq=False)
class Submitted:
    """A dispatch as its caller knows it."""

    number: int
    origin: str
    """Uid."""
    id: str
    command: str
    targets: list[str]
    """Uids."""
    ttl: float
    accepted: bool = False
    refused: str = ""
    cancelled: bool = False

    @property
    def change(self) -> bool:
        return self.command in CHANGES


class World:
    """`full`: chance that a lane refuses what it may refuse. `silent`: chance that nobody is told that it was news, as
    with a stranger's controller, whose parent has to find out by the digests."""

    def __init__(self, seed: int = 0, settings: CoreSettings | None = None) -> None:
        self.rng = random.Random(seed)
        self.settings = settings or CoreSettings()
        self.now = _START
        self.sites: dict[str, Site] = {}
        self.cuts: dict[tuple[str, str], int] = defaultdict(int)
        self.dispatches: dict[tuple[str, str], Submitted] = {}
        self.full = 0.0
        self.silent = 0.0
        self.choked: set[tuple[str, str]] = set()
        """From whom to whom the registry's lane has no room at all."""
        self.slow = 0.02
        """Longest usual latency of a way, seconds."""
        self.watchers: list[Watcher] = []
        self.links_made = 0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._latencies: dict[tuple[str, str], float] = {}
        self._uids = 0
        self._addresses: dict[str, Site] = {}
        self._numbers = 0

    # --- time -----------------------------------------------------------------------------------------------------

    def at(self, time: float, call: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (max(time, self.now), self._count, call))

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self.at(self.now + seconds, call)

    def run(self, seconds: float) -> None:
        """Let this much time pass."""
        until = self.now + seconds
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, call = heapq.heappop(heap)
            call()
        self.now = until

    def run_until(self, holds: Callable[[], bool], within: float, step: float = 0.1) -> bool:
        """Let time pass until something holds; False when it does not within this time."""
        until = self.now + within
        while not holds():
            if self.now >= until:
                return False
            self.run(min(step, until - self.now))
        return True

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.rng.random() < probability

    def child_rng(self) -> random.Random:
        return random.Random(self.rng.getrandbits(64))

    # --- the net --------------------------------------------------------------------------------------------------

    def latency(self, a: str, b: str) -> float:
        """Of one frame now: the way's own, and some jitter."""
        way = (a, b) if a < b else (b, a)
        base = self._latencies.get(way)
        if base is None:
            base = self._latencies[way] = self.rng.uniform(0.0005, self.slow)
        return base * self.rng.uniform(1.0, 1.5)

    def delay_way(self, a: Site, b: Site, seconds: float) -> None:
        """From now on frames between the two take about this long."""
        self._latencies[min(a.name, b.name), max(a.name, b.name)] = seconds

    def passes(self, a: Site, b: Site, both: bool = False) -> bool:
        """Whether packets get from a to b (and back)."""
        return not self.cuts.get((a.name, b.name)) and not (both and self.cuts.get((b.name, a.name)))

    def cut(self, a: Site, b: Site, one_way: bool = False) -> None:
        """Packets from a to b get lost from now on; from b to a too, unless `one_way`."""
        self.cuts[a.name, b.name] = 1
        if not one_way:
            self.cuts[b.name, a.name] = 1

    def heal(self, a: Site, b: Site) -> None:
        """The way is free again, both ways."""
        self.cuts.pop((a.name, b.name), None)
        self.cuts.pop((b.name, a.name), None)
        self._resume()

    def heal_all(self) -> None:
        self.cuts.clear()
        self._resume()

    def _resume(self) -> None:
        links = {id(link): link for process in self.processes() for link in process.ends.values()}
        for link in links.values():
            link.healed()

    def break_links(self, a: Site, b: Site) -> None:
        """Connections between two machines are reset, and can be made again at once."""
        for process in (a.process, b.process):
            for link in list(process.ends.values()) if process else []:
                if link.parent is not None and {link.child.process.site, link.parent.process.site} == {a, b}:
                    link.reset()

    def site_at(self, address: str) -> Site | None:
        return self._addresses.get(address)

    def is_full(self, sender: Site, receiver: Site, lane: Lane) -> bool:
        """Whether a lane of a tunnel has no room for one more item."""
        if lane in (Lane.BEAT, Lane.SESSION):
            return False
        return self.chance(self.full) or (lane is Lane.REGISTRY and (sender.name, receiver.name) in self.choked)

    # --- machines -------------------------------------------------------------------------------------------------

    def add(
        self, name: str, parent: str | None = None, *, shim: str = "", takes_children: bool = True, **facts: Any
    ) -> Site:
        """A machine with an identity, not started. `shim`: "", "durable" or "instance"."""
        above = self.sites[parent] if parent else None
        address = f"{name}:8287" if takes_children else ""
        site = Site(name, name, self.new_uid(name), above, address, None, **facts)
        if shim:
            site.shim = self._make_shim(name, shim == "durable")
        self.sites[name] = site
        if address:
            self._addresses[address] = site
        return site

    def new_uid(self, name: str) -> str:
        self._uids += 1
        return f"{name}.{self._uids:02}"

    def _make_shim(self, name: str, durable: bool) -> Shim:
        return Shim(
            name,
            durable,
            later=lambda lo, hi, call: self.after(self.rng.uniform(lo, hi), call),
            chance=self.chance,
            now=lambda: self.now,
            on_effect=self._effect,
        )

    def processes(self) -> list[Process]:
        """All that run, or are stopped."""
        return [site.process for site in self.sites.values() if site.process is not None]

    def start(self, site: Site) -> Process:
        """Start a process on the machine's disk."""
        assert site.process is None, f"{site.name} runs already"
        if site.off:
            site.off = False
            site.clock_offset = 1.0 - self.now  # the machine's clock begins again
        site.starts += 1
        site.exited = ""
        site.process = Process(self, site, site.disk, f"{site.name}#{site.starts}")
        site.process.start()
        return site.process

    def kill(self, site: Site) -> None:
        """SIGKILL: the machine's kernel tells the peers."""
        if site.process is not None:
            process, site.process = site.process, None
            process.die(silent=False)

    def power_off(self, site: Site) -> None:
        """The machine is off: nobody is told."""
        if site.process is not None:
            process, site.process = site.process, None
            process.die(silent=True)
        site.off = True

    def stop(self, site: Site, grace: float = 10.0) -> None:
        """SIGTERM."""
        process = site.process
        if process is None:
            return

        def stopped(_: fx.Answer) -> None:
            if site.process is process:
                self.after(0.05, lambda: self.kill(site) if site.process is process else None)

        process.request(lambda number: ev.Stop(number, grace), stopped)

    def exit(self, process: Process, effect: fx.Exit) -> None:
        """The core wants its process to end."""
        for watcher in self.watchers:
            watcher.exited(process, effect)
        process.site.exited = effect.reason
        self.after(0.0, lambda: self.kill(process.site) if process.site.process is process else None)

    def snapshot(self, site: Site) -> None:
        """Keep a copy of the disk as it is now."""
        site.snapshots.append(site.disk.copy())

    def roll_back(self, site: Site, snapshot: Disk) -> None:
        """The machine's disk is as it was; its process must not run."""
        assert site.process is None
        site.disk = snapshot.copy()

    def replace(self, site: Site) -> None:
        """The disk is lost: the machine is joined again under a new uid."""
        self.kill(site)
        site.disk = Disk()
        site.snapshots = []
        site.uid = self.new_uid(site.member)

    def clone(self, site: Site) -> Site:
        """Another machine with a copy of the disk; it answers at no address, and has the same cluster behind it."""
        name = f"{site.name}'"
        copy = Site(name, site.member, site.uid, site.parent, "", site.shim, site.labels, site.tags)
        copy.disk = site.disk.copy()
        copy.clone_of = site
        self.sites[name] = copy
        return copy

    # --- commands -------------------------------------------------------------------------------------------------

    def submit(
        self,
        origin: Site,
        targets: list[Site],
        command: str = "apply",
        *,
        ttl: float = 60.0,
        body: dict[str, Any] | None = None,
        payload: bool = False,
        name: str = "",
    ) -> Submitted | None:
        """Hand a dispatch to a controller that runs."""
        process = origin.process
        if process is None:
            return None
        self._numbers += 1
        dispatch_id = name or f"d{self._numbers}"
        known = [(s.uid, s.member) for s in targets if process.core.registry.get(s.uid) is not None]
        if not known:
            return None
        submitted = Submitted(self._numbers, origin.uid, dispatch_id, command, [uid for uid, _ in known], ttl)
        self.dispatches[origin.uid, dispatch_id] = submitted

        def answered(answer: fx.Answer) -> None:
            submitted.accepted = answer.error is None
            submitted.refused = str(answer.error or "")

        inline = json.dumps(body).encode() if body is not None else b"body"
        process.request(
            lambda number: ev.Submit(
                request=number,
                dispatch_id=dispatch_id,
                digest=dispatch_id.encode(),
                command=command,
                inline=None if payload else inline,
                payload=m.Payload(b"hash", 100_000, [b"piece"]) if payload else None,
                targets=[ev.SubmitTarget(uid, member) for uid, member in known],
                ttl=ttl,
                timeout=0.0,
                caller="test",
                created=self.now,
            ),
            answered,
        )
        return submitted

    def cancel(self, submitted: Submitted) -> None:
        process = self.process_of(submitted.origin)
        if process is not None:
            submitted.cancelled = True
            process.request(lambda number: ev.CancelDispatch(number, submitted.id))

    def evict(self, at: Site, uid: str) -> None:
        if at.process is not None:
            at.process.request(lambda number: ev.Evict(number, uid))

    def process_of(self, uid: str) -> Process | None:
        """The process of a member that answers at its address."""
        return next((p for p in self.processes() if p.uid == uid and p.site.clone_of is None), None)

    def state(self, submitted: Submitted, uid: str) -> str:
        """Of a target, as its origin has it; empty where it does not know of it."""
        process = self.process_of(submitted.origin)
        dispatch = process.core.origin.dispatch(submitted.id) if process else None
        target = dispatch.targets.get(uid) if dispatch else None
        return target.row.state if target else ""

    def reason(self, submitted: Submitted, uid: str) -> str:
        process = self.process_of(submitted.origin)
        dispatch = process.core.origin.dispatch(submitted.id) if process else None
        target = dispatch.targets.get(uid) if dispatch else None
        return target.row.reason if target else ""

    # --- watchers -------------------------------------------------------------------------------------------------

    def handled(self, process: Process, event: ev.Event) -> None:
        for watcher in self.watchers:
            watcher.handled(process, event)

    def seen(self, sender: Process, receiver: Process, item: m.Item) -> None:
        for watcher in self.watchers:
            watcher.seen(sender, receiver, item)

    def logged(self, process: Process, log: fx.Log) -> None:
        for watcher in self.watchers:
            watcher.logged(process, log)

    def target_changed(self, process: Process, effect: fx.TargetChanged) -> None:
        for watcher in self.watchers:
            watcher.target_changed(process, effect)

    def _effect(self, shim: str, key: str) -> None:
        for watcher in self.watchers:
            watcher.effect(shim, key)
