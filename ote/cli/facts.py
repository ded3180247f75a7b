"""Changes to labels and tags as people type them."""

from __future__ import annotations

from collections.abc import Sequence

from ote.model.errors import InvalidArgument
from ote.model.names import check_label_key, check_tag, parse_label


def label_changes(changes: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """(labels to set, keys to remove) of KEY=VALUE and KEY-. Raises InvalidArgument (INVALID_LABEL)."""
    labels: dict[str, str] = {}
    removed: list[str] = []
    for change in changes:
        if "=" in change:
            key, value = parse_label(change)
            labels[key] = value
        elif change.endswith("-"):
            removed.append(check_label_key(change[:-1]))
        else:
            raise InvalidArgument("INVALID_LABEL", f"{change!r} changes no label: write KEY=VALUE, or KEY- to remove")
    _not_both(set(labels), set(removed))
    return labels, removed


def tag_changes(changes: Sequence[str]) -> tuple[list[str], list[str]]:
    """(tags to add, tags to remove) of +TAG and -TAG. Raises InvalidArgument (INVALID_LABEL)."""
    added: list[str] = []
    removed: list[str] = []
    for change in changes:
        if change[:1] not in ("+", "-"):
            raise InvalidArgument("INVALID_LABEL", f"{change!r} changes no tag: write +TAG to add, -TAG to remove")
        (added if change[0] == "+" else removed).append(check_tag(change[1:]))
    _not_both(set(added), set(removed))
    return added, removed


def _not_both(added: set[str], removed: set[str]) -> None:
    for word in sorted(added & removed):
        raise InvalidArgument("INVALID_LABEL", f"{word} is both set and removed")
