"""What the core counts for the metrics: rare things one by one, frequent ones once per event."""

from __future__ import annotations

import pytest

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.telemetry.metrics import Metrics
from tests.unit.clustercontroller.core.dispatch_ends import E1, E2, OriginEnd, Shim, TargetEnd, online
from tests.unit.clustercontroller.core.parents_world import ALTERNATES, World, at_home

S = m.Standing


def counted(effects: list[fx.Effect]) -> dict[str, float]:
    """{name and labels: sum} of all counts, each of which the catalog knows."""
    metrics = Metrics(process=False)
    sums: dict[str, float] = {}
    for effect in effects:
        if isinstance(effect, fx.Count):
            metrics.count(effect.name, effect.labels, effect.value)
            key = " ".join([effect.name.removeprefix("ote_"), *effect.labels])
            sums[key] = sums.get(key, 0.0) + effect.value
    return sums


# --- parents ------------------------------------------------------------------------------------------------------


def test_a_first_parent_is_an_attachment_without_a_loss() -> None:
    world = World()
    world.start()
    world.run(1.0)
    world.take("E", S(10, 1))
    assert counted(world.effects) == {"failover_attaches_total home": 1}


@pytest.mark.parametrize(
    ("name", "standing", "kind"),
    [("W", S(11, 1), "parent_sibling"), ("R", S(11, 0), "grandparent"), ("s2", S(13, 2), "own_sibling")],
)
def test_where_a_cluster_went_is_counted_by_class_and_with_the_time_it_took(
    name: str, standing: m.Standing, kind: str
) -> None:
    world = at_home()
    world.lose("E")
    lost_at = world.now
    while not world.dialled(name):
        world.run(world.now + 0.1)
        for other in {"E", "W", "R", "s2"} - {name}:
            if world.dialled(other):
                world.fail(other)
    world.take(name, standing)
    sums = counted(world.effects)
    assert sums["failover_parent_losses_total closed"] == 1
    assert sums[f"failover_attaches_total {kind}"] == 1
    assert sums["failover_attach_seconds"] == pytest.approx(world.now - lost_at)


def test_losses_are_counted_by_cause() -> None:
    silent, deaf, refused, ring = at_home(), at_home(), at_home(), at_home()
    silent.run(silent.now + 20.0)
    deaf.run(deaf.now + 1.0)
    deaf.beat("E", S(11, 1), silence_ms=6000)
    refused.refuse("E", "BAD_FRAME")
    path = [m.PathStep("R", "uid-R"), m.PathStep("e1", "uid-e1"), m.PathStep("E", "uid-E")]
    ring.say("E", m.Beat(S(12, 2), 0, path))
    for world, cause in ((silent, "silent"), (deaf, "silent"), (refused, "refused"), (ring, "ring")):
        losses = {key for key in counted(world.effects) if key.startswith("failover_parent_losses_total")}
        assert losses == {f"failover_parent_losses_total {cause}"}


def test_attaching_anew_to_the_same_parent_is_no_loss() -> None:
    world = at_home()
    world.do(world.parents.reattach)
    world.take("E", S(11, 1))
    assert counted(world.effects) == {"failover_attaches_total same": 1}


def test_a_candidate_of_no_list_is_of_another_class() -> None:
    world = at_home()
    world.say("E", m.Alternates())
    candidates = world.parents._candidates
    assert candidates.kind(m.Alternate("x", "uid-x", "x:1")) == "other"
    candidates.told(ALTERNATES)
    assert candidates.kind(m.Alternate("W", "uid-W", "w:1")) == "parent_sibling"


def test_the_beat_has_no_age_at_a_root_and_before_the_first_parent() -> None:
    root, young, home = World(home=None), World(), at_home()
    root.start()
    root.run(60.0)
    assert root.parents.beat_age == young.parents.beat_age == 0
    begun = home.now
    home.run(begun + 3.0)
    assert home.parents.beat_age == pytest.approx(home.now - begun, abs=1.0)


# --- the ends of a dispatch ---------------------------------------------------------------------------------------


def test_a_dispatch_is_counted_once_with_its_targets_and_their_ends() -> None:
    end = OriginEnd(online(E1))
    end.submit("d1", E1, E2, ttl=0.0)
    end.submit("d1", E1, E2, ttl=0.0)
    end.now += 1.0
    end.report("d1", E1, m.RESULT, state="SUCCEEDED", attempt=0)
    end.report("d1", E1, m.RESULT, state="SUCCEEDED", attempt=0)
    assert counted(end.done) == {
        "dispatch_accepted_total": 1,
        "dispatch_targets_total": 2,
        "dispatch_settled_total UNREACHABLE": 1,
        "dispatch_settled_total SUCCEEDED": 1,
        "dispatch_latency_seconds": pytest.approx(1.0),
    }


def test_what_an_origin_sends_again_is_counted_by_target() -> None:
    end = OriginEnd(online(E1, E2))
    end.submit("d1", E1, E2)
    assert "dispatch_resends_total command" not in counted(end.done)
    end.pass_time(2.5)
    assert counted(end.done)["dispatch_resends_total command"] == 2


def test_results_that_are_said_again_are_counted() -> None:
    end = TargetEnd()
    end.shim_up(Shim())
    end.deliver("d1", 1)
    end.result("d1")
    assert counted(end.done) == {}
    end.pass_time(2.5)
    assert counted(end.done) == {"dispatch_resends_total result": 1}
    end.handle(end.target.path_changed)
    assert counted(end.done) == {"dispatch_resends_total result": 2}
    end.ack("d1")
    end.handle(end.target.path_changed)
    assert counted(end.done) == {"dispatch_resends_total result": 2}
