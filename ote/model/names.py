"""Which names, labels and tags are allowed, and one clear sentence for each that is not.

What lives here: the rules. What does not: what names mean (registry), how they are matched (`selectors`).
The rules of labels are those of Kubernetes, so that a label can be handed on to a cluster as it is.
"""

from __future__ import annotations

import re

from ote.model.errors import InvalidArgument

MAX_NAME = 63
"""Characters in a cluster's name, in the name part of a label's key, in a label's value and in a tag."""
MAX_PREFIX = 253
"""Characters in the prefix of a label's key."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_WORD = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_HEX = frozenset("0123456789abcdef")
_WORD_RULE = f"1 to {MAX_NAME} of A-Z, a-z, 0-9, '-', '_' and '.', beginning and ending with a letter or digit"


def is_name(text: str) -> bool:
    """Whether the text can be a cluster's name."""
    return len(text) <= MAX_NAME and _NAME.fullmatch(text) is not None


def check_name(name: str) -> str:
    """Returns the name of a cluster. Raises InvalidArgument (INVALID_NAME)."""
    if not is_name(name):
        raise InvalidArgument(
            "INVALID_NAME",
            f"{_shown(name)} cannot be the name of a cluster: it takes 1 to {MAX_NAME} of a-z, 0-9 and '-', "
            "beginning and ending with a letter or digit",
        )
    return name


def is_uid(text: str) -> bool:
    """Whether the text can be a cluster's uid: 32 hexadecimal digits."""
    return len(text) == 32 and _HEX.issuperset(text)


def check_label_key(key: str) -> str:
    """Returns the key of a label, "[prefix/]name". Raises InvalidArgument (INVALID_LABEL)."""
    prefix, slash, word = key.rpartition("/")
    if slash and not (len(prefix) <= MAX_PREFIX and _PREFIX.fullmatch(prefix)):
        raise _invalid(
            key, "key of a label", f"before the '/' it takes a domain name of at most {MAX_PREFIX} characters"
        )
    if not _is_word(word):
        raise _invalid(key, "key of a label", f"it takes {_WORD_RULE}")
    return key


def check_label_value(value: str) -> str:
    """Returns the value of a label; it may be empty. Raises InvalidArgument (INVALID_LABEL)."""
    if value and not _is_word(value):
        raise _invalid(value, "value of a label", f"it may be empty, or takes {_WORD_RULE}")
    return value


def check_tag(tag: str) -> str:
    """Returns the tag. Raises InvalidArgument (INVALID_LABEL)."""
    if not _is_word(tag):
        raise _invalid(tag, "tag", f"it takes {_WORD_RULE}")
    return tag


def parse_label(text: str) -> tuple[str, str]:
    """Splits and checks "key=value". Raises InvalidArgument (INVALID_LABEL)."""
    key, equals, value = text.partition("=")
    if not equals:
        raise InvalidArgument("INVALID_LABEL", f"{_shown(text)} is not a label: write KEY=VALUE")
    return check_label_key(key), check_label_value(value)


def _is_word(text: str) -> bool:
    return len(text) <= MAX_NAME and _WORD.fullmatch(text) is not None


def _invalid(text: str, what: str, rule: str) -> InvalidArgument:
    return InvalidArgument("INVALID_LABEL", f"{_shown(text)} cannot be the {what}: {rule}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
