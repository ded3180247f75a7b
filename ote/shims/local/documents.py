"""Reads manifests: bytes in, plain documents out, whatever the bytes are.

Not here: what the documents mean (`core.manifest`). The one idea: documents are built from the parser's events on a
stack of our own with limits, so neither deep nesting nor aliases of aliases can make them larger than what was sent.
Run as a program (`python -m ote.shims.local.documents`) it checks manifests from stdin in a process that can be thrown
away: parsing large YAML takes seconds, and nobody else should wait for it.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from ote.shims.local.core import manifest, schema
from ote.shims.local.core.manifest import InvalidManifest, Manifest, Needs

MAX_DEPTH = 64
"""Deepest nesting of a document."""
MAX_ALIASED = 1 << 20
"""How much aliases may add to a stream, in characters and nodes: enough for people, too little for bombs."""

_STR, _NULL, _BOOL = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null", "tag:yaml.org,2002:bool"
_INT, _FLOAT, _MERGE = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:merge"
_DECIMAL = re.compile(r"[-+]?[0-9][0-9_]*")


def read(data: bytes) -> list[Any]:
    """The documents of a YAML stream or of JSON. Raises InvalidManifest, with the place where one can be told."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidManifest([f"the manifests are not UTF-8: byte {error.start} cannot be read"]) from None
    if text.lstrip()[:1] in ("{", "["):
        documents = _read_json(text)
        if documents is not None:
            return documents
    return _read_yaml(text)


def _read_json(text: str) -> list[Any] | None:
    try:
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        _limit_depth(document)
        if "\\u" in text:
            json.dumps(document, ensure_ascii=False).encode()
    except json.JSONDecodeError:
        return None
    except RecursionError:
        raise InvalidManifest([f"the manifests are nested more than {MAX_DEPTH} levels deep"]) from None
    except ValueError as error:
        raise InvalidManifest([str(error)[:200]]) from None
    return document if isinstance(document, list) else [document]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidManifest([f"the key {schema.shown(twice)} stands twice in one mapping"])
    return result


def _no_constant(name: str) -> float:
    raise InvalidManifest([f"{name} is not a number that a manifest can have"])


def _limit_depth(document: Any) -> None:
    level, depth = [document], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise RecursionError
        level = [inner for value in level for inner in _inside(value)]


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


class _Frame:
    """A collection that is being read: its value, the key that waits for one, and how heavy it has become."""

    __slots__ = ("anchor", "key", "merges", "value", "weight")

    def __init__(self, value: Any, anchor: str | None) -> None:
        self.value = value
        self.anchor = anchor
        self.key: str | None = None
        self.merges: list[Any] = []
        self.weight = 1


