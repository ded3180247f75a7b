"""What is known of every cluster in the subtree: one attachment and the facts per uid; all else follows from it.

The one idea (rule 14): an entry points to its parent, and nothing else is stored of where it is. The rest is read off
the chain of parents (`chains`), so one record moves a subtree, or takes a branch down.

Which news is taken
* through the child on whose chain the cluster runs: whether its link is up, its facts and its status;
* through any child: an attachment of a higher epoch whose parent stands below that child, if it is signed with the key
  first seen for that uid. A name never changes. A region that claims a cluster it does not have is ignored, and logged;
* nothing of evicted uids; who still tells of one is told of the eviction.
A child that tells of an attachment older than the known one is answered with `Away`, so that it stops counting it.

Make-before-break: a direct child that says goodbye for an attachment elsewhere counts as it was (`leaving`), without a
way to it, until that attachment is heard of from above or below, or `left` says that it was waited for in vain. So
nobody sees it go before it is seen where it went.

Events in: `take`, `news_from`, `link_up`, `link_down`, `leaving`, `left`, `away`, `evict`, `take_evictions`, `set_own`.
Effects out: `Put` and `Remove` of `clusters` (when attachment, link or facts change, not for status and ages) and
`evictions`; `ClustersChanged`; `Send` of `Away` and `Evictions` to a child that is behind; callbacks.

Invariants: chains have no ring, because an attachment is taken only if the chain of its parent leads here without it;
an entry ends by eviction only; `digest_via(child)` covers what that child counts in its own `digest`, once both have
heard the same (see `digest`). What a full queue dropped is news again (`untold`), and told newest per uid.
Not here: links' life and who may attach (`children`), when news is sent (`controller`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core.chains import Chains
from ote.clustercontroller.core.context import Context, statement
from ote.clustercontroller.core.digest import MODULUS, Sums, mark
from ote.clustercontroller.core.entries import NO_FACTS, ClusterEntry, Sharing
from ote.clustercontroller.core.evictions import EvictedSet
from ote.clustercontroller.core.messages import Away, ClusterRecord, Digest, Evictions, News, Status
from ote.clustercontroller.core.records import Entry, Eviction
from ote.clustercontroller.core.telling import Telling

MAX_DEPTH = 64
"""An attachment deeper than this is not taken; commands cross 32 links at most."""

_MAX_REPLACED = 10_000


class Details(NamedTuple):
    """What a cluster told of itself and its subtree, and when that was heard (clock of the core)."""

    status: Status
    at: float


@dataclass(slots=True)
class _Account:
    """A full account of a child that has begun: the part that comes next, and whom it has told of."""

    part: int = 1
    seen: set[str] = field(default_factory=set)


class Registry(Chains):
    """Owned by the controller's core; the callbacks are set by its parts."""

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.evicted = EvictedSet()
        """Uids that are members no more; only grows."""
        self.on_paths_changed: Callable[[list[str]], None] = lambda uids: None
        """Given the roots of subtrees whose chain, link, instance or journal changed."""
        self.on_gone: Callable[[str], None] = lambda uid: None
        """Given the uid of a cluster that has been evicted."""
        self.on_superseded: Callable[[Away], None] = lambda away: None
        """A direct child has another attachment of a higher epoch, as told here."""
        self.on_load_changed: Callable[[bool], None] = lambda clusters: None
        """What a direct child has and uses may have changed, or which of them can be reached; called with whether the
        sums may be of another number of clusters."""
        self.details: dict[str, Details] = {}
        """Of this cluster and its direct children; no status goes further. Read only elsewhere."""
        self._sums = Sums(ctx.uid, self.entries)
        self._sharing = Sharing()
        self._replaced: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._accounts: dict[str, _Account] = {}
        self._telling = Telling()
        self._seen = 1
        self._refused = 0
        self._leaving: dict[str, Away] = {}
        self._moved: dict[str, None] = {}
        self._shown: dict[str, None] = {}
        own = ClusterRecord(ctx.uid, ctx.name, "", 0, ctx.instance, b"", ctx.public_key, up=True)
        self.own = self._new_entry(own, first_seen=0)
        self._add_name(self.own)

    # --- start ----------------------------------------------------------------------------------------------------

    def load(self, entries: dict[str, Entry], evictions: dict[str, Eviction]) -> None:
        """Take what was on disk. Direct children are not up until they attach; below them holds what was told last."""
        for uid in evictions:
            self.evicted.add(uid)
        rows = [row for uid, row in entries.items() if uid != self._me and uid not in self.evicted]
        for row in sorted(rows, key=lambda row: row.first_seen):
            entry = self._new_entry(row.record, first_seen=row.first_seen)
            entry.away, entry.away_parent = row.away, row.away_parent
            entry.up = entry.up and not entry.is_away and entry.parent_uid != self._me
            if row.heard is not None:
                entry.changed_at = entry.heard_at = min(self.ctx.now, row.heard - self.ctx.wall_at_zero)
            elif not entry.up:
                self._save(entry)  # Should it never come back, it was last heard of by the process before this one.
            self._seen = max(self._seen, row.first_seen + 1)
            self._add_name(entry)
            self._children.setdefault(entry.parent_uid, {})[entry.uid] = None
        for row in rows:
            entry = self.entries[row.record.uid]
            if self._in_ring(entry):
                self._drop_child(entry)
                entry.parent_uid, entry.up = "", False
                self._children.setdefault("", {})[entry.uid] = None
        self._sums.load([self.entries[row.record.uid] for row in rows], self._children)

    def set_own(self, record: ClusterRecord) -> None:
        """This cluster's own record has changed."""
        own = self.own
        if own.instance != record.instance or own.facts.journal_id != (record.facts or NO_FACTS).journal_id:
            self._moved[own.uid] = None
        own.parent_uid, own.epoch, own.instance = record.parent_uid, record.epoch, record.instance
        own.signature, own.public_key = record.signature, record.public_key
        self._take_facts(own, record)
        self._take_status(record)
        self._telling.change(own.uid)
        self._shown[own.uid] = None
        self._flush()

    # --- what children say ----------------------------------------------------------------------------------------

    def take(self, record: ClusterRecord, via: str | None = None) -> bool:
        """Take a record told by the direct child `via`; without it, the record of a child that attaches here.

        Returns whether anything changed. Nothing is raised: what may not be taken is left, and logged where it is odd.
        """
        changed = self._take(record, record.uid if via is None else via)
        self._flush()
        return changed

    def news_from(self, via: str, news: News) -> bool:
        """Take news of a direct child, also as part of a full account. Returns whether anything changed."""
        account = self._account(via, news)
        taken, self._refused = 0, 0
        for record in news.records:
            taken += self._take(record, via)
            entry = self.entries.get(record.uid)
            if account is not None and entry is not None and entry.epoch == record.epoch:
                account.seen.add(record.uid)
        ended = news.full_end and account is not None and self._end_missing(via, self._accounts.pop(via).seen)
        for outcome, records in (("taken", taken), ("refused", self._refused)):
            if records:
                self.ctx.count("ote_registry_news_total", outcome, value=records)
        self._flush()
        return taken > 0 or ended

    def _account(self, via: str, news: News) -> _Account | None:
        """The full account that goes on with this message or beside it; one of which a part was lost is none."""
        if news.full_begin:
            self._accounts[via] = _Account()
        account = self._accounts.get(via)
        if account is not None and news.part:
            if news.part != account.part:
                del self._accounts[via]
                return None
            account.part += 1
        return account

    def _end_missing(self, via: str, seen: Collection[str]) -> bool:
        ended = False
        for uid in list(self.descendants(via)):
            entry = self.entries[uid]
            if entry.up and uid not in seen:
                entry.heard_at = self.ctx.now
                self._set_up(entry, False)
                ended = True
        return ended

    def _take(self, record: ClusterRecord, via: str) -> bool:
        uid = record.uid
        if uid == self._me:
            # The child has this cluster below itself from a time when it stood above.
            return self._decline(via, Away(uid, max(self.own.epoch, record.epoch)))
        if uid in self.evicted:
            return self._decline(via, Evictions([uid]))
        entry = self.entries.get(uid)
        if entry is None or entry.is_superseded_by(record):
            return self._take_attachment(entry, record, via)
        if record.epoch < entry.known_epoch or entry.is_away:
            return self._decline(via, Away(uid, entry.known_epoch, self._parent_name(entry)))
        same = (entry.parent_uid, entry.instance) == (record.parent_uid, record.instance)
        if self.via(uid) != via:
            if not same:
                # Two attachments of one epoch, from a disk that was set back: only a higher one can settle it.
                return self._decline(via, Away(uid, entry.epoch, self._parent_name(entry), entry.instance))
            return False
        if not same:
            return self._take_attachment(entry, record, via)
        return self._take_update(entry, record, via)

    def _take_update(self, entry: ClusterEntry, record: ClusterRecord, via: str) -> bool:
        """News within an attachment, from the child on whose chain it runs."""
        before = (entry.up, entry.facts)
        self._sums.leave(entry)
        journal = entry.facts.journal_id
        self._take_facts(entry, record)
        if not record.up:
            entry.heard_at = self.ctx.now - record.silent_ms / 1000
        if entry.uid != via and entry.up != record.up:
            entry.up = record.up
            entry.changed_at = self._changed_at(entry)
        if entry.up != before[0] or entry.facts.journal_id != journal:
            self._moved[entry.uid] = None
        self._sums.enter(entry)
        new_status = entry.uid == via and self._take_status(record)
        if new_status:
            self._shown[entry.uid] = None
        if before == (entry.up, entry.facts):
            return new_status
        self._save(entry)
        self._telling.change(entry.uid)
        self._shown[entry.uid] = None
        return True

    def _take_attachment(self, entry: ClusterEntry | None, record: ClusterRecord, via: str) -> bool:
        uid = record.uid
        problem = self._refusal(entry, record, via)
        if problem:
            self.ctx.log("warning", "attachment not taken", member=record.name, uid=uid, via=via, problem=problem)
            self._refused += 1
            return False
        old_via = None
        if entry is None:
            entry = self._new_entry(record, first_seen=self._seen)
            self._seen += 1
            self._add_name(entry)
        else:
            old_via = self.via(entry.uid)
            self._replace(entry, record)
        self.details.pop(uid, None)
        if uid == via:
            self._take_status(record)
        self._children.setdefault(entry.parent_uid, {})[entry.uid] = None
        self._sums.enter(entry)
        self._tell_old_parent(entry, old_via, via)
        self._moved[entry.uid] = None
        self._telling.change(entry.uid)
        self._save(entry)
        return True

    def _replace(self, entry: ClusterEntry, record: ClusterRecord) -> None:
        """Put a known cluster where a newer attachment says; the caller counts it there."""
        self._leaving.pop(entry.uid, None)
        self._sums.leave(entry)
        self._drop_child(entry)
        if entry.instance != record.instance and record.up:
            self._replaced[entry.uid, entry.instance] = None
            self._replaced.pop((entry.uid, record.instance), None)
            if len(self._replaced) > _MAX_REPLACED:
                self._replaced.popitem(last=False)
        entry.parent_uid, entry.epoch, entry.instance = self._shared_uid(record), record.epoch, record.instance
        entry.signature, entry.up = record.signature, record.up
        entry.public_key = entry.public_key or record.public_key
        entry.away, entry.away_parent, entry.told = 0, "", 0
        entry.heard_at = self.ctx.now - record.silent_ms / 1000
        entry.changed_at = self._changed_at(entry)
        self._take_facts(entry, record)

    def _changed_at(self, entry: ClusterEntry) -> float:
        """When a change told now came to be here: now, but for a link that was lost while the way to it was cut."""
        was_cut = not entry.up and entry.heard_at < self.since(entry.parent_uid)
        return entry.heard_at if was_cut else self.ctx.now

    def _refusal(self, entry: ClusterEntry | None, record: ClusterRecord, via: str) -> str:
        """Why an attachment may not be taken, empty when it may."""
        if not self._stands_below(record, via):
            return "its parent does not stand below the child that tells it"
        key = (entry.public_key if entry is not None else b"") or record.public_key
        if entry is not None and entry.name != record.name:
            return "the uid is known with another name"
        if record.public_key not in (key, b""):
            return "the uid is known with another key"
        if not self.ctx.verify(key, statement(record), record.signature):
            return "the signature does not hold"
        return ""

    def _stands_below(self, record: ClusterRecord, via: str) -> bool:
        """Whether the chain of the record's parent runs through `via` to here, without the cluster itself."""
        if record.uid == via:
            return record.parent_uid == self._me
        uid = record.parent_uid
        for _ in range(MAX_DEPTH):
            entry = self.entries.get(uid)
            if entry is None or entry.is_away or uid == record.uid or entry is self.own:
                return False
            if uid == via:
                return entry.parent_uid == self._me
            uid = entry.parent_uid
        return False

    def _tell_old_parent(self, entry: ClusterEntry, old_via: str | None, via: str) -> None:
        if old_via is None or old_via == via:
            return
        # One that is down already may be from before a disk was set back; only a live one shows that there are two.
        instance = entry.instance if entry.up else ""
        away = Away(entry.uid, entry.epoch, self._parent_name(entry), instance)
        if old_via == entry.uid:
            self.on_superseded(away)
        else:
            self._answer(old_via, away)

    def _take_facts(self, entry: ClusterEntry, record: ClusterRecord) -> None:
        """Take facts as told; the same stay the same object."""
        if record.facts is not None and record.facts != entry.facts:
            entry.facts = self._sharing.facts(record.facts)

    def _take_status(self, record: ClusterRecord) -> bool:
        """Take the status that a direct child, or this cluster, tells of itself; whether it is new."""
        known = self.details.get(record.uid)
        if record.status is None or (known is not None and record.status == known.status):
            return False
        self.details[record.uid] = Details(record.status, self.ctx.now)
        self.on_load_changed(known is None or record.status.totals.clusters != known.status.totals.clusters)
        return True

    # --- links ----------------------------------------------------------------------------------------------------

    def link_up(self, uid: str, link: int) -> None:
        """A direct child, whose record has been taken, is reached by this link."""
        self._links[uid] = link
        self._accounts.pop(uid, None)
        self._moved[uid] = None
        self._set_up(self.entries[uid], True)
        self._flush()

    def link_down(self, uid: str, link: int, epoch: int, heard: float | None = None) -> None:
        """A direct child's link has ended, and with it the attachment of this epoch, if there is no higher one."""
        if self._links.get(uid) == link:
            del self._links[uid]
            self._accounts.pop(uid, None)
        entry = self.entries.get(uid)
        over = entry is not None and entry.epoch == epoch and entry.parent_uid == self._me and uid not in self._leaving
        if entry is not None and over and entry.up:
            entry.heard_at = self.ctx.now if heard is None else heard
            self._set_up(entry, False)
        self._flush()

    def leaving(self, away: Away, link: int) -> None:
        """A direct child leaves this link, as it says itself, for an attachment that will be heard of."""
        if self._links.get(away.uid) == link:
            del self._links[away.uid]
            self._leaving[away.uid] = away

    def left(self, uid: str) -> None:
        """A child that was leaving has had its time: if nobody has told where it is, it is away."""
        away = self._leaving.get(uid)
        if away is not None:
            self.away(away)

    @property
    def has_leaving(self) -> bool:
        """Whether a child has said goodbye and is not known elsewhere yet."""
        return bool(self._leaving)

    def known_epoch(self, uid: str) -> int:
        """The highest epoch heard of, 0 for a cluster never heard of."""
        leaving = self._leaving.get(uid)
        return max(super().known_epoch(uid), leaving.epoch if leaving else 0)

    def away(self, away: Away, *, parent_knows: bool = False) -> int | None:
        """A cluster below has attached elsewhere, as told from above, or by itself with its goodbye.

        Returns the link of the child that has to be told so too, if there is one.
        """
        entry = self.entries.get(away.uid)
        if entry is None or entry is self.own or not self._is_news(entry, away):
            return None
        via = self.via(away.uid)
        self._leaving.pop(away.uid, None)
        self._sums.leave(entry)
        entry.up, entry.away, entry.away_parent = False, away.epoch, away.parent
        entry.changed_at = entry.heard_at = self.ctx.now
        self._moved[entry.uid] = None
        if not parent_knows:
            self._telling.change(entry.uid)
        self._save(entry)
        if via == away.uid:
            self.on_superseded(away)
        self._flush()
        return None if via is None or via == away.uid else self._links.get(via)

    def _is_news(self, entry: ClusterEntry, away: Away) -> bool:
        """Of an equal epoch it is news if the attachment is over here, or if another instance has used that epoch."""
        if away.epoch != entry.known_epoch or entry.is_away:
            return away.epoch > entry.known_epoch
        return not entry.up or away.instance not in ("", entry.instance)

    def _set_up(self, entry: ClusterEntry, up: bool) -> None:
        if entry.up == up:
            return
        self._sums.leave(entry)
        entry.up = up
        entry.changed_at = self.ctx.now
        self._sums.enter(entry)
        self._moved[entry.uid] = None
        self._telling.change(entry.uid)
        self._save(entry)

    # --- evictions ------------------------------------------------------------------------------------------------

    def evict(self, uid: str) -> list[str]:
        """End a member. Returns the names of the clusters whose configured parent it was."""
        entry = self.entries.get(uid)
        name = entry.name if entry else ""
        self.take_evictions([uid])
        return [other.name for other in self.entries.values() if name and other.facts.configured_parent == name]

    def take_evictions(self, uids: Iterable[str]) -> list[str]:
        """Learn evictions. Returns those that are new; this cluster's own may be among them, its entry stays."""
        new = [uid for uid in dict.fromkeys(uids) if uid not in self.evicted]
        for uid in new:
            entry = self.entries.get(uid)
            self.evicted.add(uid)
            self.ctx.put("evictions", uid, Eviction(entry.name if entry else ""))
            if entry is not None and entry is not self.own:
                self._remove(entry)
            if uid != self._me:
                self.on_gone(uid)
        self._flush()
        return new

    def evictions_digest(self) -> bytes:
        """Equal for equal sets of evictions."""
        return self.evicted.digest()

    def _remove(self, entry: ClusterEntry) -> None:
        uid = entry.uid
        below = self._children.get(uid, {})
        orphans = [self.entries[child] for child in below]
        self._date(orphans)
        self._sums.leave(entry)
        self._drop_child(entry)
        del self.entries[uid]
        self.details.pop(uid, None)
        self.on_load_changed(True)
        self._links.pop(uid, None)
        self._leaving.pop(uid, None)
        self._telling.forget(uid)
        heir = self._names.remove(entry.name, uid)
        self._clashed_at.pop(uid, None)
        if heir is not None:
            self._clashed_at.pop(heir, None)
            self._moved[heir] = None
        self.ctx.remove("clusters", uid)
        for orphan in orphans:
            self._save(orphan)
        self._shown[uid] = None
        self._moved.update(dict.fromkeys(below))

    def _date(self, orphans: Iterable[ClusterEntry]) -> None:
        """Their parent is to be forgotten: since when they are offline, and were heard last, is kept with them."""
        for entry in orphans:
            since = self.ctx.now if self.is_up(entry.uid) else self.since(entry.uid)
            entry.changed_at, entry.heard_at = since, self.heard(entry.uid)

    # --- what is asked, beyond chains -----------------------------------------------------------------------------

    def was_replaced(self, uid: str, instance: str) -> bool:
        """Whether this instance's attachment was followed by one of another instance."""
        return (uid, instance) in self._replaced

    def digest(self) -> Digest:
        """Of the active attachments below this cluster, as its parent has to have them."""
        return self.digest_via(self._me)

    def digest_via(self, uid: str) -> Digest:
        """Of the active attachments below a child, as this child has to have them."""
        return self._sums.below(uid)

    def whole_digest(self, uid: str) -> Digest:
        """The same with the child itself, or this cluster, of which its record is told like all others."""
        count, total = self._sums.below(uid)
        details = self.details.get(uid)
        own = mark(self.entries[uid], details.status.version if details else 0)
        return Digest(count + 1, (total + own) % MODULUS)

    # --- what the parent is told ----------------------------------------------------------------------------------

    @property
    def has_news(self) -> bool:
        return bool(self._telling)

    def told_nothing(self) -> None:
        """There is a new link to a parent. Digests do not cover who is offline, so they are told of anew."""
        self._telling.new_link()
        for entry in self.entries.values():
            if not entry.up and not entry.is_away:
                self._telling.change(entry.uid)

    def news(self) -> list[ClusterRecord]:
        """What changed since the last call: newest per uid, parents first, facts and own status if new on this link."""
        changed = self._telling.take()
        ordered: dict[str, ClusterEntry] = {}
        for uid in changed:
            chain = self._chain(self.entries[uid])
            for entry in reversed(chain):
                if entry.uid in changed:
                    ordered[entry.uid] = entry
        return [self._told(entry, full=False) for entry in ordered.values()]

    def _told(self, entry: ClusterEntry, *, full: bool) -> ClusterRecord:
        if entry is not self.own:
            return self._telling.record(entry, full=full)
        details = self.details.get(self._me)
        return self._telling.own_record(entry, details.status if details else None, full=full)

    def untold(self, records: Iterable[ClusterRecord]) -> None:
        """These records were not sent after all: they are news again."""
        for record in records:
            entry = self.entries.get(record.uid)
            if entry is not None:
                self._telling.untell(entry)

    def account(self) -> Iterator[ClusterRecord]:
        """All that is known of this cluster and those below it, parents first. News of before is in it."""
        self._telling.take()
        entries = [self.own, *(self.entries[uid] for uid in self.descendants(self._me))]
        return (self._told(entry, full=True) for entry in entries)

    # --- helpers --------------------------------------------------------------------------------------------------

    def _new_entry(self, record: ClusterRecord, first_seen: int) -> ClusterEntry:
        heard_at = self.ctx.now - record.silent_ms / 1000 if record.silent_ms else self.ctx.now
        entry = self.entries[record.uid] = ClusterEntry(
            registry=self,
            uid=record.uid,
            name=record.name,
            parent_uid=self._shared_uid(record),
            epoch=record.epoch,
            instance=record.instance,
            signature=record.signature,
            public_key=record.public_key,
            up=record.up,
            first_seen=first_seen,
            changed_at=heard_at,
            heard_at=heard_at,
        )
        self._take_facts(entry, record)
        return entry

    def _shared_uid(self, record: ClusterRecord) -> str:
        parent = self.entries.get(record.parent_uid)
        return parent.uid if parent else record.parent_uid

    def _drop_child(self, entry: ClusterEntry) -> None:
        siblings = self._children[entry.parent_uid]
        siblings.pop(entry.uid, None)
        if not siblings:
            del self._children[entry.parent_uid]
            self._sums.forget(entry.parent_uid)

    def _decline(self, via: str, item: Away | Evictions) -> bool:
        """Answer a record that is not taken."""
        self._refused += 1
        self._answer(via, item)
        return False

    def _answer(self, via: str, item: Away | Evictions) -> None:
        link = self._links.get(via)
        if link is not None:
            self.ctx.send(link, item)

    def _add_name(self, entry: ClusterEntry) -> None:
        self._names.add(entry.name, entry.uid)
        if self._names.holder(entry.name) != entry.uid:
            self._clashed_at[entry.uid] = self.ctx.now

    def _save(self, entry: ClusterEntry) -> None:
        heard = None if entry.up and entry.parent_uid in self.entries else entry.heard_at + self.ctx.wall_at_zero
        row = Entry(entry.record, entry.first_seen, entry.away, entry.away_parent, heard)
        self.ctx.put("clusters", entry.uid, row)

    def _flush(self) -> None:
        """Tell of what the event has changed; a moved cluster is shown with all below it."""
        moved, self._moved = self._moved, {}
        shown, self._shown = self._shown, {}
        for uid in moved:
            shown[uid] = None
            shown.update(dict.fromkeys(self._below(uid, with_away=True)))
        if shown:
            self.ctx.emit(fx.ClustersChanged(list(shown)))
        if moved:
            self.on_load_changed(True)
            self.on_paths_changed(list(moved))
