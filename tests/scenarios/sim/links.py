"""Tunnels: two pipes each, with lanes as in the shell, frames, delays, cuts, ends.

A cut holds frames back as TCP does: when it heals they arrive, late and in order, unless an end was closed by then.
An end that closes writes what is queued and then ends the stream; one whose process dies ends it at once; one whose
machine is switched off says nothing, and a frame that finds nobody is answered with a reset.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.lanes import LANE_OF, Budget, Lanes
from ote.clustercontroller.tunnel import answer_first

if TYPE_CHECKING:
    from tests.scenarios.sim.process import Process
    from tests.scenarios.sim.world import World

_HELD_FRAMES = 3
"""Frames that a cut pipe swallows before its writer waits."""


class _Sized:
    """An item in a lane; its size is a guess."""

    __slots__ = ("item", "size")

    def __init__(self, item: m.Item) -> None:
        self.item = item
        self.size = 64 + 256 * len(item.records) if isinstance(item, m.News) else 128

    def __len__(self) -> int:
        return self.size


class End:
    """A process's end of a link, under its own number. `peer` is the other end."""

    peer: End

    def __init__(self, process: Process, number: int, is_child: bool) -> None:
        self.process = process
        self.number = number
        self.is_child = is_child
        self.open = True
        """This side has not ended it, and has not been told that it ended."""
        self.closing = False
        """This side has ended it and still writes."""
        self.lanes: Lanes[_Sized] = Lanes(Budget())
        self.frames: deque[list[m.Item] | None] = deque()
        """On their way to the other end; None is the end of the stream."""
        self.planned = False
        self.arrives = 0.0


