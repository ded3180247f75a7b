"""Where settings come from: a file, the environment, flags; and how they are shown.

The one idea: every source is text or plain data and goes through the same parsers, and a complaint names the source.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ote.config.settings import BaseSettings, Option, describe
from ote.config.values import parse_bool, parse_duration, parse_pairs, split_host_port
from ote.model.errors import InvalidArgument, OteError

S = TypeVar("S", bound=BaseSettings)

MASK = "***"
MAX_FILE = 1024 * 1024
_NOT_SETTINGS = frozenset({"OTE_CONFIG"})
"""Variables of other programs: OTE_CONFIG names the contexts of ote-ctl."""


def load(
    settings: type[S],
    *,
    file: Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, object] | None = None,
) -> S:
    """Settings from defaults, then a YAML file, then OTE_* variables, then flags (by field name; None is not given).

    Raises InvalidArgument (INVALID_SETTING, UNKNOWN_SETTING, MISSING_SETTING, INVALID_FILE), naming setting and source.
    """
    options = {option.name: option for option in describe(settings)}
    values: dict[str, tuple[Any, str]] = {}
    if file is not None:
        for name, value in _read_file(file).items():
            option = options.get(name)
            if option is None:
                raise _unknown(f"setting {name!r} in {file}", name, options)
            if value is not None:
                values[name] = (value, str(file))
    values.update(_from_environment(options, env or {}))
    for name, value in (flags or {}).items():
        if name not in options:
            raise _unknown(f"flag {name!r}", name, options)
        if value is not None and not (options[name].repeated and not value):
            values[name] = (value, f"--{options[name].flag}")
    missing = [option for option in options.values() if option.required and option.name not in values]
    if missing:
        ways = ", ".join(f"--{option.flag} (or {option.env}, or {option.name} in the file)" for option in missing)
        raise InvalidArgument("MISSING_SETTING", f"required: {ways}")
    parsed = {name: _parse(options[name], value, source) for name, (value, source) in values.items()}
    try:
        return msgspec.convert(parsed, settings, dec_hook=_to_path)
    except msgspec.ValidationError as error:
        raise InvalidArgument("INVALID_SETTING", _explain(str(error), values)) from None


def effective(settings: BaseSettings) -> dict[str, object]:
    """Every setting as people write it, secrets masked: for one log line at the start."""
    shown: dict[str, object] = {}
    for option in describe(type(settings)):
        value = getattr(settings, option.name)
        if option.secret:
            shown[option.name] = MASK if value else ""
        elif option.kind in ("list", "map", "int", "float", "bool"):
            shown[option.name] = list(value) if option.kind == "list" else value
        else:
            shown[option.name] = option.show(value)
    return shown


def _to_path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(f"settings of type {kind!r}")


def _read_file(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise InvalidArgument("INVALID_FILE", f"cannot read {file}: {error.strerror}") from None
    if len(raw) > MAX_FILE:
        raise InvalidArgument("INVALID_FILE", f"{file} is over {MAX_FILE} bytes")
    import yaml  # late: a program without a file saves its 2 MB

    try:
        if b"&" in raw and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(raw)):
            raise InvalidArgument("INVALID_FILE", f"{file} uses YAML aliases, which settings do not need")
        content = yaml.safe_load(raw)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where is not None else ""
        raise InvalidArgument("INVALID_FILE", f"{file}{line} is not YAML") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InvalidArgument("INVALID_FILE", f"{file} has to be a mapping of settings")
    return content


def _from_environment(options: Mapping[str, Option], env: Mapping[str, str]) -> dict[str, tuple[Any, str]]:
    by_variable = {option.env: option for option in options.values()}
    found: dict[str, tuple[Any, str]] = {}
    for variable, value in env.items():
        option = by_variable.get(variable)
        if option is not None:
            found[option.name] = (value, variable)
        elif variable.startswith("OTE_") and variable not in _NOT_SETTINGS:
            near = difflib.get_close_matches(variable, by_variable, n=1, cutoff=0.9)
            if near:
                raise InvalidArgument("UNKNOWN_SETTING", f"unknown variable {variable}: did you mean {near[0]}?")
    return found


def _unknown(what: str, name: str, options: Mapping[str, Option]) -> InvalidArgument:
    near = difflib.get_close_matches(name.replace("-", "_"), options, n=1, cutoff=0.6)
    hint = f": did you mean {near[0]}?" if near else ""
    return InvalidArgument("UNKNOWN_SETTING", f"unknown {what}{hint}", metadata={"setting": name})


def _explain(text: str, values: Mapping[str, tuple[Any, str]]) -> str:
    """msgspec says "... - at `$.name`": say it with the setting's name and source instead."""
    problem, at, path = text.partition(" - at `$.")
    if not at:
        return problem[:1].lower() + problem[1:]
    name = path.rstrip("`").split("[")[0].split(".")[0]
    source = values[name][1] if name in values else "default"
    return f"setting {name} (from {source}): {problem[:1].lower() + problem[1:]}"


def _parse(option: Option, value: Any, source: str) -> Any:
    try:
        return _parse_value(option, value)
    except OteError as error:
        raise InvalidArgument(
            "INVALID_SETTING",
            f"setting {option.name} (from {source}): {error.message}",
            metadata={"setting": option.name},
        ) from None


def _parse_value(option: Option, value: Any) -> Any:
    if option.kind == "list":
        return _items(value)
    if option.kind == "map":
        return value if isinstance(value, dict) else parse_pairs(_items(value))
    if option.kind == "duration" and not isinstance(value, bool) and isinstance(value, (int, float)):
        return float(value)
    if option.kind == "duration":
        return _parse_text(option, str(value))
    if isinstance(value, Path):
        return str(value) if option.kind != "path" else value
    if not isinstance(value, str):
        return (
            str(value) if option.kind in ("text", "secret", "choice") and not isinstance(value, (dict, list)) else value
        )
    return _parse_text(option, value)


def _parse_text(option: Option, text: str) -> Any:
    if not text and option.default is None and not option.required:
        return None
    match option.kind:
        case "duration":
            return math.inf if option.never and text == "never" else parse_duration(text)
        case "bool":
            return parse_bool(text)
        case "int" | "float":
            return _number(text, whole=option.kind == "int")
        case "host:port":
            split_host_port(text)
            return text
        case "secret" if text.startswith("@"):
            return _read_secret(Path(text[1:]))
        case "path":
            return Path(text).expanduser()
        case "choice" if text not in option.choices:
            near = difflib.get_close_matches(text, option.choices, n=1)
            hint = f", did you mean {near[0]}?" if near else ""
            raise InvalidArgument("INVALID_CHOICE", f"{text!r} is not one of {', '.join(option.choices)}{hint}")
        case _:
            return text


def _items(value: Any) -> list[str]:
    if isinstance(value, str):
        return [item for item in (part.strip() for part in value.split(",")) if item]
    if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return [item for text in value for item in _items(text)]
    raise InvalidArgument("INVALID_LIST", "has to be a list of texts")


def _number(text: str, *, whole: bool) -> int | float:
    try:
        return int(text) if whole else float(text)
    except ValueError:
        raise InvalidArgument("INVALID_NUMBER", f"{text!r} is not a {'whole ' if whole else ''}number") from None


def _read_secret(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise InvalidArgument("INVALID_FILE", f"cannot read {file}: {reason}") from None
