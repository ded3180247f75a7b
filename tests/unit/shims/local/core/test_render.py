"""Objects as they are shown: what kubectl's readers expect to find."""

from __future__ import annotations

from typing import Any

from ote.shims.local.core import render

from .conftest import World
from .test_cluster import CONFIG, DEPLOYMENT, JOB, POD


def shown(world: World, reference: str) -> dict[str, Any]:
    found = render.rendered(world.cluster, world.key(reference))
    assert found is not None
    return found


def test_what_does_not_exist_is_not_shown(world: World) -> None:
    assert render.rendered(world.cluster, world.key("Pod/none")) is None


def test_a_namespace_and_a_config_map_are_shown_as_they_were_applied(world: World) -> None:
    world.apply(CONFIG)
    assert shown(world, "ConfigMap/c")["data"] == {"k": "v"}
    assert shown(world, "ConfigMap/c")["metadata"]["creationTimestamp"] == "1970-01-01T00:16:40Z"
    assert shown(world, "Namespace/default")["status"] == {"phase": "Active"}


def test_a_deployment_tells_its_replicas(world: World) -> None:
    world.apply(DEPLOYMENT)
    status = shown(world, "Deployment/web")["status"]
    assert (status["replicas"], status["readyReplicas"], status["unavailableReplicas"]) == (2, 0, 2)
    assert status["conditions"][0]["status"] == "False"
    world.run()
    status = shown(world, "Deployment/web")["status"]
    assert (status["readyReplicas"], status["updatedReplicas"], status["observedGeneration"]) == (2, 2, 1)
    assert status["conditions"][0] == {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"}


def test_a_pod_tells_its_phase_its_owner_and_its_port(world: World) -> None:
    world.apply(DEPLOYMENT.replace("replicas: 2", "replicas: 1"))
    (pod,) = render.listed(world.cluster, "Pod", "default")
    assert pod["status"]["phase"] == "Pending"
    assert pod["status"]["containerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}
    (launch,) = world.run()
    (pod,) = render.listed(world.cluster, "Pod", None)
    (container,) = pod["status"]["containerStatuses"]
    assert pod["metadata"]["ownerReferences"][0]["name"] == "web"
    assert pod["metadata"]["annotations"] == {"ote.dev/port": "40001"}
    assert pod["status"]["phase"] == "Running"
    assert pod["status"]["podIP"] == "127.0.0.1"
    assert container["ports"] == [{"hostPort": 40001, "protocol": "TCP"}]
    assert container["state"] == {"running": {"startedAt": "1970-01-01T00:16:40Z"}}
    world.end(launch.uid, "main", 1)
    (container,) = shown(world, f"Pod/{pod['metadata']['name']}")["status"]["containerStatuses"]
    assert container["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    world.wait(1)
    (container,) = shown(world, f"Pod/{pod['metadata']['name']}")["status"]["containerStatuses"]
    assert container["restartCount"] == 1
    assert container["lastState"]["terminated"] == {
        "exitCode": 1,
        "reason": "Error",
        "finishedAt": "1970-01-01T00:16:40Z",
    }


def test_declared_ports_are_named(world: World) -> None:
    ports = "ports: [{name: http, containerPort: 80}, {containerPort: 81}]"
    world.apply(POD.replace("command: [serve]", f"command: [serve], {ports}"))
    (container,) = shown(world, "Pod/one")["status"]["containerStatuses"]
    assert container["ports"] == [
        {"hostPort": 40001, "protocol": "TCP", "containerPort": 80, "name": "http"},
        {"hostPort": 40002, "protocol": "TCP", "containerPort": 81},
    ]


def test_an_ended_container_tells_how(world: World) -> None:
    world.apply(POD.replace("Always", "Never") + "---" + POD.replace("Always", "Never").replace("one", "two"))
    good, bad = world.run()
    world.end(good.uid, "main", 0)
    world.end(bad.uid, "main", 2)
    assert shown(world, "Pod/one")["status"]["phase"] == "Succeeded"
    assert shown(world, "Pod/one")["status"]["containerStatuses"][0]["state"]["terminated"] == {
        "exitCode": 0,
        "reason": "Completed",
        "finishedAt": "1970-01-01T00:16:40Z",
    }
    assert shown(world, "Pod/two")["status"]["containerStatuses"][0]["state"]["terminated"]["message"] == "exit code 2"


def test_a_pod_that_waits_says_for_what(world: World) -> None:
    world.apply(POD + "  volumes: [{name: v, configMap: {name: c}}]\n")
    pod = shown(world, "Pod/one")
    assert pod["metadata"]["annotations"] == {}
    assert pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"].startswith("ConfigMap 'c'")


def test_a_pod_that_ends_says_so_and_a_changed_one_is_pending(world: World) -> None:
    world.apply(POD)
    world.run()
    world.delete("Pod/one")
    assert shown(world, "Pod/one")["status"]["reason"] == "Terminating"
    world.apply(POD)
    world.obey()
    (pod,) = world.cluster.pods.values()
    world.cluster.pods.pop(pod.uid)
    assert shown(world, "Pod/one")["status"] == {"phase": "Pending"}


def test_pods_of_a_deleted_owner_are_shown_until_they_end(world: World) -> None:
    world.apply(DEPLOYMENT)
    world.run()
    world.delete("Deployment/web")
    assert [pod["metadata"]["ownerReferences"][0]["uid"] for pod in render.listed(world.cluster, "Pod", None)] == [
        "",
        "",
    ]


def test_a_job_tells_what_came_of_it(world: World) -> None:
    world.apply(JOB + "---" + JOB.replace("sum", "bad").replace("backoffLimit: 1", "backoffLimit: 0"))
    assert shown(world, "Job/sum")["status"] == {
        "startTime": "1970-01-01T00:16:40Z",
        "active": 1,
        "succeeded": 0,
        "failed": 0,
    }
    good, bad = world.run()
    world.end(good.uid, "main", 0)
    world.end(bad.uid, "main", 1)
    (again,) = world.run()
    world.end(again.uid, "main", 0)
    assert shown(world, "Job/sum")["status"]["conditions"] == [{"type": "Complete", "status": "True"}]
    assert shown(world, "Job/sum")["status"]["completionTime"] == "1970-01-01T00:16:40Z"
    assert shown(world, "Job/bad")["status"]["conditions"][0]["reason"] == "BackoffLimitExceeded"


def test_a_list_is_of_one_namespace_or_of_all_and_has_an_order(world: World) -> None:
    world.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop}}")
    world.apply(CONFIG + "\n---\n" + CONFIG.replace("name: c", "name: a, namespace: shop"))
    every = render.listed(world.cluster, "ConfigMap", None)
    assert [one["metadata"]["name"] for one in every] == ["c", "a"]
    assert [one["metadata"]["name"] for one in render.listed(world.cluster, "ConfigMap", "shop")] == ["a"]
    assert len(render.listed(world.cluster, "Namespace", "shop")) == 2
