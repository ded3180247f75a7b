"""A whole tree of `Parents` under a random network: no ring at any instant, and after healing everybody is back home.

The parents' side is a dozen lines here (`Node.serve`): welcome, attached, beats. Each failure names its seed.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core import records
from ote.clustercontroller.core.context import Context, CoreSettings
from ote.clustercontroller.core.parents import Parents, ParentsCallbacks

PARENT_OF = {"E": "R", "W": "R", "A": "E", "B": "W", "a1": "A", "a2": "A", "b1": "B", "e1": "E", "w1": "W"}
NAMES = ["R", *PARENT_OF]
SETTINGS = CoreSettings(return_wait_cap=20.0)


def alternate(name: str) -> m.Alternate:
    return m.Alternate(name, f"uid-{name}", f"{name}:1")


class Pipe:
    """One link: a child's number at its end, and the far end."""

    def __init__(self, child: Node, number: int, parent: Node) -> None:
        self.child, self.number, self.parent = child, number, parent
        self.child_open = self.parent_open = True
        self.stalled = {True: False, False: False}
        self.last = {True: 0.0, False: 0.0}
        self.attached = False


class Node:
    """A process: its core, and the parent's side of the links of its children."""

    def __init__(self, tree: Tree, name: str, rows: dict[str, records.Self | records.AlternatesRow]) -> None:
        self.tree, self.name, self.rows = tree, name, rows
        self.alive = True
        self.asleep = False
        self.wake_at: float | None = None
        self.pipes: dict[int, Pipe] = {}
        self.children: list[Pipe] = []
        row = rows.get("self") or records.Self()
        assert isinstance(row, records.Self)
        self.row = replace(row)
        self.instance = tree.rng.getrandbits(64).to_bytes(8, "big").hex()
        uid = f"uid-{name}"
        self.ctx = Context(uid, name, self.instance, b"", SETTINGS, tree.rng, lambda data: b"", lambda *_: True)
        callbacks = ParentsCallbacks(
            attached=lambda link, own: None,
            detached=lambda link: None,
            standing_changed=self.announce,
            candidates_changed=lambda: None,
            memory_lost=lambda: pytest.fail("no disk was set back"),
            own_record=lambda: m.ClusterRecord(uid, name, "", 0, "", b"", b"", True),
            digest=lambda: m.Digest(0, 0),
            whole_digest=lambda: m.Digest(1, 0),
        )
        home = alternate(PARENT_OF[name]) if name in PARENT_OF else None
        told = rows.get("alternates")
        assert told is None or isinstance(told, records.AlternatesRow)
        self.parents = Parents(self.ctx, self.row, home, callbacks, told)
        self.inbox: list[Callable[[], None]] = []
        self.event(self.parents.start)
        tree.at(SETTINGS.heartbeat, self.beat_again)

    def event(self, step: Callable[[], object]) -> None:
        if not self.alive:
            return
        if self.asleep:
            self.inbox.append(lambda: self.event(step))
            return
        self.ctx.now = self.tree.now
        due = self.parents.next_wake()
        if due is not None and due <= self.tree.now:
            self.parents.wake()
        step()
        effects, self.ctx.effects = self.ctx.effects, []
        for effect in effects:
            self.carry_out(effect)
        due = self.parents.next_wake()
        if due is not None and due != self.wake_at:
            self.wake_at = due
            self.tree.at(max(0.0, due - self.tree.now), lambda: self.wake(due))

    def wake(self, due: float) -> None:
        if self.wake_at == due:
            self.wake_at = None
            self.event(lambda: None)

    def carry_out(self, effect: fx.Effect) -> None:
        tree = self.tree
        if isinstance(effect, fx.Put):
            self.rows[effect.key] = effect.value
        elif isinstance(effect, fx.Dial):
            tree.dial(self, effect)
        elif isinstance(effect, fx.Send):
            pipe = self.pipes.get(effect.link)
            if pipe is not None:
                tree.carry(pipe, True, partial(pipe.parent.serve, pipe, effect.item))
        elif isinstance(effect, fx.CloseLink):
            pipe = self.pipes.pop(effect.link, None)
            if pipe is not None:
                pipe.child_open = False
                tree.carry(pipe, True, partial(pipe.parent.child_gone, pipe))
        elif isinstance(effect, fx.Probe):
            tree.probe(self, effect.candidate)
        elif isinstance(effect, fx.Exit):
            pytest.fail(f"{self.name} exits: {effect.message}")

    def hear(self, number: int, item: m.DownItem) -> None:
        self.parents.heard(number)
        self.parents.item(number, item)

    # --- the parent's side ----------------------------------------------------------------------------------------

    def down(self, pipe: Pipe, item: m.DownItem) -> None:
        child, number = pipe.child, pipe.number

        def arrive() -> None:
            if isinstance(item, m.Welcome):
                child.event(lambda: child.parents.dial_welcome(number, item))
            elif number in child.pipes:
                child.event(lambda: child.hear(number, item))

        self.tree.carry(pipe, False, arrive)

    def serve(self, pipe: Pipe, item: m.Item) -> None:
        def step() -> None:
            if isinstance(item, m.Hello):
                self.parents.child_best(item.best)
                self.children.append(pipe)
                known = self.tree.epochs.get(item.uid, 0)
                parents = self.parents
                welcome = m.Welcome(
                    self.name,
                    self.ctx.uid,
                    self.instance,
                    parents.standing,
                    parents.connected,
                    parents.path,
                    round(SETTINGS.heartbeat * 1000),
                    round(SETTINGS.dead_after * 1000),
                    min(known, item.epoch),
                )
                self.down(pipe, welcome)
            elif isinstance(item, m.Attach):
                self.row.had_children = True
                self.rows["self"] = replace(self.row)
                self.tree.epochs[item.record.uid] = item.record.epoch
                pipe.attached = True
                self.down(pipe, m.Attached(item.record.epoch))
                self.down(pipe, self.alternates(pipe.child.name))
            elif isinstance(item, m.Goodbye):
                self.down(pipe, m.Drained())

        self.event(step)

    def alternates(self, child: str) -> m.Alternates:
        siblings = [pipe.child.name for pipe in self.children if pipe.attached and pipe.child.name != child]
        parent = self.parents.parent
        return m.Alternates(
            uncles=self.parents.alternates.siblings[:4],
            grandparent=parent,
            siblings=[alternate(name) for name in siblings[:4]],
            parent=alternate(self.name),
        )

    def child_gone(self, pipe: Pipe) -> None:
        if pipe in self.children:
            self.children.remove(pipe)

    def announce(self) -> None:
        for pipe in self.children:
            beat = m.Beat(self.parents.standing, 0, self.parents.path)
            self.down(pipe, beat)

    def beat_again(self) -> None:
        def step() -> None:
            self.announce()
            for pipe in self.children:
                if pipe.attached:
                    self.down(pipe, self.alternates(pipe.child.name))

        if self.alive:
            self.event(step)
            self.tree.at(SETTINGS.heartbeat, self.beat_again)


