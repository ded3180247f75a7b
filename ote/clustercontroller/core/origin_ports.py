"""What the origin needs of others: the registry, of which it reads a little, and ways to the targets.

Not here: who they are (`registry`, `router`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ote.clustercontroller.core import messages as m


class KnownFacts(Protocol):
    """What the origin reads of a cluster's facts."""

    @property
    def journal_id(self) -> str: ...


class KnownCluster(Protocol):
    """What the origin reads of an entry of the registry."""

    @property
    def facts(self) -> KnownFacts: ...

    @property
    def instance(self) -> str: ...


class Clusters(Protocol):
    """What the origin asks of the registry."""

    def get(self, uid: str) -> KnownCluster | None: ...

    def next_hop(self, uid: str) -> int | None: ...

    def is_up(self, uid: str) -> bool: ...

    def descendants(self, uid: str) -> Iterator[str]: ...


class Route(Protocol):
    """Ways to the targets; to this controller itself, too."""

    def deliver(self, deliver: m.Deliver) -> None: ...

    def revoke(self, revoke: m.Revoke) -> None: ...

    def ack(self, ack: m.Ack) -> None: ...
