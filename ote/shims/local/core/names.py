"""How objects are named: the kinds the local shim knows, the key of an object, and what a valid name is.

Not here: what stands in an object (`schema`, `spec`). The one idea: a `Key` is the identity of an object everywhere in
this shim, in memory, in the store and in results.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Key(NamedTuple):
    """An object's identity. namespace is empty for kinds without one."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}" if self.namespace else f"{self.kind}/{self.name}"


class Kind(NamedTuple):
    """A kind of object: its API version, plural and short names in lower case, and whether it lives in a namespace."""

    name: str
    api_version: str
    aliases: tuple[str, ...]
    namespaced: bool = True


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("Namespace", "v1", ("namespaces", "ns"), namespaced=False),
        Kind("ConfigMap", "v1", ("configmaps", "cm")),
        Kind("Secret", "v1", ("secrets",)),
        Kind("Pod", "v1", ("pods", "po")),
        Kind("Deployment", "apps/v1", ("deployments", "deploy")),
        Kind("Job", "batch/v1", ("jobs",)),
    )
}
"""The kinds by name, in the order in which they are applied."""

WORKLOADS = ("Pod", "Deployment", "Job")
"""The kinds that run pods."""

DEFAULT_NAMESPACE = "default"

_BY_ALIAS = {alias: kind for kind in KINDS.values() for alias in (kind.name.lower(), *kind.aliases)}
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DATA_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def kind_named(text: str) -> Kind | None:
    """The kind of a name in any case, singular, plural or short; None where the shim has no such kind."""
    return _BY_ALIAS.get(text.lower())


def key_of(kind: Kind, namespace: str, name: str) -> Key:
    """The key of an object of a kind; an empty namespace means the default one."""
    return Key(kind.name, (namespace or DEFAULT_NAMESPACE) if kind.namespaced else "", name)


def is_label(text: str) -> bool:
    """Whether text is a DNS label: what namespaces, containers and volumes are named by."""
    return _LABEL.fullmatch(text) is not None


def is_subdomain(text: str) -> bool:
    """Whether text is a DNS subdomain of at most 253 characters: what objects are named by."""
    return len(text) <= 253 and _SUBDOMAIN.fullmatch(text) is not None


def is_data_key(text: str) -> bool:
    """Whether text can be a key of a ConfigMap or Secret, and so a file name."""
    return _DATA_KEY.fullmatch(text) is not None and text != "." and not text.startswith("..")


def is_env_name(text: str) -> bool:
    """Whether text can name an environment variable."""
    return _ENV_NAME.fullmatch(text) is not None


def is_label_value(text: str) -> bool:
    """Whether text can be the value of a label."""
    return _LABEL_VALUE.fullmatch(text) is not None


def is_label_key(text: str) -> bool:
    """Whether text can be the key of a label or annotation, with or without a DNS prefix."""
    prefix, slash, name = text.rpartition("/")
    return bool(name) and is_label_value(name) and (not slash or is_subdomain(prefix))
