"""A hundred kills and stops of real processes at random moments, while dispatches flow: nothing lost, nothing twice.

Effects are counted by the shims, in files that only they write. OTE_CHAOS_SEED replays the choice of victims and
times, OTE_CHAOS_EVENTS and OTE_CHAOS_SECONDS make the run longer.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest

from ote.api.route.v1 import route_pb2
from ote.apps.localtree import until_online
from ote.client.client import Client, new_dispatch_id
from ote.client.connection import Policy
from ote.model.errors import OteError
from tests.e2e.trees import Tree, accepted, apply_of, by_name

SEED = int(os.environ.get("OTE_CHAOS_SEED") or random.SystemRandom().randrange(10**6))
EVENTS = int(os.environ.get("OTE_CHAOS_EVENTS") or 105)
SECONDS = float(os.environ.get("OTE_CHAOS_SECONDS") or 38)
HOME = {
    "region-east": "root",
    "region-west": "root",
    "edge-1": "region-east",
    "edge-2": "region-east",
    "edge-3": "region-west",
    "edge-4": "region-west",
}
REGIONS = ("region-east", "region-west")
EDGES = [name for name in HOME if name.startswith("edge-")]
VICTIMS = {"root": 2, "region-east": 3, "region-west": 3, **dict.fromkeys(EDGES, 2), **{f"shim {e}": 1 for e in EDGES}}
AT_ONCE = 3
PACE = 0.03
SENDERS = {"root": "edge-*", "region-east": "edge-1,edge-2", "region-west": "edge-3,edge-4"}
"""What each origin's dispatches select. A region's go to its own edges: commands only travel down, so what is for a
guest waits, by design, for as long as the guest is at home."""
CANCEL_EVERY = 9
SUCCEEDED = route_pb2.TARGET_STATE_SUCCEEDED
CANCELLED = route_pb2.TARGET_STATE_CANCELLED
_ALL = 1_000_000


@dataclass(slots=True)
class Sender:
    """One origin's stream of dispatches. Each is sent when the one before was accepted, so their order is known."""

    origin: str
    accepted: list[str] = field(default_factory=list)
    """Names, in order; the note of each is its name's id."""
    unclear: int = 0
    cancelled: set[str] = field(default_factory=set)
    over: bool = False

    async def run(self, tree: Tree) -> None:
        """Send until `over`; what the controller does not accept, for being dead, is sent under a new id."""
        async with tree.client(self.origin, policy=Policy(dial=3.0, call=5.0, patience=4.0)) as client:
            while not self.over:
                try:
                    await self._one(client)
                    await asyncio.sleep(PACE)
                except (OteError, TimeoutError):
                    self.unclear += 1
                    await asyncio.sleep(0.1)

    async def _one(self, client: Client) -> None:
        dispatch_id = new_dispatch_id()
        request = apply_of(SENDERS[self.origin], dispatch_id, dispatch_id=dispatch_id)
        request.allow_no_match = True
        async with asyncio.timeout(10.0):
            self.accepted.append(await accepted(client, request))
            if len(self.accepted) % CANCEL_EVERY == 0:
                self.cancelled.add(self.accepted[-1])
                await client.cancel_dispatch(self.accepted[-1])


class Chaos:
    """Kills and stops processes, and brings each back a moment later."""

    def __init__(self, tree: Tree, rng: random.Random) -> None:
        self._tree = tree
        self._rng = rng
        self._busy: dict[str, asyncio.Task[None]] = {}
        self.done: Counter[str] = Counter()

    async def run(self, events: int, seconds: float) -> None:
        """So many events, spread over so long."""
        begun = time.monotonic()
        for number in range(events):
            free = [victim for victim in VICTIMS if victim not in self._busy]
            victim = self._rng.choices(free, [VICTIMS[one] for one in free])[0]
            hurt = self._stop if self._rng.random() < 0.4 and " " not in victim else self._kill
            away = self._rng.uniform(0.0, 2.0) if hurt == self._stop else self._rng.uniform(0.0, 0.8)
            task = asyncio.create_task(hurt(victim, away))
            self._busy[victim] = task
            while len(self._busy) >= AT_ONCE or time.monotonic() < begun + (number + 1) * seconds / events:
                self._collect()
                await asyncio.sleep(0.02)
        await asyncio.gather(*self._busy.values())
        self._collect()

    def _collect(self) -> None:
        for victim, task in list(self._busy.items()):
            if task.done():
                task.result()
                del self._busy[victim]

    async def _stop(self, victim: str, away: float) -> None:
        self.done["SIGSTOP"] += 1
        self._tree.freeze(victim)
        await asyncio.sleep(away)
        self._tree.thaw(victim)

    async def _kill(self, victim: str, away: float) -> None:
        self.done["SIGKILL"] += 1
        shim = victim.removeprefix("shim ")
        if shim != victim:
            await self._tree.kill_helper(shim)
            await asyncio.sleep(away)
            await self._tree.start_counting(shim)
            return
        await self._tree.kill_and_wait(victim)
        await asyncio.sleep(away)
        await self._tree.start(victim)


