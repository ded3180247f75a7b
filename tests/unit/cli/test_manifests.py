from __future__ import annotations

import time
from pathlib import Path

import pytest

from ote.cli.manifests import Object, check, read_manifests
from ote.model.errors import InvalidArgument


def test_every_document_has_a_kind_and_a_name() -> None:
    text = b"""\
# a comment
---
kind: Deployment
metadata:
  labels: {name: not-this, kind: nor-this}
  name: web
spec:
  template:
    kind: nor-that
    metadata: {name: deeper}
  ? [a, b]
  : {kind: x}
  list: [kind, metadata, {name: y}]
---
---
null
---
{"kind": "Service", "metadata": {"name": "web"}}
---
kind: PodList
items: []
"""
    assert list(check("f", text)) == [Object("Deployment", "web"), Object("Service", "web"), Object("PodList", "")]


def test_json_is_taken_with_tabs_and_a_byte_order_mark() -> None:
    text = b'\xef\xbb\xbf{\n\t"kind": "A",\n\t"metadata": {"name": "a"}\n}'
    assert list(check("f", text)) == [Object("A", "a")]


def test_byte_order_marks_of_several_files_are_not_sent(tmp_path: Path) -> None:
    """Only the first could stand where a mark may."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_bytes(f"\ufeffkind: A\nmetadata: {{name: {name}}}\n".encode())
    read = read_manifests([str(tmp_path)])
    assert list(read.objects) == list(check("all", read.content)) == [Object("A", "a"), Object("A", "b")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"ok: 1\n\xff", "f, line 2: it is not UTF-8"),
        (b"a: ]", "f, line 1: it is not YAML: "),
        (b"a: \x01", "f: it is not YAML: "),
        (b"metadata: {name: x}", "f, line 1: an object needs a kind"),
        (b"---\nkind: [A]\nmetadata: {name: x}", "f, line 2: an object needs a kind"),
        (b"kind: A", "f, line 1: the A needs metadata.name"),
        (b"kind: A\nmetadata: {labels: {name: x}}", "f, line 1: the A needs metadata.name"),
        (b'{"kind": "A", "metadata": {}}', "f, line 1: the A needs metadata.name"),
        (b'{"kind": "A", "metadata": 5}', "f, line 1: the A needs metadata.name"),
        (b'{"kind": "A", ]', "f, line 1: it is not YAML: "),
        (b"- a\n- b", "f, line 1: an object is a mapping"),
        (b"just words", "f, line 1: an object is a mapping"),
        (b"a: " + b"[" * 300 + b"]" * 300, "f, line 1: it is nested deeper than 200 levels"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: bytes, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        list(check("f", text))
    assert caught.value.message.startswith(message)


def test_aliases_of_aliases_cost_nothing() -> None:
    lines = ["kind: A", "metadata: {name: a}", "x0: &x0 [a, a]"]
    lines += [f"x{level}: &x{level} [{', '.join([f'*x{level - 1}'] * 9)}]" for level in range(1, 60)]
    begun = time.process_time()
    assert list(check("f", "\n".join(lines).encode())) == [Object("A", "a")]
    assert time.process_time() - begun < 1
