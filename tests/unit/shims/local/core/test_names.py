"""Names: what may be called how."""

import pytest

from ote.shims.local.core import names
from ote.shims.local.core.names import KINDS, Key, key_of, kind_named


@pytest.mark.parametrize("word", ["Deployment", "deployment", "DEPLOYMENTS", "deploy"])
def test_a_kind_is_found_in_any_case_singular_plural_or_short(word: str) -> None:
    assert kind_named(word) is KINDS["Deployment"]


def test_a_kind_that_does_not_exist_is_not_found() -> None:
    assert kind_named("StatefulSet") is None


def test_a_key_has_the_default_namespace_unless_its_kind_has_none() -> None:
    assert str(key_of(KINDS["Pod"], "", "a")) == "Pod/default/a"
    assert str(key_of(KINDS["Namespace"], "ignored", "a")) == "Namespace/a"
    assert key_of(KINDS["Pod"], "n", "a") == Key("Pod", "n", "a")


@pytest.mark.parametrize("text", ["", "..", "a/b", "../etc", "-a", "A", "a_b", "a" * 254, "ä"])
def test_a_name_that_looks_like_a_path_or_worse_is_none(text: str) -> None:
    assert not names.is_subdomain(text)
    assert not names.is_label(text)


def test_good_names_are_good() -> None:
    assert names.is_subdomain("a-b.c0")
    assert names.is_label("a-b0")
    assert names.is_env_name("A_b.c-1")
    assert names.is_label_value("")
    assert names.is_label_key("app.kubernetes.io/name")
    assert names.is_label_key("app")


@pytest.mark.parametrize(("key", "good"), [("index.html", True), (".", False), ("..data", False), ("a/b", False)])
def test_a_data_key_is_a_plain_file_name(key: str, good: bool) -> None:
    assert names.is_data_key(key) is good


@pytest.mark.parametrize("key", ["", "a/", "UP/a", "a/b/c", "/a"])
def test_a_label_key_has_one_dns_prefix_at_most(key: str) -> None:
    assert not names.is_label_key(key)
