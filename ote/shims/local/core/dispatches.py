"""What is remembered of dispatch ids, so that none has a second effect.

Not here: carrying commands out, storing. The one idea: an id is bound to its content for ever; what it did is committed
in the same commit as the effect, and its result before anybody is told.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ote.shims.local.core.records import Acted


class Watching(msgspec.Struct, frozen=True):
    """A command that took effect and whose readiness is observed: until when, and what it is called if that is over.

    deleting: it waits for pods to end, not for objects to become ready; ending: which pods.
    """

    actions: list[Acted]
    deleting: bool = False
    ending: list[str] = []
    until: float | None = None
    reason: str = ""


class Dispatch(msgspec.Struct, frozen=True):
    """What is remembered of one id: the digest of its content, and either its result or what it still observes.

    An empty digest stands for any content: the id was cancelled before its command came.
    """

    digest: bytes
    result: bytes | None = None
    watching: Watching | None = None


class Memory:
    """Dispatches by id."""

    def __init__(self) -> None:
        self._known: dict[str, Dispatch] = {}

    def load(self, dispatches: Iterable[tuple[str, Dispatch]]) -> list[str]:
        """Takes up what was remembered; returns the ids that have taken effect and have no result yet."""
        self._known.update(dispatches)
        return [name for name, dispatch in self._known.items() if dispatch.watching is not None]

    def find(self, dispatch_id: str) -> Dispatch | None:
        """What is remembered of an id."""
        return self._known.get(dispatch_id)

    def conflicts(self, dispatch_id: str, digest: bytes) -> bool:
        """Whether the id was used with other content."""
        known = self._known.get(dispatch_id)
        return known is not None and known.digest not in (b"", digest)

    def remember(self, dispatch_id: str, dispatch: Dispatch) -> None:
        """Remembers an id; committed by the caller together with its effect."""
        self._known[dispatch_id] = dispatch

    def forget(self, dispatch_ids: Iterable[str]) -> list[str]:
        """Forgets ids that have a result; returns those that were known."""
        gone = [name for name in dispatch_ids if (known := self._known.get(name)) and known.result is not None]
        for name in gone:
            self._known.pop(name, None)
        return gone

    def __len__(self) -> int:
        return len(self._known)
