"""Reads manifests from files, folders and stdin, and checks them lightly: UTF-8, YAML, a kind and a name in each.

Not here: what the kinds mean; the shim of each cluster checks that. The one idea: YAML is read as events and nothing is
built from it, so that aliases of aliases and deep nesting cost nothing.
"""

from __future__ import annotations

import codecs
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ote.model.errors import InvalidArgument, ResourceExhausted

MAX_BYTES = 16 * 1024 * 1024
"""All manifests of one command together."""
_SUFFIXES = frozenset({".yaml", ".yml", ".json"})
_MAX_DEPTH = 200


@dataclass(frozen=True)
class Object:
    """A manifest by kind and name; a List has no name."""

    kind: str
    name: str


@dataclass(frozen=True)
class Manifests:
    """The bytes to send, and what is in them."""

    content: bytes
    objects: Sequence[Object]


def read_manifests(sources: Sequence[str]) -> Manifests:
    """Reads FILE, DIR (its *.yaml, *.yml and *.json, sorted) and "-" (stdin), in their order.

    Raises InvalidArgument (INVALID_MANIFEST, FILE_NOT_FOUND), ResourceExhausted (PAYLOAD_TOO_LARGE).
    """
    parts: list[bytes] = []
    objects: list[Object] = []
    total = 0
    for source, content in _contents(sources):
        total += len(content)
        if total > MAX_BYTES:
            raise ResourceExhausted(
                "PAYLOAD_TOO_LARGE",
                f"{source}: the manifests have more than {MAX_BYTES // 1024 // 1024} MiB: apply them in several steps",
            )
        found = list(check(source, content))
        if found:
            objects += found
            parts.append(content.removeprefix(codecs.BOM_UTF8).rstrip() + b"\n")
    if not objects:
        raise InvalidArgument("INVALID_MANIFEST", f"there is no object in {', '.join(sources)}")
    return Manifests(b"---\n".join(parts), objects)


def _contents(sources: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    for source in sources:
        if source == "-":
            yield "stdin", sys.stdin.buffer.read(MAX_BYTES + 1)
            continue
        path = Path(source)
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES and file.is_file())
            if not files:
                raise InvalidArgument("FILE_NOT_FOUND", f"there is no *.yaml, *.yml or *.json in {source}")
        else:
            files = [path]
        for file in files:
            yield str(file), _read(file)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InvalidArgument("FILE_NOT_FOUND", f"there is no file {path}") from None
    except OSError as error:
        raise InvalidArgument("INVALID_MANIFEST", f"cannot read {path}: {error.strerror}") from None


def check(source: str, content: bytes) -> Iterator[Object]:
    """The objects in the content. Raises InvalidArgument (INVALID_MANIFEST) naming source, line and what is wrong."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidArgument("INVALID_MANIFEST", f"{source}, line {line}: it is not UTF-8") from None
    if text.lstrip()[:1] == "{":
        document = _json(text)
        if document is not None:
            return iter([_checked(source, 1, document.get("kind"), (document.get("metadata") or {}).get("name"))])
    return _yaml(source, text)


def _json(text: str) -> dict[str, Any] | None:
    """The object of a JSON text; None where YAML has to say what is wrong."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and isinstance(document.get("metadata"), dict | None) else None


def _checked(source: str, line: int, kind: object, name: object) -> Object:
    where = f"{source}, line {line}"
    if not isinstance(kind, str) or not kind:
        raise InvalidArgument("INVALID_MANIFEST", f"{where}: an object needs a kind")
    if kind.endswith("List"):
        return Object(kind, "")
    if not isinstance(name, str) or not name:
        raise InvalidArgument("INVALID_MANIFEST", f"{where}: the {kind} needs metadata.name")
    return Object(kind, name)


def _yaml(source: str, text: str) -> Iterator[Object]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        yield from _documents(source, yaml.parse(text, Loader=loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{source}, line {mark.line + 1}" if mark else source
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "bad characters"
        raise InvalidArgument("INVALID_MANIFEST", f"{where}: it is not YAML: {problem}") from None
    except RecursionError:
        raise InvalidArgument("INVALID_MANIFEST", f"{source}: it is nested too deeply") from None


def _documents(source: str, events: Iterator[Any]) -> Iterator[Object]:
    """The kind and metadata.name of each document; empty documents are passed over."""
    import yaml

    scan = _Scan()
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            scan = _Scan()
        elif isinstance(event, yaml.ScalarEvent | yaml.AliasEvent):
            scan.value(_line(event), getattr(event, "value", ""))
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            scan.enter(_line(event), mapping=isinstance(event, yaml.MappingStartEvent))
            if len(scan.levels) > _MAX_DEPTH:
                line = _line(event)
                raise InvalidArgument(
                    "INVALID_MANIFEST", f"{source}, line {line}: it is nested deeper than {_MAX_DEPTH} levels"
                )
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            scan.leave()
        elif isinstance(event, yaml.DocumentEndEvent):
            if scan.kind_of_top == "mapping":
                yield _checked(source, scan.line, scan.found.get(("kind",)), scan.found.get(("metadata", "name")))
            elif scan.kind_of_top == "other":
                raise InvalidArgument(
                    "INVALID_MANIFEST", f"{source}, line {scan.line}: an object is a mapping with kind and metadata"
                )


def _line(event: Any) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


class _Level:
    """One open mapping or sequence. key: of the value that is read, None while a key is expected.

    is_key: it stands itself where its parent expects a key.
    """

    __slots__ = ("is_key", "key", "mapping")

    def __init__(self, mapping: bool, *, is_key: bool) -> None:
        self.mapping = mapping
        self.is_key = is_key
        self.key: str | None = None


class _Scan:
    """One document, looked at event by event. found: scalars at most two levels deep, by their keys."""

    def __init__(self) -> None:
        self.levels: list[_Level] = []
        self.found: dict[tuple[str, ...], str] = {}
        self.kind_of_top = "empty"
        self.line = 1

    def value(self, line: int, text: str) -> None:
        if not self.levels:
            if text not in ("", "null", "~"):
                self.line, self.kind_of_top = line, "other"
            return
        level = self.levels[-1]
        if not level.mapping:
            return
        if level.key is None:
            level.key = text
            return
        if len(self.levels) <= 2 and all(one.mapping for one in self.levels):
            self.found[tuple(one.key or "" for one in self.levels)] = text
        level.key = None

    def enter(self, line: int, *, mapping: bool) -> None:
        if not self.levels:
            self.line, self.kind_of_top = line, "mapping" if mapping else "other"
        above = self.levels[-1] if self.levels else None
        self.levels.append(_Level(mapping, is_key=above is not None and above.mapping and above.key is None))

    def leave(self) -> None:
        ended = self.levels.pop()
        if self.levels and self.levels[-1].mapping:
            self.levels[-1].key = "" if ended.is_key else None
