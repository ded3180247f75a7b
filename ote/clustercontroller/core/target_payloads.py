"""Payloads that changes wait for at their target: asked for until they come, or until nobody is known to have them.

What lives here: which changes wait so, when their payloads are asked for again, and when they are given up. What does
not: the transfer (the shell's), what becomes of the change (`target`). The one idea: a way that is closed may open, so
it is waited for; controllers that say they have not got a payload are asked a few times more, and then believed. What
holds up the whole journal is given up after as many failures of any kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.events import PayloadFailed
from ote.clustercontroller.core.messages import Payload
from ote.clustercontroller.core.target_state import RUNNING, Change
from ote.clustercontroller.core.timers import Timers, delay

_MOST_ABSENT = 7
"""Times that a payload was found to be nowhere, after which it is given up: a minute, for the delays double."""


class Fetching:
    """Changes whose payload is not here. `wanted(change)` asks the origin for the command anew, so that the controllers
    on its way serve the payload again; `given_up(change, reason)` ends the wait."""

    def __init__(
        self, ctx: Context, timers: Timers, wanted: Callable[[Change], None], given_up: Callable[[Change, str], None]
    ) -> None:
        self._ctx = ctx
        self._timers = timers
        self._wanted = wanted
        self._given_up = given_up
        self._changes: dict[str, Change] = {}

    def fetch(self, change: Change) -> None:
        """Bring the payload of a change here."""
        self._changes[change.key] = change
        self._ctx.emit(fx.FetchPayload(change.key, cast(Payload, change.row.payload)))

    def over(self, key: str) -> Change | None:
        """It is waited for no more. Returns the change that did."""
        change = self._changes.pop(key, None)
        if change is not None:
            change.tries, change.fetch_at = 0, 0.0
        return change

    def path_changed(self) -> None:
        """There is a new way up, and others there who may have it."""
        for change in self._changes.values():
            change.absent = change.tries = 0
            change.fetch_at = 0.0
            self.fetch(change)

    def delivered(self, change: Change) -> None:
        """The command has come again: whoever it came through has the payload, or knows where it is."""
        if change.fetch_at:
            self.fetch(change)

    def lost(self, change: Change, reason: str) -> None:
        """What was here is not any more."""
        self._changes[change.key] = change
        change.absent += 1
        if change.absent == 1:
            self.fetch(change)
        else:
            self._later(change, reason)

    def failed(self, event: PayloadFailed) -> None:
        """It did not come."""
        change = self._changes.get(event.key)
        if change is None:
            return
        if event.final:
            self._given_up(change, event.reason)
        elif not change.fetch_at:
            change.absent += event.absent or change.phase == RUNNING
            self._later(change, event.reason)
            if event.absent and change.stored and change.key in self._changes:
                self._wanted(change)

    def _later(self, change: Change, reason: str) -> None:
        if change.absent >= _MOST_ABSENT:
            self._given_up(change, reason)
            return
        change.fetch_at = self._ctx.now + delay(self._ctx, change.tries)
        change.tries += 1
        self._timers.at(change.fetch_at, self._due, change, change.fetch_at)

    def _due(self, change: Change, due: float) -> None:
        if change.key in self._changes and change.fetch_at == due:
            change.fetch_at = 0.0
            self.fetch(change)
