"""A tree of registries and children's sides without sockets: each link is two queues, delivered when a test says so."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import TypeVar

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core import records as rec
from ote.clustercontroller.core.children import Children
from ote.clustercontroller.core.context import Context, CoreSettings, statement
from ote.clustercontroller.core.registry import Registry

T = TypeVar("T")


def sign(key: bytes, text: bytes) -> bytes:
    return b"signed:" + key + text


def make_context(uid: str, admit_per_second: float = 400.0) -> Context:
    """A context of which name, uid and key are one word."""
    return Context(
        uid=uid,
        name=uid,
        instance=f"{uid}-1",
        public_key=uid.encode(),
        settings=CoreSettings(admit_per_second=admit_per_second),
        rng=random.Random(1),
        sign=lambda text: sign(uid.encode(), text),
        verify=lambda key, text, signature: signature == sign(key, text),
        now=1000.0,
    )


def make_record(uid: str, parent: str, /, epoch: int = 1, **changes: object) -> m.ClusterRecord:
    """A signed record of a cluster whose key is its uid."""
    record = m.ClusterRecord(uid, uid, parent, epoch, f"{uid}-1", b"", uid.encode(), up=True, facts=m.Facts(version=1))
    for name, value in changes.items():
        setattr(record, name, value)
    if not record.signature:
        record.signature = sign(uid.encode(), statement(record))
    return record


def sent(ctx: Context, kind: type[T], link: int | None = None) -> list[T]:
    """Items of this kind among the effects so far, on this link."""
    sends = [effect for effect in ctx.effects if isinstance(effect, fx.Send) and link in (None, effect.link)]
    return [send.item for send in sends if isinstance(send.item, kind)]


def effects(ctx: Context, kind: type[T]) -> list[T]:
    return [effect for effect in ctx.effects if isinstance(effect, kind)]


@dataclass
class Above:
    """A parents' side that says what the test says."""

    standing: m.Standing = field(default_factory=lambda: m.Standing(10, 0))
    connected: bool = True
    path: list[m.PathStep] = field(default_factory=lambda: [m.PathStep("root", "root")])
    alternates: m.Alternates = field(default_factory=m.Alternates)


@dataclass
class Wire:
    """A link: what is on its way in both directions."""

    number: int
    child: Node
    parent: Node
    up: deque[m.UpItem] = field(default_factory=deque)
    down: deque[m.Item] = field(default_factory=deque)


class Node:
    """One controller: registry and children's side, and as much of the parents' side as a test needs."""

    def __init__(self, tree: Tree, uid: str) -> None:
        self.tree = tree
        self.uid = uid
        self.ctx = make_context(uid, admit_per_second=1e9)
        self.rows = rec.Self()
        self.registry = Registry(self.ctx)
        self.children = Children(self.ctx, self.registry, Above(), self.rows)
        self.epoch = 0
        self.wire: Wire | None = None
        self.record = make_record(uid, "", 0)

    def restart(self, *, epochs_back: int = 0) -> None:
        """A new process on the same disk, or on one that is set back by so many epochs and has no clusters."""
        tree, registry = self.tree, self.registry
        for wire in list(tree.wires.values()):
            if self in (wire.child, wire.parent):
                tree.cut(wire)
        entries = {uid: rec.Entry(e.record, e.first_seen, e.away, e.away_parent) for uid, e in registry.entries.items()}
        if epochs_back:
            self.epoch = max(0, self.epoch - epochs_back)
            tree.set_back.add(self.uid)
            entries = {}
        self.ctx.instance += "+"
        self.ctx.effects.clear()
        self.registry = Registry(self.ctx)
        self.registry.load(entries, {})
        self.children = Children(self.ctx, self.registry, Above(), self.rows)


