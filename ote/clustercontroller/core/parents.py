"""The child's side of the tunnel: which parent a controller has, and how it finds, changes and leaves one (rules 9-13).

Events: `start`, answers to dials (`dial_reached`, `dial_welcome`, `dial_refused`, `dial_failed`), what a parent says
(`heard`, `item`), `link_lost`, answers to probes, `child_best`, `drain`, `reattach`, `stop`, `wake`.
Effects: Dial, Probe, CloseLink, Send (Attach, Heartbeat, Goodbye), Put self and alternates, Barrier, Exit, Log.

The one idea: candidates are asked (`search`); who is wanted and may be taken is attached to, and becomes the parent
when it says so; only then does the old one hear Goodbye. Timers only decide whom to ask and whom to give up.

Invariants:
* At most one link is ACTIVE and at most one ATTACHING; a new parent is ACTIVE before the old one hears Goodbye.
* The epoch is on disk before an Attach with it leaves, and grows with every Attach. An Attach that came to nothing
  beside a living parent is followed by one to that parent, for the tree may know the epoch in between.
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
from ote.clustercontroller.core.beat import LIMIT, NEVER, RootBeat, believable
from ote.clustercontroller.core.candidates import Candidates, key, same
from ote.clustercontroller.core.context import Context, statement
from ote.clustercontroller.core.links import ACTIVE, ATTACHING, DIALING, HELD, LEAVING, Link, Links
from ote.clustercontroller.core.refusals import Refusals
from ote.clustercontroller.core.search import Search

_DRAIN_WITHIN = 5.0
_UNHEARD = 1.5
"""Heartbeat intervals for which a parent had heard nothing before it ended the link: it would not hear a new one."""
_HEARTBEAT_PATIENCE = 1.25
"""Heartbeat intervals after which a heartbeat is sent though no beat has come."""
_ANSWER_BEFORE = 0.75
"""Heartbeat intervals before that time, within which a beat is answered: not those that come sooner than usual."""


@dataclass(frozen=True, slots=True)
class ParentsCallbacks:
    """What the composition does when something happens here."""

    attached: Callable[[int, m.ClusterRecord], None]
    """(link, own record as taken): this link is the active one now; an older one, if any, is only read to its end."""
    detached: Callable[[int], None]
    """(link): the active link is gone and there is no other."""
    standing_changed: Callable[[], None]
    """Standing, path, or whether this cluster is evicted, changed: tell the children."""
    candidates_changed: Callable[[], None]
    """The parent told other candidates: the children hear of them."""
    memory_lost: Callable[[], None]
    """The tree knows a later epoch than the disk did: the disk was set back."""
    own_record: Callable[[], m.ClusterRecord]
    """The own record with facts; parent, epoch and signature are filled in here."""
    digest: Callable[[], m.Digest]
    """Digest of the active attachments below."""
    whole_digest: Callable[[], m.Digest]
    """The same with this cluster's own."""
    evictions_digest: Callable[[], bytes] = lambda: b""
    """Digest of the evictions that are known here."""


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
        self._root = RootBeat(ctx, self_row) if home is None else None
        self._links = Links()
        self._candidates = Candidates(ctx, home, alternates.alternates if alternates else None)
        self._search = Search(ctx, self_row, self._candidates, self._links, callbacks.evictions_digest)
        self._tie = self._search.tie
        self._cut_off = self._search.cut_off
        self._homing = self._search.homing
        self._upward = self._search.upward
        self._refusals = Refusals(ctx, self._candidates)
        self._attachment: m.ClusterRecord | None = None
        self._path = [self._me]
        self._was_attached = False
        self._evicted = False
        self._memory_lost = False
        self._stopping = False
        self._heartbeat_at = NEVER
        self._excused_until = -NEVER
        self._lost_at = NEVER

    # --- what others want to know ---------------------------------------------------------------------------------

    @property
    def is_root(self) -> bool:
        return self._root is not None

    @property
    def standing(self) -> m.Standing:
        return self._root.standing if self._root else self._tie.standing

    @property
    def depth(self) -> int:
        return self.standing.depth

    @property
    def connected(self) -> bool:
        """Whether there is a parent and the root's beat is younger than dead-after; always, for a root."""
        return self.is_root or self._search.connected

    @property
    def path(self) -> list[m.PathStep]:
        """Root first, this controller last; itself alone while it has no parent."""
        return self._path

    @property
    def beat_age(self) -> float:
        """Seconds since the root's beat has grown here; 0 for a root, and before the first parent."""
        return 0.0 if self.is_root or self._cut_off.beat_at == -NEVER else self._ctx.now - self._cut_off.beat_at

    @property
    def active_link(self) -> int | None:
        active = self._links.active
        return active.number if active else None

    @property
    def parent(self) -> m.Alternate | None:
        """The present parent."""
        active = self._links.active
        return active.candidate if active else None

    @property
    def home(self) -> m.Alternate | None:
        """The configured parent, with its name once that is known."""
        return self._candidates.home

    @property
    def away_from_home(self) -> tuple[float, str] | None:
        """See `Homing.away`; None of a root."""
        return self._homing.away if self.home else None

    @property
    def attachment(self) -> m.ClusterRecord | None:
        """The record of the last attachment that was taken, signed."""
        return self._attachment

    @property
    def alternates(self) -> m.Alternates:
        """Candidates as the last parent told them."""
        return self._candidates.alternates

    @property
    def refused(self) -> m.Refused | None:
        """Why the last candidate did not take us; None once one did."""
        return self._refusals.last

    @property
    def evicted(self) -> bool:
        """Whether the parent, or a candidate while there was none, said that this cluster is no member any more."""
        return self._evicted

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called and the last link is closed."""
        return self._stopping and not list(self._links)

    # --- from outside ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin: a root to beat, everybody else to look for a parent."""
        if self._root:
            self._root.start()
            self._callbacks.standing_changed()
        else:
            self._search.orphaned(home_last=False)

    def child_best(self, best: m.Standing | None) -> None:
        """A child says hello with the best standing it ever told; call for each, before it is answered with a welcome.

        From the first call on, the standing counts as told. A root goes above the child's; others pass it on with their
        next hello, which they say on purpose if the beat does not get there by itself.
        """
        self._tie.told = True
        if best is None or best.beat > LIMIT or not believable(best):
            return
        if self._root:
            if self._root.above(best):
                self._callbacks.standing_changed()
        elif best.beat > self.standing.beat:
            self._upward.hear(best)

    def reattach(self) -> None:
        """Attach to the present parent anew, make-before-break (the certificate was renewed)."""
        self._search.refresh()

    def stop(self) -> None:
        """Say goodbye and dial nobody any more; `stopped` says when the last link is closed (5 s at most)."""
        self._stopping = True
        self._search.end()
        for link in self._links.among(DIALING, HELD, ATTACHING):
            self._close(link, "stopping")
        active = self._links.active
        if active is not None:
            self._leave(active, 0)
            self._without_parent(active)

    def probe_answered(self, event: ev.ProbeAnswered) -> None:
        home = self._candidates.home
        if home is None or not same(home, event.candidate) or self._links.active is None:
            return
        self._candidates.drains(home, event.draining)
        if not event.draining and (event.connected or not self.connected):
            self._search.dial_home()
        else:
            self._search.tried(home, "it is draining" if event.draining else "it is cut off from the root")

    def probe_failed(self, event: ev.ProbeFailed) -> None:
        self._search.tried(event.candidate, event.reason)
        self._ctx.log("debug", "probe failed", candidate=key(event.candidate), reason=event.reason)

    # --- dials ----------------------------------------------------------------------------------------------------

    def dial_reached(self, number: int) -> None:
        link = self._links.get(number, DIALING)
        if link is not None:
            self._search.reached(link)

    def dial_welcome(self, number: int, welcome: m.Welcome) -> None:
        link = self._links.get(number, DIALING)
        if link is None:
            self._ctx.emit(fx.CloseLink(number, "not wanted any more"))
            return
        link.candidate = self._candidates.welcomed(link.candidate, welcome)
        link.welcomed(welcome, self._ctx.settings, self._ctx.now)
        link.heard = self._ctx.now
        if link.leads_through(self._ctx.uid):
            self._give_up(link, "its path leads through this cluster")
        elif not believable(welcome.standing) or not self._learn_epoch(welcome.known_epoch):
            self._give_up(link, "it tells a standing or an epoch that cannot be")
        elif not self._search.holdable(link):
            self._give_up(link, "not wanted as it stands")
        else:
            link.phase = HELD
            link.deadline = self._ctx.now + (2 * link.heartbeat if self._links.active else link.dead_after)
            self._consider()
            self._search.next_dials(ended=True)

    def dial_refused(self, number: int, refused: m.Refused) -> None:
        link = self._links.get(number, DIALING)
        if link is not None:
            self._refused(link, refused)

    def dial_failed(self, number: int, reason: str) -> None:
        link = self._links.get(number, DIALING)
        if link is not None:
            self._refusals.unreached(link.candidate, reason)
            self._search.tried(link.candidate, reason)
            self._links.remove(link)
            self._search.next_dials(ended=True)

    # --- taking a parent ------------------------------------------------------------------------------------------

    def _consider(self) -> None:
        """Attach to the best of the held candidates that may be taken; keep few of the others."""
        if self._links.among(ATTACHING):
            return
        link, surplus = self._search.choose()
        if link is not None:
            self._attach(link)
        for other in surplus:
            self._close(other, "others are waited for")

    def _attach(self, link: Link) -> None:
        ctx = self._ctx
        self._row.epoch += 1
        ctx.put_self(self._row)
        ctx.barrier()
        own = self._callbacks.own_record()
        record = replace(own, parent_uid=link.uid, epoch=self._row.epoch, instance=ctx.instance, up=True, silent_ms=0)
        record.signature = ctx.sign(statement(record))
        link.record = record
        link.phase = ATTACHING
        link.deadline = ctx.now + link.dead_after
        ctx.send(link.number, m.Attach(record, self._callbacks.digest()))

    def _attached(self, link: Link, record: m.ClusterRecord, epoch: int) -> None:
        if epoch != record.epoch or not self._search.feasible(link):
            self._give_up(link, "it cannot be the parent any more")
            return
        ctx, old = self._ctx, self._links.active
        link.phase = ACTIVE
        link.deadline = NEVER
        self._links.active = link
        self._attachment = record
        self._tie.take(link.standing)
        self._cut_off.attached(link.connected, link.dead_after)
        self._homing.attached(home=self._candidates.is_home(link.candidate), again=self._was_attached)
        self._was_attached = True
        self._evicted = False
        self._refusals.attached()
        self._search.attached()
        self._heartbeat_at = ctx.now + link.heartbeat
        self._path = [*link.path, self._me]
        self._drop_others("another parent was taken")
        ctx.log("info", "attached", parent=key(link.candidate), epoch=epoch, connected=link.connected)
        again = old is not None and old.uid == link.uid
        ctx.count("ote_failover_attaches_total", "same" if again else self._candidates.kind(link.candidate))
        if self._lost_at < NEVER:
            ctx.count("ote_failover_attach_seconds", value=ctx.now - self._lost_at)
            self._lost_at = NEVER
        self._callbacks.attached(link.number, record)
        if old is not None:
            self._leave(old, epoch)
        self._moved()

    def _learn_epoch(self, epoch: int, link: Link | None = None) -> bool:
        """Go above an epoch of this uid that the tree knows. False when that cannot be, or may not.

        `link` is the one that is superseded by it: an attachment of the same epoch there means that it was used twice.
        """
        used_twice = link is not None and link.record is not None and link.record.epoch == epoch
        if epoch <= self._row.epoch and not used_twice:
            return True
        if epoch > LIMIT:
            return False
        self._ctx.log("warning", "the disk was set back", epoch=self._row.epoch, known=epoch)
        self._row.epoch = max(self._row.epoch, epoch)
        if not self._memory_lost:
            self._memory_lost = True
            self._callbacks.memory_lost()
        return True

    def _cloned(self, message: str) -> None:
        self.stop()
        self._ctx.emit(fx.Exit("CLUSTER_CLONED", f"another process runs with this cluster's identity: {message}"))

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
                if link is not None and believable(item.standing):
                    self._beat(link, item)
            case m.Attached():
                if link is not None and link.phase == ATTACHING and link.record is not None:
                    self._attached(link, link.record, item.epoch)
            case m.Alternates():
                if link is not None and link.phase == ACTIVE and self._candidates.told(item):
                    self._callbacks.candidates_changed()
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
        searched, drained = self._search.on, link.draining
        link.beaten(beat)
        if link.phase == HELD:
            self._consider()
        if link.phase != ACTIVE:
            return
        reason = cause = ""
        if beat.silence_ms / 1000 >= link.dead_after and self._ctx.now >= self._excused_until:
            reason, cause = "it does not hear this side", "silent"
        elif link.leads_through(self._ctx.uid):
            reason, cause = "its path leads through this cluster", "ring"
        if reason:
            self._close(link, reason)
            self._lost(link, reason, cause, useless=True)
            return
        self._follow(link)
        if self._heartbeat_at - self._ctx.now < _ANSWER_BEFORE * link.heartbeat:
            self._heartbeat(link)
        if link.draining and not drained:
            self._ctx.log("info", "parent is draining", parent=key(link.candidate))
            self._search.begin()
        elif searched and not self._search.on:
            self._search.settle()
            self._drop_others("the present parent will do")

    def _follow(self, link: Link) -> None:
        """Stand as the parent says, unless that is not better than what has been told.

        While a better parent is about to be taken the standing stays as it is: else a candidate that hears the beat no
        sooner than the present parent, like home seen from the grandparent, could never be taken.
        """
        before = self._tie.standing
        if link.standing.beat > before.beat and self._cut_off.beaten():
            self._ctx.log("info", "connected to the root again", parent=key(link.candidate))
        if self._search.hopes() or not self._tie.feasible(link.standing, advanced=True):
            return
        self._tie.take(link.standing)
        path = [*link.path, self._me]
        if self._tie.standing != before or path != self._path:
            self._path = path
            self._moved()

    def _moved(self) -> None:
        self._upward.stands(self.standing)
        self._callbacks.standing_changed()

    def _refused(self, link: Link, refused: m.Refused) -> None:
        phase, reason = link.phase, refused.reason
        superseded = reason == "SUPERSEDED"
        settled = phase in (ACTIVE, LEAVING)
        if reason == "CLUSTER_CLONED":
            self._cloned(refused.message)
            return
        if superseded and settled:
            self._learn_epoch(refused.epoch, link)
        if reason == "REPLACED" and self._replacing(link):
            return
        first = self._refusals.note(link.candidate, refused)
        self._search.tried(link.candidate, f"{reason}: {refused.message}")
        if reason == "EVICTED" and self._links.active in (None, link):
            self._evicted = True
            self._callbacks.standing_changed()
        self._close(link, reason)
        if phase == ACTIVE:
            self._lost(link, reason, "refused")
        elif superseded and not settled and self._learn_epoch(refused.epoch, link) and first:
            self._search.dial(link.candidate, link.last_resort)
        elif not settled:
            self._search.next_dials(ended=True)

    # --- ends of links --------------------------------------------------------------------------------------------

    def link_lost(self, number: int, reason: str) -> None:
        link = self._links.get(number)
        if link is None or self._replacing(link):
            return
        self._links.remove(link)
        if link.phase == ACTIVE:
            self._lost(link, reason, "closed", useless=link.unheard > _UNHEARD * link.heartbeat)
        elif link.phase != LEAVING:
            self._gave_up(link)

    def _close(self, link: Link, reason: str) -> None:
        if self._links.get(link.number) is link:
            self._links.remove(link)
            self._ctx.emit(fx.CloseLink(link.number, reason))

    def _drop_others(self, reason: str) -> None:
        for link in self._links.among(DIALING, HELD):
            self._close(link, reason)

    def _give_up(self, link: Link, reason: str) -> None:
        """Close a candidate that is not the parent, and go on."""
        self._ctx.log("debug", "candidate given up", candidate=key(link.candidate), reason=reason)
        self._search.tried(link.candidate, reason)
        self._close(link, reason)
        self._gave_up(link)

    def _gave_up(self, link: Link) -> None:
        active = self._links.active
        if link.phase == ATTACHING and active is not None:
            if active.uid == link.uid:
                self._close(active, "its place was to be taken by a link that came to nothing")
                self._lost(active, "attaching anew came to nothing", "closed")
            else:
                self._search.refresh()
        self._consider()
        self._search.next_dials(ended=True)

    def _replacing(self, link: Link) -> bool:
        """Whether this link ends because the same parent is taking a newer one: it stays the active one until then."""
        return link.phase == ACTIVE and any(other.uid == link.uid for other in self._links.among(ATTACHING))

    def _leave(self, link: Link, next_epoch: int) -> None:
        epoch = link.record.epoch if link.record else 0
        link.phase = LEAVING
        link.deadline = self._ctx.now + _DRAIN_WITHIN
        self._ctx.send(link.number, m.Goodbye(epoch, next_epoch))

    def _lost(self, link: Link, reason: str, cause: str, *, useless: bool = False) -> None:
        """The active link is gone. `useless`: its far end may take a new link and be none the better for it."""
        self._ctx.log("warning", "parent lost", parent=key(link.candidate), reason=reason)
        self._ctx.count("ote_failover_parent_losses_total", cause)
        self._lost_at = self._ctx.now
        home = self._candidates.is_home(link.candidate)
        if home:
            self._homing.lost_home()
        self._without_parent(link)
        self._search.orphaned(home_last=home and useless)
        self._consider()

    def _without_parent(self, link: Link) -> None:
        self._links.active = None
        self._path = [self._me]
        self._callbacks.detached(link.number)
        self._callbacks.standing_changed()

    # --- time -----------------------------------------------------------------------------------------------------

    def next_wake(self) -> float | None:
        """When `wake` is wanted, None for never. When it is late, it comes before any other event is handled."""
        if self._root:
            return self._root.due if self._root.due < NEVER else None
        at = min(self._search.next_wake, self._links.deadline)
        active = self._links.active
        if active is not None:
            silent = active.heard + active.dead_after
            at = min(at, silent, self._heartbeat_at, self._cut_off.due, self._homing.probe_at, self._upward.at)
        return at if at < NEVER else None

    def wake(self) -> None:
        """Do what is due."""
        if self._root:
            if self._root.tick():
                self._callbacks.standing_changed()
            return
        self._excuse_sleep()
        now = self._ctx.now
        active = self._links.active
        if active is not None and now >= active.heard + active.dead_after:
            self._close(active, "silent")
            self._lost(active, "nothing was heard of it", "silent", useless=True)
        elif active is not None:
            self._keep(active)
        for link in self._links:
            if now >= link.deadline:
                self._too_late(link)
        self._consider()
        self._search.next_dials()

    def _too_late(self, link: Link) -> None:
        if link.phase == LEAVING:
            self._close(link, "not drained in time")
            return
        if link.phase == DIALING:
            self._refusals.unreached(link.candidate, "no answer in time")
        elif self._links.active is not None:
            self._search.hoped_in_vain(link)
        self._give_up(link, "nothing came of it in time")

    def _keep(self, active: Link) -> None:
        """What is due while there is a parent."""
        now = self._ctx.now
        if now >= self._heartbeat_at:
            self._heartbeat(active)
        if now >= self._cut_off.due:
            self._cut_off.step()
            if self._cut_off.leaving:
                self._search.begin()
            else:
                self._ctx.log("warning", "cut off from the root", parent=key(active.candidate))
        if now >= self._homing.probe_at:
            self._homing.probed()
            home = self._candidates.home
            if home is not None and not self._search.in_use(home):
                self._ctx.emit(fx.Probe(home))
        if now >= self._upward.at:
            self._upward.at = NEVER
            self._search.refresh()

    def _heartbeat(self, active: Link) -> None:
        """Sent in answer to a beat, so that both ends wake once for both; by itself where no beat comes."""
        now = self._ctx.now
        self._heartbeat_at = now + active.heartbeat * _HEARTBEAT_PATIENCE
        silence = int((now - active.heard) * 1000)
        self._ctx.send(active.number, m.Heartbeat(silence, self._callbacks.whole_digest()))

    def _excuse_sleep(self) -> None:
        """Who was asleep (stopped, suspended, starved) has not measured silence: time asleep does not count."""
        due = self.next_wake()
        active = self._links.active
        late = self._ctx.now - due if due is not None else 0.0
        if late <= 2 * (active.heartbeat if active else self._ctx.settings.heartbeat):
            return
        for link in self._links:
            link.heard += late
            link.deadline += late
        self._cut_off.beat_at += late
        self._excused_until = self._ctx.now + self._cut_off.dead_after
        self._ctx.log("warning", "woke late", seconds=round(late, 1))
