"""What a cluster says of itself: settings, what was changed at run time over them, and versions that never go back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core import records as rec
from ote.clustercontroller.core.events import FactsChange, ShimUp
from ote.clustercontroller.core.facts import OwnRecord
from tests.unit.clustercontroller.core.registry_tree import effects, make_context

SETTINGS = m.Facts(labels={"region": "eu", "tier": "gold"}, tags=["lab", "old"])


class Own:
    """One cluster's record, over restarts: what it puts is what the next one is made of."""

    def __init__(self, settings: m.Facts = SETTINGS) -> None:
        self.rows: dict[str, Any] = {}
        self.start(settings)

    def start(self, settings: m.Facts) -> None:
        self.ctx = make_context("c")
        self.own = OwnRecord(self.ctx, rec.Self(journal_id="j"), settings, self.rows)
        self.save()

    def save(self) -> None:
        self.rows |= {put.key: replace(put.value) for put in effects(self.ctx, fx.Put)}
        self.ctx.effects.clear()

    def change(
        self,
        labels: dict[str, str] | None = None,
        remove_labels: list[str] | None = None,
        tags: list[str] | None = None,
        remove_tags: list[str] | None = None,
    ) -> None:
        self.own.change(FactsChange("key", labels or {}, remove_labels or [], tags or [], remove_tags or []))
        self.save()

    @property
    def facts(self) -> m.Facts:
        facts = self.own.record().facts
        assert facts is not None
        return facts


def test_a_label_set_at_run_time_hides_the_setting_until_it_is_removed() -> None:
    own = Own()
    own.change({"region": "us", "new": "1"})
    assert (own.facts.labels, own.facts.changed) == ({"region": "us", "tier": "gold", "new": "1"}, ["new", "region"])
    own.change(remove_labels=["region", "new"])
    assert (own.facts.labels, own.facts.changed) == (SETTINGS.labels, [])


def test_a_label_of_the_settings_can_be_taken_away_and_set_again() -> None:
    own = Own()
    own.change(remove_labels=["region", "unknown"])
    own.change(remove_labels=["region"])
    assert (own.facts.labels, own.facts.changed) == ({"tier": "gold"}, ["-region"])
    own.change(remove_labels=["tier"])
    own.change({"region": "us"})
    assert (own.facts.labels, own.facts.changed) == ({"region": "us"}, ["-tier", "region"])


def test_tags_are_added_taken_away_and_given_back() -> None:
    own = Own()
    own.change(tags=["new", "lab", "new"], remove_tags=["old", "old", "unknown"])
    assert (own.facts.tags, own.facts.changed) == (["lab", "new"], ["+new", "-old"])
    own.change(tags=["old"], remove_tags=["new"])
    assert (own.facts.tags, own.facts.changed) == (["lab", "old"], [])


def test_what_was_changed_at_run_time_outlives_a_restart_and_other_settings() -> None:
    own = Own()
    own.change({"region": "us"}, remove_tags=["old"])
    own.start(m.Facts(labels={"region": "eu", "site": "9"}, tags=["old", "shop"]))
    assert own.facts.labels == {"region": "us", "site": "9"}
    assert own.facts.tags == ["shop"]


def test_the_version_grows_with_every_change_and_at_a_start_only_if_something_is_new() -> None:
    own = Own()
    first = own.facts.version
    own.change({"k": "v"})
    own.change({"k": "v"})
    assert own.facts.version == first + 2
    own.start(SETTINGS)
    assert own.facts.version == first + 2
    own.start(m.Facts())
    assert own.facts.version == first + 3


def test_draining_is_told_once_when_it_changes() -> None:
    own = Own()
    first = own.facts.version
    for on in (False, True, True, False):
        own.own.set_draining(on, 7)
    assert (own.facts.draining, own.facts.version) == (False, first + 2)


def test_the_shim_that_answered_last_is_told_until_it_answers_again() -> None:
    own = Own(m.Facts(shim_kind="?"))
    up = ShimUp("memory", "shim", "1", ["get", "apply"], "i1", True, 1000)
    assert own.own.set_shim(up)
    assert not own.own.set_shim(up)
    own.own.changed()
    own.save()
    own.start(m.Facts(shim_kind="?"))
    assert (own.facts.shim_kind, own.facts.capabilities) == ("memory", ["apply", "get"])
    own.start(m.Facts())
    assert (own.facts.shim_kind, own.facts.capabilities) == ("", [])


def test_since_when_its_shim_is_silent_is_told_until_the_shim_answers() -> None:
    own = Own(m.Facts(shim_kind="?"))
    up = ShimUp("memory", "shim", "1", ["get"], "i1", True, 1000)
    own.own.set_shim(up)
    assert own.own.set_shim_silent(5_000)
    assert not own.own.set_shim_silent(6_000)
    own.own.changed()
    own.save()
    own.start(m.Facts(shim_kind="?"))
    assert own.facts.shim_silent_since_ms == 5_000
    assert own.own.set_shim(up)
    own.own.changed()
    assert own.facts.shim_silent_since_ms == 0
