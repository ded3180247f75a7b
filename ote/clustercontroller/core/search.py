"""Whom a child asks, and whom it would take: dials in flight, candidates that are held, and the tests they must pass.

The one idea: one test, `wanted`, says whether a welcomed candidate would be taken as things stand now; another,
`feasible`, whether it may be without a ring. Who is wanted but not feasible yet is held until its beats make it so.
Not here: attaching and leaving (`parents`), the order (`candidates`), the pace (`dialing`).
"""

from __future__ import annotations

from collections.abc import Callable

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import records
from ote.clustercontroller.core.beat import NEVER, CutOff, Tie, Upward
from ote.clustercontroller.core.candidates import Candidates, key, same
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.dialing import AT_ONCE, Rounds
from ote.clustercontroller.core.homing import Homing
from ote.clustercontroller.core.links import ATTACHING, DIALING, HELD, LEAVING, Link, Links
from ote.clustercontroller.core.messages import Alternate, Hello

_MAX_HELD = 2
_BEAT_WITHIN = 1.5
"""Heartbeat intervals in which a held home that is connected must have passed on a new beat."""
_REACHED_WITHIN = 2.0
"""Seconds for somebody to be found listening at a candidate's address."""
_ANSWERED_WITHIN = 10.0
"""Seconds for the answer of a candidate that was reached. Long, for to begin anew helps nobody: what it has already
spent on this dial is most of what taking a child costs."""


