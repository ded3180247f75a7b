"""What has become of a dispatch so far, as its events tell it. Not here: asking and showing."""

from __future__ import annotations

from dataclasses import dataclass, field

from ote.api.route.v1 import route_pb2
from ote.cli.exits import FINAL, QUEUED
from ote.cli.views import Document, dispatch_view, summary, target_state


@dataclass
class Story:
    """The state of a dispatch. name: "ORIGIN/ID". accepted: it is not forgotten. finished: all targets are final."""

    name: str = ""
    accepted: bool = False
    finished: bool = False
    targets: dict[str, route_pb2.Target] = field(default_factory=dict)

    def take(self, event: route_pb2.DispatchResponse) -> list[route_pb2.Target]:
        """Takes an event in; the targets it changed."""
        match event.WhichOneof("event"):
            case "accepted":
                self.name, self.accepted = event.accepted.dispatch, True
                return [target for target in event.accepted.targets if self._take(target)]
            case "changed":
                return [target for target in event.changed.targets if self._take(target)]
            case "summary":
                self.finished = True
        return []

    def _take(self, target: route_pb2.Target) -> bool:
        key = target.uid or target.cluster
        if self.targets.get(key) == target:
            return False
        self.targets[key] = target
        return True

    @property
    def held(self) -> int:
        """How many targets wait for clusters that are offline, once nothing else is awaited; else 0."""
        open_ones = [target for target in self.targets.values() if target_state(target) not in FINAL]
        held = [one for one in open_ones if target_state(one) == QUEUED and one.reason != "BUSY"]
        return len(held) if self.accepted and len(held) == len(open_ones) else 0

    def states(self) -> dict[str, int]:
        """Number of targets by state."""
        return summary(map(target_state, self.targets.values()))

    def document(self, command: str) -> Document:
        """The stable shape of its JSON."""
        return dispatch_view(self.name, command, self.targets.values())
