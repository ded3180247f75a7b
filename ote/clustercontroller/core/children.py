"""The parent's side of the tunnel: who is attached, who has left, and what children are told (rules 9-13, 23).

A link goes hello -> (welcome) waiting -> attach -> (attached) child -> goodbye, loss, silence or refusal. A link that
waits hears beats too, because a candidate may become feasible only by the next beat.

Events in: `hello`, `unattached` (an item of a link that waits), `heard`, `heartbeat`, `news`, `goodbye`, `link_lost`,
`announce` (standing or path may have changed), `drain`, `kick`, `wake`; from the registry, that a direct child is
attached elsewhere. Effects out: `Send` of Welcome, Refused, Attached, Beat, Alternates, Evictions, Resync and Drained;
`CloseLink`; `Put` of `self` with a barrier before the first child hears Attached.

Invariants: at most one link per uid is *the* link, the newest; a uid's epoch only grows here. An older link of the
same process is read until its goodbye, or its silence. Clones: when an attachment follows one of another instance, that
instance is told CLUSTER_CLONED, which is heard only if it still runs, so a plain quick restart passes.
SUPERSEDED(epoch) after Attached: the tree knows a higher epoch from before, the child's disk was set back.
Silence: any frame is life; who wakes later than two heartbeats after it was due restarts all silence timers first.
Not here: who may open a link (`welcoming`), whether both ends count the same (`agreement`), what is known of clusters
(`registry`), the lists of candidates (`alternates`), making beats (`parents`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.agreement import Agreement
from ote.clustercontroller.core.alternates import Candidates, Rounds
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.evictions import in_messages
from ote.clustercontroller.core.records import Self
from ote.clustercontroller.core.registry import Registry
from ote.clustercontroller.core.welcoming import CLONED, EVICTED_TEXT, ParentsView, Welcoming

NEVER = float("inf")

_BEAT_PATIENCE = 1.25
"""Heartbeat intervals without a new beat after which the children are told so; a bit late is no reason."""
_WAITING_LIMIT = 2.0
"""A link that has not attached after so many dead-after intervals is closed."""
_BEATS = 1.5
"""Heartbeat intervals after which somebody who has not been heard may have ended unseen."""
_LEAVING_BEATS = 2.0
"""Heartbeat intervals for which a child that has said goodbye is waited for to be heard of from its new parent."""


@dataclass(slots=True, eq=False)
class _Link:
    number: int
    hello: m.Hello
    since: float
    leaf: bool = False
    """It speaks for itself only, and is proposed as a parent to nobody."""
    epoch: int = 0
    """Of the attachment; 0 while it waits."""
    path: list[m.PathStep] | None = None
    """As told last."""
    alternates: m.Alternates | None = None
    """As told last; None while they have to be told."""
    greeted: bool = True
    """What was said when it attached does not wait for the disk any more: what is newer cannot overtake it."""
    told_late: bool = False
    """It was told candidates behind the disk since its last heartbeat, and these must not be overtaken either."""
    owed: dict[str, m.Away | None] = field(default_factory=dict)
    """Whom it has to be told of at its next heartbeat, because its lane was full: that he is away, or evicted."""
    agreement: Agreement = field(default_factory=Agreement)


class Children:
    """Links of children by number and by uid. `self_row` is the shared row of table `self`."""

    def __init__(self, ctx: Context, registry: Registry, parents: ParentsView, self_row: Self) -> None:
        self._ctx = ctx
        self._registry = registry
        self._parents = parents
        self._self = self_row
        self._links: dict[int, _Link] = {}
        self._of_uid: dict[str, list[_Link]] = {}
        """All links of a uid, oldest first; few."""
        self._by_uid: dict[str, _Link] = {}
        """The newest attached link of a uid."""
        self._waiting: dict[int, _Link] = {}
        self._heard: OrderedDict[int, float] = OrderedDict()
        """When each attached link was heard last, the one longest ago first."""
        self._sweep_at = NEVER
        self._leaving: dict[str, float] = {}
        """Until when a child that has left is waited for elsewhere, earliest first."""
        self.draining = False
        """Whether children are to go elsewhere, and only who finds nobody else is taken."""
        self._told = (m.Standing(0, 0), list[m.PathStep](), False)
        self._beat_at = NEVER
        self._welcoming = Welcoming(ctx, registry, parents)
        self._rounds = Rounds()
        self._candidates = Candidates(None, (), None, ())
        self._above: tuple[m.Alternates, str] | None = None
        registry.on_superseded = self._superseded
        self.on_clone: Callable[[str], None] = lambda name: None
        """Called with the name of a child of which two processes were seen to run."""

    # --- opening a link -------------------------------------------------------------------------------------------

    def hello(
        self, link: int, hello: m.Hello, peer_uid: str, peer_name: str, peer_key: bytes = b"", *, leaf: bool = False
    ) -> m.Welcome | m.Refused:
        """A child opens a link; `peer_` is of its certificate (see events.ChildHello). The answer has been sent."""
        refused = self._welcoming.refusal(hello, peer_uid, peer_name, peer_key, self.draining)
        if link in self._links:
            refused = m.Refused("BAD_FRAME", "hello twice on one stream")
            self._drop(self._links[link])
        if refused is not None:
            self._ctx.log("info", "child refused", child=peer_name, uid=peer_uid, reason=refused.reason)
            self._ctx.send(link, refused)
            self._ctx.emit(fx.CloseLink(link, refused.reason))
            if refused.reason == CLONED.reason:
                self.on_clone(peer_name)
            return refused
        self._replace_waiting(hello.uid)
        opened = _Link(link, hello, self._ctx.now, leaf)
        self._links[link] = self._waiting[link] = opened
        self._of_uid.setdefault(hello.uid, []).append(opened)
        welcome = self._welcoming.welcome(hello.uid, self.draining)
        opened.path = welcome.path
        self._ctx.send(link, welcome)
        self._start_beats()
        return welcome

    def _replace_waiting(self, uid: str) -> None:
        """One link per uid may wait: who says hello anew has given up the one before."""
        for waiting in [link for link in self._of_uid.get(uid, ()) if not link.epoch]:
            self._drop(waiting)
            self._ctx.emit(fx.CloseLink(waiting.number, "a newer one waits"))

    def unattached(self, link: int, item: m.UpItem) -> None:
        """An item on a link that is not attached: its attach, or nothing that belongs there."""
        waiting = self._waiting.get(link)
        if waiting is None:
            return
        if isinstance(item, m.Attach):
            self.attach(link, item)
        elif isinstance(item, m.Goodbye):
            self._drop(waiting)
            self._ctx.emit(fx.CloseLink(link, "goodbye"))
        else:
            self.bad_frame(link, f"{type(item).__name__.lower()} before attach")

    def attach(self, link: int, attach: m.Attach) -> bool:
        """The child takes this parent. Answered by Attached, or by Refused; returns whether it is attached."""
        child = self._waiting.get(link)
        if child is None:
            self.bad_frame(link, "attach without hello, or twice")
            return False
        record, hello = attach.record, child.hello
        if (record.uid, record.name, record.instance) != (hello.uid, hello.name, hello.instance):
            return self._refuse(child, m.Refused("BAD_ATTACHMENT", "the record is not of the one that said hello"))
        known = self._registry.known_epoch(record.uid)
        if record.epoch <= known:
            superseded = m.Refused("SUPERSEDED", f"epoch {known} is known of {record.name}", epoch=known)
            return self._refuse(child, superseded)
        if child.leaf:
            record = _without_address(record)
        if not self._registry.take(replace(record, up=True, silent_ms=0)):
            problem = "the signature does not hold, the key is not the one known, or the parent is another"
            return self._refuse(child, m.Refused("BAD_ATTACHMENT", problem))
        self._replace(child)
        del self._waiting[link]
        child.epoch = record.epoch
        self._by_uid[record.uid] = child
        self._registry.link_up(record.uid, link)
        self._listen(link)
        if not self._self.had_children:
            self._self.had_children = True
            self._ctx.put_self(self._self)
            self._ctx.barrier()
        self._ctx.log("info", "child attached", child=record.name, uid=record.uid, epoch=record.epoch)
        self._ctx.send(link, m.Attached(record.epoch))
        self._greet(child, attach.digest)
        return True

    def _greet(self, child: _Link, digest: m.Digest) -> None:
        """What a new child is told beside Attached."""
        child.greeted = not self._ctx.waits
        self._beat(child, self._now_standing())
        if child.hello.evictions_digest != self._registry.evictions_digest():
            self._tell_evictions(child, sorted(self._registry.evicted))
        if digest != self._registry.digest_via(child.hello.uid):
            self._resync(child)
        if self._above != self._now_above():
            self._tell_all_alternates()
        self._tell_alternates(child, self._candidates)
        self._siblings_changed()

    def _tell_evictions(self, child: _Link, uids: list[str]) -> None:
        for some in in_messages(uids):
            self._ctx.send(child.number, some)

    def _replace(self, child: _Link) -> None:
        """The uid's older links: those of the same process may say goodbye, but for the last two; a clone ends."""
        hello = child.hello
        older = [old for old in self._of_uid[hello.uid] if old is not child]
        same = [old for old in older if old.hello.instance == hello.instance]
        for old in same[:-1]:
            self._end(old, m.Refused("REPLACED", "newer streams of the same process have taken its place"))
        for old in older:
            if old not in same:
                self._end_clone(old)

    def _end_clone(self, old: _Link) -> None:
        """Another process has its place. Where it was heard just now it still ran when that one came."""
        heard = self._heard.get(old.number)
        if heard is not None and self._ctx.now - heard <= _BEATS * self._ctx.settings.heartbeat:
            self.on_clone(old.hello.name)
        self._end(old, CLONED)

    # --- an attached child ----------------------------------------------------------------------------------------

    def heard(self, link: int) -> str | None:
        """Something has come on this link. Returns the uid of the child, None when the link is not attached."""
        if link not in self._heard:
            return None
        self._heard[link] = self._ctx.now
        self._heard.move_to_end(link)
        return self._links[link].hello.uid

    def lane_full(self, link: int, item: m.Item) -> None:
        """What was to be said to a child found no room: it is said at its next heartbeat, as it is then."""
        child = self._links.get(link)
        if child is None:
            return
        match item:
            case m.Alternates():
                child.alternates = None
            case m.Away():
                child.owed[item.uid] = item
            case m.Evictions():
                child.owed.update(dict.fromkeys(item.uids))

    def _tell_again(self, child: _Link) -> None:
        """Say what its lane had no room for."""
        owed, child.owed = child.owed, {}
        for away in owed.values():
            if away is not None:
                self._ctx.send(child.number, away)
        self._tell_evictions(child, [uid for uid, away in owed.items() if away is None])
        if child.alternates is None:
            self._tell_alternates(child, self._candidates)

    def heartbeat(self, link: int, heartbeat: m.Heartbeat) -> None:
        """Compare what the child counts, itself and what is below, with what is known here."""
        child = self._links[link]
        uid = child.hello.uid
        if heartbeat.silence_ms >= self._ctx.settings.dead_after * 1000:
            self.link_lost(link, "the child hears nothing")
            self._ctx.emit(fx.CloseLink(link, "the child hears nothing"))
            return
        if self._by_uid.get(uid) is not child:
            return
        child.greeted, child.told_late = not child.told_late, False
        if child.greeted and (child.owed or child.alternates is None):
            self._tell_again(child)
        if child.agreement.broken(heartbeat.digest, self._registry.whole_digest(uid)):
            self._resync(child)

    def _resync(self, child: _Link) -> None:
        child.agreement.asked()
        self._ctx.count("ote_registry_resyncs_total")
        self._ctx.send(child.number, m.Resync())

    def news(self, link: int, news: m.News) -> None:
        """Changes below the child, or a part of its full account."""
        child = self._links[link]
        uid = child.hello.uid
        if self._by_uid.get(uid) is not child:
            return  # Overtaken by the newer link; its Attach has shown what is missing.
        if child.leaf:
            news = replace(news, records=[_without_address(own) for own in news.records if own.uid == uid])
        entry = self._registry.get(uid)
        before = entry and entry.facts
        self._registry.news_from(uid, news)
        if entry is not None and entry.facts is not before:
            self._siblings_changed()

    def goodbye(self, link: int, goodbye: m.Goodbye) -> None:
        """The child leaves: it has another parent (`next_epoch`), or stops. What is queued for it is still written."""
        child = self._links[link]
        uid = child.hello.uid
        if goodbye.next_epoch > self._registry.known_epoch(uid):
            self._registry.leaving(m.Away(uid, goodbye.next_epoch, instance=child.hello.instance), link)
            self._leaving.pop(uid, None)
            self._leaving[uid] = self._ctx.now + _LEAVING_BEATS * self._ctx.settings.heartbeat
        self._drop(child)
        self._ctx.log("info", "child left", child=child.hello.name, uid=child.hello.uid, epoch=child.epoch)
        self._ctx.send(link, m.Drained())
        self._ctx.emit(fx.CloseLink(link, "drained"))

    def is_leaf(self, link: int) -> bool:
        """Whether the child of this link was not enrolled to have children."""
        return self._links[link].leaf

    def bad_frame(self, link: int, problem: str) -> None:
        """The child has said what it may not say there."""
        child = self._links.get(link)
        if child is not None:
            self._refuse(child, m.Refused("BAD_FRAME", problem))

    def link_lost(self, link: int, reason: str) -> bool:
        """A link has ended; False when it is not one of a child."""
        child = self._links.get(link)
        if child is None:
            return False
        if child.epoch:
            self._ctx.log("warning", "child lost", child=child.hello.name, uid=child.hello.uid, reason=reason)
        self._drop(child)
        return True

    def kick(self, uid: str, reason: str) -> None:
        """End all links of this uid, for a reason that it is told."""
        for child in list(self._of_uid.get(uid, ())):
            text = EVICTED_TEXT if reason == "EVICTED" else f"may not stay: {reason}"
            self._refuse(child, m.Refused(reason, f"{child.hello.name} ({uid}) {text}"))

    def _superseded(self, away: m.Away) -> None:
        """A direct child is attached elsewhere by a higher epoch, as others have told."""
        child = self._by_uid.get(away.uid)
        if child is None or away.instance == child.hello.instance:
            return  # It moves, and will say goodbye on this link.
        if away.instance and away.epoch > child.epoch:
            self._end_clone(child)
        else:
            superseded = f"epoch {away.epoch} is known of {child.hello.name}"
            self._end(child, m.Refused("SUPERSEDED", superseded, epoch=away.epoch))

    # --- ends of links --------------------------------------------------------------------------------------------

    def _refuse(self, child: _Link, refused: m.Refused) -> bool:
        self._end(child, refused)
        return False

    def _end(self, child: _Link, refused: m.Refused) -> None:
        hello = child.hello
        self._ctx.log("warning", "link of child ended", child=hello.name, uid=hello.uid, reason=refused.reason)
        self._ctx.send(child.number, refused)
        self._ctx.emit(fx.CloseLink(child.number, refused.reason))
        self._drop(child)

    def _drop(self, child: _Link) -> None:
        """Forget a link; the attachment made on it is over."""
        link, uid = child.number, child.hello.uid
        self._links.pop(link, None)
        self._waiting.pop(link, None)
        heard = self._heard.pop(link, None)
        others = self._of_uid[uid]
        others.remove(child)
        if not others:
            del self._of_uid[uid]
        if not self._links:
            self._beat_at = self._sweep_at = NEVER
        if self._by_uid.get(uid) is child:
            del self._by_uid[uid]
        if child.epoch:
            self._registry.link_down(uid, link, child.epoch, heard)
            self._siblings_changed()

    # --- what children are told -----------------------------------------------------------------------------------

    def announce(self) -> None:
        """Tell all children at once if standing, path or draining is not as told last."""
        if self._now_standing() != self._told:
            self._beat_all()

    def drain(self, on: bool) -> None:
        """Move the children away, or take them again. They move by themselves once they hear it."""
        self.draining = on
        self._siblings_changed()
        self.announce()

    def remaining(self) -> list[str]:
        """Uids of the children that are attached."""
        return list(self._by_uid)

    def links(self) -> Iterable[int]:
        """Numbers of the links of attached children."""
        return [child.number for child in self._by_uid.values()]

    def _now_standing(self) -> tuple[m.Standing, list[m.PathStep], bool]:
        return self._parents.standing, self._parents.path, self.draining

    def _beat_all(self) -> None:
        told = self._told = self._now_standing()
        for child in self._links.values():
            self._beat(child, told)
        self._beat_at = self._ctx.now + self._ctx.settings.heartbeat * _BEAT_PATIENCE if self._links else NEVER

    def _beat(self, child: _Link, told: tuple[m.Standing, list[m.PathStep], bool]) -> None:
        standing, path, draining = told
        silence = self._ctx.now - self._heard.get(child.number, self._ctx.now)
        new_path = [] if path == child.path else path
        child.path = path
        beat = m.Beat(standing, max(0, round(silence * 1000)), new_path, draining)
        self._ctx.send(child.number, beat)

    def _start_beats(self) -> None:
        if self._beat_at == NEVER:
            self._told = self._now_standing()
            self._beat_at = self._ctx.now + self._ctx.settings.heartbeat * _BEAT_PATIENCE

    # --- alternates -----------------------------------------------------------------------------------------------

    def above_changed(self) -> None:
        """The parent told other candidates: so are the children, at once, however often siblings come and go."""
        if self._now_above() != self._above:
            self._rounds.above_changed(self._ctx.now, len(self._by_uid))

    def _siblings_changed(self) -> None:
        self._rounds.siblings_changed(self._ctx.now, len(self._by_uid))

    def _tell_all_alternates(self) -> None:
        """Send the lists that have changed."""
        above = self._now_above()
        self._rounds.told(self._ctx.now, above=above != self._above)
        self._above = above
        candidates = self._collect()
        if candidates != self._candidates:
            self._candidates = candidates
            for child in self._by_uid.values():
                if child.greeted:
                    self._tell_alternates(child, candidates)
            if waiting := [child for child in self._by_uid.values() if not child.greeted]:
                self._ctx.barrier()  # behind what they were told when they attached
                for child in waiting:
                    child.told_late = True
                    self._tell_alternates(child, candidates)

    def _tell_alternates(self, child: _Link, candidates: Candidates) -> None:
        lists = candidates.for_child(child.hello.uid)
        if lists != child.alternates:
            child.alternates = lists
            self._ctx.send(child.number, lists)

    def _now_above(self) -> tuple[m.Alternates, str]:
        return self._parents.alternates, self._registry.own.facts.advertise

    def _collect(self) -> Candidates:
        above, own = self._now_above()
        siblings = []
        for uid in self._by_uid:
            entry = self._registry.get(uid)
            if entry is None or entry.parent_uid != self._ctx.uid or not entry.up or entry.facts.draining:
                continue
            if entry.facts.advertise:
                siblings.append(m.Alternate(entry.name, uid, entry.facts.advertise))
        me = m.Alternate(self._ctx.name, self._ctx.uid, own) if own else None
        return Candidates(me, above.siblings, above.parent, siblings)

    # --- time -----------------------------------------------------------------------------------------------------

    def next_wake(self) -> float | None:
        """When `wake` has something to do (clock of the core)."""
        left_at = next(iter(self._leaving.values()), NEVER)
        if not self._links:
            return left_at if left_at < NEVER else None
        at = min(self._beat_at, self._sweep_at, self._rounds.at, left_at)
        if self._waiting:
            at = min(at, self._waiting_until(next(iter(self._waiting.values()))))
        return at

    def wake(self) -> None:
        """Do what is due."""
        for uid in [uid for uid, until in self._leaving.items() if until <= self._ctx.now]:
            del self._leaving[uid]
            self._registry.left(uid)
        if not self._links:
            return
        now, due = self._ctx.now, min(self._beat_at, self._sweep_at)
        if now > due + 2 * self._ctx.settings.heartbeat:
            self._ctx.log("warning", "woke late, silence is counted anew", late=round(now - due, 1))
            self._restart_silence()
        self._sweep()
        if now >= self._beat_at:
            self._beat_all()
        if now >= self._rounds.at:
            self._tell_all_alternates()

    def _listen(self, link: int) -> None:
        self._heard[link] = self._ctx.now
        self._sweep_at = min(self._sweep_at, self._ctx.now + self._ctx.settings.dead_after)

    def _restart_silence(self) -> None:
        now = self._ctx.now
        for link in self._heard:
            self._heard[link] = now
        for waiting in self._waiting.values():
            waiting.since = now

    def _sweep(self) -> None:
        """End the links on which nothing was heard for too long."""
        now, dead_after = self._ctx.now, self._ctx.settings.dead_after
        while self._heard:
            link, heard = next(iter(self._heard.items()))
            if heard + dead_after > now:
                self._sweep_at = heard + dead_after
                break
            self.link_lost(link, "silent")
            self._ctx.emit(fx.CloseLink(link, "silent"))
        else:
            self._sweep_at = NEVER
        for waiting in self._overdue():
            self._drop(waiting)
            self._ctx.emit(fx.CloseLink(waiting.number, "no attach"))

    def _overdue(self) -> list[_Link]:
        return [waiting for waiting in self._waiting.values() if self._waiting_until(waiting) <= self._ctx.now]

    def _waiting_until(self, waiting: _Link) -> float:
        return waiting.since + _WAITING_LIMIT * self._ctx.settings.dead_after


def _without_address(record: m.ClusterRecord) -> m.ClusterRecord:
    """A leaf's record: whatever it says, nobody is sent there for a parent."""
    facts = record.facts
    return record if facts is None else replace(record, facts=replace(facts, advertise=""))