class Search:
    """Owns the rounds of dials; shares the rest with `Parents`."""

    def __init__(
        self,
        ctx: Context,
        row: records.Self,
        candidates: Candidates,
        links: Links,
        evictions_digest: Callable[[], bytes],
    ) -> None:
        self._ctx = ctx
        self._evictions_digest = evictions_digest
        self._row = row
        self.candidates = candidates
        self.links = links
        self.tie = Tie(row)
        self.cut_off = CutOff(ctx)
        self.upward = Upward(ctx)
        self.homing = Homing(ctx)
        self._rounds = Rounds(ctx)
        self._over = False
        self._orphan_since = 0.0
        self._home_last = False
        self._refreshing = 0

    @property
    def on(self) -> bool:
        """Whether candidates are to be asked: there is no parent, or one that is to be left."""
        active = self.links.active
        return not self._over and (active is None or active.draining or self.cut_off.leaving)

    @property
    def connected(self) -> bool:
        return self.links.active is not None and self.cut_off.connected

    @property
    def next_wake(self) -> float:
        island = self._island_at if self.links.active is None else NEVER
        rounds = self._rounds.at if self.on and not self.links.among(ATTACHING) else NEVER
        return min(rounds, island if island > self._ctx.now and not self._over else NEVER)

    def orphaned(self, home_last: bool) -> None:
        """There is no parent (any more). `home_last`: the configured one is not worth the first dial."""
        self._orphan_since = self._ctx.now
        self._home_last = home_last
        self._rounds.begin()

    def begin(self) -> None:
        """Look for another parent than the present one."""
        self._rounds.begin()

    def attached(self) -> None:
        self._home_last = False
        self._refreshing = 0
        self._rounds.stop()
        if self.on:
            self._rounds.begin()

    def settle(self) -> None:
        """The present parent will do after all."""
        self._rounds.stop()

    def end(self) -> None:
        """Never dial again."""
        self._over = True
        self._rounds.stop()

    # --- dials ----------------------------------------------------------------------------------------------------

    def dial(self, candidate: Alternate, last_resort: bool) -> int:
        ctx = self._ctx
        link = Link(ctx.new_link(), candidate, last_resort, deadline=ctx.now + _REACHED_WITHIN)
        self.links.add(link)
        best = self.upward.best(self.tie.best)
        epoch = self._row.epoch
        evictions = self._evictions_digest()
        hello = Hello(ctx.name, ctx.uid, ctx.instance, epoch, best, ctx.software, evictions, last_resort)
        ctx.emit(fx.Dial(link.number, candidate, hello))
        return link.number

    def reached(self, link: Link) -> None:
        """Somebody is there: it is given time, and the next dial only helps if it is busy."""
        link.deadline = self._ctx.now + _ANSWERED_WITHIN
        self._rounds.put_off()

    def tried(self, candidate: Alternate, problem: str) -> None:
        """A candidate was not taken: of home it is remembered why."""
        if self.candidates.is_home(candidate):
            self.homing.problem = problem

    def dial_home(self) -> None:
        """Home has answered a probe as one that may be taken back."""
        home = self.candidates.home
        if home is not None and self.homing.trusted and not self.in_use(home):
            self.dial(home, False)

    def refresh(self) -> None:
        """Dial the present parent, to attach to it anew."""
        active = self.links.active
        if active is not None and not self._over and self.links.get(self._refreshing) is None:
            self._refreshing = self.dial(active.candidate, active.draining)

    def next_dials(self, *, ended: bool = False) -> None:
        """Dial as many as may be dialled now; a round is over when its last dial is. `ended`: one of them just has."""
        rounds = self._rounds
        if ended:
            rounds.ended()
        if not self.on or self.links.among(ATTACHING):
            return
        while self._ctx.now >= rounds.at:
            if len(self.links.among(DIALING)) >= AT_ONCE or not rounds.more(self._round):
                rounds.at = NEVER
            else:
                self.dial(*rounds.next())
        if rounds.exhausted and not self.links.among(DIALING):
            rounds.over(background=self.links.active is not None)

    def in_use(self, candidate: Alternate) -> bool:
        return any(same(link.candidate, candidate) for link in self.links)

    def _round(self) -> list[tuple[Alternate, bool]]:
        return self.candidates.order(
            skip={key(link.candidate) for link in self.links if link.phase != LEAVING},
            home_last=self._home_last or not self.homing.trusted,
            last_resort=self.links.active is None and self._rounds.number > 0,
        )

    # --- whom to take ---------------------------------------------------------------------------------------------

    @property
    def _island_at(self) -> float:
        """When a candidate that is cut off will do, if nobody connected has been found until then."""
        return self._orphan_since + self._ctx.settings.island_after

    @property
    def _island_due(self) -> bool:
        return self.links.active is None and self._ctx.now >= self._island_at

    def wanted(self, link: Link) -> bool:
        """Whether this candidate would be taken as things stand now, but for rings."""
        active = self.links.active
        if link.draining and not link.last_resort:
            return False
        if active is None:
            return link.connected or self._island_due or self.candidates.only_home()
        if link.number == self._refreshing:
            return True
        if active.draining or self.candidates.is_home(link.candidate):
            return link.connected or not self.connected
        return link.connected and self.cut_off.leaving

    def holdable(self, link: Link) -> bool:
        """Whether it is worth while to keep the link of a candidate that cannot be taken yet."""
        return self.wanted(link) or (self.links.active is None and not link.draining)

    def feasible(self, link: Link) -> bool:
        """Whether taking it keeps the tree free of rings: by standing, and by its path."""
        # When islands are due, whoever forgot what it told has been silent for longer than any old child waits.
        advanced = self.candidates.advanced(link.candidate, link.standing.beat) or self._island_due
        return self.tie.feasible(link.standing, advanced) and not link.leads_through(self._ctx.uid)

    def choose(self) -> tuple[Link | None, list[Link]]:
        """The held candidate to attach to now, if any, and those that are not worth holding."""
        held = sorted(self.links.among(HELD), key=lambda link: (not link.connected, -link.standing.beat, link.number))
        for link in held:
            if self.wanted(link) and self.feasible(link) and not self._home_is_next(link):
                return link, []
        return None, held[_MAX_HELD:]

    def _home_is_next(self, other: Link) -> bool:
        """Whether home is held too and only its next beat is missing, which the other may have heard moments sooner."""
        if self.links.active is not None or self.candidates.is_home(other.candidate):
            return False
        return any(
            self.candidates.is_home(link.candidate)
            and link.connected
            and self.wanted(link)
            and not link.leads_through(self._ctx.uid)
            and self._ctx.now < link.welcomed_at + _BEAT_WITHIN * link.heartbeat
            for link in self.links.among(HELD)
        )

    def hopes(self) -> bool:
        """Whether a better parent is about to be taken."""
        return any(link.phase == ATTACHING or self.wanted(link) for link in self.links.among(HELD, ATTACHING))

    def hoped_in_vain(self, link: Link) -> None:
        """A candidate was held, or attached to, to its deadline and could not be taken beside the present parent."""
        if self.candidates.is_home(link.candidate):
            self.homing.distrust()
        else:
            self.candidates.wait(link.candidate, self._ctx.settings.return_wait_base)
