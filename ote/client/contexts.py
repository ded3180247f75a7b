"""Contexts: which controllers a person can enter a tree by, and with which certificate.

What lives here: the file format and its rules. What does not: connecting (`connection`). The one idea: everything
needed is inline, so that one file can be carried to another machine; a context holds several entries, so that a dead
root leaves a way in. `admin.yaml` of a root is such a file with one context.

    current: root
    contexts:
    - name: root
      entries:
      - {address: "10.0.0.1:8287", server_name: root.ote}
      ca: |
        -----BEGIN CERTIFICATE-----
      cert: ...       chain of the person's certificate, leaf first, PEM
      key: ...        its key, PEM

A context without ca, cert and key connects without TLS (`--insecure` controllers on loopback).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ote.model.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OteError
from ote.pki import replace_private

DEFAULT_PATH = Path("~/.config/ote/config.yaml")


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A controller that can be dialled. address: HOST:PORT. server_name: the name in its certificate, "NAME.ote"."""

    address: str
    server_name: str = ""


class Context(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A way into a tree. entries are tried in turn. ca, cert and key are PEM, all empty for no TLS."""

    name: str
    entries: tuple[Entry, ...] = ()
    ca: str = ""
    cert: str = ""
    key: str = ""

    def __repr__(self) -> str:
        return f"Context(name={self.name!r}, entries={self.entries!r})"

    def only(self, entry: str) -> Context:
        """With one entry alone, by HOST:PORT or by the controller's name. Raises NotFound (ENTRY_NOT_FOUND)."""
        for one in self.entries:
            if entry and entry in (one.address, one.server_name.removesuffix(".ote")):
                return msgspec.structs.replace(self, entries=(one,))
        known = ", ".join(f"{one.server_name.removesuffix('.ote')} {one.address}".strip() for one in self.entries)
        raise NotFound(
            "ENTRY_NOT_FOUND", f"the context {self.name} has no entry {entry!r}; there is: {known or 'none'}"
        )

    def to_yaml(self) -> str:
        """The text of a contexts file with this context alone."""
        return Contexts(current=self.name, contexts=(self,)).to_yaml()


class Contexts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a contexts file. current: the name of the context that is used when none is named."""

    current: str = ""
    contexts: tuple[Context, ...] = ()

    def to_yaml(self) -> str:
        """The text of the file."""
        return yaml.dump(msgspec.to_builtins(self), Dumper=_Dumper, sort_keys=False, allow_unicode=True)

    def get(self, name: str = "") -> Context:
        """The context of that name, or the current one. Raises NotFound (CONTEXT_NOT_FOUND)."""
        wanted = name or self.current
        if not wanted and len(self.contexts) == 1:
            return self.contexts[0]
        for context in self.contexts:
            if context.name == wanted:
                return context
        known = ", ".join(context.name for context in self.contexts) or "none"
        what = f"no context {wanted!r}" if wanted else "no current context"
        raise NotFound("CONTEXT_NOT_FOUND", f"{what}; there is: {known}")

    def put(self, context: Context) -> Contexts:
        """With the context added, or in the place of the one of its name."""
        names = [one.name for one in self.contexts]
        if context.name in names:
            return Contexts(self.current, tuple(context if one.name == context.name else one for one in self.contexts))
        return Contexts(self.current, (*self.contexts, context))

    def use(self, name: str) -> Contexts:
        """With another current context. Raises NotFound (CONTEXT_NOT_FOUND)."""
        return Contexts(self.get(name).name, self.contexts)

    def merge(self, others: Iterable[Context], *, replace: bool = False) -> tuple[Contexts, list[Context]]:
        """With the others added, and the others as they are called now.

        The same person again brings entries along; another tree under a taken name is called NAME-2, NAME-3, …. The
        first context of an empty file becomes the current one.

        Raises AlreadyExists (CONTEXT_EXISTS) where another person of the same tree has the name; `replace` takes it.
        """
        result = self
        added: list[Context] = []
        for other in others:
            context = result._fitting(other, replace)
            result = result.put(context)
            added.append(context)
        if not result.current and added:
            result = result.use(added[0].name)
        return result, added

    def _fitting(self, other: Context, replace: bool) -> Context:
        names = {one.name: one for one in self.contexts}
        name = other.name
        number = 2
        while name in names:
            there = names[name]
            if there.ca == other.ca:
                was, now = _person_of(there), _person_of(other)
                if was != now and not replace:
                    raise AlreadyExists(
                        "CONTEXT_EXISTS",
                        f"the context {name} is that of {was}, not of {now}: --name keeps both, --replace only the new",
                    )
                return add_entries(msgspec.structs.replace(other, name=name, entries=there.entries), other.entries)
            name = f"{other.name}-{number}"
            number += 1
        return msgspec.structs.replace(other, name=name)


def _person_of(context: Context) -> str:
    """Whom the certificate of a context is for."""
    from ote.pki import identity_of  # late: it is slow to load, and needed for names that are taken alone

    try:
        person = identity_of(context.cert.encode())
    except OteError:
        return "nobody"
    return f"{person.role} {person.uid}"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def add_entries(context: Context, entries: Iterable[Entry]) -> Context:
    """With entries added at the end; one of a known address takes the place of the old."""
    by_address = {entry.address: entry for entry in context.entries}
    by_address |= {entry.address: entry for entry in entries}
    return msgspec.structs.replace(context, entries=tuple(by_address.values()))


def config_path(flag: str | None) -> Path:
    """Where the contexts are: the flag, else $OTE_CONFIG, else ~/.config/ote/config.yaml."""
    return Path(flag or os.environ.get("OTE_CONFIG") or DEFAULT_PATH).expanduser()


def load_contexts(path: Path) -> Contexts:
    """Reads a contexts file; an absent one is empty. Raises InvalidArgument (INVALID_CONFIG)."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Contexts()
    except OSError as error:
        raise InvalidArgument("INVALID_CONFIG", f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidArgument("INVALID_CONFIG", f"cannot read {path}: it is not UTF-8") from None
    return parse_contexts(text, str(path))


def parse_contexts(text: str, source: str) -> Contexts:
    """Reads the text of a contexts file. Raises InvalidArgument (INVALID_CONFIG)."""
    try:
        content: Any = yaml.safe_load(text)
        contexts = msgspec.convert({} if content is None else content, Contexts)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise InvalidArgument(
            "INVALID_CONFIG", f"{source} is not YAML: {where}{getattr(error, 'problem', None) or 'bad characters'}"
        ) from None
    except msgspec.ValidationError as error:
        raise InvalidArgument("INVALID_CONFIG", f"{source} is not a contexts file: {error}") from None
    names = [context.name for context in contexts.contexts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidArgument("INVALID_CONFIG", f"{source} has the context {twice[0]} twice: rename one")
    return contexts


def save_contexts(path: Path, contexts: Contexts) -> None:
    """Writes a contexts file in one step, mode 0600. Raises FailedPrecondition (CONFIG_NOT_WRITABLE)."""
    _write_private(path, contexts.to_yaml())


def write_context_file(path: Path, context: Context) -> None:
    """Writes a file with one context, its current one, mode 0600. Raises FailedPrecondition (CONFIG_NOT_WRITABLE)."""
    _write_private(path, context.to_yaml())


def _write_private(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_private(path.resolve(), text.encode())  # a link stays a link
    except OSError as error:
        raise FailedPrecondition("CONFIG_NOT_WRITABLE", f"cannot write {path}: {error.strerror}") from None