class Link:
    """From the dial on. `welcomed`: the child has the parent's first word."""

    def __init__(self, world: World, child: Process, dial: fx.Dial) -> None:
        self.world = world
        self.dial = dial
        self.child = End(child, dial.link, is_child=True)
        self.parent: End | None = None
        self.welcomed = False
        child.ends[dial.link] = self
        world.links_made += 1
        site = world.site_at(dial.candidate.address)
        delay = world.latency(child.site.name, site.name if site else "")
        world.after(2 * delay, self._reach)
        world.after(3 * delay, self._arrive)

    # --- opening --------------------------------------------------------------------------------------------------

    def _reach(self) -> None:
        """Somebody listens: the kernel of a machine with a process, even one that sleeps."""
        world, end = self.world, self.child
        site = world.site_at(self.dial.candidate.address)
        if not end.open or not end.process.alive or site is None or site.off or site.process is None:
            return
        if world.passes(end.process.site, site, both=True):
            end.process.post(ev.DialReached(end.number))

    def _arrive(self) -> None:
        """The child's SYN, handshake and hello, all in one."""
        world, end = self.world, self.child
        if not end.open or not end.process.alive:
            return
        site = world.site_at(self.dial.candidate.address)
        if site is None or site.off or not world.passes(end.process.site, site, both=True):
            return  # silence: the dial ends by its time
        process = site.process
        if process is None:
            self._fail("connection refused")
            return
        if process.asleep and world.rng.random() < 0.7:
            return
        expected = self.dial.candidate
        if expected.name not in ("", process.name):
            self._fail(f"the certificate is that of {process.name}")
            return
        if not site.address:
            self._fail("NOT_A_PARENT")
            return
        other = self.parent = End(process, process.core.ctx.new_link(), is_child=False)
        end.peer, other.peer = other, end
        process.ends[other.number] = self
        world.seen(end.process, process, self.dial.hello)
        process.post(ev.ChildHello(other.number, self.dial.hello, end.process.uid, end.process.name))

    def _fail(self, reason: str) -> None:
        end = self.child
        if end.open and end.process.alive:
            self._shut(end)
            end.process.post(ev.DialFailed(end.number, reason))

    # --- what a process does with its end --------------------------------------------------------------------------

    def end_of(self, process: Process, number: int) -> End | None:
        """The end that this process knows under this number."""
        if self.child.process is process and self.child.number == number:
            return self.child
        return self.parent

    def send(self, end: End, item: m.Item) -> bool:
        """Queue an item; False when it was refused."""
        if not end.open:
            return True
        lane = LANE_OF[type(item)]
        if self.world.is_full(end.process.site, end.peer.process.site, lane) or not end.lanes.put(lane, _Sized(item)):
            return False
        self._plan(end)
        return True

    def close(self, end: End) -> None:
        """CloseLink: write what is queued, then end the stream."""
        if end.open:
            self._shut(end)

    def _shut(self, end: End) -> None:
        end.open = False
        end.closing = True
        end.process.ends.pop(end.number, None)
        if self.parent is not None:
            self._plan(end)

    def dead(self, end: End, silent: bool) -> None:
        """The process of this end is gone."""
        end.open = end.closing = False
        end.lanes.clear()
        if silent or self.parent is None:
            end.frames.clear()
            return
        if self.world.chance(0.5):
            end.frames.clear()
        end.frames.append(None)
        self._travel(end)

    def reset(self) -> None:
        """Both ends learn at once that the connection is broken."""
        for end in (self.child, self.parent):
            if end is not None:
                end.frames.clear()
                self._ended(end, "connection reset")

    # --- frames ---------------------------------------------------------------------------------------------------

    def _plan(self, end: End) -> None:
        if self.parent is None or end.planned:
            return
        end.planned = True
        self.world.after(self.world.rng.uniform(0.0, 0.002), lambda: self._write(end))

    def _write(self, end: End) -> None:
        end.planned = False
        if not end.process.alive or not (end.open or end.closing):
            return
        if len(end.frames) >= _HELD_FRAMES and not self._passes(end):
            return
        if items := end.lanes.take():
            end.frames.append([sized.item for sized in items])
            self._travel(end)
            self._plan(end)
        elif end.closing:
            end.closing = False
            end.frames.append(None)
            self._travel(end)

    def _passes(self, end: End) -> bool:
        return self.world.passes(end.process.site, end.peer.process.site)

    def _travel(self, end: End) -> None:
        world = self.world
        at = world.now + world.latency(end.process.site.name, end.peer.process.site.name)
        end.arrives = max(end.arrives, at)
        world.at(end.arrives, lambda: self._deliver(end))

    def healed(self) -> None:
        """A cut is over: what was held back goes on."""
        if self.parent is None:
            return
        for end in (self.child, self.parent):
            if end.frames and self._passes(end):
                for _ in end.frames:
                    self._travel(end)
            self._plan(end)

    def _deliver(self, end: End) -> None:
        """The next frame of this end arrives at the other, if the way is free."""
        if not end.frames or not self._passes(end):
            return
        peer = end.peer
        if peer.process.site.off:
            return
        frame = end.frames.popleft()
        if not peer.process.alive or (not peer.open and not peer.closing):
            self._reset(end)
        elif frame is None:
            self._ended(peer, "the stream ended")
        elif peer.open or self.world.chance(0.5):
            self._take(peer, frame)

    def _reset(self, end: End) -> None:
        """Nobody is there any more: the sender is told."""
        end.frames.clear()
        if end.open and self.world.passes(end.peer.process.site, end.process.site):
            self.world.after(0.001, lambda: self._ended(end, "connection reset"))

    def _ended(self, end: End, reason: str) -> None:
        if not end.open:
            return
        end.open = False
        end.lanes.clear()
        end.process.ends.pop(end.number, None)
        if end.is_child and not self.welcomed:
            end.process.post(ev.DialFailed(end.number, reason))
        else:
            end.process.post(ev.LinkLost(end.number, reason))

    def _take(self, end: End, items: list[m.Item]) -> None:
        process, world = end.process, self.world
        for item in items:
            world.seen(end.peer.process, process, item)
        if not end.is_child:
            process.post(ev.FromChild(end.number, items))  # type: ignore[arg-type]
            return
        if not self.welcomed:
            first, *rest = answer_first(items)  # type: ignore[arg-type]
            items = list(rest)
            if isinstance(first, m.Welcome) and end.open:
                self.welcomed = True
                process.post(ev.DialWelcome(end.number, first))
            elif isinstance(first, m.Refused) and end.open:
                self.welcomed = True
                self._shut(end)
                process.post(ev.DialRefused(end.number, first))
                return
        if items:
            process.post(ev.FromParent(end.number, items))  # type: ignore[arg-type]
