"""Bytes to documents: what people write is read as they mean it, what attackers write is refused in a line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ote.shims.local import documents
from ote.shims.local.core.manifest import InvalidManifest


def read(text: str) -> list[Any]:
    return documents.read(text.encode())


def problem(data: str | bytes) -> str:
    with pytest.raises(InvalidManifest) as caught:
        documents.read(data.encode() if isinstance(data, str) else data)
    (only,) = caught.value.problems
    return only


def test_a_stream_has_any_number_of_documents() -> None:
    assert read("a: 1\n---\n---\n- b\n...\n") == [{"a": 1}, None, ["b"]]
    assert read("") == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("0644", 420),
        ("0x1F", 31),
        ("1.5", 1.5),
        ("yes", True),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ('"a\\nb"', "a\nb"),
        ("2020-01-01", "2020-01-01"),
        ("1:30", "1:30"),
        ("1:30.5", "1:30.5"),
        ("!!str 1", "1"),
        ("!!int '1'", 1),
        ("|\n  a\n  b\n", "a\nb\n"),
        ("=", "="),
    ],
)
def test_scalars_mean_what_they_mean_in_kubernetes(text: str, value: object) -> None:
    assert read(f"a: {text}") == [{"a": value}]


def test_keys_are_text_whatever_they_look_like() -> None:
    assert read("8080: a\nyes: b\nnull: c\n") == [{"8080": "a", "yes": "b", "null": "c"}]


def test_anchors_aliases_and_merges_work() -> None:
    text = "base: &b {a: 1, c: 2}\nlist: [&x y, *x]\none: {<<: *b, c: 3}\ntwo: {<<: [*b, {d: 4}]}\n"
    (found,) = read(text)
    assert found["list"] == ["y", "y"]
    assert found["one"] == {"a": 1, "c": 3}
    assert found["two"] == {"a": 1, "c": 2, "d": 4}


def test_json_is_read_too_as_an_object_a_list_or_a_stream_of_yaml() -> None:
    assert read('{"a": [1, null]}') == [{"a": [1, None]}]
    assert read('[{"a": 1}, {"b": 2}]') == [{"a": 1}, {"b": 2}]
    assert read('{"a": 1}\n---\n{"b": 2}') == [{"a": 1}, {"b": 2}]
    assert read("\ufeffa: b") == [{"a": "b"}]
    assert read('{"a": "\\u00e4"}') == [{"a": "ä"}]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a: \xff", "the manifests are not UTF-8: byte 3 cannot be read"),
        ("a: 1\na: 2", "the key 'a' stands twice in one mapping (line 2, column 1)"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice in one mapping"),
        ('{"a": NaN}', "NaN is not a number that a manifest can have"),
        ('{"a": "\\ud800"}', "surrogates not allowed"),
        ("a: .inf", ".inf is not a number that a manifest can have"),
        ("a: " + "9" * 5000, "is not a good value (line 1, column 4)"),
        ('{"a": ' + "9" * 5000 + "}", "integer string conversion"),
        ("a: !!bool maybe", "'maybe' is not a good value (line 1, column 4)"),
        ("? [a]\n: b", "a key must be plain text (line 1, column 3)"),
        ("a: &x b\n*x : c", "a key must be plain text, not an alias (line 2, column 1)"),
        ("a: *x", "the alias *x has no anchor before it (line 1, column 4)"),
        ("a: &x [*x]", "the alias *x has no anchor before it (line 1, column 8)"),
        ("a: &x b\n---\nc: *x", "the alias *x has no anchor before it (line 3, column 4)"),
        ("<<: [1]", "<< can only merge mappings"),
        ("a: !foo b", "the tag '!foo' is not supported (line 1, column 4)"),
        ("!!python/object:os.system {}", "the tag 'tag:yaml.org,2002:python/object:os.system' is not supported"),
        ("a: [b", "the manifests are not YAML: while parsing a flow sequence"),
        ("a: \0", "the manifests are not YAML: unacceptable character"),
        ("[" * 65, "the manifests are nested more than 64 levels deep (line 1, column 65)"),
        (json.dumps("x").join(["[" * 65, "]" * 65]), "the manifests are nested more than 64 levels deep"),
        ('{"a":' * 100_000, "the manifests are nested more than 64 levels deep"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_place(data: str | bytes, said: str) -> None:
    assert said in problem(data)


def test_aliases_cannot_make_more_than_was_sent() -> None:
    bomb = "b0: &b0 [lol]\n"
    for level in range(1, 30):
        bomb += f"b{level}: &b{level} [{', '.join([f'*b{level - 1}'] * 10)}]\n"
    assert "aliases make the manifests too large" in problem(bomb)
    long = f"a: &a {'x' * 600_000}\nb: *a\nc: *a\n"
    assert "aliases make the manifests too large" in problem(long)


def test_the_worker_hands_over_manifests_or_problems() -> None:
    def work(text: str) -> bytes:
        output = bytearray()
        documents.work(text.encode(), "command", output.extend)
        return bytes(output)

    good = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {k: v}}"
    (found,) = documents.decode(work(good))
    assert str(found.key) == "ConfigMap/default/a"
    with pytest.raises(InvalidManifest, match="kind is missing"):
        list(documents.decode(work("{apiVersion: v1}")))
