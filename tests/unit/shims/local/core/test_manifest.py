"""Manifests: all that is wrong is found, and named by its path."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ote.shims.local.core import manifest, schema
from ote.shims.local.core.manifest import InvalidManifest, Manifest

POD = """
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
    - name: main
      command: [sleep, "1"]
"""


def checked(text: str, needs: manifest.Needs = "command") -> list[Manifest]:
    return manifest.check(yaml.safe_load_all(text), needs=needs)


def problems(text: str, needs: manifest.Needs = "command") -> list[str]:
    with pytest.raises(InvalidManifest) as caught:
        checked(text, needs)
    return caught.value.problems


def in_container(lines: str) -> str:
    return POD + "".join(f"      {line}\n" for line in lines.strip().splitlines())


def in_pod(lines: str) -> str:
    return POD + "".join(f"  {line}\n" for line in lines.strip().splitlines())


def test_a_whole_manifest_is_accepted() -> None:
    text = (
        in_container("""
image: any
args: ["$(X)"]
workingDir: /srv
env: [{name: X, value: "1"}, {name: Y, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
envFrom: [{prefix: P_, configMapRef: {name: c}}]
ports: [{name: http, containerPort: 80}]
volumeMounts: [{name: v, mountPath: /a, subPath: x/y, readOnly: true}]
readinessProbe: {httpGet: {port: http, httpHeaders: [{name: X-A, value: b}]}, periodSeconds: 1}
livenessProbe: {tcpSocket: {port: 80}}
resources: {limits: {cpu: 1}}
""")
        + "  volumes: [{name: v, configMap: {name: c, items: [{key: k, path: x/y, mode: 0400}]}}]\n"
    )
    (pod,) = checked(text)
    assert str(pod.key) == "Pod/default/web"
    assert pod.body["metadata"] == {"name": "web", "namespace": "default"}


def test_what_a_server_adds_and_null_values_do_not_count() -> None:
    text = POD.replace("{name: web}", "{name: web, uid: x, creationTimestamp: null, labels: null}") + "status: {a: 1}\n"
    (pod,) = checked(text)
    assert pod.body == checked(POD)[0].body


def test_lists_are_unpacked_and_namespaces_come_first() -> None:
    text = """
apiVersion: v1
kind: List
items:
  - {apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: n}, data: {k: v}}
  - {apiVersion: v1, kind: Namespace, metadata: {name: n, namespace: ignored}}
---
"""
    assert [str(one.key) for one in checked(text)] == ["Namespace/n", "ConfigMap/n/a"]
    assert "namespace" not in checked(text)[0].body["metadata"]


def test_plain_secrets_are_kept_encoded() -> None:
    (secret,) = checked("{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {x: eA==}, stringData: {k: v}}")
    assert secret.body["data"] == {"x": "eA==", "k": "dg=="}


def test_every_problem_of_every_object_is_named() -> None:
    text = """
apiVersion: v1
kind: ConfigMap
metadata: {name: a}
data: {k: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: b}
spec:
  hostNetwork: true
  containers: [{name: main, lifecycle: {preStop: {sleep: {seconds: 1}}}}]
"""
    assert problems(text) == [
        "ConfigMap/default/a: data.k: must be a string, not 1; put it in quotes",
        "Pod/default/b: spec.hostNetwork: not supported by the local shim",
        "Pod/default/b: spec.containers[0].lifecycle: not supported by the local shim",
    ]


def test_the_text_of_many_problems_stays_short() -> None:
    error = InvalidManifest([f"p{number}" for number in range(60)])
    assert str(error).endswith("p49; and 10 more")
    assert str(InvalidManifest(["a", "b"])) == "a; b"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there is no object in the manifests"),
        ("just text", "document 1: must be an object with apiVersion, kind and metadata, not 'just text'"),
        ("{apiVersion: v1}", "document 1: kind is missing"),
        (
            "{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: a}}",
            "document 1: kind 'StatefulSet' is not supported; the local shim takes "
            "Namespace, ConfigMap, Secret, Pod, Deployment, Job",
        ),
        (
            "{apiVersion: v1, kind: Job, metadata: {name: a}}",
            "document 1: apiVersion of a Job must be 'batch/v1', not 'v1'",
        ),
        ("{apiVersion: v1, kind: Pod, spec: {}}", "document 1 (Pod): metadata with a name is missing"),
        ("{apiVersion: v1, kind: Pod, metadata: {}}", "document 1 (Pod): metadata.name: missing"),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: ../../etc}}",
            "document 1 (Pod): metadata.name: '../../etc' is not a name "
            "(at most 253 lower-case letters, digits, '-' and '.')",
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: a, generateName: b}}",
            "document 1 (Pod): metadata.generateName: not supported; give a name, so that applying twice is one object",
        ),
        ("{apiVersion: v1, kind: List, items: 3}", "document 1: items must be a list"),
        (POD + "---" + POD, "Pod/default/web: stands in the manifests twice"),
        (
            "{apiVersion: v1, kind: Namespace, metadata: {name: a.b}}",
            "Namespace/a.b: metadata.name: must be at most 63 lower-case letters, digits and '-'",
        ),
    ],
)
def test_what_is_no_object_is_refused(text: str, problem: str) -> None:
    assert problem in problems(text)


def test_too_many_objects_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MAX_OBJECTS", 1)
    assert problems(POD + "---" + POD) == ["there are 2 objects in the manifests; at most 1 go in one command"]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("ports: [{name: a, containerPort: 1}, {name: a, containerPort: 2}]", "ports: the name 'a' stands there twice"),
        ("ports: [{containerPort: 0}]", "containerPort: must be a whole number from 1 to 65535, not 0"),
        ("ports: [{containerPort: 1, hostPort: 1}]", "hostPort: not supported; every container gets a free port"),
        ("ports: {}", "ports: must be a list, not a mapping"),
        ("volumeMounts: [{name: v, mountPath: /a}]", "volumeMounts[0].name: the pod has no volume 'v'"),
        ("volumeMounts: [{name: v, mountPath: /a/../b}]", "is not an absolute path below /"),
        ("volumeMounts: [{name: v, mountPath: /}]", "is not an absolute path below /"),
        ("env: [{name: a, value: x, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}]", "both value and valueFrom"),
        ("env: [{name: a, valueFrom: {}}]", "needs exactly one of configMapKeyRef, secretKeyRef, fieldRef"),
        ("env: [{name: a, valueFrom: {fieldRef: {fieldPath: spec.x}}}]", "is not one of metadata.name"),
        ("env: [{name: 1a}]", "'1a' is not a variable name"),
        ("readinessProbe: {httpGet: {port: web}}", "readinessProbe: the container has no port named 'web'"),
        ("livenessProbe: {tcpSocket: {port: WEB}}", "'WEB' is not the name of a port"),
        ("livenessProbe: {exec: {command: []}}", "must be a list with at least one entry"),
        ("livenessProbe: {}", "needs exactly one of httpGet, tcpSocket, exec"),
        ("livenessProbe: {exec: {command: [a]}, periodSeconds: 1.5}", "must be a whole number"),
        ("livenessProbe: {exec: {command: [a]}, periodSeconds: true}", "must be a whole number"),
        ("readinessProbe: {grpc: {port: 1}}", "readinessProbe.grpc: not supported by the local shim"),
        ("workingDir: a", "'a' is not an absolute path without '..'"),
        ("args: [1]", "args[0]: must be a string, not 1; put it in quotes"),
        ("args: [.inf]", "must be a string, not a number without bounds"),
        ("args: x", "args: must be a list, not 'x'"),
        ('args: ["a\\0"]', "must be at most 1048576 characters without NUL"),
        ("volumeMounts: [{name: v, mountPath: /a, readOnly: 1}]", "readOnly: must be true or false, not 1"),
        ("env: [[]]", "env[0]: must be a mapping, not a list"),
    ],
)
def test_a_container_that_cannot_be_is_refused(lines: str, problem: str) -> None:
    assert problem in "; ".join(problems(in_container(lines)))


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("volumes: [{name: v}]", "needs exactly one of configMap, secret, emptyDir"),
        ("volumes: [{name: v, emptyDir: {}}, {name: v, emptyDir: {}}]", "the name 'v' stands there twice"),
        ("volumes: [{name: v, configMap: {name: c, items: [{key: k, path: ../x}]}}]", "relative path without '..'"),
        ("volumes: [{name: v, hostPath: {path: /}}]", "spec.volumes[0].hostPath: not supported by the local shim"),
        ("volumes: [{name: v, secret: {secretName: s, defaultMode: 1000}}]", "whole number from 0 to 511"),
        ("restartPolicy: Sometimes", "'Sometimes' is not one of Always, OnFailure, Never"),
        ("initContainers: [{name: a}]", "not supported; do the preparation in the container's command"),
    ],
)
def test_a_pod_that_cannot_be_is_refused(lines: str, problem: str) -> None:
    assert problem in "; ".join(problems(in_pod(lines)))


EMPTY_OR_DEFAULT = """
initContainers: []
imagePullSecrets: []
nodeSelector: {}
affinity: {nodeAffinity: {}, podAffinity: null}
tolerations: []
securityContext: {}
hostNetwork: false
hostUsers: true
serviceAccountName: default
serviceAccount: ""
automountServiceAccountToken: true
dnsPolicy: ClusterFirst
dnsConfig: {}
schedulerName: default-scheduler
priority: 0
preemptionPolicy: PreemptLowerPriority
"""
EMPTY_OR_DEFAULT_IN_CONTAINER = """
securityContext: {capabilities: {}}
lifecycle: {}
tty: false
stdin: false
resources: {}
workingDir: ""
imagePullPolicy: ""
volumeDevices: []
startupProbe: null
ports: [{name: "", containerPort: 80, hostPort: 0, hostIP: ""}]
volumeMounts: [{name: v, mountPath: /a, subPath: "", mountPropagation: None}]
"""


def test_what_asks_for_nothing_is_accepted_wherever_it_stands() -> None:
    in_metadata = POD.replace("{name: web}", '{name: web, namespace: "", finalizers: [], ownerReferences: null}')
    pod = in_pod(EMPTY_OR_DEFAULT + "volumes: [{name: v, emptyDir: {}}]").replace(POD, in_metadata)
    in_it = in_container(EMPTY_OR_DEFAULT_IN_CONTAINER).removeprefix(POD)
    assert [str(one.key) for one in checked(pod.replace(in_metadata, in_metadata + in_it))] == ["Pod/default/web"]
    deployment = {"minReadySeconds": 0, "paused": False, "selector": {**SELECTOR, "matchExpressions": []}}
    assert checked(workload("Deployment", **deployment))
    job = {"suspend": False, "manualSelector": False, "podReplacementPolicy": "TerminatingOrFailed"}
    assert checked(workload("Job", pod={"restartPolicy": "Never"}, **job))


@pytest.mark.parametrize(
    ("lines", "field"),
    [
        ("hostNetwork: true", "spec.hostNetwork"),
        ("hostNetwork: 0", "spec.hostNetwork"),
        ("hostUsers: false", "spec.hostUsers"),
        ("serviceAccountName: web", "spec.serviceAccountName"),
        ("securityContext: {runAsUser: 0}", "spec.securityContext"),
        ("affinity: {nodeAffinity: {required: [{}]}}", "spec.affinity"),
        ("tolerations: [{}]", "spec.tolerations"),
        ("nothingOfThatName: false", "spec.nothingOfThatName"),
    ],
)
def test_an_unsupported_field_that_asks_for_something_is_refused(lines: str, field: str) -> None:
    assert problems(in_pod(lines)) == [f"Pod/default/web: {field}: not supported by the local shim"]


@pytest.mark.parametrize("amount", ["1", "0.5", "500m", "64Mi", "1e3", "1E", ".5G", "+2", "12Ki", 1, 0, 0.25])
def test_amounts_of_resources_are_as_in_kubernetes(amount: object) -> None:
    limits = yaml.safe_dump({"limits": {"memory": amount}}, default_flow_style=True).strip()
    assert checked(in_container(f"resources: {limits}"))


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("resources: {limits: {memory: lots}}", "limits.memory: 'lots' is not a quantity such as 0.5, 500m or 64Mi"),
        ("resources: {limits: {memory: 64mb}}", "'64mb' is not a quantity"),
        ("resources: {limits: {memory: ''}}", "'' is not a quantity"),
        ("resources: {requests: {cpu: -1}}", "requests.cpu: -1 is not a quantity"),
        ("resources: {requests: {cpu: .inf}}", "is not a quantity"),
        ("resources: {requests: {cpu: .nan}}", "is not a quantity"),
        ("resources: {requests: {cpu: true}}", "True is not a quantity"),
        ("resources: {limits: [1]}", "resources.limits: must be a mapping, not a list"),
        ("resources: {claims: [{name: a}]}", "resources.claims: not supported by the local shim"),
        ("imagePullPolicy: Sometimes", "'Sometimes' is not one of Always, IfNotPresent, Never"),
    ],
)
def test_amounts_and_words_that_are_none_are_refused(lines: str, problem: str) -> None:
    assert problem in "; ".join(problems(in_container(lines)))


def test_mounts_do_not_lie_within_one_another() -> None:
    text = in_container(
        "volumeMounts: [{name: v, mountPath: /a}, {name: v, mountPath: /a/b}, {name: v, mountPath: /ab}]"
    )
    assert problems(text + "  volumes: [{name: v, emptyDir: {}}]\n") == [
        "Pod/default/web: spec.containers[0].volumeMounts: /a/b lies within /a"
    ]


def test_each_driver_says_what_a_container_must_have() -> None:
    (problem,) = problems(POD.replace('command: [sleep, "1"]', "image: nginx"))
    assert problem.endswith("an image's own entrypoint needs the podman driver (--driver podman)")
    assert problems(POD, needs="image") == [
        "Pod/default/web: spec.containers[0].image: missing; the podman driver runs images"
    ]
    assert checked(POD.replace('command: [sleep, "1"]', "image: nginx"), needs="image")


def workload(kind: str, **spec: Any) -> str:
    pod = {"containers": [{"name": "main", "command": ["true"]}], **spec.pop("pod", {})}
    version = {"Deployment": "apps/v1", "Job": "batch/v1"}[kind]
    template = {"metadata": {"labels": {"app": "a"}}, "spec": pod}
    return yaml.safe_dump(
        {"apiVersion": version, "kind": kind, "metadata": {"name": "a"}, "spec": {"template": template, **spec}}
    )


SELECTOR = {"matchLabels": {"app": "a"}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (workload("Deployment"), "spec.selector: missing"),
        (workload("Deployment", selector={"matchLabels": {}}), "spec.selector.matchLabels: must not be empty"),
        (workload("Deployment", selector={"matchLabels": {"app": "b"}}), "spec.template.metadata.labels must have all"),
        (
            workload("Deployment", selector=SELECTOR, pod={"restartPolicy": "Never"}),
            "spec.template.spec.restartPolicy: must be Always in a Deployment",
        ),
        (workload("Job"), "spec.template.spec.restartPolicy: must be OnFailure or Never in a Job"),
        (
            workload("Deployment", selector=SELECTOR, strategy={"rollingUpdate": {"maxSurge": "x"}}),
            "must be a whole number or a percentage, not 'x'",
        ),
        (
            workload("Deployment", selector=SELECTOR, strategy={"rollingUpdate": {"maxSurge": -1}}),
            "must be a whole number from 0",
        ),
        (workload("Deployment", selector=SELECTOR, minReadySeconds=1), "spec.minReadySeconds: not supported"),
    ],
)
def test_a_workload_that_cannot_be_is_refused(text: str, problem: str) -> None:
    assert problem in "; ".join(problems(text))


def test_a_share_may_be_a_number_or_a_percentage() -> None:
    rolling = {"maxSurge": "25%", "maxUnavailable": 1}
    assert checked(workload("Deployment", selector=SELECTOR, strategy={"rollingUpdate": rolling}))


@pytest.mark.parametrize("value", ["=", "a", "\u00e9"])
def test_secrets_are_base64(value: str) -> None:
    found = problems(
        yaml.safe_dump({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "data": {"k": value}})
    )
    assert "is not base64" in found[0]


def test_a_label_has_a_good_key_and_a_good_value() -> None:
    found = problems("{apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: {a/: 'b b'}}}")
    assert found == [
        "ConfigMap/default/a: metadata.labels: 'a/' is not a label key",
        "ConfigMap/default/a: metadata.labels.a/: 'b b' is not a label value "
        "(at most 63 letters, digits, '-', '_', '.')",
    ]
    assert problems("{apiVersion: v1, kind: ConfigMap, metadata: {name: a, labels: 3}}") == [
        "ConfigMap/default/a: metadata.labels: must be a mapping, not 3"
    ]


def test_references_need_nothing_but_kind_namespace_and_name() -> None:
    text = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: nonsense}\n---\n" * 2
    assert [str(key) for key in manifest.references(yaml.safe_load_all(text))] == ["Pod/default/a"]
    with pytest.raises(InvalidManifest):
        manifest.references(["x"])


def test_values_are_shown_short() -> None:
    assert schema.shown("a" * 1000).endswith("...'")
    assert schema.shown(10**50) == "a very large number"
    assert schema.shown({}) == "a mapping"
