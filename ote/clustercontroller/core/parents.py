"""The child's side of the tunnel: which parent a controller has, and how it finds, changes and leaves one (rules 9-13).

Events: `start`, answers to dials (`dial_welcome`, `dial_refused`, `dial_failed`), what a parent says (`heard`, `item`),
`link_lost`, answers to probes, `child_best`, `drain`, `reattach`, `stop`, `wake`.
Effects: Dial, Probe, CloseLink, Send (Attach, Heartbeat, Goodbye), Put self and alternates, Barrier, Exit, Log.

The one idea: there is one test, `_wanted`, whether a welcomed candidate would be taken as things stand now, and one,
`Tie.feasible`, whether it may be taken without a ring. Who passes both is attached to; who is wanted but not feasible
yet is held until its next beats make it so; everybody else is closed. All timers only decide whom to ask.

Invariants:
* At most one link is ACTIVE and at most one ATTACHING; a new parent is ACTIVE before the old one hears Goodbye.
* The epoch is on disk before an Attach with it leaves, and grows with every Attach.
* `standing` never gets worse once it has been told to anybody (`beat`).
* A process that was attached and meets a higher epoch of its own uid is cloned and exits; one that was not yet
  attached has an old disk, goes above it and reports `memory_lost`.
Not here: the order of candidates (`candidates`), pace (`dialing`), return (`homing`), the parent's side (`children`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core import records
from ote.clustercontroller.core.beat import LIMIT, RootBeat, Tie, save
from ote.clustercontroller.core.candidates import Candidates, key, same
from ote.clustercontroller.core.context import Context, statement
from ote.clustercontroller.core.dialing import AT_ONCE, Rounds
from ote.clustercontroller.core.homing import Homing
from ote.clustercontroller.core.links import ACTIVE, ATTACHING, DIALING, HELD, LEAVING, NEVER, Link, Links
from ote.clustercontroller.core.refusals import meaning

_MAX_HELD = 2
_DRAIN_WITHIN = 5.0


@dataclass(frozen=True, slots=True)
class ParentsCallbacks:
    """What the composition does when something happens here."""

    attached: Callable[[int, str, int], None]
    """(link, parent uid, epoch): this link is the active one now; an older one, if any, is only read to its end."""
    detached: Callable[[int], None]
    """(link): the active link is gone and there is no other."""
    standing_changed: Callable[[], None]
    """Standing or path changed: tell the children."""
    memory_lost: Callable[[], None]
    """The tree knows a later epoch than the disk did: the disk was set back."""
    own_record: Callable[[], m.ClusterRecord]
    """The own record with facts; parent, epoch and signature are filled in here."""
    digest: Callable[[], m.Digest]
    """Digest of the active attachments below."""


class Parents:
    """`home`: the configured parent, None for a root; its name is "" until it is known. `alternates`: as on disk."""

    def __init__(
        self,
        ctx: Context,
        self_row: records.Self,
        home: m.Alternate | None,
        callbacks: ParentsCallbacks,
        alternates: records.AlternatesRow | None = None,
    ) -> None:
        self._ctx = ctx
        self._row = self_row
        self._callbacks = callbacks
        self._me = m.PathStep(ctx.name, ctx.uid)
        self._tie = Tie(ctx, self_row)
        self._root = RootBeat(ctx, self_row) if home is None else None
        self._candidates = Candidates(ctx, home, alternates.alternates if alternates else None)
        self._rounds = Rounds(ctx)
        self._homing = Homing(ctx)
        self._links = Links()
        self._active: Link | None = None
        self._attachment: m.ClusterRecord | None = None
        self._path = [self._me]
        self._was_attached = False
        self._memory_lost = False
        self._stopping = False
        self._orphan_since = 0.0
        self._home_last = False
        self._heartbeat_at = NEVER
        self._told_cut_off = False
        self._leave_cut_off = False
        self._excused_until = float("-inf")
        self._refreshing = 0
        self._complaints: set[tuple[str, str]] = set()
        self._heard_of: m.Standing | None = None
        self._refresh_at = NEVER

    # --- what others want to know ---------------------------------------------------------------------------------

    @property
    def is_root(self) -> bool:
        return self._root is not None

    @property
    def standing(self) -> m.Standing:
        return m.Standing(self._root.beat, 0) if self._root else self._tie.standing

    @property
    def depth(self) -> int:
        return self.standing.depth

    @property
    def connected(self) -> bool:
        """Whether the root's beat is younger than dead-after."""
        if self._active is None:
            return self.is_root
        return self._ctx.now < self._tie.beat_at + self._active.dead_after

    @property
    def path(self) -> list[m.PathStep]:
        """Root first, this controller last; itself alone while it has no parent."""
        return self._path

    @property
    def active_link(self) -> int | None:
        return self._active.number if self._active else None

    @property
    def parent(self) -> m.Alternate | None:
        """The present parent."""
        return self._active.candidate if self._active else None

    @property
    def home(self) -> m.Alternate | None:
        """The configured parent, with its name once that is known."""
        return self._candidates.home

    @property
    def attachment(self) -> m.ClusterRecord | None:
        """The record of the last attachment that was taken, signed."""
        return self._attachment

    @property
    def draining(self) -> bool:
        return self._row.draining

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called and the last link is closed."""
        return self._stopping and not list(self._links)

    # --- from above and outside -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin: a root to beat, everybody else to look for a parent."""
        if self._root:
            self._root.start()
            self._callbacks.standing_changed()
            return
        self._orphan_since = self._ctx.now
        self._rounds.begin()

    def child_best(self, best: m.Standing | None) -> None:
        """A child says hello with the best standing it ever told; call for each, before it is answered with a welcome.

        From the first call on, the standing counts as told. A root goes above the child's; others pass it on with their
        next hello, which they say on purpose if the beat does not get there by itself.
        """
        self._tie.told = True
        if best is None or best.beat > LIMIT:
            return
        if self._root:
            if self._root.above(best):
                self._callbacks.standing_changed()
        elif best.beat > self.standing.beat:
            if self._heard_of is None or best.better(self._heard_of):
                self._heard_of = best
            if self._refresh_at == NEVER and not self._stopping:
                self._refresh_at = self._ctx.now + 2 * self._ctx.settings.dead_after

    def drain(self, on: bool) -> None:
        """Remember durably that the children are to move away, or may come again."""
        if self._row.draining != on:
            self._row.draining = on
            save(self._ctx, self._row)
            self._ctx.barrier()

    def reattach(self) -> None:
        """Attach to the present parent anew, make-before-break (the certificate was renewed)."""
        if self._active is not None and not self._stopping and not self._links.get(self._refreshing):
            self._refreshing = self._dial(self._active.candidate, self._active.draining)

    def stop(self) -> None:
        """Say goodbye and dial nobody any more; `stopped` says when the last link is closed (5 s at most)."""
        self._stopping = True
        self._rounds.stop()
        self._homing.stop()
        self._refresh_at = NEVER
        for link in self._links.among(DIALING, HELD, ATTACHING):
            self._close(link, "stopping")
        if self._active is not None:
            link = self._active
            self._leave(link, 0)
            self._without_parent(link)

    # --- dials ----------------------------------------------------------------------------------------------------

    def dial_welcome(self, number: int, welcome: m.Welcome) -> None:
        link = self._links.get(number, DIALING)
        if link is None:
            self._ctx.emit(fx.CloseLink(number, "not wanted any more"))
            return
        link.candidate = self._candidates.welcomed(link.candidate, welcome)
        link.welcomed(welcome, self._ctx.settings)
        link.heard = self._ctx.now
        if link.leads_through(self._ctx.uid):
            self._give_up(link, "its path leads through this cluster")
        elif not self._learn_epoch(welcome.known_epoch):
            self._give_up(link, "its epoch cannot be")
        elif not self._holdable(link):
            self._give_up(link, "not wanted as it stands")
        else:
            link.phase = HELD
            link.deadline = self._ctx.now + (2 * link.heartbeat if self._active else link.dead_after)
            self._consider()
            self._next_dials(ended=True)

    def dial_refused(self, number: int, refused: m.Refused) -> None:
        link = self._links.get(number, DIALING)
        if link is not None:
            self._refused(link, refused)

    def dial_failed(self, number: int, reason: str) -> None:
        link = self._links.get(number, DIALING)
        if link is not None:
            self._ctx.log("debug", "candidate not reached", candidate=key(link.candidate), reason=reason)
            self._links.remove(link)
            self._next_dials(ended=True)

    @property
    def _searching(self) -> bool:
        """Whether the candidates are to be asked: there is no parent, or one that is to be left."""
        if self._stopping or self._root:
            return False
        return self._active is None or self._active.draining or self._leave_cut_off

    def _dial(self, candidate: m.Alternate, last_resort: bool) -> int:
        ctx = self._ctx
        link = Link(ctx.new_link(), candidate, last_resort)
        self._links.add(link)
        best = self._tie.best
        if self._heard_of is not None and (best is None or self._heard_of.better(best)):
            best = self._heard_of
        epoch = self._row.epoch
        hello = m.Hello(ctx.name, ctx.uid, ctx.instance, epoch, best, ctx.software, last_resort=last_resort)
        ctx.emit(fx.Dial(link.number, candidate, hello))
        return link.number

    def _next_dials(self, *, ended: bool = False) -> None:
        """Dial as many as may be dialled now; a round ends when its last dial has. `ended`: one of them just has."""
        rounds = self._rounds
        if ended:
            rounds.ended()
        if not self._searching or self._links.among(ATTACHING):
            return
        while self._ctx.now >= rounds.at:
            if len(self._links.among(DIALING)) >= AT_ONCE or not rounds.more(self._round):
                rounds.at = NEVER
            else:
                self._dial(*rounds.next())
        if rounds.exhausted and not self._links.among(DIALING):
            rounds.over(background=self._active is not None)

    def _round(self) -> list[tuple[m.Alternate, bool]]:
        return self._candidates.order(
            skip={key(link.candidate) for link in self._links},
            home_last=self._home_last or not self._homing.trusted,
            last_resort=self._active is None and self._rounds.number > 0,
        )

    # --- whom to take ---------------------------------------------------------------------------------------------

    @property
    def _island_due(self) -> bool:
        """No connected candidate has been found for long: one that is cut off will do."""
        return self._active is None and self._ctx.now >= self._orphan_since + self._ctx.settings.island_after

    def _wanted(self, link: Link) -> bool:
        """Whether this candidate would be taken as things stand now, but for rings."""
        active = self._active
        if link.draining and not link.last_resort:
            return False
        if active is None:
            return link.connected or self._island_due or self._candidates.only_home()
        if link.number == self._refreshing:
            return True
        if active.draining or (self._candidates.is_home(link.candidate) and not self._leave_cut_off):
            return link.connected or not self.connected
        return self._leave_cut_off and link.connected

    def _holdable(self, link: Link) -> bool:
        """Whether it is worth while to keep the link of a candidate that cannot be taken yet."""
        return self._wanted(link) or (self._active is None and not link.draining)

    def _feasible(self, link: Link) -> bool:
        # When islands are due, whoever forgot what it told has been silent for longer than any old child waits.
        advanced = self._candidates.advanced(link.candidate, link.standing.beat) or self._island_due
        return self._tie.feasible(link.standing, advanced)

    def _consider(self) -> None:
        """Attach to the best of the held candidates that may be taken; keep few of the others."""
        if self._links.among(ATTACHING):
            return
        held = sorted(self._links.among(HELD), key=lambda link: (not link.connected, -link.standing.beat, link.number))
        for link in held:
            if self._wanted(link) and self._feasible(link):
                self._attach(link)
                return
        for link in held[_MAX_HELD:]:
            self._close(link, "others are waited for")

    def _attach(self, link: Link) -> None:
        ctx = self._ctx
        self._row.epoch += 1
        save(ctx, self._row)
        ctx.barrier()
        record = replace(
            self._callbacks.own_record(),
            parent_uid=link.uid,
            epoch=self._row.epoch,
            instance=ctx.instance,
            up=True,
            silent_ms=0,
        )
        record.signature = ctx.sign(statement(record))
        link.record = record
        link.phase = ATTACHING
        link.deadline = ctx.now + link.dead_after
        ctx.send(link.number, m.Attach(record, self._callbacks.digest()))

    def _attached(self, link: Link, epoch: int) -> None:
        assert link.record is not None
        if epoch != link.record.epoch or link.leads_through(self._ctx.uid) or not self._feasible(link):
            self._give_up(link, "it cannot be the parent any more")
            return
        ctx, old = self._ctx, self._active
        link.phase = ACTIVE
        link.deadline = NEVER
        self._active = link
        self._attachment = link.record
        self._tie.take(link.standing, fresh=link.connected)
        if not link.connected:
            self._tie.beat_at = ctx.now - link.dead_after
        self._homing.attached(home=self._candidates.is_home(link.candidate), again=self._was_attached)
        self._was_attached = True
        self._told_cut_off = not link.connected
        self._leave_cut_off = self._home_last = False
        self._refreshing = 0
        self._complaints.clear()
        self._heartbeat_at = ctx.now + link.heartbeat
        self._path = [*link.path, self._me]
        for other in self._links.among(DIALING, HELD):
            self._close(other, "another parent was taken")
        self._rounds.stop()
        if self._searching:
            self._rounds.begin()
        ctx.log("info", "attached", parent=key(link.candidate), epoch=epoch, connected=link.connected)
        self._callbacks.attached(link.number, link.uid, epoch)
        if old is not None:
            self._leave(old, epoch)
        self._standing_moved()

    # --- what a parent says ---------------------------------------------------------------------------------------

    def heard(self, number: int) -> None:
        """Something, anything, has come on this link."""
        link = self._links.get(number)
        if link is not None:
            link.heard = self._ctx.now

    def item(self, number: int, item: m.DownItem) -> bool:
        """Take an item of a parent; False when it is not for this part."""
        link = self._links.get(number)
        match item:
            case m.Beat():
                if link is not None and item.standing.beat <= 2 * LIMIT:
                    self._beat(link, item)
            case m.Attached():
                if link is not None and link.phase == ATTACHING:
                    self._attached(link, item.epoch)
            case m.Alternates():
                if link is not None and link.phase == ACTIVE:
                    self._candidates.told(item)
            case m.Drained():
                if link is not None and link.phase == LEAVING:
                    self._close(link, "drained")
            case m.Refused():
                if link is not None:
                    self._refused(link, item)
            case _:
                return False
        return True

    def _beat(self, link: Link, beat: m.Beat) -> None:
        searched, drained = self._searching, link.draining
        link.beaten(beat)
        if link.phase == HELD:
            self._consider()
        if link is not self._active:
            return
        unheard = beat.silence_ms / 1000 >= link.dead_after and self._ctx.now >= self._excused_until
        if unheard or link.leads_through(self._ctx.uid):
            self._close(link, "the parent does not hear this side" if unheard else "a ring")
            self._lost(link, "it does not hear us" if unheard else "its path leads through this cluster", silent=True)
            return
        self._follow(link)
        if link.draining and not drained:
            self._ctx.log("info", "parent is draining", parent=key(link.candidate))
            self._rounds.begin()
        elif searched and not self._searching:
            self._rounds.stop()
            for other in self._links.among(DIALING, HELD):
                self._close(other, "the parent will do")

    def _follow(self, link: Link) -> None:
        """Stand as the parent says, unless that is not better than what has been told.

        While a better parent is held the standing stays: else a candidate that hears the beat no sooner than the
        present parent, like home seen from the grandparent, could never be taken.
        """
        tie = self._tie
        before = tie.standing
        if link.standing.beat > before.beat:
            tie.beat_at = self._ctx.now
            self._leave_cut_off = False
            if self._told_cut_off:
                self._told_cut_off = False
                self._ctx.log("info", "connected to the root again", parent=key(link.candidate))
        if any(other.phase == ATTACHING or self._wanted(other) for other in self._links.among(HELD, ATTACHING)):
            return
        if tie.feasible(link.standing, advanced=True):
            tie.take(link.standing, fresh=False)
            path = [*link.path, self._me]
            if tie.standing != before or path != self._path:
                self._path = path
                self._standing_moved()

    def _standing_moved(self) -> None:
        if self._heard_of is not None and self.standing.beat > self._heard_of.beat:
            self._heard_of = None
            self._refresh_at = NEVER
        self._callbacks.standing_changed()

    def _refused(self, link: Link, refused: m.Refused) -> None:
        reason = refused.reason
        again = False
        if reason == "SUPERSEDED":
            if link.phase in (ACTIVE, LEAVING):
                again = False
                if refused.epoch > self._row.epoch:
                    self._cloned(refused.message)
                    return
            else:
                again = self._learn_epoch(refused.epoch)
        elif reason == "CLUSTER_CLONED":
            self._cloned(refused.message)
            return
        said = meaning(reason)
        level = "debug" if (key(link.candidate), reason) in self._complaints else said.level
        self._complaints.add((key(link.candidate), reason))
        self._ctx.log(level, "refused", candidate=key(link.candidate), reason=reason, detail=refused.message)
        if reason == "DRAINING":
            self._candidates.drains(link.candidate, True)
        wait = min(600.0, max(said.wait, refused.retry_after_ms / 1000))
        if wait > 0:
            self._candidates.wait(link.candidate, wait)
        phase = link.phase
        self._close(link, reason)
        if phase == ACTIVE:
            self._lost(link, reason)
        elif again and not self._stopping:
            self._dial(link.candidate, link.last_resort)
        elif phase != LEAVING:
            self._next_dials(ended=True)

    def _learn_epoch(self, epoch: int) -> bool:
        """Go above an epoch of this uid that the tree knows. False when that cannot be, or may not."""
        if epoch <= self._row.epoch:
            return True
        if epoch > LIMIT:
            return False
        if self._was_attached:
            self._cloned(f"the tree knows epoch {epoch} of this cluster, this process went up to {self._row.epoch}")
            return False
        self._ctx.log("warning", "the disk was set back", epoch=self._row.epoch, known=epoch)
        self._row.epoch = epoch
        if not self._memory_lost:
            self._memory_lost = True
            self._callbacks.memory_lost()
        return True

    def _cloned(self, message: str) -> None:
        self.stop()
        self._ctx.emit(fx.Exit("CLUSTER_CLONED", f"another process runs with this cluster's identity: {message}"))

    # --- ends of links --------------------------------------------------------------------------------------------

    def link_lost(self, number: int, reason: str) -> None:
        link = self._links.get(number)
        if link is None:
            return
        if link.phase == DIALING:
            self.dial_failed(number, reason)
            return
        self._links.remove(link)
        if link is self._active:
            self._lost(link, reason)
        elif link.phase != LEAVING:
            self._gave_up(link)

    def _close(self, link: Link, reason: str) -> None:
        if self._links.get(link.number) is link:
            self._links.remove(link)
            self._ctx.emit(fx.CloseLink(link.number, reason))

    def _give_up(self, link: Link, reason: str) -> None:
        """Close a candidate that is not the parent, and go on."""
        self._ctx.log("debug", "candidate given up", candidate=key(link.candidate), reason=reason)
        self._close(link, reason)
        self._gave_up(link)

    def _gave_up(self, link: Link) -> None:
        if link.phase == ATTACHING:
            # The tree may know the epoch of that attempt: the present parent has to come above it.
            self.reattach()
        self._next_dials(ended=True)

    def _leave(self, link: Link, next_epoch: int) -> None:
        assert link.record is not None
        link.phase = LEAVING
        link.deadline = self._ctx.now + _DRAIN_WITHIN
        self._ctx.send(link.number, m.Goodbye(link.record.epoch, next_epoch))

    def _lost(self, link: Link, reason: str, *, silent: bool = False) -> None:
        """The active link is gone. `silent`: its far end may still accept a dial and be none the better for it."""
        self._ctx.log("warning", "parent lost", parent=key(link.candidate), reason=reason)
        home = self._candidates.is_home(link.candidate)
        if home:
            self._homing.lost_home()
        self._home_last = home and silent
        self._without_parent(link)
        self._rounds.begin()
        self._consider()

    def _without_parent(self, link: Link) -> None:
        self._active = None
        self._orphan_since = self._ctx.now
        self._path = [self._me]
        self._heartbeat_at = NEVER
        self._leave_cut_off = False
        self._homing.stop()
        self._callbacks.detached(link.number)
        self._callbacks.standing_changed()

    # --- home -----------------------------------------------------------------------------------------------------

    def probe_answered(self, event: ev.ProbeAnswered) -> None:
        home = self._candidates.home
        if home is None or self._active is None or self._stopping or not same(home, event.candidate):
            return
        self._candidates.drains(home, event.draining)
        useful = not event.draining and (event.connected or not self.connected)
        if useful and self._homing.trusted and not self._in_use(home):
            self._dial(home, False)

    def probe_failed(self, event: ev.ProbeFailed) -> None:
        self._ctx.log("debug", "probe failed", candidate=key(event.candidate), reason=event.reason)

    def _in_use(self, candidate: m.Alternate) -> bool:
        return any(same(link.candidate, candidate) for link in self._links)

    # --- time -----------------------------------------------------------------------------------------------------

    def next_wake(self) -> float | None:
        """When `wake` is wanted. It has to be called before any later event is handled."""
        if self._root:
            return self._root.due if self._root.due < NEVER else None
        times = [link.deadline for link in self._links]
        times += [self._homing.probe_at, self._refresh_at, self._heartbeat_at]
        active = self._active
        if active is not None:
            times.append(active.heard + active.dead_after)
            times.append(self._cut_off_step(active))
        elif self._orphan_since + self._ctx.settings.island_after > self._ctx.now:
            times.append(self._orphan_since + self._ctx.settings.island_after)
        if self._searching and not self._links.among(ATTACHING):
            times.append(self._rounds.at)
        at = min(times)
        return at if at < NEVER else None

    def wake(self) -> None:
        if self._root:
            if self._root.tick():
                self._callbacks.standing_changed()
            return
        now = self._ctx.now
        self._excuse_sleep()
        active = self._active
        if active is not None and now >= active.heard + active.dead_after:
            self._close(active, "silent")
            self._lost(active, "nothing was heard of it", silent=True)
        elif active is not None:
            self._keep(active)
        for link in self._links:
            if now >= link.deadline:
                if link.phase == LEAVING:
                    self._close(link, "not drained in time")
                else:
                    self._give_up(link, "nothing came of it in time")
        self._consider()
        self._next_dials()

    def _keep(self, active: Link) -> None:
        """What is due while there is a parent."""
        now = self._ctx.now
        if now >= self._heartbeat_at:
            due = self._heartbeat_at + active.heartbeat
            self._heartbeat_at = due if due > now else now + active.heartbeat
            silence = int((now - active.heard) * 1000)
            self._ctx.send(active.number, m.Heartbeat(silence, self._callbacks.digest(), active.beats))
        if now >= self._cut_off_step(active):
            if self._told_cut_off:
                self._leave_cut_off = True
                self._rounds.begin()
            else:
                self._told_cut_off = True
                self._ctx.log("warning", "cut off from the root", parent=key(active.candidate))
        if now >= self._homing.probe_at:
            self._homing.probed()
            home = self._candidates.home
            if home is not None and not self._in_use(home):
                self._ctx.emit(fx.Probe(home))
        if now >= self._refresh_at:
            self._refresh_at = NEVER
            self.reattach()

    def _cut_off_step(self, active: Link) -> float:
        """When the next thing happens because the beat does not come."""
        if not self._told_cut_off:
            return self._tie.beat_at + active.dead_after
        after = self._ctx.settings.leave_cut_off_after
        if self._leave_cut_off or after is None:
            return NEVER
        return self._tie.beat_at + active.dead_after + after

    def _excuse_sleep(self) -> None:
        """Who was asleep (stopped, suspended, starved) has not measured silence: time asleep does not count."""
        late = self._ctx.now - (self.next_wake() or self._ctx.now)
        active = self._active
        if late <= 2 * (active.heartbeat if active else self._ctx.settings.heartbeat):
            return
        for link in self._links:
            link.heard += late
            link.deadline += late
        self._tie.beat_at += late
        if active is not None:
            self._excused_until = self._ctx.now + active.dead_after
        self._ctx.log("warning", "woke late", seconds=round(late, 1))
