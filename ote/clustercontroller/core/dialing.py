"""When the next candidate is dialled: rounds through the list, two at most at once, full jitter between rounds.

The one idea (rule 11): the first attempt after a loss is spread over a moment, a failed attempt makes room for the next
at once, and only a whole list without success backs off. A second dial is begun beside the first soon if nobody was
reached, and late if somebody was: who is reached and does not answer is busy with a crowd that should not be doubled.
Not here: who is on the list (`candidates`), the links themselves (`parents`).
"""

from __future__ import annotations

from collections.abc import Callable

from ote.clustercontroller.core.beat import NEVER
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.messages import Alternate

AT_ONCE = 2
"""Dials in flight."""
APART = 0.5
"""Seconds between two dials of a round while the earlier one has reached nobody."""
APART_REACHED = 5.0
"""The same once it has."""
BACKGROUND_CAP = 60.0
"""Cap of the wait between rounds while there is a parent, which is only to be left for a better one."""
SHORTEST = 0.01
"""Least wait between rounds."""


class Rounds:
    """Time and list of the dials. `at`: when to dial the next; `NEVER` while a round waits for its last dials."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self.at = NEVER
        self.number = 0
        """Rounds finished without success since `begin`."""
        self._queue: list[tuple[Alternate, bool]] = []

    def begin(self) -> None:
        """Start anew: somebody is wanted."""
        self._queue = []
        self.number = 0
        self.at = self._ctx.now + self._ctx.rng.uniform(0.0, self._ctx.settings.first_attempt_within)

    def stop(self) -> None:
        self._queue = []
        self.at = NEVER

    @property
    def exhausted(self) -> bool:
        """Whether nobody of this round is left to dial and no next round is set."""
        return not self._queue and self.at == NEVER

    def more(self, fill: Callable[[], list[tuple[Alternate, bool]]]) -> bool:
        """Whether somebody is left to dial; a new round is filled when the last one is over."""
        self._queue = self._queue or fill()
        return bool(self._queue)

    def next(self) -> tuple[Alternate, bool]:
        """The next candidate of the round, and whether it is a last resort."""
        first = self._queue.pop(0)
        self.at = self._ctx.now + APART if self._queue else NEVER
        return first

    def put_off(self) -> None:
        """Somebody was reached: the next dial of the round has time."""
        if self.at < NEVER:
            self.at = max(self.at, self._ctx.now + APART_REACHED)

    def ended(self) -> None:
        """A dial ended: the next of the round may start now."""
        if self._queue:
            self.at = self._ctx.now

    def over(self, background: bool) -> None:
        """The whole list brought nobody: wait."""
        settings = self._ctx.settings
        cap = BACKGROUND_CAP if background else settings.retry_cap
        longest = min(cap, settings.retry_base * 2.0 ** min(self.number, 16))
        self.number += 1
        self.at = self._ctx.now + max(SHORTEST, self._ctx.rng.uniform(0.0, longest))
