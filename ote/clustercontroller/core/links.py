"""The links that a child has to parents and candidates, each in one of five phases.

    DIALING    `Dial` is out, no answer yet
    HELD       welcomed, but may not be taken (yet): its standing has to get better first
    ATTACHING  `Attach` is out
    ACTIVE     the parent; at most one
    LEAVING    `Goodbye` is out, what the old parent still has to say is read

Not here: what moves a link from one phase to the next (`parents`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ote.clustercontroller.core.beat import NEVER, NONE
from ote.clustercontroller.core.context import CoreSettings
from ote.clustercontroller.core.messages import Alternate, Beat, ClusterRecord, PathStep, Standing, Welcome

DIALING, HELD, ATTACHING, ACTIVE, LEAVING = "DIALING", "HELD", "ATTACHING", "ACTIVE", "LEAVING"


@dataclass(slots=True)
class Link:
    """One link and what the other end has said of itself. Times in seconds of the context's clock."""

    number: int
    candidate: Alternate
    last_resort: bool
    phase: str = DIALING
    deadline: float = NEVER
    heard: float = 0.0
    welcomed_at: float = 0.0
    uid: str = ""
    standing: Standing = NONE
    connected: bool = False
    draining: bool = False
    path: list[PathStep] = field(default_factory=list)
    heartbeat: float = 0.0
    """Interval at which the parent wants to hear something."""
    dead_after: float = 0.0
    """Silence after which this link is lost, either way."""
    unheard: float = 0.0
    """For how long the parent had heard nothing, as its last beat said."""
    record: ClusterRecord | None = None
    """What was said in `Attach`."""

    def welcomed(self, welcome: Welcome, settings: CoreSettings, now: float) -> None:
        """Take over what the welcome says. The parent's pace holds on its link, within reason."""
        self.uid, self.welcomed_at = welcome.uid, now
        self.standing = welcome.standing
        self.connected = welcome.connected
        self.draining = welcome.draining
        self.path = welcome.path
        self.heartbeat = max(0.05, welcome.heartbeat_ms / 1000) if welcome.heartbeat_ms else settings.heartbeat
        dead_after = welcome.dead_after_ms / 1000 if welcome.dead_after_ms else settings.dead_after
        self.dead_after = max(2 * self.heartbeat, dead_after)

    def beaten(self, beat: Beat) -> None:
        """Take over what a beat says. It grows only at a parent that is connected."""
        self.connected = self.connected or beat.standing.beat > self.standing.beat
        self.standing = beat.standing
        self.draining = beat.draining
        self.unheard = beat.silence_ms / 1000
        if beat.path:
            self.path = beat.path

    def leads_through(self, uid: str) -> bool:
        """The path vector: whether this parent is, or is below, that controller."""
        return self.uid == uid or any(step.uid == uid for step in self.path)


class Links:
    """All links of the child's side by number, and the active one."""

    def __init__(self) -> None:
        self.active: Link | None = None
        self._links: dict[int, Link] = {}

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links.values()))

    @property
    def deadline(self) -> float:
        """The earliest of all."""
        return min([link.deadline for link in self._links.values()], default=NEVER)

    def add(self, link: Link) -> None:
        self._links[link.number] = link

    def get(self, number: int, *phases: str) -> Link | None:
        """The link if it is known, and in one of these phases if any are given."""
        link = self._links.get(number)
        return link if link is not None and (not phases or link.phase in phases) else None

    def remove(self, link: Link) -> None:
        del self._links[link.number]

    def among(self, *phases: str) -> list[Link]:
        return [link for link in self._links.values() if link.phase in phases]
