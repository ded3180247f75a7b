"""Which attachments the registry takes, from whom, and what follows from them."""

from __future__ import annotations

import pytest

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core import records as rec
from ote.clustercontroller.core.registry import MAX_DEPTH, Registry
from ote.clustercontroller.core.states import AWAY, NAME_CONFLICT, OFFLINE, ONLINE
from tests.unit.clustercontroller.core.registry_seen import Seen, logged
from tests.unit.clustercontroller.core.registry_tree import effects, make_context, make_record, sent

# --- derived from the chain of parents --------------------------------------------------------------------------------


def test_next_hop_path_and_state_follow_from_the_parents(seen: Seen) -> None:
    assert seen.tell("east", make_record("area", "east"), make_record("x", "area"))
    registry = seen.registry
    assert registry.next_hop("x") == 1
    assert registry.via("x") == "east"
    assert registry.path("x") == ["root", "east", "area", "x"]
    assert registry.state("x") == ONLINE
    assert registry.is_below("x")
    assert registry.heard("x") == seen.ctx.now
    assert list(registry.descendants("east")) == ["area", "x"]
    assert set(registry.children("root")) == {"east", "west"}
    assert registry.path("root") == ["root"]
    assert registry.state("root") == ONLINE


def test_one_record_moves_a_whole_subtree(seen: Seen) -> None:
    seen.tell("east", make_record("area", "east"), *[make_record(f"x{i}", "area") for i in range(200)])
    seen.clear()
    assert seen.tell("west", make_record("area", "west", 2))
    assert {seen.registry.next_hop(f"x{i}") for i in range(200)} == {2}
    assert seen.moved == ["area"]
    assert len(effects(seen.ctx, fx.Put)) == 1
    assert len(effects(seen.ctx, fx.ClustersChanged)[0].uids) == 201
    assert seen.registry.digest_via("east").count == 0
    assert seen.registry.digest_via("west").count == 201


def test_one_record_takes_a_whole_branch_offline(seen: Seen) -> None:
    seen.tell("east", make_record("area", "east"), make_record("x", "area"))
    seen.ctx.now += 5
    seen.tell("east", make_record("area", "east", up=False, silent_ms=3000))
    assert seen.registry.state("x") == OFFLINE
    assert seen.registry.next_hop("x") is None
    assert seen.registry.via("x") == "east"
    assert seen.registry.since("x") == seen.ctx.now
    assert seen.registry.heard("x") == seen.ctx.now - 3


def test_late_news_of_the_old_branch_does_not_take_a_moved_subtree_offline(seen: Seen) -> None:
    seen.tell("west", make_record("area", "west"), make_record("x", "area"))
    seen.tell("east", make_record("area", "east", 2))
    seen.clear()
    assert not seen.tell("west", make_record("area", "west", up=False), make_record("x", "area", up=False))
    assert seen.registry.state("x") == ONLINE
    assert sent(seen.ctx, m.Away, link=2) == [m.Away("area", 2, "east")]


def test_a_lost_link_ends_its_own_epoch_only(seen: Seen) -> None:
    registry = seen.registry
    registry.take(make_record("east", "root", 2))
    registry.link_up("east", 3)
    registry.link_down("east", 1, 1)
    assert registry.next_hop("east") == 3
    registry.link_down("east", 3, 2, heard=990.0)
    assert registry.state("east") == OFFLINE
    assert registry.heard("east") == 990.0
    registry.link_down("east", 3, 2)
    registry.link_down("nobody", 9, 1)


