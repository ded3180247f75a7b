"""The cluster's decisions, told as what happens to it and what it does then."""

from __future__ import annotations

import copy

import msgspec
import pytest

from ote.shims.local.core.cluster import Clean, Cluster, Launch, Refresh, Stop
from ote.shims.local.core.records import Pod, Stored

from .conftest import World

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 7
      containers:
        - name: main
          command: [serve, tea]
          readinessProbe: {tcpSocket: {port: 80}, failureThreshold: 2}
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: one}
spec:
  restartPolicy: Always
  containers: [{name: main, command: [serve]}]
"""
JOB = """
apiVersion: batch/v1
kind: Job
metadata: {name: sum}
spec:
  completions: 2
  backoffLimit: 1
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, command: [add]}]
"""
CONFIG = "{apiVersion: v1, kind: ConfigMap, metadata: {name: c}, data: {k: v}}"


def waits_for_config(text: str = POD) -> str:
    return text + "  volumes: [{name: v, configMap: {name: c}}]\n"


def message(world: World, reference: str) -> str:
    return world.cluster.readiness(world.key(reference)).message


def is_ready(world: World, reference: str) -> bool:
    return world.cluster.readiness(world.key(reference)).ready


class TestApply:
    def test_objects_are_created_configured_and_unchanged(self, world: World) -> None:
        assert world.apply(CONFIG) == [("ConfigMap/default/c", "created")]
        assert world.apply(CONFIG) == [("ConfigMap/default/c", "unchanged")]
        assert world.apply(CONFIG.replace("k: v", "k: w")) == [("ConfigMap/default/c", "configured")]

    def test_what_is_to_be_started_is_saved_before_it_is_started(self, world: World) -> None:
        world.apply(POD)
        (launch,) = world.take(Launch)
        assert world.saved_pods[launch.uid].container("main").state == "starting"
        assert world.saved_pods[launch.uid].container("main").attempt == launch.attempt == 1

    def test_a_namespace_has_to_exist(self, world: World) -> None:
        text = CONFIG.replace("name: c", "name: c, namespace: shop")
        (problem,) = world.problems(text)
        assert problem == ("ConfigMap/shop/c: namespace 'shop' does not exist; apply a Namespace of that name first")
        assert not world.problems(text + "\n---\n{apiVersion: v1, kind: Namespace, metadata: {name: shop}}")

    def test_a_jobs_template_cannot_be_changed(self, world: World) -> None:
        world.apply(JOB)
        assert world.problems(JOB.replace("[add]", "[sub]").replace("completions: 2", "completions: 3")) == [
            "Job/default/sum: spec.template and spec.completions cannot be changed; delete the job first"
        ]
        assert not world.problems(JOB.replace("backoffLimit: 1", "backoffLimit: 2"))

    def test_a_selector_cannot_be_changed(self, world: World) -> None:
        selector = "selector: {matchLabels: {app: %s}}"
        job = JOB.replace("spec:\n  completions", f"spec:\n  {selector % 'web'}\n  completions").replace(
            "    spec:", "    metadata: {labels: {app: web, tier: back}}\n    spec:"
        )
        deployment = DEPLOYMENT.replace("labels: {app: web}", "labels: {app: web, tier: back}")
        world.apply(deployment + "---" + job)
        assert not world.problems(deployment.replace("{app: web}}\n", "{app: web}, matchExpressions: []}\n"))
        other = (deployment + "---" + job).replace("matchLabels: {app: web}", "matchLabels: {tier: back}")
        assert world.problems(other) == [
            "Deployment/default/web: spec.selector cannot be changed; delete the deployment first",
            "Job/default/sum: spec.selector cannot be changed; delete the job first",
        ]
        world.delete("Deployment/web", "Job/sum")
        assert not world.problems(other)

    def test_a_pod_of_a_deployment_cannot_be_applied(self, world: World) -> None:
        world.apply(DEPLOYMENT)
        name = world.pods("Deployment/web")[0].name
        (problem,) = world.problems(POD.replace("name: one", f"name: {name}"))
        assert problem.endswith("belongs to Deployment/default/web; change that instead")

    def test_only_a_changed_spec_is_a_new_generation(self, world: World) -> None:
        world.apply(DEPLOYMENT)
        world.apply(DEPLOYMENT.replace("{name: web}", "{name: web, labels: {a: b}}"))
        assert world.cluster.objects[world.key("Deployment/web")].generation == 1
        world.apply(DEPLOYMENT.replace("replicas: 2", "replicas: 3"))
        assert world.cluster.objects[world.key("Deployment/web")].generation == 2


class TestPods:
    def test_a_pod_is_ready_when_its_containers_run(self, world: World) -> None:
        world.apply(POD)
        assert message(world, "Pod/one") == "0 of 1 containers ready"
        world.run()
        assert is_ready(world, "Pod/one")

    def test_without_a_probe_a_start_has_to_hold_and_longer_after_each_crash(self) -> None:
        world = World(steady_cap=3.0)
        world.apply(POD)
        for steady in (1.0, 2.0, 3.0, 3.0):
            (launch,) = world.run()
            world.wait(steady - 0.01)
            assert not is_ready(world, "Pod/one")
            world.end(launch.uid, "main", 3)
            assert world.cluster.wake_at is not None
            world.wait(60)
        (launch,) = world.run()
        world.wait(3)
        assert is_ready(world, "Pod/one")
        world.end(launch.uid, "main", 3)
        assert not is_ready(world, "Pod/one")

    def test_each_container_gets_a_port_that_nobody_has(self, world: World) -> None:
        two = POD.replace("[{name: main, command: [serve]}]", "[{name: a, command: [a]}, {name: b, command: [b]}]")
        ports = "[{name: c, command: [c], ports: [{containerPort: 1}, {containerPort: 2}]}]"
        world.apply(two + "---" + POD.replace("one", "two").replace("[{name: main, command: [serve]}]", ports))
        containers = [container for pod in world.cluster.pods.values() for container in pod.containers]
        assert [len(container.ports) for container in containers] == [1, 1, 2]
        assert len({port for container in containers for port in container.ports}) == 4

    def test_a_source_that_repeats_itself_does_not_give_a_port_twice(self, world: World) -> None:
        world.apply(POD)
        taken = world.only_pod("Pod/one").container("main").ports[0]
        asked: list[int] = []

        def port(preferred: int) -> int:
            asked.append(preferred)
            return taken if len(asked) == 1 else taken + 1

        world.source.port = port  # type: ignore[method-assign]
        world.apply(POD.replace("one", "two"))
        assert world.only_pod("Pod/two").container("main").ports == [taken + 1]

    def test_a_container_that_ends_is_started_again_with_growing_delay(self, world: World) -> None:
        world.apply(POD)
        starts = []
        for _ in range(4):
            (launch,) = world.run()
            starts.append((launch.attempt, world.now))
            world.wait(1)
            world.end(launch.uid, "main", 3)
            assert message(world, "Pod/one") == (
                "0 of 1 containers ready; one/main: CrashLoopBackOff: waits before the next start; last: exit code 3"
            )
            assert world.cluster.wake_at is not None
            world.wait(world.cluster.wake_at - world.now)
        assert starts == [(1, 1000), (2, 1002), (3, 1005), (4, 1010)]

    def test_the_delay_has_a_cap_and_a_long_run_resets_it(self, world: World) -> None:
        world.apply(POD)
        for _ in range(10):
            (launch,) = world.run()
            world.end(launch.uid, "main", 0)
            world.wait(60)
        (launch,) = world.run()
        world.wait(100)
        world.end(launch.uid, "main", 0)
        container = world.only_pod("Pod/one").container("main")
        assert container.retry_at == world.now + 1
        assert (container.reason, container.message) == ("CrashLoopBackOff", "waits before the next start")

    def test_a_port_is_kept_over_restarts_unless_somebody_took_it(self, world: World) -> None:
        world.apply(POD)
        (launch,) = world.run()
        (port,) = world.only_pod("Pod/one").container("main").ports
        world.end(launch.uid, "main", 1)
        world.wait(1)
        assert world.only_pod("Pod/one").container("main").ports == [port]
        (launch,) = world.run()
        world.source.busy.add(port)
        world.end(launch.uid, "main", 1)
        world.wait(2)
        assert world.only_pod("Pod/one").container("main").ports != [port]

    @pytest.mark.parametrize(("policy", "code", "again"), [("Never", 1, 0), ("OnFailure", 0, 0), ("OnFailure", 1, 1)])
    def test_the_restart_policy_decides_whether_there_is_another_start(
        self, world: World, policy: str, code: int, again: int
    ) -> None:
        world.apply(POD.replace("Always", policy))
        (launch,) = world.run()
        world.end(launch.uid, "main", code)
        world.wait(100)
        assert len(world.take(Launch)) == again

    def test_a_pod_that_ran_to_a_good_end_is_ready_and_one_that_failed_never_will_be(self, world: World) -> None:
        world.apply(POD.replace("Always", "Never") + "---" + POD.replace("Always", "Never").replace("one", "two"))
        good, bad = world.run()
        world.end(good.uid, "main", 0)
        world.end(bad.uid, "main", 9)
        assert world.cluster.readiness(world.key("Pod/one")).ready
        assert world.cluster.readiness(world.key("Pod/two"))[:3] == (
            False,
            True,
            "the pod failed; two/main: Error: exit code 9",
        )

    def test_an_attempt_that_never_began_is_made_again_at_once(self, world: World) -> None:
        world.apply(POD)
        (launch,) = world.take(Launch)
        world.end(launch.uid, "main", None)
        (again,) = world.take(Launch)
        assert again.attempt == 2

    def test_an_end_before_the_start_was_told_counts_as_no_run(self, world: World) -> None:
        world.apply(POD)
        (launch,) = world.take(Launch)
        world.now += 1000
        world.end(launch.uid, "main", 127, "the command was not found")
        assert world.only_pod("Pod/one").container("main").streak == 1

    def test_news_of_another_attempt_or_of_nobody_is_ignored(self, world: World) -> None:
        world.apply(POD)
        (launch,) = world.run()
        before = copy.deepcopy(world.saved_pods)
        for uid, attempt in (("uid-none", 1), (launch.uid, 9)):
            world.cluster.started(uid, "main", attempt, world.now)
            world.cluster.ended(uid, "main", attempt, 1, "", world.now)
            world.cluster.probed(uid, "main", attempt, False, "", world.now)
        world.end(launch.uid, "main", 0)
        world.cluster.started(launch.uid, "main", 1, world.now)
        world.end(launch.uid, "main", 1)
        assert before != world.saved_pods
        assert world.only_pod("Pod/one").container("main").exit_code == 0

    def test_a_changed_pod_is_replaced_after_the_old_one_is_gone(self, world: World) -> None:
        world.apply(POD)
        world.run()
        world.apply(POD.replace("[serve]", "[other]"))
        assert message(world, "Pod/one") == "the pod is about to be made"
        assert not world.take(Launch)
        world.obey()
        assert len(world.take(Launch)) == 1
        assert len(world.pods("Pod/one")) == 1


class TestSources:
    def test_a_pod_waits_for_a_config_map_and_starts_when_it_comes(self, world: World) -> None:
        world.apply(waits_for_config())
        assert not world.take(Launch)
        assert "CreateContainerConfigError: ConfigMap 'c' does not exist" in message(world, "Pod/one")
        world.apply(CONFIG)
        assert len(world.take(Launch)) == 1

    def test_volumes_are_written_again_when_their_source_changes_or_goes(self, world: World) -> None:
        world.apply(CONFIG + "\n---\n" + waits_for_config() + "---" + POD.replace("one", "two"))
        launches = world.run()
        world.apply(CONFIG.replace("k: v", "k: w"))
        assert world.take(Refresh) == [Refresh(launches[0].uid)]
        world.delete("ConfigMap/c")
        assert world.take(Refresh) == [Refresh(launches[0].uid)]
        world.apply(CONFIG)
        world.take(Refresh)
        world.delete("Pod/one")
        world.apply(CONFIG.replace("k: v", "k: x"))
        assert world.take(Refresh) == []

    def test_sources_of_another_namespace_mean_nothing(self, world: World) -> None:
        world.apply(waits_for_config())
        shop = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n---\n"
        world.apply(shop + CONFIG.replace("name: c", "name: c, namespace: shop"))
        assert not world.take(Launch)


class TestProbes:
    def test_a_container_is_ready_when_its_probe_says_so(self, world: World) -> None:
        world.apply(DEPLOYMENT)
        launches = world.run(ready=False)
        assert message(world, "Deployment/web").startswith("0 of 2 replicas ready; ")
        for launch in launches:
            world.cluster.probed(launch.uid, "main", 1, False, "refused", world.now)
        assert "readiness probe failed: refused" in message(world, "Deployment/web")
        for launch in launches:
            world.cluster.probed(launch.uid, "main", 1, False, "", world.now)
        assert is_ready(world, "Deployment/web")

    def test_one_bad_answer_less_than_the_threshold_changes_nothing(self, world: World) -> None:
        world.apply(DEPLOYMENT)
        first, _ = world.run()
        world.cluster.probed(first.uid, "main", 1, False, "slow", world.now)
        assert is_ready(world, "Deployment/web")
        world.cluster.probed(first.uid, "main", 1, False, "slow", world.now)
        assert not is_ready(world, "Deployment/web")

    def test_the_same_answer_again_is_no_change(self, world: World) -> None:
        world.apply(DEPLOYMENT)
        first, _ = world.run()
        version = world.cluster.version
        world.cluster.probed(first.uid, "main", 1, False, "", world.now)
        assert world.cluster.version == version

    def test_several_good_answers_may_be_asked_for(self, world: World) -> None:
        probe = "readinessProbe: {tcpSocket: {port: 80}, successThreshold: 2}"
        world.apply(POD.replace("command: [serve]", f"command: [serve], {probe}"))
        (launch,) = world.run()
        assert message(world, "Pod/one") == "0 of 1 containers ready; one/main: not ready yet"
        world.cluster.probed(launch.uid, "main", 1, False, "", world.now)
        assert is_ready(world, "Pod/one")

    def test_a_container_whose_liveness_fails_is_stopped_once_and_started_again(self, world: World) -> None:
        probe = "livenessProbe: {exec: {command: [ok]}, failureThreshold: 2}"
        world.apply(POD.replace("command: [serve]", f"command: [serve], {probe}"))
        (launch,) = world.run()
        for answer in ("bad", "", "bad", "bad", "bad"):
            world.cluster.probed(launch.uid, "main", 1, True, answer, world.now)
        world.settle()
        world.apply(CONFIG)
        assert world.obey() == [Stop(launch.uid, "main", 1, 30)]
        world.wait(1)
        assert world.take(Launch) == [Launch(launch.uid, "main", 2)]

    def test_a_container_that_is_being_stopped_is_not_stopped_again_when_its_pod_is_deleted(self, world: World) -> None:
        world.apply(POD.replace("command: [serve]", "command: [serve], livenessProbe: {exec: {command: [ok]}}"))
        (launch,) = world.run()
        for _ in range(3):
            world.cluster.probed(launch.uid, "main", 1, True, "bad", world.now)
        world.delete("Pod/one")
        assert len(world.take(Stop)) == 1


class TestDeployments:
    def test_a_changed_template_rolls_without_losing_a_replica(self, world: World) -> None:
        world.apply(DEPLOYMENT)
        world.run()
        world.apply(DEPLOYMENT.replace("tea", "milk"))
        least, most, steps = 2, 2, 0
        while any(isinstance(effect, Launch | Stop) for effect in world.effects):
            live = [pod for pod in world.pods("Deployment/web") if not pod.deleting]
            least, most = min(least, sum(pod.ready for pod in live)), max(most, len(live))
            world.run()
            world.obey()
            steps += 1
        assert (least, most) == (2, 3)
        assert steps == 2
        assert is_ready(world, "Deployment/web")
        assert {pod.spec["containers"][0]["command"][1] for pod in world.pods("Deployment/web")} == {"milk"}

    def test_old_pods_that_are_not_ready_go_first(self, world: World) -> None:
        world.apply(DEPLOYMENT)
        broken, _ = world.run(ready=False)
        world.cluster.probed("uid-4", "main", 1, False, "", world.now)
        world.apply(DEPLOYMENT.replace("tea", "milk"))
        assert [stop.uid for stop in world.take(Stop)] == [broken.uid]

    def test_scaling_down_keeps_the_ready_and_the_old(self, world: World) -> None:
        world.apply(DEPLOYMENT)
        first, _ = world.run()
        world.now += 1
        world.apply(DEPLOYMENT.replace("replicas: 2", "replicas: 3"))
        world.run()
        world.apply(DEPLOYMENT.replace("replicas: 2", "replicas: 1"))
        assert len(world.obey()) == 2
        assert world.only_pod("Deployment/web").uid in (first.uid, "uid-4")
        world.apply(DEPLOYMENT.replace("replicas: 2", "replicas: 0"))
        world.obey()
        assert world.pods("Deployment/web") == []
        assert is_ready(world, "Deployment/web")

    def test_recreate_ends_the_old_pods_before_it_makes_new_ones(self, world: World) -> None:
        recreate = DEPLOYMENT.replace("replicas: 2", "replicas: 2\n  strategy: {type: Recreate}")
        world.apply(recreate)
        world.run()
        world.apply(recreate.replace("tea", "milk"))
        assert world.take(Launch) == []
        world.obey()
        assert len(world.take(Launch)) == 2

    @pytest.mark.parametrize(
        ("surge", "unavailable", "starts", "stops"),
        [("50%", "0%", 1, 0), ("0", "1", 1, 1), ("0", "50%", 1, 1), ("0", "0", 1, 0)],
    )
    def test_the_bounds_of_a_roll_may_be_set(
        self, world: World, surge: str, unavailable: str, starts: int, stops: int
    ) -> None:
        rolling = f"strategy: {{rollingUpdate: {{maxSurge: {surge}, maxUnavailable: {unavailable}}}}}"
        text = DEPLOYMENT.replace("replicas: 2", f"replicas: 2\n  {rolling}")
        world.apply(text)
        world.run()
        world.apply(text.replace("tea", "milk"))
        assert (len(world.take(Launch)), len(world.take(Stop))) == (starts, stops)

    def test_it_is_not_ready_while_old_pods_remain(self, world: World) -> None:
        world.apply(DEPLOYMENT.replace("replicas: 2", "replicas: 1"))
        world.run()
        world.cluster.pods[world.only_pod("Deployment/web").uid].revision = "earlier"
        world.cluster.tick(world.now)
        world.apply(
            DEPLOYMENT.replace("replicas: 2", "replicas: 1").replace("{name: web}", "{name: web, labels: {a: b}}")
        )
        (launch,) = world.take(Launch)
        container = world.cluster.pods[launch.uid].container("main")
        container.ready = True
        assert message(world, "Deployment/web") == "1 pods of earlier revisions remain"

    def test_a_deleted_pod_is_replaced(self, world: World) -> None:
        world.apply(DEPLOYMENT)
        world.run()
        name = world.pods("Deployment/web")[0].name
        assert world.delete(f"Pod/{name}", f"Pod/{name}", "Pod/none") == ["deleted", "absent", "absent"]
        assert len(world.cluster.terminating([world.key(f"Pod/{name}")])) == 1
        world.run_all()
        assert is_ready(world, "Deployment/web")
        assert len(world.cluster.terminating([world.key(f"Pod/{name}")])) == 0


class TestJobs:
    def finish(self, world: World, code: int) -> None:
        (launch,) = world.run()
        world.now += 1
        world.end(launch.uid, "main", code)

    def test_a_job_runs_its_completions_and_is_complete(self, world: World) -> None:
        world.apply(JOB)
        self.finish(world, 0)
        assert message(world, "Job/sum") == "1 of 2 completions"
        self.finish(world, 0)
        assert world.cluster.readiness(world.key("Job/sum")).ready
        assert not world.take(Launch)
        assert [pod.phase for pod in world.pods("Job/sum")] == ["Succeeded", "Succeeded"]

    def test_a_failed_pod_is_replaced_with_delay_until_the_limit(self, world: World) -> None:
        world.apply(JOB)
        self.finish(world, 1)
        assert not world.take(Launch)
        world.wait(1)
        self.finish(world, 1)
        readiness = world.cluster.readiness(world.key("Job/sum"))
        assert readiness[:3] == (False, True, "BackoffLimitExceeded: 2 failures, and backoffLimit is 1")

    def test_restarts_count_as_failures(self, world: World) -> None:
        world.apply(JOB.replace("Never", "OnFailure"))
        for _ in range(2):
            self.finish(world, 1)
            world.wait(100)
        assert world.cluster.readiness(world.key("Job/sum")).failed
        world.obey()
        assert world.pods("Job/sum") == []

    def test_parallel_pods_are_no_more_than_what_is_left(self, world: World) -> None:
        parallel = JOB.replace("completions: 2", "completions: 3\n  parallelism: 2")
        world.apply(parallel)
        first, second = world.run()
        world.end(first.uid, "main", 0)
        world.end(second.uid, "main", 0)
        assert len(world.run()) == 1
        world.apply(parallel.replace("parallelism: 2", "parallelism: 0"))
        assert len(world.take(Stop)) == 1

    def test_without_completions_one_success_is_enough_once_all_have_ended(self, world: World) -> None:
        world.apply(JOB.replace("completions: 2", "parallelism: 2"))
        first, second = world.run()
        world.end(first.uid, "main", 0)
        assert not is_ready(world, "Job/sum")
        world.end(second.uid, "main", 1)
        assert is_ready(world, "Job/sum")
        assert not world.take(Launch)

    def test_a_job_has_a_deadline(self, world: World) -> None:
        world.apply(JOB.replace("completions: 2", "completions: 2\n  activeDeadlineSeconds: 5"))
        world.run()
        world.wait(4.9)
        assert not world.take(Stop)
        world.wait(0.1)
        assert len(world.obey()) == 1
        assert message(world, "Job/sum") == "DeadlineExceeded: not complete after 5 s"

    def test_a_finished_job_goes_when_its_time_is_over(self, world: World) -> None:
        world.apply(JOB.replace("completions: 2", "completions: 1\n  ttlSecondsAfterFinished: 10"))
        self.finish(world, 0)
        world.wait(9)
        assert world.key("Job/sum") in world.cluster.objects
        world.wait(1)
        assert world.key("Job/sum") not in world.cluster.objects
        assert world.cluster.pods == {}
        assert len(world.take(Clean)) == 1

    def test_the_pods_of_a_job_with_a_long_name_have_no_label_that_is_none(self, world: World) -> None:
        name = "a." * 40 + "a"
        world.apply(JOB.replace("name: sum", f"name: {name}"))
        pod = world.only_pod(f"Job/{name}")
        assert "job-name" not in pod.metadata["labels"]
        assert len(pod.name) <= 63


class TestDelete:
    def test_pods_end_with_grace_and_leave_nothing(self, world: World) -> None:
        world.apply(DEPLOYMENT)
        launches = world.run()
        assert world.delete("Deployment/web", "Deployment/web") == ["deleted", "absent"]
        assert len(world.cluster.terminating([world.key("Deployment/web")])) == 2
        assert world.take(Stop) == [Stop(launch.uid, "main", 1, 7) for launch in launches]
        for launch in launches:
            world.end(launch.uid, "main", 143)
        assert world.take(Clean) == [Clean(launch.uid) for launch in launches]
        assert world.saved_pods == {}
        assert len(world.cluster.terminating([world.key("Deployment/web")])) == 0

    def test_a_namespace_goes_with_all_that_is_in_it(self, world: World) -> None:
        world.apply(
            "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n---"
            + POD.replace("{name: one}", "{name: one, namespace: shop}")
            + "---\n"
            + CONFIG
        )
        world.run()
        assert world.delete("Namespace/shop") == ["deleted"]
        assert len(world.cluster.terminating([world.key("Namespace/shop")])) == 1
        assert {str(key) for key in world.cluster.objects} == {"Namespace/default", "ConfigMap/default/c"}

    def test_a_deleted_object_waits_for_nothing(self, world: World) -> None:
        assert world.cluster.readiness(world.key("Deployment/web")).ready


class TestRestart:
    def restarted(self, world: World) -> World:
        """The same world after its process was killed: only what was saved is known."""
        objects = [
            msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Stored) for one in world.saved_objects.values()
        ]
        pods = [msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Pod) for one in world.saved_pods.values()]
        world.cluster = Cluster(world.source)
        world.effects = []
        world.cluster.load(objects, pods, world.now)
        world.settle()
        return world

    def test_what_may_run_is_adopted_and_nothing_is_started_twice(self, world: World) -> None:
        world.apply(DEPLOYMENT)
        first, second = world.take(Launch)
        world.cluster.started(first.uid, "main", 1, world.now)
        world.settle()
        self.restarted(world)
        assert world.take(Launch) == [first._replace(adopt=True), second._replace(adopt=True)]

    def test_an_adopted_container_stays_ready(self, world: World) -> None:
        world.apply(DEPLOYMENT)
        launches = world.run()
        self.restarted(world)
        assert is_ready(world, "Deployment/web")
        world.cluster.started(launches[0].uid, "main", 1, world.now + 50)
        assert world.cluster.pods[launches[0].uid].container("main").started == 1000
        assert is_ready(world, "Deployment/web")

    def test_what_was_ending_ends(self, world: World) -> None:
        world.apply(POD)
        world.run()
        world.delete("Pod/one")
        self.restarted(world)
        assert [type(effect) for effect in world.effects] == [Launch, Stop]

    def test_a_crashing_container_does_not_wait_longer_than_the_cap(self, world: World) -> None:
        world.apply(POD)
        (launch,) = world.run()
        world.end(launch.uid, "main", 1)
        world.now -= 100_000
        self.restarted(world)
        assert world.cluster.wake_at == world.now + 300

    def test_a_container_is_ready_in_time_also_when_the_clock_was_set_back(self) -> None:
        world = World(steady_cap=10)
        world.apply(POD)
        world.run()
        world.now -= 100_000
        assert self.restarted(world).cluster.wake_at == world.now + 1

    def test_the_default_namespace_is_made_once(self, world: World) -> None:
        before = world.cluster.objects[world.key("Namespace/default")].uid
        assert self.restarted(world).cluster.objects[world.key("Namespace/default")].uid == before
