"""What a command waits for, when others change the cluster meanwhile."""

from __future__ import annotations

import pytest
import yaml

from ote.shims.local.core import manifest
from ote.shims.local.core.cluster import Cluster, Stop
from ote.shims.local.core.dispatches import Watching
from ote.shims.local.core.records import Acted
from ote.shims.local.replies import observe

from .conftest import World
from .test_cluster import CONFIG, DEPLOYMENT, JOB, POD


def applied(world: World, text: str) -> Acted:
    (acted,) = world.cluster.apply(manifest.check(yaml.safe_load_all(text), needs="command"), world.now)
    world.settle()
    return acted


@pytest.mark.parametrize("text", [DEPLOYMENT, POD, JOB])
def test_what_was_deleted_meanwhile_is_not_ready(world: World, text: str) -> None:
    acted = applied(world, text)
    world.cluster.delete([acted.key], world.now)
    standing = world.cluster.standing(acted)
    assert (standing.ready, standing.failed, standing.reason) == (False, True, "DELETED")


def test_what_was_deleted_and_made_anew_is_another_object(world: World) -> None:
    acted = applied(world, POD)
    world.cluster.delete([acted.key], world.now)
    world.obey()
    again = applied(world, POD)
    world.run_all()
    assert world.cluster.standing(acted).reason == "SUPERSEDED"
    assert world.cluster.standing(again).ready


def test_a_spec_of_a_later_command_is_not_what_was_awaited_and_a_new_label_changes_nothing(world: World) -> None:
    acted = applied(world, POD)
    applied(world, POD.replace("{name: one}", "{name: one, labels: {a: b}}"))
    assert not world.cluster.standing(acted).failed
    later = applied(world, POD.replace("[serve]", "[serve, better]"))
    world.run_all()
    assert world.cluster.standing(acted)[:2] == (False, True)
    assert world.cluster.standing(acted).reason == "SUPERSEDED"
    assert world.cluster.standing(later).ready


def test_what_has_no_readiness_is_not_awaited(world: World) -> None:
    acted = applied(world, CONFIG)
    world.cluster.delete([acted.key], world.now)
    assert world.cluster.standing(acted).ready


@pytest.mark.parametrize("restarted", [False, True])
def test_a_job_that_ends_stays_until_nobody_awaits_it(world: World, *, restarted: bool) -> None:
    ttl = "completions: 1\n  backoffLimit: 0\n  ttlSecondsAfterFinished: 0"
    acted = applied(world, JOB.replace("completions: 2\n  backoffLimit: 1", ttl))
    world.cluster.hold([acted])
    (launch,) = world.run()
    world.end(launch.uid, "main", 1)
    if restarted:
        cluster = Cluster(world.source)
        cluster.hold([acted])
        cluster.load(world.saved_objects.values(), world.saved_pods.values(), world.now)
        world.cluster = cluster
    world.wait(60)
    assert world.cluster.standing(acted).reason == "NOT_READY"
    assert world.cluster.standing(acted).failed
    world.cluster.release([acted], world.now)
    assert acted.key not in world.cluster.objects


def test_a_delete_waits_for_the_pods_that_it_ended_and_not_for_later_ones_of_that_name(world: World) -> None:
    world.apply(DEPLOYMENT)
    world.run()
    key = world.key("Deployment/web")
    actions = world.cluster.delete([key], world.now)
    watching = Watching(actions, deleting=True, ending=world.cluster.terminating([key]))
    world.settle()
    world.apply(DEPLOYMENT)
    stops = world.take(Stop)
    world.run()
    world.delete("Deployment/web")
    assert observe(world.cluster, watching).progress.message == "2 pods are ending"
    for stop in stops:
        world.end(stop.uid, "main", 143)
    assert len(world.cluster.terminating([key])) == 2
    assert observe(world.cluster, watching).over