class _Builder:
    """Makes documents from the events of a YAML parser."""

    def __init__(self) -> None:
        import yaml

        self._yaml = yaml
        self._resolver: Any = yaml.resolver.Resolver()
        self._constructor = yaml.constructor.SafeConstructor()
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._aliased = 0
        self.documents: list[Any] = []

    def take(self, event: Any) -> None:
        events = self._yaml.events
        if isinstance(event, events.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, events.AliasEvent):
            self._alias(event)
        elif isinstance(event, events.CollectionStartEvent):
            self._open(event, {} if isinstance(event, events.MappingStartEvent) else [])
        elif isinstance(event, events.CollectionEndEvent):
            frame = self._stack.pop()
            for merged in frame.merges:
                frame.value.update({key: value for key, value in merged.items() if key not in frame.value})
            self._add(event, frame.value, frame.anchor, frame.weight)
        elif isinstance(event, events.DocumentStartEvent):
            self._anchors = {}

    def _open(self, event: Any, value: Any) -> None:
        if len(self._stack) >= MAX_DEPTH:
            raise InvalidManifest([f"the manifests are nested more than {MAX_DEPTH} levels deep{_place(event)}"])
        if event.tag not in (None, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            raise InvalidManifest([f"the tag {schema.shown(event.tag)} is not supported{_place(event)}"])
        if self._stack and isinstance(self._stack[-1].value, dict) and self._stack[-1].key is None:
            raise InvalidManifest([f"a key must be plain text{_place(event)}"])
        self._stack.append(_Frame(value, event.anchor))

    def _scalar(self, event: Any) -> None:
        frame = self._stack[-1] if self._stack else None
        if frame is not None and isinstance(frame.value, dict) and frame.key is None:
            is_merge = event.value == "<<" and event.implicit[0]
            if not is_merge and event.value in frame.value:
                raise InvalidManifest(
                    [f"the key {schema.shown(event.value)} stands twice in one mapping{_place(event)}"]
                )
            frame.key = event.value
            frame.weight += len(event.value) + 1
            if is_merge:
                frame.key = _MERGE
            return
        self._add(event, self._value(event), event.anchor, len(event.value) + 1)

    def _value(self, event: Any) -> Any:
        yaml = self._yaml
        tag = event.tag
        if tag is None or tag == "!":
            tag = self._resolver.resolve(yaml.nodes.ScalarNode, event.value, event.implicit)
        node = yaml.nodes.ScalarNode(tag, event.value)
        try:
            if tag == _NULL:
                return None
            if tag == _BOOL:
                return self._constructor.construct_yaml_bool(node)
            if tag == _INT:
                return event.value if ":" in event.value else self._constructor.construct_yaml_int(node)
            if tag == _FLOAT:
                number = event.value if ":" in event.value else self._constructor.construct_yaml_float(node)
                return number if isinstance(number, str) or math.isfinite(number) else _no_constant(event.value[:20])
        except (ValueError, KeyError):
            raise InvalidManifest([f"{schema.shown(event.value)} is not a good value{_place(event)}"]) from None
        if tag.startswith("tag:yaml.org,2002:") and tag.removeprefix("tag:yaml.org,2002:") in ("str", "timestamp"):
            return event.value
        if event.tag is None:
            return event.value
        raise InvalidManifest([f"the tag {schema.shown(event.tag)} is not supported{_place(event)}"])

    def _alias(self, event: Any) -> None:
        if event.anchor not in self._anchors:
            raise InvalidManifest([f"the alias *{event.anchor[:40]} has no anchor before it{_place(event)}"])
        value, weight = self._anchors[event.anchor]
        self._aliased += weight
        if self._aliased > MAX_ALIASED:
            raise InvalidManifest([f"aliases make the manifests too large{_place(event)}"])
        if self._stack and isinstance(self._stack[-1].value, dict) and self._stack[-1].key is None:
            raise InvalidManifest([f"a key must be plain text, not an alias{_place(event)}"])
        self._add(event, value, None, weight)

    def _add(self, event: Any, value: Any, anchor: str | None, weight: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = (value, weight)
        if not self._stack:
            self.documents.append(value)
            return
        frame = self._stack[-1]
        frame.weight += weight
        if isinstance(frame.value, list):
            frame.value.append(value)
        elif frame.key is _MERGE:
            frame.merges.extend(self._merged(event, value))
            frame.key = None
        elif frame.key is not None:
            frame.value[frame.key] = value
            frame.key = None

    def _merged(self, event: Any, value: Any) -> list[Any]:
        mappings = value if isinstance(value, list) else [value]
        if not all(isinstance(mapping, dict) for mapping in mappings):
            raise InvalidManifest([f"<< can only merge mappings{_place(event)}"])
        return mappings


def _place(event: Any) -> str:
    mark = event.start_mark
    return f" (line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""


def _read_yaml(text: str) -> list[Any]:
    import yaml

    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            builder.take(event)
    except yaml.YAMLError as error:
        line = " ".join(str(error).split())
        raise InvalidManifest([f"the manifests are not YAML: {line[:300]}"]) from None
    return builder.documents


def checked(data: bytes, needs: Needs | None) -> list[Manifest]:
    """The objects of manifests; needs None: their keys only, whatever else is in them. Raises InvalidManifest."""
    found = read(data)
    if needs is None:
        return [Manifest(key, {}) for key in manifest.references(found)]
    return manifest.check(found, needs=needs)


def work(data: bytes, needs: Needs | None, write: Callable[[bytes], object]) -> None:
    """Checks manifests and writes what `decode` reads."""
    try:
        manifests = checked(data, needs)
    except InvalidManifest as error:
        _write(write, msgspec.msgpack.encode(error.problems))
        return
    _write(write, msgspec.msgpack.encode([]))
    for one in manifests:
        _write(write, msgspec.msgpack.encode(one))


def _write(write: Callable[[bytes], object], piece: bytes) -> None:
    write(len(piece).to_bytes(4, "big"))
    write(piece)


def pieces(output: bytes) -> Iterator[bytes]:
    """The messages that the program wrote: the problems, and if there are none, a Manifest each."""
    offset = 0
    while offset < len(output):
        size = int.from_bytes(output[offset : offset + 4], "big")
        yield output[offset + 4 : offset + 4 + size]
        offset += 4 + size


def decode(output: bytes) -> Iterator[Manifest]:
    """The manifests that the program checked, one at a time. Raises InvalidManifest."""
    messages = pieces(output)
    problems = msgspec.msgpack.decode(next(messages), type=list[str])
    if problems:
        raise InvalidManifest(problems)
    for message in messages:
        yield msgspec.msgpack.decode(message, type=Manifest)


def main() -> None:
    """Checks manifests from stdin; the argument says what every container must have, none that keys are enough."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
    needs: dict[str, Needs] = {"image": "image", "command": "command"}
    work(sys.stdin.buffer.read(), needs.get("".join(sys.argv[1:])), sys.stdout.buffer.write)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
