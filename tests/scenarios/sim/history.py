"""Random histories: a tree, a while of everything that can go wrong, then peace; `Checks` watches.

A history is its seed: `History(seed).play()` raises `Violation` with the seed and the last things that happened.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import CoreSettings
from ote.clustercontroller.core.states import FAILED, OUTCOME_UNKNOWN, SUCCEEDED
from tests.scenarios.sim.checks import Checks, Violation
from tests.scenarios.sim.process import Process
from tests.scenarios.sim.world import Site, Submitted, World

_DONE = (SUCCEEDED, FAILED, OUTCOME_UNKNOWN)
_PEACE = 400.0
"""Virtual seconds after which all must be well."""


class History:
    """One history. `log` has what was done, newest last."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        rng = self.rng
        settings = CoreSettings(
            hold_limit=rng.choice([4, 512]),
            admit_per_second=rng.choice([400.0, 400.0, 3.0]),
            leave_cut_off_after=rng.choice([30.0, 6.0, None]),
            return_wait_base=rng.choice([10.0, 2.0]),
            return_wait_cap=60.0,
        )
        self.world = World(seed, settings)
        self.world.full = rng.choice([0.0, 0.0, 0.02, 0.1])
        self.world.silent = rng.choice([0.0, 0.5])
        self.world.slow = rng.choice([0.005, 0.03, 0.3])
        self.checks = Checks(self.world)
        self.log: deque[str] = deque(maxlen=2000)
        self.disasters = rng.random() < 0.5
        """Disks are lost and set back, machines cloned."""
        self.focus = rng.choice(["all", "all", "memory", "root", "moves", "load"])
        self.retired: set[Site] = set()
        self._asleep: dict[Site, float] = {}
        self._submitted: list[Submitted] = []
        self._build()

    # --- the tree -------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        rng, world = self.rng, self.world
        durable = self.disasters or rng.random() < 0.5

        def shim(chance: float) -> str:
            return ("durable" if durable else "instance") if rng.random() < chance else ""

        world.add("root", shim=shim(0.2))
        regions = [f"r{n}" for n in range(rng.randint(1, 3))]
        for region in regions:
            world.add(region, "root", shim=shim(0.2), knows_parent=rng.random() < 0.7)
        above = list(regions)
        for n in range(rng.randint(0, 3)):
            world.add(f"a{n}", rng.choice(regions), shim=shim(0.2))
            above.append(f"a{n}")
        for n in range(rng.randint(2, 9)):
            world.add(f"e{n}", rng.choice(above), shim=shim(0.9), takes_children=rng.random() < 0.2)
        for site in world.sites.values():
            site.knows_parent = site.parent is None or rng.random() < 0.8

    def pick(self, *kinds: str) -> Site:
        """A machine whose name begins with one of these letters; any, without."""
        sites = [s for s in self.world.sites.values() if s not in self.retired]
        if kinds:
            sites = [s for s in sites if s.name[0] in kinds and s.name != "root"]
        return self.rng.choice(sites or [self.world.sites["r0"]])

    def running(self) -> list[Site]:
        return [site for site in self.world.sites.values() if site.process is not None and site not in self.retired]

    def say(self, text: str) -> None:
        self.log.append(f"{self.world.now - 1000:8.3f} {text}")

    # --- what may happen ------------------------------------------------------------------------------------------

    def start(self) -> None:
        down = [s for s in self.world.sites.values() if s.process is None and s not in self.retired]
        if down:
            site = self.rng.choice(down)
            self.say(f"start {site.name}")
            self.world.start(site)

    def kill(self) -> None:
        site = self.pick()
        if site.process is not None:
            self.say(f"kill {site.name}")
            self.world.kill(site)
            if self.rng.random() < 0.5:
                self.say(f"start {site.name}")
                self.world.start(site)

    def power_off(self) -> None:
        site = self.pick()
        if site.process is not None:
            self.say(f"power off {site.name}")
            self.world.power_off(site)

    def stop(self) -> None:
        site = self.pick()
        if site.process is not None and not site.process.asleep:
            self.say(f"stop {site.name}")
            self.world.stop(site, self.rng.choice([1.0, 10.0]))

    def cut(self) -> None:
        a, b = self.pick(), self.pick()
        if a is not b:
            one_way = self.rng.random() < 0.4
            self.say(f"cut {a.name} -> {b.name}{' one-way' if one_way else ''}")
            self.world.cut(a, b, one_way)

    def cut_home(self) -> None:
        a = self.pick()
        if a.parent is not None:
            pair = [a, a.parent]
            self.rng.shuffle(pair)
            one_way = self.rng.random() < 0.4
            self.say(f"cut {pair[0].name} -> {pair[1].name}{' one-way' if one_way else ''}")
            self.world.cut(pair[0], pair[1], one_way)

    def isolate(self) -> None:
        """A machine, and what is near it, lose the rest."""
        near = [self.pick(), self.pick()]
        self.say(f"isolate {', '.join(sorted({s.name for s in near}))}")
        for a in near:
            for b in self.world.sites.values():
                if b not in near:
                    self.world.cut(a, b)

    def heal(self) -> None:
        self.say("heal all cuts")
        self.world.heal_all()

    def break_link(self) -> None:
        running = [site for site in self.running() if site.process and site.process.parent()]
        if running:
            site = self.rng.choice(running)
            assert site.process is not None
            parent = site.process.parent()
            assert parent is not None
            self.say(f"break {site.name} - {parent.site.name}")
            self.world.break_links(site, parent.site)

    def delay(self) -> None:
        a, b = self.pick(), self.pick()
        if a is not b:
            seconds = self.rng.choice([0.001, 0.05, 0.5, 2.0])
            self.say(f"delay {a.name} - {b.name} {seconds}")
            self.world.delay_way(a, b, seconds)

    def sleep(self) -> None:
        site = self.pick()
        process = site.process
        if process is not None and not process.asleep:
            seconds = self.rng.choice([0.5, 3.0, 8.0, 20.0])
            self.say(f"sleep {site.name} {seconds}")
            process.sleep()

            def wake() -> None:
                if process.alive and process.asleep:
                    self.say(f"wake {site.name}")
                    process.wake()

            self.world.after(seconds, wake)

    def snapshot(self) -> None:
        self.world.snapshot(self.pick())

    def snapshot_root(self) -> None:
        self.world.snapshot(self.world.sites["root"])

    def roll_back(self) -> None:
        self._roll_back(self.pick())

    def roll_back_root(self) -> None:
        """Of all origins, the one that no parent tells."""
        self._roll_back(self.world.sites["root"])

    def _roll_back(self, site: Site) -> None:
        if not site.snapshots:
            return
        self.say(f"roll back {site.name}")
        self.world.kill(site)
        self.checks.forgetful.add(site.uid)
        self.world.roll_back(site, self.rng.choice(site.snapshots))
        self.world.start(site)

    def lose_disk(self) -> None:
        site = self.pick("e", "a", "r")
        if site.clone_of is not None or any(s.clone_of is site for s in self.world.sites.values()):
            return
        self.say(f"lose the disk of {site.name} {site.uid}")
        self.checks.forgetful.add(site.uid)
        old = site.uid
        self.world.replace(site)
        self._gone(old)
        self.world.start(site)

    def clone(self) -> None:
        site = self.pick("e", "a", "r")
        if site.clone_of is None and f"{site.name}'" not in self.world.sites and site.starts:
            self.say(f"clone {site.name}")
            self.checks.forgetful.add(site.uid)
            self.checks.cloned.add(site.uid)
            self.world.start(self.world.clone(site))

    def evict(self) -> None:
        site = self.pick("e", "a")
        root = self.world.sites["root"]
        if root.process is None or site.clone_of is not None or f"{site.name}'" in self.world.sites:
            return
        if root.process.core.registry.get(site.uid) is None:
            return
        self.say(f"evict {site.name}")
        self.world.evict(root, site.uid)
        self.checks.gone.add(site.uid)
        site.evicted = True
        self.retired.add(site)
        for other in self.world.sites.values():
            if other.parent is site:
                other.parent = site.parent  # from its next start on

    def _gone(self, uid: str) -> None:
        """An operator evicts, wherever the eviction can be said."""
        self.checks.gone.add(uid)

    def drain(self) -> None:
        origin = self.rng.choice(self.running() or [self.world.sites["root"]])
        site = self.pick("r", "a")
        off = self.rng.random() < 0.6
        self.say(f"drain {site.name} {'off' if off else ''} by {origin.name}")
        self._keep(self.world.submit(origin, [site], "drain", body={"off": off, "timeout": 5.0}))

    def label(self) -> None:
        if self.running():
            origin, site = self.rng.choice(self.running()), self.pick()
            self.say(f"label {site.name} by {origin.name}")
            body = {"labels": {"k": str(self.rng.randint(0, 9))}}
            self._keep(self.world.submit(origin, [site], "set_facts", body=body))

    def load(self) -> None:
        """A shim tells its status."""
        site = self.pick("e", "a", "r")
        if site.process is not None and site.shim is not None:
            running = self.rng.randint(0, 99)
            self.say(f"status of {site.name}: {running}")
            totals = m.Totals(clusters=1, clusters_ready=1, pods_running=running)
            site.process.post(ev.ShimStatus(str(running).encode(), totals))

    def submit(self, with_shim: list[Site] | None = None) -> None:
        """Some commands for some of these clusters, of all without."""
        running = self.running()
        if not running:
            return
        origin = self.rng.choice([*running, *(s for s in running if s.name == "root")])
        if with_shim is None:
            with_shim = [s for s in self.world.sites.values() if s.shim is not None and s.clone_of is None]
        if not with_shim:
            return
        targets = self.rng.sample(with_shim, min(len(with_shim), self.rng.choice([1, 1, 2, 5])))
        command = self.rng.choice(["apply"] * 7 + ["get", "get", "noop"])
        ttl = self.rng.choice([0.0, 2.0, 10.0, 30.0, 60.0, 60.0])
        payload = command == "apply" and self.rng.random() < 0.1
        for _ in range(self.rng.choice([1, 1, 1, 3, 8])):
            submitted = self.world.submit(origin, targets, command, ttl=ttl, payload=payload)
            if submitted is not None:
                names = " ".join(submitted.targets)
                self.say(
                    f"{submitted.id} {command} by {origin.name} ttl {ttl} {'payload ' if payload else ''}to {names}"
                )
                self._keep(submitted)

    def _keep(self, submitted: Submitted | None) -> None:
        if submitted is not None:
            self._submitted.append(submitted)

    def cancel(self) -> None:
        if self._submitted:
            submitted = self.rng.choice(self._submitted[-10:])
            self.say(f"cancel {submitted.id}")
            self.world.cancel(submitted)

    def regret(self) -> None:
        """A cluster goes away, a burst for it is turned back, some of that is cancelled, and the origin starts anew."""
        site = self.pick("e")
        if site.process is None or site.shim is None or site.clone_of is not None:
            return
        self.say(f"kill {site.name}")
        self.world.kill(site)
        self.world.run(self.rng.choice([0.0, 0.01, 0.05]))
        before = len(self._submitted)
        self.submit([site])
        burst = self._submitted[before:]
        self.world.run(self.rng.choice([0.1, 0.3, 1.0]))
        for submitted in self.rng.sample(burst, len(burst) // 2):
            self.say(f"cancel {submitted.id}")
            self.world.cancel(submitted)
        self.world.run(self.rng.choice([0.05, 0.3]))
        for origin in self.running():
            if burst and origin.uid == burst[0].origin:
                self.say(f"kill and start {origin.name}")
                self.world.kill(origin)
                self.world.start(origin)
        if site.process is None:
            self.world.start(site)

    def restart_shim(self) -> None:
        site = self.pick("e")
        if site.shim is None:
            return
        self.say(f"restart the shim of {site.name}")
        site.shim_away()
        self.world.after(self.rng.choice([0.01, 1.0, 5.0]), site.shim_back)

    # --- play -----------------------------------------------------------------------------------------------------

    def step(self) -> None:
        often: list[Callable[[], None]] = [self.submit] * 6 + [self.start] * 3 + [self.kill] * 2
        often += [self.cut, self.cut_home, self.heal, self.heal, self.break_link, self.snapshot, self.cancel]
        rare = [self.power_off, self.stop, self.isolate, self.delay, self.sleep, self.sleep, self.drain, self.drain]
        rare += [self.label, self.load, self.restart_shim, self.regret, self.regret]
        disasters = [self.roll_back, self.lose_disk, self.clone, self.evict]
        if self.focus == "memory" and self.disasters:
            often += [self.snapshot] * 8 + [self.submit] * 4 + [self.restart_shim] * 3
            disasters += [self.roll_back] * 8
        elif self.focus == "root" and self.disasters:
            often += [self.snapshot_root] * 3 + [self.submit] * 6 + [self.roll_back_root] * 2
        elif self.focus == "moves":
            often = [self.cut, self.cut_home, self.heal, self.break_link, self.kill, self.start, self.sleep, self.delay]
            often += [self.isolate, self.submit, self.submit]
        elif self.focus == "load":
            often += [self.submit] * 12
        draw = self.rng.random()
        kinds = often if draw < 0.6 else disasters if draw > 0.9 and self.disasters else rare
        self.rng.choice(kinds)()

    def play(self) -> None:
        """Raises Violation, with all that is needed to understand it."""
        try:
            self._play()
        except Exception as failure:
            told = "\n".join(self.log)
            raise Violation(f"seed {self.seed} at {self.world.now - 1000:.3f}: {failure!r}\n{told}") from failure

    def _play(self) -> None:
        rng, world = self.rng, self.world
        for site in list(world.sites.values()):
            world.after(rng.choice([0.0, 0.0, 0.0, 2.0]), lambda site=site: self._first_start(site))  # type: ignore[misc]
        world.run(rng.choice([0.5, 5.0]))
        for _ in range(rng.randint(10, 70)):
            self.step()
            world.run(rng.choice([0.0, 0.05, 0.3, 1.0, 3.0]))
            self.checks.audit()
        self.peace()

    def _first_start(self, site: Site) -> None:
        if site.process is None and site not in self.retired:
            self.world.start(site)

    def peace(self) -> None:
        """Everything is mended; then everything must become well."""
        world = self.world
        self.say("peace")
        world.full = 0.0
        world.heal_all()
        for site in list(world.sites.values()):
            for other in world.sites.values():
                world.delay_way(site, other, 0.005)
            if site.process is not None and site.process.asleep:
                site.process.wake()
            home = site.process.core.parents.home if site.process is not None else None
            if site.parent is not None and home is not None and home.address != site.parent.address:
                world.kill(site)  # with another --parent, for the one that it had is evicted
        self._end_clones()
        self._start_all()
        root = world.sites["root"]
        world.run(12.0)
        self._start_all()  # those that were stopping
        if not world.run_until(lambda: self._well(root), _PEACE, step=5.0):
            raise Violation("; ".join(self.problems()))
        self.checks.audit()
        self._still_works()

    def _still_works(self) -> None:
        """Every controller can change everything below it, itself too.

        An origin or a target that has lost memory may learn so by the first change, which is OUTCOME_UNKNOWN then.
        """
        forgetful = self.checks.forgetful
        unknown: list[tuple[Submitted, str]] = []
        for _ in range(3):
            asked = self._ask_all()
            unknown = [(s, uid) for s in asked for uid in s.targets if self.world.state(s, uid) == OUTCOME_UNKNOWN]
            if not unknown:
                return
            if any(not {s.origin, uid} & forgetful for s, uid in unknown):
                break
        raise Violation("after all: " + "; ".join(f"{s.origin}/{s.id} at {uid}" for s, uid in unknown))

    def _ask_all(self) -> list[Submitted]:
        world = self.world
        asked: list[Submitted] = []
        for site in self.members():
            targets = [
                other for other in self.members() if other.shim is not None and self.checks.is_below(other, site)
            ]
            submitted = world.submit(site, targets) if targets else None
            if submitted is not None:
                asked.append(submitted)

        def left() -> list[str]:
            waits = [(s, uid, world.state(s, uid)) for s in asked for uid in s.targets]
            return [f"{s.origin}/{s.id} at {uid} is {state}" for s, uid, state in waits if state not in _DONE]

        if not world.run_until(lambda: not left(), 30.0, step=1.0):
            raise Violation("after all: " + "; ".join(left()))
        return asked

    def _well(self, root: Site) -> bool:
        """Whether all is; what an operator would do meanwhile is done."""
        for site in self.world.sites.values():
            site.exited = ""
        self._start_all()
        for uid in sorted(self.checks.gone):
            knowing = [p.site for p in self.world.processes() if p.uid != uid and self._may_evict(p, uid)]
            if knowing:
                self.world.evict(knowing[0], uid)
        for site in self.members():
            if site.process is not None and site.process.core.registry.own.facts.draining:
                self.world.submit(root, [site], "drain", body={"off": True})
        return not self.problems()

    def _may_evict(self, process: Process, uid: str) -> bool:
        registry = process.core.registry
        if process.core.parents.is_root:
            return uid not in registry.evicted
        return registry.get(uid) is not None and registry.left_with(uid) is None

    def _end_clones(self) -> None:
        """An operator has seen CLUSTER_CLONED: the copies are switched off, the others started again."""
        for site in self.world.sites.values():
            site.exited = ""
            if site.clone_of is not None:
                self.world.kill(site)
                self.retired.add(site)

    def _start_all(self) -> None:
        for site in self.members():
            if site.process is None:
                self.say(f"start {site.name}")
                self.world.start(site)

    def members(self) -> list[Site]:
        return [s for s in self.world.sites.values() if s not in self.retired and not s.exited]

    def problems(self) -> list[str]:
        return self.checks.problems(self.members())
