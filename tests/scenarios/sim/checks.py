"""What must hold at every step of any history, and what must hold once all is well again.

At every step: believed parents form no ring; an attachment (uid, epoch) is made once; nothing takes effect twice, out
of the order in which its origin accepted it, or after its origin has said that it will not; a final state is final.
At rest: see `problems`. Who has lost memory (a disk set back, a machine cloned) is excused only from what rests on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.digest import mark
from ote.clustercontroller.core.states import (
    CANCELLED,
    CONTROLLER_COMMANDS,
    EXPIRED,
    FINAL,
    ONLINE,
    OUTCOME_UNKNOWN,
    SUCCEEDED,
    UNREACHABLE,
)
from tests.scenarios.sim.process import Process
from tests.scenarios.sim.world import Site, Submitted, World

_NO_EFFECT = frozenset({CANCELLED, EXPIRED, UNREACHABLE})

_SHOWN_EARLY = 0.05
"""Seconds before a crash. An end is shown before it is on disk; one that a crash undoes is decided anew after it."""


class Violation(AssertionError):
    """A promise is broken."""


class Checks:
    """Watches a world. `forgetful`: uids whose disk was set back, lost or copied."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.forgetful: set[str] = set()
        self.cloned: set[str] = set()
        """Uids that two machines have had at a time: each is a target of its own."""
        self.gone: set[str] = set()
        """Uids that were evicted."""
        self.exits: list[tuple[str, str]] = []
        self.lost: dict[str, set[str]] = {}
        """By name of a controller that is looked at: whom it has ever shown as anything but ONLINE since."""
        self._active: dict[Process, int | None] = {}
        self._attachments: dict[tuple[str, int], tuple[str, str]] = {}
        self._effects: dict[tuple[str, str], float] = {}
        self._last: dict[tuple[str, str], int] = defaultdict(int)
        self._states: dict[tuple[str, str, str], tuple[str, Process, float]] = {}
        """Of a target: its state, which process of the origin said so, and when."""
        world.watchers.append(self)

    # --- every step -----------------------------------------------------------------------------------------------

    def handled(self, process: Process, event: ev.Event) -> None:
        active = process.core.parents.active_link
        if self._active.get(process) != active:
            self._active[process] = active
            if active is not None:
                self._attached(process)
        if process.site.name in self.lost:
            registry = process.core.registry
            lost = [entry.name for uid, entry in registry.entries.items() if registry.state(uid) != ONLINE]
            self.lost[process.site.name].update(lost)

    def _attached(self, process: Process) -> None:
        path = [process]
        above = process.parent()
        while above is not None and above.alive:
            if above in path:
                raise Violation(f"ring: {' -> '.join(p.site.name for p in [*path, above])}")
            path.append(above)
            above = above.parent()
        attachment, parent = process.core.parents.attachment, process.parent()
        if attachment is None or parent is None or process.uid in self.forgetful:
            return
        seen = (process.instance, parent.instance)
        before = self._attachments.setdefault((process.uid, attachment.epoch), seen)
        if before != seen:
            raise Violation(f"epoch {attachment.epoch} of {process.uid} was used twice: {before}, {seen}")

    def seen(self, sender: Process, receiver: Process, item: m.Item) -> None:
        pass

    def logged(self, process: Process, log: fx.Log) -> None:
        pass

    def exited(self, process: Process, effect: fx.Exit) -> None:
        self.exits.append((process.site.name, effect.reason))
        if process.uid not in self.forgetful:
            raise Violation(f"{process.site.name} ended with {effect.reason}: {effect.message}")

    def effect(self, shim: str, key: str) -> None:
        origin, _, dispatch_id = key.partition("/")
        submitted = self.world.dispatches.get((origin, dispatch_id))
        if submitted is None:
            raise Violation(f"{key} took effect at {shim} and was never submitted")
        if (shim, key) in self._effects and self.world.sites[shim].uid not in self.cloned:
            raise Violation(f"{key} took effect twice at {shim}")
        self._effects[shim, key] = self.world.now
        target = self.world.sites[shim]
        if {origin, target.uid} & self.forgetful:
            return
        last = self._last[shim, origin]
        if submitted.number < last:
            raise Violation(f"{key} took effect at {shim} after d{last}")
        self._last[shim, origin] = submitted.number
        state = self.world.state(submitted, target.uid)
        if state in _NO_EFFECT:
            raise Violation(f"{key} took effect at {shim} after its origin said {state}")

    def target_changed(self, process: Process, effect: fx.TargetChanged) -> None:
        dispatch = process.core.origin.dispatch(effect.dispatch_id)
        if dispatch is None or process.uid in self.forgetful:
            return
        row = dispatch.targets[effect.uid].row
        key = (process.uid, effect.dispatch_id, effect.uid)
        before, earlier, at = self._states.get(key, ("", process, 0.0))
        durable = earlier.alive or earlier.died_at - at > _SHOWN_EARLY
        if before in FINAL and before not in (OUTCOME_UNKNOWN, row.state) and durable:
            raise Violation(f"{effect.dispatch_id} at {effect.uid} was {before}, is {row.state}")
        self._states[key] = (row.state, process, self.world.now)

    # --- now and then ---------------------------------------------------------------------------------------------

    def audit(self) -> None:
        """What each process keeps up by increments is what it would be counted anew."""
        for process in self.world.processes():
            registry = process.core.registry
            below = [e for e in registry.entries.values() if e.uid != process.uid and registry.is_below(e.uid)]
            active = [e for e in below if e.up and not e.is_away]
            counted = m.Digest(len(active), sum(mark(e) for e in active) % (1 << 64))
            if counted != registry.digest():
                raise Violation(f"digest of {process.site.name} is {registry.digest()}, counted {counted}")

    # --- at rest --------------------------------------------------------------------------------------------------

    def problems(self, members: list[Site]) -> list[str]:
        """What is not as it has to be once everything has been well for long enough. `members`: who lives."""
        return [*self._tree(members), *self._registries(members), *self._dispatches(members)]

    def _tree(self, members: list[Site]) -> Iterator[str]:
        for site in members:
            process = site.process
            if process is None:
                yield f"{site.name} does not run"
                continue
            parents = process.core.parents
            if site.parent is None:
                continue
            parent = process.parent()
            if parent is None or not parents.connected:
                yield f"{site.name} is not connected"
            elif parent.uid != site.parent.uid and site.parent in members and process.core.parents._homing.trusted:
                yield f"{site.name} is under {parent.site.name}, not at home"

    def _registries(self, members: list[Site]) -> Iterator[str]:
        truth = {site.uid: site for site in members}
        for site in members:
            if site.process is None:
                continue
            registry = site.process.core.registry
            below = {uid for uid, other in truth.items() if other is not site and self.is_below(other, site)}
            online = {uid for uid in registry.entries if uid != site.uid and registry.state(uid) == ONLINE}
            if online != below:
                yield f"{site.name} lacks {sorted(below - online)} and has too many: {sorted(online - below)}"
                continue
            for uid in below:
                yield from self._entry(site, truth[uid])
            yield from self._sums(site, [truth[uid] for uid in below])
            parent = site.process.parent()
            if parent is not None:
                yield from self._told_by(parent, site.process)

    def _sums(self, site: Site, below: list[Site]) -> Iterator[str]:
        """The sums of a controller are those of all that have told their status, at or below it."""
        cores = [other.process.core for other in (site, *below) if other.process is not None]
        told = [core.load._own.totals for core in cores if core.load._own is not None]
        running = sum(totals.pods_running for totals in told)
        totals = cores[0].load.totals()
        if (totals.clusters, totals.pods_running) != (len(told), running):
            yield f"{site.name} has the sums {totals}, they are of {len(told)} with {running}"

    def _told_by(self, parent: Process, child: Process) -> Iterator[str]:
        """What comes from above, and has to be as the parent would say it now."""
        name = child.site.name
        lacks = parent.core.registry.evicted - child.core.registry.evicted
        if lacks:
            yield f"{name} has not heard of the evictions {sorted(lacks)}"
        own, known = (process.core.registry.details.get(child.uid) for process in (child, parent))
        if own is not None and (known is None or known.status != own.status):
            yield f"{parent.site.name} has the status {known} of {name}, it is {own}"
        alternates = parent.core.children._collect().for_child(child.uid)
        if child.core.parents.alternates != alternates:
            yield f"{name} knows {child.core.parents.alternates}, should know {alternates}"

    def is_below(self, site: Site, above: Site) -> bool:
        process = site.process
        if site is above:
            return True
        for _ in range(40):
            process = process.parent() if process is not None and process.alive else None
            if process is None:
                return False
            if process is above.process:
                return True
        return False

    def _entry(self, above: Site, site: Site) -> Iterator[str]:
        assert above.process is not None
        assert site.process is not None
        entry = above.process.core.registry.entries[site.uid]
        own = site.process.core.registry.own
        if (entry.parent_uid, entry.epoch, entry.instance) != (own.parent_uid, own.epoch, own.instance):
            yield f"{above.name} has {site.name} under {entry.parent_uid}, it is under {own.parent_uid}"
        if entry.facts != own.facts:
            yield f"{above.name} knows facts {entry.facts.version} of {site.name}, they are {own.facts.version}"

    def _dispatches(self, members: list[Site]) -> Iterator[str]:
        by_uid = {site.uid: site for site in members if site.process is not None}
        for submitted in self.world.dispatches.values():
            if submitted.accepted and submitted.origin in by_uid:
                origin = by_uid[submitted.origin]
                for uid in submitted.targets:
                    yield from self._target(submitted, origin, uid)

    def _target(self, submitted: Submitted, origin: Site, uid: str) -> Iterator[str]:
        process = origin.process
        if process is None:
            return
        dispatch = process.core.origin.dispatch(submitted.id)
        what = f"{submitted.origin}/{submitted.id} ({submitted.command}) at {uid}"
        if dispatch is None:
            if submitted.change and submitted.origin not in self.forgetful:
                yield f"{what} is forgotten"
            return
        row = dispatch.targets[uid].row
        if row.state not in FINAL:
            if not self.is_below(self.world.sites[uid.rpartition(".")[0]], origin):
                return  # Commands travel down only: it waits, and becomes OUTCOME_UNKNOWN at last.
            yield f"{what} is {row.state} ({row.reason})"
            return
        if not submitted.change or submitted.command in CONTROLLER_COMMANDS:
            return
        name = uid.rpartition(".")[0]
        site = self.world.sites[name]
        if site.shim is None:
            return
        happened = (site.shim.name, f"{submitted.origin}/{submitted.id}") in self._effects
        excused = bool({submitted.origin, uid} & (self.forgetful | self.gone))
        excused |= not site.shim.durable and site.shim.restarts > 0
        if row.state == SUCCEEDED and not happened and submitted.command != "noop":
            yield f"{what} is SUCCEEDED and had no effect"
        if row.state in _NO_EFFECT and happened and not excused:
            yield f"{what} is {row.state} and had an effect"
        if row.state == OUTCOME_UNKNOWN and not excused:
            yield f"{what} is OUTCOME_UNKNOWN ({row.reason})"