class Tree:
    """All nodes, all links. Effects are carried out after each step."""

    def __init__(self, uids: str) -> None:
        self.nodes = {uid: Node(self, uid) for uid in uids}
        self.wires: dict[int, Wire] = {}
        self.numbers = 0
        self.set_back: set[str] = set()
        """Those whose disk was set back at some time; nobody else may be called a clone, or behind."""

    def attach(self, uid: str, to: str) -> None:
        """Make before break: goodbye is said on the old link, which is still to be delivered."""
        node, parent = self.nodes[uid], self.nodes[to]
        self.numbers += 1
        wire = self.wires[self.numbers] = Wire(self.numbers, node, parent)
        hello = m.Hello(uid, uid, node.ctx.instance, node.epoch, None)
        welcome = parent.children.hello(wire.number, hello, uid, uid)
        assert isinstance(welcome, m.Welcome), welcome
        assert welcome.known_epoch <= node.epoch or uid in self.set_back
        node.epoch = max(node.epoch, welcome.known_epoch) + 1
        facts = m.Facts(version=node.epoch)
        record = make_record(uid, to, node.epoch, instance=node.ctx.instance, facts=facts)
        assert parent.children.attach(wire.number, m.Attach(record, node.registry.digest()))
        old, node.wire = node.wire, wire
        node.registry.set_own(record)
        node.registry.told_nothing()
        if old is not None:
            old.up.append(m.Goodbye(old.child.epoch - 1, node.epoch))
        self.carry_out()

    def cut(self, wire: Wire) -> None:
        """The link breaks at both ends; what was on it is lost."""
        del self.wires[wire.number]
        if wire.child.wire is wire:
            wire.child.wire = None
        wire.parent.children.link_lost(wire.number, "cut")
        self.carry_out()

    def tell(self, uid: str) -> None:
        """News and a heartbeat to the parent, if there is one."""
        node = self.nodes[uid]
        if node.wire is not None:
            records = node.registry.news()
            if records:
                node.wire.up.append(m.News(records))
            node.wire.up.append(m.Heartbeat(0, node.registry.digest()))

    def deliver(self, wire: Wire) -> None:
        """One item of each direction."""
        if wire.up:
            self._take_up(wire, wire.up.popleft())
        if wire.down and wire.number in self.wires:
            self._take_down(wire, wire.down.popleft())
        self.carry_out()

    def _take_up(self, wire: Wire, item: m.UpItem) -> None:
        children = wire.parent.children
        if children.heard(wire.number) is None:
            return
        match item:
            case m.News():
                children.news(wire.number, item)
            case m.Heartbeat():
                children.heartbeat(wire.number, item)
            case m.Goodbye():
                children.goodbye(wire.number, item)

    def _take_down(self, wire: Wire, item: m.Item) -> None:
        node = wire.child
        match item:
            case m.Away():
                link = node.registry.away(item)
                if link is not None:
                    self.wires[link].down.append(item)
            case m.Resync():
                records = list(node.registry.account())
                half = len(records) // 2
                wire.up.append(m.News(records[:half], full_begin=True))
                wire.up.append(m.News(records[half:], full_end=True))
            case m.Refused():
                harmless = item.reason != "CLUSTER_CLONED" and item.epoch <= node.epoch and node.wire is not wire
                assert harmless or node.uid in self.set_back, item
                node.epoch = max(node.epoch, item.epoch)
                if node.wire is wire:
                    node.wire = None
                if item.reason == "CLUSTER_CLONED":
                    node.ctx.instance += "+"

    def carry_out(self) -> None:
        for node in self.nodes.values():
            done, node.ctx.effects = node.ctx.effects, []
            for effect in done:
                if isinstance(effect, fx.Send) and effect.link in self.wires:
                    self.wires[effect.link].down.append(effect.item)
                if isinstance(effect, fx.CloseLink) and effect.link in self.wires:
                    wire = self.wires[effect.link]
                    while wire.down:
                        self._take_down(wire, wire.down.popleft())
                    del self.wires[effect.link]
                    if wire.child.wire is wire:
                        wire.child.wire = None

    # --- what is true ---------------------------------------------------------------------------------------------

    def parent_of(self, uid: str) -> str | None:
        wire = self.nodes[uid].wire
        return wire.parent.uid if wire else None

    def chain(self, uid: str) -> list[str]:
        """The cluster and all above it, as the live links say."""
        chain = [uid]
        while (parent := self.parent_of(chain[-1])) is not None:
            chain.append(parent)
        return chain

    def settle(self) -> None:
        """Deliver all, and let heartbeats pass, until nothing is on the way and all digests agree."""
        for _ in range(60):
            for uid in self.nodes:
                self.tell(uid)
            for _ in range(1000):
                busy = [wire for wire in self.wires.values() if wire.up or wire.down]
                if not busy:
                    break
                for wire in busy:
                    if wire.number in self.wires:
                        self.deliver(wire)
            if all(
                wire.parent.registry.digest_via(wire.child.uid) == wire.child.registry.digest()
                and not wire.child.registry.has_news
                for wire in self.wires.values()
            ):
                return
        raise AssertionError("the digests do not agree")
