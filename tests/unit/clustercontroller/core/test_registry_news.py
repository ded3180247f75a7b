"""What the registry is told within an attachment, what it tells the parent, and what it keeps on disk."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core import records as rec
from ote.clustercontroller.core.digest import mark
from ote.clustercontroller.core.registry import Registry
from ote.clustercontroller.core.states import AWAY, OFFLINE, ONLINE
from tests.unit.clustercontroller.core.registry_seen import Seen
from tests.unit.clustercontroller.core.registry_tree import effects, make_context, make_record

# --- news within an attachment ----------------------------------------------------------------------------------------


def test_facts_are_as_told_last(seen: Seen) -> None:
    registry = seen.registry
    seen.tell("east", make_record("x", "east"))
    seen.clear()
    facts = m.Facts(version=2, labels={"tier": "gold"}, tags=["gpu"], journal_id="j1")
    assert seen.tell("east", make_record("x", "east", facts=facts))
    entry = registry.get("x")
    assert entry is not None
    assert (entry.labels, entry.tags, entry.path) == ({"tier": "gold"}, ["gpu"], ["root", "east", "x"])
    assert seen.moved == ["x"]
    assert len(effects(seen.ctx, fx.Put)) == 1
    assert not seen.tell("east", make_record("x", "east", facts=facts))


def test_the_status_of_a_direct_child_is_kept_and_goes_no_further(seen: Seen) -> None:
    registry = seen.registry
    seen.tell("east", make_record("x", "east"))
    registry.news()
    seen.clear()
    assert not seen.tell("east", make_record("x", "east", status=m.Status(1, b"s")))
    assert seen.tell("east", make_record("east", "root", facts=None, status=m.Status(1, b"s")))
    assert not seen.tell("east", make_record("east", "root", facts=None, status=m.Status(1, b"s")))
    assert {uid: details.status for uid, details in registry.details.items()} == {"east": m.Status(1, b"s")}
    assert effects(seen.ctx, fx.Put) == []
    assert registry.news() == []
    assert seen.moved == []
    seen.tell("east", make_record("east", "root", facts=None, up=False))
    assert "east" in registry.details
    registry.take_evictions(["east"])
    assert registry.details == {}


def test_the_status_of_a_child_that_has_moved_is_not_kept(seen: Seen) -> None:
    seen.tell("east", make_record("east", "root", facts=None, status=m.Status(1, b"s")))
    assert seen.tell("west", make_record("east", "west", 2))
    assert seen.registry.details == {}


def test_a_child_does_not_say_whether_its_own_link_is_up(seen: Seen) -> None:
    assert not seen.tell("east", make_record("east", "root", up=False))
    assert seen.registry.next_hop("east") == 1


def test_equal_lists_of_facts_are_one_object(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = [m.Facts(version=1, tags=["gpu"], capabilities=["apply"]) for _ in range(2)]
    seen.tell("east", make_record("x", "east", facts=facts[0]), make_record("y", "east", facts=facts[1]))
    x, y = seen.registry.get("x"), seen.registry.get("y")
    assert x is not None
    assert y is not None
    assert x.facts.tags is y.facts.tags
    monkeypatch.setattr("ote.clustercontroller.core.entries._MAX_SHARED", 0)
    seen.tell("east", make_record("z", "east", facts=m.Facts(version=1, tags=["other"])))
    assert seen.registry.entries["z"].tags == ["other"]


# --- full accounts and digests ----------------------------------------------------------------------------------------


def test_a_full_account_ends_attachments_but_never_entries(seen: Seen) -> None:
    x, y, z = (make_record(uid, "east") for uid in "xyz")
    seen.tell("east", x, y, z)
    registry = seen.registry
    registry.news_from("east", m.News([x], full_begin=True))
    assert registry.news_from("east", m.News([replace(z, epoch=0)], full_end=True))
    assert [registry.state(uid) for uid in "xyz"] == [ONLINE, OFFLINE, OFFLINE]
    assert registry.get("y") is not None
    assert not registry.news_from("east", m.News([], full_end=True))


def test_a_full_account_of_which_a_part_was_lost_ends_nothing(seen: Seen) -> None:
    x, y, z = (make_record(uid, "east") for uid in "xyz")
    seen.tell("east", x, y, z)
    registry = seen.registry
    registry.news_from("east", m.News([x], full_begin=True, part=1))
    registry.news_from("east", m.News([z], full_end=True, part=3))
    assert registry.state("y") == ONLINE
    registry.news_from("east", m.News([x], full_begin=True, part=1))
    registry.news_from("east", m.News([x]))
    registry.news_from("east", m.News([z], full_end=True, part=2))
    assert [registry.state(uid) for uid in "xyz"] == [ONLINE, OFFLINE, ONLINE]


def test_what_was_not_sent_is_news_again_with_its_facts(seen: Seen) -> None:
    registry = seen.registry
    seen.tell("east", make_record("x", "east", facts=m.Facts(version=2)))
    dropped = registry.news()
    assert not registry.has_news
    registry.untold(dropped)
    assert [(record.uid, record.facts) for record in registry.news()] == [(r.uid, r.facts) for r in dropped]
    registry.take_evictions(["x"])
    registry.untold(dropped)
    assert "x" not in [record.uid for record in registry.news()]


def test_the_whole_digest_covers_the_child_itself(seen: Seen) -> None:
    registry = seen.registry
    before = registry.whole_digest("east")
    assert before.count == registry.digest_via("east").count + 1
    seen.tell("east", replace(registry.entries["east"].record, facts=m.Facts(version=9)))
    assert registry.whole_digest("east") != before


def test_the_digest_covers_what_is_up_below_the_link_without_its_end(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east"), make_record("y", "east", up=False))
    entry = seen.registry.get("x")
    assert entry is not None
    assert seen.registry.digest_via("east") == m.Digest(1, mark(entry))
    assert seen.registry.digest().count == 3
    seen.tell("east", make_record("x", "east", up=False))
    assert seen.registry.digest_via("east") == m.Digest(0, 0)


def test_the_mark_of_an_attachment_is_as_the_protocol_says(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east", 7, facts=m.Facts(version=3)))
    # first 8 bytes of SHA-256 of "x:7:3:9:1"
    assert mark(seen.registry.entries["x"], status=9) == 0x064AF3A1FEF38282


# --- what the parent is told ------------------------------------------------------------------------------------------


def test_news_is_the_newest_per_cluster_with_parents_first(seen: Seen) -> None:
    registry = seen.registry
    registry.news()
    seen.tell("east", make_record("area", "east"), make_record("x", "area"))
    seen.tell("east", make_record("area", "east", facts=m.Facts(version=2)))
    assert registry.has_news
    records = registry.news()
    assert [(record.uid, record.facts and record.facts.version) for record in records] == [("area", 2), ("x", 1)]
    assert not registry.has_news
    assert registry.news() == []


def test_facts_and_own_status_are_told_once_on_a_link(seen: Seen) -> None:
    registry = seen.registry
    registry.news()
    seen.tell("east", make_record("x", "east"))
    assert [record.facts is None for record in registry.news()] == [False]
    seen.tell("east", make_record("x", "east", up=False))
    assert [record.facts for record in registry.news()] == [None]
    seen.tell("east", make_record("x", "east", facts=m.Facts(version=2)))
    assert [record.facts is None for record in registry.news()] == [False]
    own, status = make_record("root", "above"), m.Status(2, b"s")
    registry.set_own(own)
    assert [(record.facts is None, record.status) for record in registry.news()] == [(False, None)]
    for told in (status, None):
        registry.set_own(replace(own, status=status))
        assert [(record.facts, record.status) for record in registry.news()] == [(None, told)]
    registry.told_nothing()
    registry.set_own(replace(own, status=status))
    news = [record for record in registry.news() if record.uid == "root"]
    assert [(record.facts is None, record.status) for record in news] == [(False, status)]


def test_a_full_account_has_everything_parents_first_and_ends_the_news(seen: Seen) -> None:
    registry = seen.registry
    seen.tell("east", make_record("area", "east"), make_record("x", "area"))
    seen.tell("west", make_record("y", "west"))
    registry.away(m.Away("y", 2))
    registry.news()
    records = list(registry.account())
    uids = [record.uid for record in records]
    assert sorted(uids) == ["area", "east", "root", "west", "x"]
    assert uids[0] == "root"
    assert uids.index("east") < uids.index("area") < uids.index("x")
    assert all(record.facts for record in records[1:])
    assert not registry.has_news


def test_own_facts_are_news_and_own_ones_only(seen: Seen) -> None:
    registry = seen.registry
    registry.news()
    seen.clear()
    registry.set_own(make_record("root", "above", 3, facts=m.Facts(version=1, journal_id="j")))
    assert [(record.uid, record.epoch, record.parent_uid) for record in registry.news()] == [("root", 3, "above")]
    assert seen.moved == ["root"]
    registry.set_own(make_record("root", "above", 4, facts=m.Facts(version=1, journal_id="j")))
    assert seen.moved == ["root"]
    registry.set_own(make_record("root", "above", 4, facts=None, instance="root-2"))
    assert seen.moved == ["root", "root"]


# --- disk -------------------------------------------------------------------------------------------------------------


def test_after_a_restart_direct_children_are_offline_until_they_attach(seen: Seen) -> None:
    rows: dict[str, rec.Entry] = {}
    seen.tell("east", make_record("area", "east"), make_record("x", "area"), make_record("shop", "east"))
    seen.tell("west", make_record("y", "west"))
    seen.registry.away(m.Away("y", 4, "elsewhere"))
    for uid, entry in seen.registry.entries.items():
        rows[uid] = rec.Entry(entry.record, entry.first_seen, entry.away, entry.away_parent)
    before = seen.registry.digest_via("east")
    registry = Registry(make_context("root"))
    registry.load(rows, {"shop": rec.Eviction("shop")})
    assert [registry.state(uid) for uid in ("east", "area", "x", "y")] == [OFFLINE, OFFLINE, OFFLINE, AWAY]
    assert registry.get("shop") is None
    assert registry.digest().count == 2
    assert registry.digest_via("east").count == before.count - 1
    registry.take(make_record("east", "root", 2))
    registry.link_up("east", 7)
    assert registry.next_hop("x") == 7
    assert registry.take(make_record("new", "root"))
    assert registry.entries["new"].first_seen == max(row.first_seen for row in rows.values()) + 1


def test_a_ring_on_disk_is_broken_at_start() -> None:
    rows = {uid: rec.Entry(make_record(uid, parent), 1) for uid, parent in (("a", "b"), ("b", "a"), ("c", "b"))}
    registry = Registry(make_context("root"))
    registry.load(rows, {})
    assert [registry.state(uid) for uid in "abc"] == [OFFLINE] * 3
    assert registry.take(make_record("a", "root", 2))
    registry.link_up("a", 1)
    assert registry.next_hop("a") == 1
