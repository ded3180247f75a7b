"""The base of settings, the types of their fields, and what each field tells about itself.

Not here: where values come from (`load`). A program writes:

    class Settings(BaseSettings, frozen=True, kw_only=True):
        dead_after: Annotated[Duration, Meta(description="Silence after which the parent is lost.")] = 5.0

Supported: str, int, float, bool, Literal of strings, Path, tuple[str, ...], dict[str, str], the aliases below, and
all but the last two `| None`. `Meta(extra={"flag": "tag"})` gives another name to the command line's option.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from ote.config.values import format_duration

Duration = Annotated[float, Meta(ge=0, extra={"kind": "duration"})]
"""Seconds, written "500ms", "2s", "1h"; a bare number counts seconds."""

DurationOrNever = Annotated[float, Meta(ge=0, extra={"kind": "duration", "never": True})]
"""The same, or "never", which is infinity."""

HostPort = Annotated[str, Meta(extra={"kind": "host:port"})]
"""HOST:PORT, checked."""

Secret = Annotated[str, Meta(extra={"kind": "secret"})]
"""Masked wherever settings are shown; "@FILE" takes the file's content."""


class BaseSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every program's settings. Checks across fields go into __post_init__ and raise ValueError."""


Kind = Literal["text", "int", "float", "bool", "duration", "host:port", "secret", "choice", "path", "list", "map"]


@dataclass(frozen=True, slots=True)
class Option:
    """One setting, described without the types of Python.

    name: of the field and the key in files. flag: its option without the dashes. env: its variable. default: value when
    nothing is given, None when required or when there is none. repeated: the flag may be given several times.
    """

    name: str
    flag: str
    env: str
    kind: Kind
    doc: str
    default: Any
    required: bool
    repeated: bool
    choices: tuple[str, ...]
    never: bool

    @property
    def secret(self) -> bool:
        """Whether its value is masked."""
        return self.kind == "secret"

    @property
    def metavar(self) -> str:
        """What stands for a value in help texts."""
        if self.choices:
            return "|".join(self.choices)
        names = {
            "bool": "",
            "duration": "DURATION",
            "host:port": "HOST:PORT",
            "path": "PATH",
            "map": "K=V",
            "int": "N",
            "float": "N",
        }
        return names.get(self.kind, "TEXT")

    def show(self, value: Any) -> str:
        """A value as people write it."""
        if value is None:
            return ""
        if self.kind == "duration":
            return format_duration(value)
        if self.kind == "bool":
            return "true" if value else "false"
        if self.kind == "list":
            return ",".join(value)
        if self.kind == "map":
            return ",".join(f"{k}={v}" for k, v in value.items())
        return str(value)


def describe(settings: type[BaseSettings]) -> tuple[Option, ...]:
    """Every setting of a program, in the order of its class. Raises TypeError for a field of a type not supported."""
    hints = get_type_hints(settings, include_extras=True)
    return tuple(_option(field, hints[field.name]) for field in msgspec.structs.fields(settings))


def _option(field: msgspec.structs.FieldInfo, hint: Any) -> Option:
    base, doc, extra = _unwrap(hint)
    kind, choices = _kind(base, extra, field.name)
    default = field.default
    if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
        default = field.default_factory()
    required = default is msgspec.NODEFAULT
    flag = str(extra.get("flag", field.name)).replace("_", "-")
    return Option(
        name=field.name,
        flag=flag,
        env=f"OTE_{field.name.upper()}",
        kind=kind,
        doc=doc,
        default=None if required else default,
        required=required,
        repeated=kind in ("list", "map"),
        choices=choices,
        never=bool(extra.get("never")),
    )


def _unwrap(hint: Any) -> tuple[Any, str, dict[str, Any]]:
    """(Type without Annotated and None, description, merged extras)."""
    doc = ""
    extra: dict[str, Any] = {}
    while True:
        if get_origin(hint) is Annotated:
            hint, *metas = get_args(hint)
            for meta in metas:
                if isinstance(meta, Meta):
                    doc = doc or meta.description or ""
                    extra = {**(meta.extra or {}), **extra}
        elif get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint):
            members = [member for member in get_args(hint) if member is not type(None)]
            if len(members) != 1:
                return hint, doc, extra
            hint = members[0]
        else:
            return hint, doc, extra


_PLAIN: Mapping[Any, Kind] = {str: "text", int: "int", float: "float", bool: "bool", Path: "path"}


def _kind(base: Any, extra: Mapping[str, Any], name: str) -> tuple[Kind, tuple[str, ...]]:
    if "kind" in extra:
        kind: Kind = extra["kind"]
        return kind, ()
    if base in _PLAIN:
        return _PLAIN[base], ()
    if get_origin(base) is Literal:
        return "choice", tuple(str(choice) for choice in get_args(base))
    if get_origin(base) is tuple and get_args(base) == (str, ...):
        return "list", ()
    if get_origin(base) is dict and get_args(base) == (str, str):
        return "map", ()
    raise TypeError(f"setting {name}: {base!r} is not supported")
