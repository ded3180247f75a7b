"""The queue of a tunnel's sending side: one lane per kind of item, each with its own rule for when it is full.

| lane     | items                                | when full                                        |
|----------|--------------------------------------|--------------------------------------------------|
| beat     | Beat, Heartbeat                      | replaced by the newest                           |
| session  | Hello … Drained, Goodbye             | the session ends: a peer this far behind is lost |
| dispatch | Deliver, Deliveries                  | refused: the origin is told BUSY                 |
| result   | Report, Reports, Ack, Revoke         | dropped: its end sends it again                  |
| question | Call, Reply                          | dropped: who asks hears that nobody answers      |
| registry | News, Away, Evictions, Alternates, … | dropped: the core says what they told again      |

In `session` is only what the two ends of the link say to each other, and in `dispatch` only what comes from above: what
others below may have made never ends a link, and keeps no command from it.
The core hears of each item of `OWED` that was not taken. `beat` and `session` go first; the others share by weight
8 : 4 : 4 : 1. `take` makes the next frame. Nothing here waits or writes; `tunnel` does.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from ote.clustercontroller.core import messages as m

FRAME_BYTES = 32 * 1024
"""A frame holds items up to this size, or a single one that is larger: a beat waits for one, 0.26 s at 1 Mbit/s."""
LARGE_FRAME_BYTES = 60 * 1024
"""The same on a link that is quick (`Pace`), where half the frames are half of what they cost."""
QUICK_BYTES = 512 * 1024
QUICK_WITHIN = 0.25
"""A link that has carried so many bytes within so many seconds is quick for as long: a large frame takes it 0.03 s."""

MAX_ITEM = 512 * 1024
"""A larger item is not sent, and ends the tunnel on which it comes: so nobody far away makes beats wait for longer than
the 4 s that this one takes at 1 Mbit/s. What a cluster says of itself is the largest that there is."""


class Lane(StrEnum):
    """The lanes, by the name that metrics and status use."""

    BEAT = "beat"
    SESSION = "session"
    DISPATCH = "dispatch"
    RESULT = "result"
    QUESTION = "question"
    REGISTRY = "registry"


LANE_OF: dict[type, Lane] = {
    m.Beat: Lane.BEAT,
    m.Heartbeat: Lane.BEAT,
    m.Hello: Lane.SESSION,
    m.Welcome: Lane.SESSION,
    m.Refused: Lane.SESSION,
    m.Attach: Lane.SESSION,
    m.Attached: Lane.SESSION,
    m.Goodbye: Lane.SESSION,
    m.Drained: Lane.SESSION,
    m.Deliver: Lane.DISPATCH,
    m.Deliveries: Lane.DISPATCH,
    m.Call: Lane.QUESTION,
    m.Reply: Lane.QUESTION,
    m.Report: Lane.RESULT,
    m.Reports: Lane.RESULT,
    m.Ack: Lane.RESULT,
    m.Revoke: Lane.RESULT,
    m.News: Lane.REGISTRY,
    m.Away: Lane.REGISTRY,
    m.Evictions: Lane.REGISTRY,
    m.Alternates: Lane.REGISTRY,
    m.Resync: Lane.REGISTRY,
}

OWED: frozenset[type] = frozenset({m.Deliver, m.Deliveries, m.News, m.Away, m.Evictions, m.Alternates})
"""What a lane may not take without the core being told: it says it again, or whoever waits for it that it was not sent.
All else is asked for, or sent, again by its ends."""

_WEIGHTS = {Lane.DISPATCH: 8, Lane.RESULT: 4, Lane.QUESTION: 4, Lane.REGISTRY: 1}
_LANE_LIMIT = 1024 * 1024
_SESSION_LIMIT = 1024 * 1024
_SESSION_SHARE = 64 * 1024
"""What a session lane may hold when the budget of all is used up."""
_REGISTRY_LIMIT = 32 * 1024 * 1024
"""A full account of 100,000 clusters is 20 MB; it is given piece by piece as the peer reads."""
_LIMITS = {Lane.SESSION: _SESSION_LIMIT, Lane.REGISTRY: _REGISTRY_LIMIT}


class Encoded(Protocol):
    """An encoded item; its length is what it takes in a frame."""

    def __len__(self) -> int: ...


E = TypeVar("E", bound=Encoded)


@dataclass(slots=True)
class Traffic:
    """What all tunnels of a process have carried since its start, for metrics. Bytes, unless it is said otherwise."""

    sent: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(Lane, 0))
    received: int = 0
    frames_sent: int = 0
    frames_received: int = 0
    refused: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(_WEIGHTS, 0))
    """Items."""
    bulk_sent: int = 0
    bulk_received: int = 0
    bulk_streams: Counter[str] = field(default_factory=Counter)
    """Bulk RPCs that are open, by uid of the child; those to the parent are under the empty one."""

    def took(self, size: int) -> None:
        """A frame of this size has come."""
        self.received += size
        self.frames_received += 1

    @contextlib.contextmanager
    def bulk(self, child: str = "") -> Iterator[None]:
        """Around one bulk RPC of a child, or to the parent."""
        self.bulk_streams[child] += 1
        try:
            yield
        finally:
            self.bulk_streams[child] -= 1
            if not self.bulk_streams[child]:
                del self.bulk_streams[child]


@dataclass(slots=True)
class Budget:
    """What the tunnels of a process share: bytes that all queues may hold together, and what went through them."""

    limit: int = 64 * 1024 * 1024
    used: int = 0
    children: int = 0
    """Tunnels of children that are open."""
    traffic: Traffic = field(default_factory=Traffic)


@dataclass(slots=True)
class Counters:
    """What a tunnel has sent and refused, for status and metrics."""

    sent: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(Lane, 0))
    refused: int = 0


@dataclass(slots=True)
class Pace:
    """How large a frame may be, by what the link has just carried. What is written has left, but for the 64 KiB that
    HTTP/2 lets go before the other end has them."""

    _since: float = float("-inf")
    _bytes: int = 0
    _quick_until: float = float("-inf")

    def room(self, now: float) -> int:
        """Bytes of the next frame."""
        return LARGE_FRAME_BYTES if now < self._quick_until else FRAME_BYTES

    def wrote(self, size: int, now: float) -> None:
        """A frame of this size has been written."""
        if now - self._since > QUICK_WITHIN:
            self._since, self._bytes = now, 0
            return
        self._bytes += size
        if self._bytes >= QUICK_BYTES:
            self._quick_until = now + QUICK_WITHIN
            self._since, self._bytes = now, 0


class Overflow(Exception):
    """The session lane is full."""


class Lanes(Generic[E]):
    """Queues of one link. `put` returns False for an item that was refused or dropped."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._beat: E | None = None
        self._queues: dict[Lane, deque[tuple[E, int]]] = {}
        """Of the lanes in which something waits; an idle tunnel has none."""
        self._bytes = dict.fromkeys(Lane, 0)
        self._credit = dict.fromkeys(_WEIGHTS, 0)
        self._waiting = 0
        """Items in the queues."""
        self._closed = False
        self.counters = Counters()

    @property
    def queued_bytes(self) -> int:
        return sum(self._bytes.values())

    @property
    def waiting_beat(self) -> E | None:
        """The beat that has not been taken yet."""
        return self._beat

    def queued_in(self, lane: Lane) -> int:
        """Bytes that wait in a lane; a beat that waits is not counted."""
        return self._bytes[lane]

    def __bool__(self) -> bool:
        return self._beat is not None or self._waiting > 0

    def put(self, lane: Lane, item: E) -> bool:
        """Queue an item, by the lane's rule. Raises Overflow when the session has to end."""
        if self._closed:
            return True
        if lane is Lane.BEAT:
            self._beat = item
            return True
        size = len(item)
        if size > MAX_ITEM:
            self.counters.refused += 1
            return False
        held = self._bytes[lane] + size
        limit = _LIMITS.get(lane, _LANE_LIMIT)
        full = held > limit and lane in self._queues
        if lane is Lane.SESSION:
            if full or (held > _SESSION_SHARE and self._budget.used + size > self._budget.limit):
                raise Overflow
        elif full or self._budget.used + size > self._budget.limit:
            self.counters.refused += 1
            self._budget.traffic.refused[lane] += 1
            return False
        queue = self._queues.get(lane)
        if queue is None:
            queue = self._queues[lane] = deque()
        queue.append((item, size))
        self._waiting += 1
        self._bytes[lane] = held
        self._budget.used += size
        return True

    def take(self, room: int = FRAME_BYTES) -> list[E]:
        """Items of the next frame, in order; empty when nothing waits."""
        frame: list[E] = []
        if self._beat is not None:
            beat, self._beat = self._beat, None
            size = len(beat)
            room -= size
            self.counters.sent[Lane.BEAT] += size
            self._budget.traffic.sent[Lane.BEAT] += size
            frame.append(beat)
        if self._waiting:
            begun = len(frame)
            self._fill(frame, room)
            self._waiting -= len(frame) - begun
        if frame:
            self._budget.traffic.frames_sent += 1
        return frame

    def close(self) -> None:
        """The link is gone: forget everything that waits, and whatever is still said."""
        self._closed = True
        self.clear()

    def clear(self) -> None:
        """Forget everything that waits."""
        self._beat = None
        self._waiting = 0
        for lane in self._queues:
            self._budget.used -= self._bytes[lane]
            self._bytes[lane] = 0
        self._queues.clear()

    def _fill(self, frame: list[E], room: int) -> None:
        room = self._drain(Lane.SESSION, frame, room)
        while True:
            waiting = [lane for lane in _WEIGHTS if lane in self._queues]
            if not waiting:
                return
            if len(waiting) == 1:
                self._credit = dict.fromkeys(_WEIGHTS, 0)
                self._drain(waiting[0], frame, room)
                return
            lane = max(waiting, key=self._credit.__getitem__)
            size = self._queues[lane][0][1]
            if size > room and frame:
                return
            room -= size
            self._charge(lane, size, waiting)
            frame.append(self._pop(lane))

    def _drain(self, lane: Lane, frame: list[E], room: int) -> int:
        """Take from one lane what fits, or the first item of an empty frame. Returns the room that is left."""
        queue = self._queues.get(lane)
        if queue is None:
            return room
        begun = room
        while queue and (queue[0][1] <= room or not frame):
            item, size = queue.popleft()
            room -= size
            frame.append(item)
        if not queue:
            del self._queues[lane]
        self._gone(lane, begun - room)
        return room

    def _charge(self, lane: Lane, size: int, waiting: list[Lane]) -> None:
        total = sum(_WEIGHTS[other] for other in waiting)
        for other in _WEIGHTS:
            if other in waiting:
                self._credit[other] += size * _WEIGHTS[other] // total
            else:
                self._credit[other] = 0
        self._credit[lane] -= size

    def _pop(self, lane: Lane) -> E:
        queue = self._queues[lane]
        item, size = queue.popleft()
        if not queue:
            del self._queues[lane]
        self._gone(lane, size)
        return item

    def _gone(self, lane: Lane, size: int) -> None:
        self._bytes[lane] -= size
        self._budget.used -= size
        self.counters.sent[lane] += size
        self._budget.traffic.sent[lane] += size
