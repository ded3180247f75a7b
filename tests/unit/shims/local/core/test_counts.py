"""What runs and what fails, in numbers."""

from __future__ import annotations

from .conftest import World
from .test_cluster import DEPLOYMENT, JOB, POD, is_ready, message


def test_counts_tell_objects_by_kind_and_pods_that_run_or_should(world: World) -> None:
    world.apply(DEPLOYMENT + "---" + POD.replace("Always", "Never"))
    one, web, _ = world.run(ready=False)
    world.cluster.probed(web.uid, "main", 1, False, "", world.now)
    kinds, running, failing = world.cluster.counts()
    assert kinds == {"Namespace": 1, "Deployment": 1, "Pod": 3}
    assert (running, failing) == (2, 1)
    world.end(one.uid, "main", 0)
    assert world.cluster.counts()[1:] == (1, 1)


def test_the_failed_pods_of_a_job_count_once_until_it_completes_or_is_deleted(world: World) -> None:
    world.apply(JOB.replace("completions: 2\n  backoffLimit: 1", "parallelism: 3\n  backoffLimit: 3"))
    for launch in world.run():
        world.end(launch.uid, "main", 1)
    assert world.cluster.counts()[1:] == (0, 1)
    world.wait(60)
    (first, *_) = world.run()
    assert world.cluster.counts()[1:] == (3, 1)
    world.end(first.uid, "main", 1)
    world.obey()
    assert message(world, "Job/sum").startswith("BackoffLimitExceeded")
    world.wait(10_000)
    assert world.cluster.counts()[1:] == (0, 1)
    world.delete("Job/sum")
    assert world.cluster.counts()[1:] == (0, 0)


def test_a_job_that_completes_after_failures_does_not_fail(world: World) -> None:
    world.apply(JOB.replace("completions: 2", "completions: 1"))
    (launch,) = world.run()
    world.end(launch.uid, "main", 1)
    world.wait(60)
    (launch,) = world.run()
    world.end(launch.uid, "main", 0)
    assert is_ready(world, "Job/sum")
    assert world.cluster.counts()[1:] == (0, 0)


def test_a_job_that_was_ended_by_its_deadline_fails_though_it_has_no_failed_pod(world: World) -> None:
    world.apply(JOB.replace("completions: 2", "completions: 2\n  activeDeadlineSeconds: 5"))
    world.run()
    world.wait(5)
    world.obey()
    assert world.pods("Job/sum") == []
    assert world.cluster.counts()[1:] == (0, 1)
