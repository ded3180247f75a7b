"""What is read off the chain of parents."""

from __future__ import annotations

from ote.clustercontroller.core import records as rec
from ote.clustercontroller.core.registry import Registry
from tests.unit.clustercontroller.core.registry_tree import make_context, make_record


def test_a_subtree_is_a_cluster_and_those_whose_chain_runs_through_it() -> None:
    registry = Registry(make_context("root"))
    records = [make_record(uid, parent) for uid, parent in (("a", "root"), ("b", "a"), ("w", "root"), ("x", "gone"))]
    registry.load({record.uid: rec.Entry(record) for record in records}, {})
    below = {(uid, above) for uid in "abwx" for above in (*"abwx", "root") if registry.is_at_or_below(uid, above)}
    assert below == {(uid, uid) for uid in "abwx"} | {(uid, "root") for uid in "abw"} | {("b", "a")}


def test_nobody_unknown_has_a_subtree_not_even_over_those_whose_parent_is_unknown() -> None:
    registry = Registry(make_context("root"))
    registry.load({"x": rec.Entry(make_record("x", "gone"))}, {})
    assert not registry.is_at_or_below("x", "stranger")
    assert not registry.is_at_or_below("x", "gone")
    assert not registry.is_at_or_below("stranger", "root")


def test_all_are_listed_by_name_and_those_of_one_name_by_uid_also_after_some_came_and_went() -> None:
    registry = Registry(make_context("root"))
    for uid, name in (("u2", "shop"), ("u1", "shop"), ("u3", "bank")):
        assert registry.take(make_record(uid, "root", name=name))
    before = [(entry.name, entry.uid) for entry in registry.in_order()]
    assert before == [("bank", "u3"), ("root", "root"), ("shop", "u1"), ("shop", "u2")]
    assert [(entry.name, entry.uid) for entry in registry.in_order()] == before
    registry.take(make_record("u4", "root", name="café"))
    registry.take_evictions(["u2"])
    assert [entry.uid for entry in registry.in_order()] == ["u3", "u4", "root", "u1"]
