"""What a container is started with: Kubernetes' rules of variables and volumes."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest

from ote.shims.local.core import environment, spec
from ote.shims.local.core.names import Key

CONFIG = {"data": {"k": "v", "page": "p"}, "binaryData": {"b": base64.b64encode(b"\xff\0").decode()}}
SECRET = {"data": {"pw": base64.b64encode(b"s3").decode()}}
OBJECTS: dict[Key, dict[str, Any]] = {Key("ConfigMap", "n", "c"): CONFIG, Key("Secret", "n", "s"): SECRET}
FIELDS = {"metadata.name": "pod-1", "metadata.namespace": "n"}


def container(**body: Any) -> spec.Container:
    return msgspec.convert({"name": "main", **body}, spec.Container)


def variables(**body: Any) -> dict[str, str]:
    return environment.variables(container(**body), FIELDS, {"PORT": "1"}, "n", OBJECTS.get)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)-$(A)", "1-1"),
        ("$$(A)", "$(A)"),
        ("$(NO)", "$(NO)"),
        ("$A $", "$A $"),
        ("$$$(A)", "$1"),
        ("$(A", "$(A"),
    ],
)
def test_references_are_expanded_as_in_kubernetes(text: str, expanded: str) -> None:
    assert environment.expand(text, {"A": "1"}) == expanded


def test_variables_come_from_all_sources_and_later_ones_win() -> None:
    found = variables(
        envFrom=[
            {"prefix": "C_", "configMapRef": {"name": "c"}},
            {"secretRef": {"name": "s"}},
            {"secretRef": {"name": "none", "optional": True}},
        ],
        env=[
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
            {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pw"}}},
            {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "x", "optional": True}}},
            {"name": "URL", "value": "http://$(NAME):$(PORT)/$(LATER)"},
            {"name": "LATER", "value": "x"},
            {"name": "PORT", "value": "2"},
        ],
    )
    assert found == {
        "PORT": "2",
        "C_k": "v",
        "C_page": "p",
        "C_b": "\udcff",
        "pw": "s3",
        "NAME": "pod-1",
        "KEY": "v",
        "PASSWORD": "s3",
        "URL": "http://pod-1:1/$(LATER)",
        "LATER": "x",
    }


def pod(**body: Any) -> spec.PodSpec:
    return spec.pod_spec({"containers": [{"name": "main", **body.pop("main", {})}], **body})


def test_a_pod_waits_for_what_it_needs_and_not_for_what_is_optional() -> None:
    waiting = pod(
        main={
            "envFrom": [{"configMapRef": {"name": "c"}}, {"secretRef": {"name": "x", "optional": True}}],
            "env": [
                {"name": "A", "value": "plain"},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pw"}}},
            ],
        },
        volumes=[
            {"name": "a", "emptyDir": {}},
            {"name": "b", "secret": {"secretName": "s", "items": [{"key": "pw", "path": "p"}]}},
            {"name": "c", "configMap": {"name": "c"}},
            {"name": "d", "configMap": {"name": "x", "optional": True}},
            {"name": "e", "secret": {"secretName": "x", "optional": True}},
        ],
    )
    assert environment.missing(waiting, "n", OBJECTS.get) == ""
    assert environment.missing(waiting, "other", OBJECTS.get).endswith("does not exist in namespace 'other'")
    lacking = {**OBJECTS, Key("Secret", "n", "s"): {"data": {}}}
    assert environment.missing(waiting, "n", lacking.get) == "Secret 's' has no key 'pw'"
    assert environment.references(waiting, "n") == {
        Key("Secret", "n", "s"),
        Key("ConfigMap", "n", "c"),
        Key("ConfigMap", "n", "x"),
        Key("Secret", "n", "x"),
    }


def files(**volume: Any) -> list[tuple[str, bytes, int]] | None:
    found = environment.volume_files(msgspec.convert({"name": "v", **volume}, spec.Volume), "n", OBJECTS.get)
    return None if found is None else [(file.path, file.content, file.mode) for file in found]


def test_volumes_hold_the_keys_as_files() -> None:
    assert files(configMap={"name": "c"}) == [("b", b"\xff\0", 0o644), ("k", b"v", 0o644), ("page", b"p", 0o644)]
    assert files(secret={"secretName": "s"}) == [("pw", b"s3", 0o600)]
    assert files(configMap={"name": "none", "optional": True}) == []
    assert files(emptyDir={}) is None


def test_items_choose_keys_paths_and_modes() -> None:
    items = [{"key": "k", "path": "x/y", "mode": 0o400}, {"key": "page", "path": "z"}, {"key": "none", "path": "q"}]
    assert files(configMap={"name": "c", "items": items}) == [("x/y", b"v", 0o400), ("z", b"p", 0o644)]