async def until_settled(client: Client, seconds: float) -> None:
    """Wait until an origin has nothing unsettled."""
    end = time.monotonic() + seconds
    while open_ones := await client.list_dispatches(unsettled_only=True, limit=_ALL):
        if time.monotonic() > end:
            stuck = await client.get_dispatch(open_ones[-1].name)
            pytest.fail(f"seed {SEED}: {len(open_ones)} dispatches are not settled, the oldest is {stuck}")
        await asyncio.sleep(0.1)


async def grow(tree: Tree) -> None:
    await tree.start_root()
    regions, edges = await tree.token("region-*", children=True), await tree.token("edge-*")
    await asyncio.gather(*(tree.join(name, "root", children=True, token=regions) for name in REGIONS))
    await asyncio.gather(*(tree.join_counted(name, HOME[name], token=edges) for name in EDGES))
    async with tree.client() as client:
        await until_online(client, HOME)


@pytest.mark.timeout(600)
async def test_a_hundred_kills_lose_no_dispatch_and_give_none_a_second_effect(tree: Tree) -> None:
    print(f"OTE_CHAOS_SEED={SEED}")
    await grow(tree)
    senders = [Sender(origin) for origin in SENDERS]
    sending = [asyncio.create_task(sender.run(tree)) for sender in senders]
    chaos = Chaos(tree, random.Random(SEED))
    begun = time.monotonic()
    try:
        await chaos.run(EVENTS, SECONDS)
    finally:
        for sender in senders:
            sender.over = True
        await asyncio.gather(*sending)
    print(f"{dict(chaos.done)} in {time.monotonic() - begun:.1f} s")
    for node in tree.nodes.values():
        assert node.running, f"seed {SEED}: {node.name} ended by itself"
    begun = time.monotonic()
    await heal(tree)
    print(f"whole {time.monotonic() - begun:.1f} s after the last event; ", end="")
    await asyncio.gather(*(check_settled(tree, sender) for sender in senders))
    print(f"all settled after {time.monotonic() - begun:.1f} s")
    assert sum(chaos.done.values()) >= min(EVENTS, 100)
    assert all(sender.accepted for sender in senders)
    check_order(tree, senders)


async def heal(tree: Tree) -> None:
    """All are there already; edges are started anew, because those whose homes died often wait long to return."""
    await asyncio.gather(*(tree.restart(name) for name in EDGES))
    async with tree.client() as client:
        await until_online(client, HOME)


async def check_settled(tree: Tree, sender: Sender) -> None:
    """Every dispatch of an origin is final, with exactly one effect where it says so and none where it says so."""
    effects = {edge: Counter(tree.notes(edge)) for edge in EDGES}
    states: Counter[str] = Counter()
    async with tree.client(sender.origin) as client:
        await until_settled(client, 120.0)
        effects = {edge: Counter(tree.notes(edge)) for edge in EDGES}
        for name in sender.accepted:
            dispatch = await client.get_dispatch(name)
            for edge, target in by_name(dispatch.targets).items():
                states[route_pb2.TargetState.Name(target.state).removeprefix("TARGET_STATE_")] += 1
                count = effects[edge][name.partition("/")[2]]
                allowed = {SUCCEEDED: 1, CANCELLED: 0} if name in sender.cancelled else {SUCCEEDED: 1}
                assert allowed.get(target.state) == count, f"seed {SEED}: {count} effects of {name} at {edge}: {target}"
    print(f"{sender.origin}: {len(sender.accepted)} accepted, {sender.unclear} not: {dict(states)}")
    for edge, counts in effects.items():
        twice = [note for note, count in counts.items() if count > 1]
        assert not twice, f"seed {SEED}: twice at {edge}: {twice}"


def check_order(tree: Tree, senders: list[Sender]) -> None:
    """At each edge the effects of one origin are in the order in which it accepted them."""
    for sender in senders:
        number = {name.partition("/")[2]: at for at, name in enumerate(sender.accepted)}
        for edge in EDGES:
            order = [number[note] for note in tree.notes(edge) if note in number]
            assert order == sorted(order), f"seed {SEED}: order of {sender.origin} at {edge}: {order}"