class Tree:
    """Processes, the network between them, time."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.count = 0
        self.cuts: set[tuple[str, str]] = set()
        self.epochs: dict[str, int] = {}
        self.disks: dict[str, dict[str, records.Self | records.AlternatesRow]] = {name: {} for name in NAMES}
        self.nodes: dict[str, Node] = {}
        for name in NAMES:
            self.nodes[name] = Node(self, name, self.disks[name])

    def at(self, delay: float, step: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.queue, (self.now + delay, self.count, step))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.queue and self.queue[0][0] <= until:
            self.now, _, step = heapq.heappop(self.queue)
            step()
            self.check_rings()
        self.now = until

    def check_rings(self) -> None:
        for start in self.nodes.values():
            seen = {start.name}
            node = start
            while node.alive and (number := node.parents.active_link) is not None and number in node.pipes:
                node = node.pipes[number].parent
                assert node.name not in seen or not node.alive, f"a ring through {node.name} at {self.now}"
                seen.add(node.name)

    def carry(self, pipe: Pipe, up: bool, step: Callable[[], None]) -> None:
        """In order; what meets a cut is lost, and everything after it on that link."""
        ends = (pipe.child.name, pipe.parent.name) if up else (pipe.parent.name, pipe.child.name)
        arrives = max(pipe.last[up], self.now + self.rng.uniform(0.001, 0.05))
        pipe.last[up] = arrives

        def arrive() -> None:
            pipe.stalled[up] = pipe.stalled[up] or ends in self.cuts
            if not pipe.stalled[up]:
                step()

        self.at(arrives - self.now, arrive)

    def dial(self, child: Node, dial: fx.Dial) -> None:
        name = dial.candidate.name
        parent = self.nodes[name]
        if not parent.alive:
            self.at(0.002, lambda: child.event(lambda: child.parents.dial_failed(dial.link, "refused")))
            return
        pipe = Pipe(child, dial.link, parent)
        child.pipes[dial.link] = pipe
        self.carry(pipe, True, lambda: parent.serve(pipe, dial.hello))
        self.at(2.0, lambda: child.event(lambda: child.parents.dial_failed(dial.link, "timeout")))

    def probe(self, child: Node, candidate: m.Alternate) -> None:
        home = self.nodes[candidate.name]
        reached = home.alive and not home.asleep and not self.cuts & {(child.name, home.name), (home.name, child.name)}
        if reached:
            parents = home.parents
            home.ctx.now = self.now
            answer = ev.ProbeAnswered(candidate, parents.standing, parents.connected, False)
            self.at(0.05, lambda: child.event(lambda: child.parents.probe_answered(answer)))
        else:
            failed = ev.ProbeFailed(candidate, "refused")
            self.at(2.0, lambda: child.event(lambda: child.parents.probe_failed(failed)))

    # --- what happens to it ---------------------------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """Its neighbours see a reset, or nothing at all."""
        node = self.nodes[name]
        node.alive = False
        told = self.rng.random() < 0.7
        for pipe in list(node.children):
            if told and (pipe.parent.name, pipe.child.name) not in self.cuts:
                child, number = pipe.child, pipe.number
                self.at(self.rng.uniform(0.001, 0.05), lambda c=child, n=number: self.reset(c, n))  # type: ignore[misc]
        for pipe in node.pipes.values():
            pipe.parent.child_gone(pipe)

    def reset(self, child: Node, number: int) -> None:
        def step() -> None:
            child.pipes.pop(number, None)
            child.parents.link_lost(number, "reset")

        child.event(step)

    def restart(self, name: str) -> None:
        if self.nodes[name].alive:
            self.kill(name)
        self.nodes[name] = Node(self, name, self.disks[name])

    def sleep(self, name: str, seconds: float) -> None:
        node = self.nodes[name]
        node.asleep = True

        def wake() -> None:
            node.asleep = False
            inbox, node.inbox = node.inbox, []
            for step in inbox:
                step()

        self.at(seconds, wake)

    def harm(self) -> None:
        """One random misfortune."""
        name, other = self.rng.sample(NAMES, 2)
        what = self.rng.choice(["kill", "restart", "restart", "cut", "one-way", "heal", "sleep"])
        if what == "kill":
            self.kill(name)
        elif what == "restart":
            self.restart(name)
        elif what in ("cut", "one-way"):
            parent = self.rng.choice([PARENT_OF.get(name, other), other])
            self.cuts |= {(name, parent)} if what == "one-way" else {(name, parent), (parent, name)}
        elif what == "heal":
            self.cuts = set()
        elif not self.nodes[name].asleep:
            self.sleep(name, self.rng.uniform(1.0, 60.0))

    def heal(self) -> None:
        self.cuts = set()
        for name in NAMES:
            if not self.nodes[name].alive:
                self.restart(name)


@pytest.mark.parametrize("seed", range(12))
def test_no_ring_at_any_instant_and_home_after_healing(seed: int) -> None:
    tree = Tree(seed)
    tree.run(20.0)
    for _ in range(12):
        tree.harm()
        tree.run(tree.rng.choice([0.1, 1.0, 4.0, 12.0, 40.0]))
    tree.heal()
    tree.run(180.0)
    for name, home in PARENT_OF.items():
        parents = tree.nodes[name].parents
        assert parents.connected, name
        assert parents.parent is not None
        assert (name, parents.parent.name) == (name, home)
    beats = [node.parents.standing.beat for node in tree.nodes.values()]
    assert max(beats) - min(beats) <= 1


def test_all_children_of_a_killed_region_are_elsewhere_within_a_second() -> None:
    tree = Tree(7)
    tree.run(20.0)
    tree.rng.random = lambda: 0.0  # type: ignore[method-assign]
    tree.kill("E")
    tree.run(1.0)
    for name in ("A", "e1"):
        assert tree.nodes[name].parents.connected, name
    tree.restart("E")
    tree.run(10.0)
    for name in ("A", "e1"):
        parent = tree.nodes[name].parents.parent
        assert parent is not None
        assert parent.name == "E"
