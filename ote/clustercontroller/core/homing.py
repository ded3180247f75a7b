"""The way back to the configured parent: when it is probed, and how soon it is trusted again.

The one idea (F2.9): the first return is at once; every return that does not last doubles the wait before the next, so
that a home that answers probes and dies under load does not make its children flap.
Not here: dialling it and moving over (`parents`).
"""

from __future__ import annotations

from ote.clustercontroller.core.beat import NEVER
from ote.clustercontroller.core.context import Context


class Homing:
    """`probe_at`: when to probe next. `trusted`: whether home may be taken back now. `away_since`: when home was lost,
    None while it is the parent. `problem`: why it was not taken when it was tried last."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self.probe_at = NEVER
        self._wait = 0.0
        self._not_before = float("-inf")
        self._home_since = 0.0
        self._returned = False
        self.away_since: float | None = ctx.now
        self.problem = ""

    @property
    def away(self) -> tuple[float, str] | None:
        """Since when home is not the parent, and why it was not taken when it was tried last."""
        return None if self.away_since is None else (self.away_since, self.problem)

    @property
    def trusted(self) -> bool:
        return self._ctx.now >= self._not_before

    def attached(self, home: bool, again: bool) -> None:
        """A parent was taken. `home`: the configured one; `again`: this process had a parent before."""
        if home:
            self.probe_at = NEVER
            self.away_since, self.problem = None, ""
            self._home_since = self._ctx.now
            self._returned = again
        else:
            self.probe_at = self._ctx.now + self._ctx.settings.probe_interval
            if self.away_since is None:
                self.away_since = self._ctx.now

    def lost_home(self) -> None:
        """The link to home broke."""
        self.away_since = self._ctx.now
        lasted = self._ctx.now - self._home_since >= self._ctx.settings.return_lasted
        if lasted:
            self._wait = 0.0
        elif self._returned:
            self.distrust()

    def distrust(self) -> None:
        """A return came to nothing: wait longer before the next."""
        settings = self._ctx.settings
        self._wait = min(settings.return_wait_cap, max(settings.return_wait_base, 2 * self._wait))
        self._not_before = self._ctx.now + self._wait

    def probed(self) -> None:
        self.probe_at = self._ctx.now + self._ctx.settings.probe_interval