def test_online_since_the_last_link_of_the_chain_came_up(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east"))
    seen.ctx.now += 10
    seen.registry.link_down("east", 1, 1)
    seen.ctx.now += 10
    seen.registry.link_up("east", 1)
    assert seen.registry.since("x") == seen.ctx.now
    assert seen.registry.since("root") == 1000.0


def restarted(registry: Registry, after: float = 0.0, clock_at: float = 1000.0) -> Registry:
    """The same disk, read by another process on a machine that has been off for `after` seconds; its clock is new."""
    rows: dict[str, rec.Entry] = {}
    for effect in registry.ctx.effects:
        if isinstance(effect, fx.Put) and effect.table == "clusters":
            rows[effect.key] = effect.value
        elif isinstance(effect, fx.Remove):
            rows.pop(effect.key, None)
    ctx = make_context(registry.ctx.uid)
    ctx.now = clock_at
    ctx.wall_at_zero = registry.ctx.wall_at_zero + registry.ctx.now + after - clock_at
    again = Registry(ctx)
    again.load(rows, {})
    return again


def ages(registry: Registry, uid: str) -> tuple[str, float, float]:
    """State, and for how long it is so and nothing was heard of it."""
    now = registry.ctx.now
    return registry.state(uid), round(now - registry.since(uid), 3), round(now - registry.heard(uid), 3)


def test_what_stood_below_an_evicted_cluster_is_offline_since_then_also_after_a_restart(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east"), make_record("y", "x"), make_record("gone", "east"))
    seen.ctx.now += 600
    seen.tell("east", make_record("gone", "east", up=False, silent_ms=3000))
    seen.ctx.now += 60
    seen.registry.evict("east")
    assert ages(seen.registry, "x") == ages(seen.registry, "y") == (OFFLINE, 0.0, 0.0)
    seen.ctx.now += 5
    assert ages(seen.registry, "x") == ages(seen.registry, "y") == (OFFLINE, 5.0, 5.0)
    assert ages(seen.registry, "gone") == (OFFLINE, 65.0, 68.0)
    again = restarted(seen.registry, after=30.0)
    assert ages(again, "x") == ages(again, "y") == (OFFLINE, 35.0, 35.0)


def test_a_link_that_was_lost_while_the_way_to_it_was_cut_is_down_since_it_was_heard_last(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east"), make_record("y", "east"))
    seen.ctx.now += 10
    seen.registry.link_down("east", 1, 1)
    seen.ctx.now += 600
    seen.registry.take(make_record("east", "root", 2))
    seen.registry.link_up("east", 1)
    x = make_record("x", "east", up=False, silent_ms=500_000)
    seen.tell("east", x, make_record("y", "east", 2, up=False, silent_ms=400_000))
    assert ages(seen.registry, "x") == (OFFLINE, 500.0, 500.0)
    assert ages(seen.registry, "y") == (OFFLINE, 400.0, 400.0)
    seen.ctx.now += 10
    x.silent_ms = 510_000
    seen.tell("east", x)
    assert ages(seen.registry, "x") == (OFFLINE, 510.0, 510.0)


def test_who_is_missing_in_a_full_account_was_there_until_then(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east"))
    seen.ctx.now += 600
    seen.registry.news_from("east", m.News([], full_begin=True, full_end=True, part=1))
    assert ages(seen.registry, "x") == (OFFLINE, 0.0, 0.0)


def test_ages_of_those_offline_outlive_restarts_of_machines_and_a_clock_that_was_set_back(seen: Seen) -> None:
    registry = seen.registry
    registry.take(make_record("leaf", "root"))
    registry.link_up("leaf", 3)
    seen.registry.take(make_record("east", "root", 2))
    seen.registry.link_up("east", 1)
    seen.tell("east", make_record("x", "east", up=False, silent_ms=60_000))
    registry.link_down("leaf", 3, 1)
    registry.ctx.now += 600
    again = restarted(registry, after=30.0, clock_at=7.0)
    assert ages(again, "leaf") == (OFFLINE, 630.0, 630.0)
    assert ages(again, "x") == (OFFLINE, 690.0, 690.0)
    assert ages(again, "east") == (OFFLINE, 0.0, 0.0), "it was there as far as the disk knows"
    again.ctx.now += 100
    once_more = restarted(again)
    assert ages(once_more, "east") == (OFFLINE, 100.0, 100.0)
    assert ages(restarted(registry, after=-10_000.0), "leaf") == (OFFLINE, 0.0, 0.0)


def test_a_cluster_below_one_that_went_away_is_away_since_then(seen: Seen) -> None:
    seen.tell("east", make_record("area", "east"), make_record("x", "area", up=False))
    seen.ctx.now += 600
    seen.registry.away(m.Away("area", 2, "elsewhere"))
    seen.ctx.now += 5
    assert ages(seen.registry, "x") == (AWAY, 5.0, 605.0)


def test_a_name_conflict_lasts_since_the_second_was_seen_until_the_first_is_evicted(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east"))
    seen.ctx.now += 60
    seen.tell("west", make_record("x2", "west", name="x"))
    seen.ctx.now += 60
    seen.tell("west", make_record("x2", "west", 2, name="x"))
    assert ages(seen.registry, "x2") == (NAME_CONFLICT, 60.0, 0.0)
    seen.registry.evict("x")
    assert ages(seen.registry, "x2") == (ONLINE, 0.0, 0.0)


# --- who may say what -------------------------------------------------------------------------------------------------


def test_a_region_cannot_take_a_cluster_without_its_signature(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east"))
    stolen = make_record("x", "west", 2**40, signature=b"forged")
    assert not seen.tell("west", stolen)
    assert seen.registry.next_hop("x") == 1
    assert logged(seen.ctx) == ["the signature does not hold"]


def test_the_key_of_a_uid_is_kept_from_first_sight(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east"))
    thief = make_record("x", "west", 2, public_key=b"thief")
    thief.signature = b"signed:thief" + b"ote attachment v1\nx\n2\nwest\nx-1\n"
    assert not seen.tell("west", thief)
    assert logged(seen.ctx) == ["the uid is known with another key"]


def test_the_key_on_disk_holds_after_a_restart(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east"))
    rows = {put.key: put.value for put in effects(seen.ctx, fx.Put) if put.table == "clusters"}
    again = Registry(make_context("root"))
    again.load(rows, {})
    entry = again.get("x")
    assert entry is not None
    assert entry.public_key == b"x"


def test_a_name_never_changes(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east"))
    assert not seen.tell("east", make_record("x", "east", 2, name="y"))
    assert logged(seen.ctx) == ["the uid is known with another name"]


def test_an_attachment_is_taken_only_below_the_child_that_tells_it(seen: Seen) -> None:
    assert not seen.tell("east", make_record("x", "west"))
    assert not seen.tell("east", make_record("x", "unknown"))
    assert not seen.tell("east", make_record("x", "root"))
    assert not seen.registry.take(make_record("x", "east"))
    assert seen.registry.get("x") is None
    assert len(logged(seen.ctx)) == 4


def test_a_child_that_has_moved_cannot_tell_anything_on_its_old_link(seen: Seen) -> None:
    seen.tell("west", make_record("east", "west", 2))
    assert not seen.tell("east", make_record("x", "east"))
    assert [away.uid for away in seen.superseded] == ["east"]


def test_a_ring_is_refused(seen: Seen) -> None:
    seen.tell("east", make_record("a", "east"), make_record("b", "a"))
    assert not seen.tell("east", make_record("a", "b", 2))
    assert seen.registry.path("b") == ["root", "east", "a", "b"]


def test_a_chain_that_is_too_deep_is_refused(seen: Seen) -> None:
    above = "east"
    for depth in range(MAX_DEPTH + 5):
        seen.tell("east", make_record(f"d{depth}", above))
        above = f"d{depth}"
    assert seen.registry.get(f"d{MAX_DEPTH - 2}") is not None
    assert seen.registry.get(f"d{MAX_DEPTH + 1}") is None


def test_a_child_that_tells_an_older_attachment_is_told_of_the_newer(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east", 8))
    seen.clear()
    assert not seen.tell("west", make_record("x", "west", 6))
    assert sent(seen.ctx, m.Away, link=2) == [m.Away("x", 8, "east")]


def test_two_attachments_of_one_epoch_are_settled_by_a_higher_one(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east", 8))
    seen.clear()
    assert not seen.tell("west", make_record("x", "west", 8, instance="x-2"))
    assert sent(seen.ctx, m.Away, link=2) == [m.Away("x", 8, "east", "x-1")]


def test_the_attachment_for_which_one_of_the_same_epoch_ended_is_taken(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east", 8))
    seen.registry.away(m.Away("x", 8, "west", "x-2"))
    assert not seen.tell("east", make_record("x", "east", 8))
    assert seen.tell("west", make_record("x", "west", 8, instance="x-2"))
    entry = seen.registry.get("x")
    assert entry is not None
    assert (entry.up, entry.is_away, entry.parent_uid) == (True, False, "west")


def test_a_set_back_disk_may_use_an_epoch_again_under_the_same_child(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east", 8))
    assert seen.tell("east", make_record("x", "east", 8, instance="x-2"))
    entry = seen.registry.get("x")
    assert entry is not None
    assert entry.instance == "x-2"


def test_the_old_branch_is_told_when_a_cluster_attaches_elsewhere(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east"))
    seen.clear()
    seen.tell("west", make_record("x", "west", 2, instance="x-2"))
    assert sent(seen.ctx, m.Away, link=1) == [m.Away("x", 2, "west", "x-2")]
    assert seen.registry.was_replaced("x", "x-1")
    assert not seen.registry.was_replaced("x", "x-2")


def test_an_attachment_that_is_over_proves_no_clone(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east"))
    seen.clear()
    seen.tell("west", make_record("x", "west", 2, instance="x-0", up=False))
    assert sent(seen.ctx, m.Away, link=1) == [m.Away("x", 2, "west", "")]
    assert not seen.registry.was_replaced("x", "x-1")


def test_memory_of_replaced_instances_is_bounded(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ote.clustercontroller.core.registry._MAX_REPLACED", 2)
    for epoch in range(1, 6):
        seen.tell("east", make_record("x", "east", epoch, instance=f"x-{epoch}"))
    assert [seen.registry.was_replaced("x", f"x-{epoch}") for epoch in range(1, 6)] == [False, False, True, True, False]


def test_a_child_that_holds_this_cluster_for_its_own_is_told_otherwise(seen: Seen) -> None:
    seen.tell("east", make_record("root", "east", 3))
    assert sent(seen.ctx, m.Away, link=1) == [m.Away("root", 3, "")]


def test_an_answer_to_a_child_without_link_is_dropped(seen: Seen) -> None:
    seen.registry.link_down("east", 1, 1)
    seen.clear()
    seen.tell("east", make_record("root", "east", 3))
    assert sent(seen.ctx, m.Away) == []


# --- away -------------------------------------------------------------------------------------------------------------


def test_who_is_attached_elsewhere_is_away_with_all_below(seen: Seen) -> None:
    registry = seen.registry
    seen.tell("east", make_record("area", "east"), make_record("x", "area"))
    assert registry.away(m.Away("area", 2, "elsewhere")) == 1
    assert [registry.state(uid) for uid in ("area", "x")] == [AWAY, AWAY]
    assert registry.via("x") is None
    assert registry.digest_via("east").count == 0
    assert registry.known_epoch("area") == 2
    assert list(registry.descendants("east")) == []
    assert registry.away(m.Away("area", 2, "elsewhere")) is None
    assert registry.away(m.Away("nobody", 2)) is None
    assert registry.away(m.Away("root", 99)) is None
    assert registry.away(m.Away("x", 5)) is None
    seen.clear()
    seen.tell("east", make_record("area", "east"))
    assert sent(seen.ctx, m.Away, link=1) == [m.Away("area", 2, "elsewhere")]
    assert not seen.tell("east", make_record("x", "area", 6))


def test_who_is_away_is_not_brought_back_by_news_from_before_it_went(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east"))
    seen.registry.away(m.Away("x", 5, "elsewhere"))
    seen.clear()
    assert not seen.tell("west", make_record("x", "west", 3))
    assert seen.registry.state("x") == AWAY
    assert sent(seen.ctx, m.Away, link=2) == [m.Away("x", 5, "elsewhere")]
    assert seen.tell("west", make_record("x", "west", 5))
    assert seen.registry.next_hop("x") == 2


def test_whose_very_attachment_is_over_is_not_brought_back_by_more_news_of_it(seen: Seen) -> None:
    seen.tell("east", make_record("x", "east", 2))
    seen.registry.away(m.Away("x", 2, "elsewhere", instance="another"))
    seen.clear()
    assert not seen.tell("east", make_record("x", "east", 2, facts=m.Facts(version=9)))
    assert seen.registry.state("x") == AWAY
    assert sent(seen.ctx, m.Away, link=1) == [m.Away("x", 2, "elsewhere")]


def test_who_was_away_comes_back_with_its_subtree(seen: Seen) -> None:
    registry = seen.registry
    seen.tell("east", make_record("area", "east"), make_record("x", "area"))
    before = registry.digest_via("east").count
    registry.away(m.Away("area", 2, "elsewhere"))
    assert seen.tell("east", make_record("area", "east", 2))
    assert registry.state("x") == ONLINE
    assert registry.digest_via("east").count == before


def test_an_equal_epoch_elsewhere_counts_against_an_attachment_that_is_over_or_of_another_instance(seen: Seen) -> None:
    registry = seen.registry
    seen.tell("east", *[make_record(uid, "east", 8) for uid in "xyz"])
    seen.tell("east", make_record("x", "east", 8, up=False))
    assert registry.away(m.Away("x", 8)) == 1
    assert registry.away(m.Away("y", 8)) is None
    assert registry.away(m.Away("y", 8, instance="y-1")) is None
    assert registry.away(m.Away("z", 8, instance="z-2")) == 1
    assert [registry.state(uid) for uid in "xyz"] == [AWAY, ONLINE, AWAY]
    assert not seen.tell("east", make_record("x", "east", 8))
    assert seen.tell("east", make_record("x", "east", 9))


def test_a_direct_child_that_is_away_is_reported_to_its_keeper(seen: Seen) -> None:
    away = m.Away("east", 5, "elsewhere")
    assert seen.registry.away(away) is None
    assert seen.superseded == [away]


# --- names ------------------------------------------------------------------------------------------------------------


def test_of_two_clusters_with_one_name_the_one_seen_first_holds_it(seen: Seen) -> None:
    registry = seen.registry
    for uid in ("aa1", "bb2", "cc3"):
        seen.tell("east", make_record(uid, "east", name="shop"))
    assert [registry.state(uid) for uid in ("aa1", "bb2", "cc3")] == [ONLINE, NAME_CONFLICT, NAME_CONFLICT]
    assert registry.name_holder("shop") == "aa1"
    assert registry.next_hop("bb2") == 1
    registry.evict("cc3")
    seen.clear()
    registry.evict("aa1")
    assert registry.state("bb2") == ONLINE
    assert "bb2" in seen.moved


def test_a_cluster_is_found_by_name_uid_both_or_dot(seen: Seen) -> None:
    registry = seen.registry
    seen.tell("east", make_record("aa1", "east", name="shop"), make_record("aa2", "east", name="shop"))
    found = {text: entry.uid for text in ("shop", "aa2", "shop@aa2", ".", "root") if (entry := registry.find(text))}
    assert found == {"shop": "aa1", "aa2": "aa2", "shop@aa2": "aa2", ".": "root", "root": "root"}
    assert [registry.find(text) for text in ("none", "shop@aa", "shop@b", "none@aa")] == [None] * 4


# --- evictions --------------------------------------------------------------------------------------------------------


def test_an_evicted_cluster_is_gone_and_is_not_taken_again(seen: Seen) -> None:
    registry = seen.registry
    facts = m.Facts(version=1, configured_parent="east")
    seen.tell("east", make_record("area", "east", facts=facts), make_record("x", "area"))
    seen.clear()
    assert registry.evict("area") == []
    assert registry.get("area") is None
    assert registry.state("x") == OFFLINE
    assert registry.state("area") == OFFLINE
    assert registry.via("x") is None
    assert registry.digest_via("east").count == 0
    assert seen.gone == ["area"]
    assert seen.moved == ["x"]
    assert not seen.tell("east", make_record("area", "east", 9))
    assert sent(seen.ctx, m.Evictions, link=1) == [m.Evictions(["area"])]
    eviction, orphan = effects(seen.ctx, fx.Put)
    assert (eviction.table, eviction.value) == ("evictions", rec.Eviction("area"))
    assert (orphan.table, orphan.key) == ("clusters", "x")
    assert effects(seen.ctx, fx.Remove) == [fx.Remove("clusters", "area")]
    assert seen.tell("east", make_record("x", "east", 2))
    assert registry.state("x") == ONLINE


def test_evicting_names_those_that_are_configured_under_it(seen: Seen) -> None:
    for uid in "xy":
        facts = m.Facts(version=1, configured_parent="east")
        seen.tell("west", make_record(uid, "west", facts=facts))
    assert seen.registry.evict("east") == ["x", "y"]


def test_evictions_are_a_set_that_grows(seen: Seen) -> None:
    registry, other = seen.registry, Registry(make_context("other"))
    assert registry.evictions_digest() == b""
    assert registry.take_evictions(["u1", "u2", "u1"]) == ["u1", "u2"]
    assert registry.take_evictions(["u2", "u3", "root"]) == ["u3", "root"]
    assert registry.get("root") is not None
    assert seen.gone == ["u1", "u2", "u3"]
    other.load({}, {uid: rec.Eviction() for uid in ("u3", "root", "u2", "u1")})
    other.evicted.add("u1")
    assert other.evictions_digest() == registry.evictions_digest()
    assert registry.evict("u4") == []
