"""Opaque page tokens for lists. Not here: the lists.

The one idea: a token holds the key after which the next page begins, and a mark of the request it belongs to, so that a
page survives changes of the list and is not taken for another list's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TypeVar

from ote.model.errors import InvalidArgument

T = TypeVar("T")

DEFAULT_PAGE = 100
MAX_PAGE = 1000
_MARK = 6


def page_size(asked: int, default: int = DEFAULT_PAGE, most: int = MAX_PAGE) -> int:
    """How many to return: `default` for 0, at most `most`. Raises InvalidArgument (INVALID_PAGE_SIZE)."""
    if asked < 0:
        raise InvalidArgument("INVALID_PAGE_SIZE", "page_size is 0 or more", metadata={"field": "page_size"})
    return min(asked, most) if asked else default


def encode_page_token(after: str, scope: str = "") -> str:
    """A token for the page that begins after the key `after`. scope: what the request asked for, in any words."""
    return base64.urlsafe_b64encode(_mark(scope) + after.encode()).decode("ascii").rstrip("=")


def decode_page_token(token: str, scope: str = "") -> str | None:
    """The key after which to go on, None for the first page.

    Raises InvalidArgument (INVALID_PAGE_TOKEN) for one that was not made here or for another request.
    """
    if not token:
        return None
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        after = raw[_MARK:].decode()
    except (binascii.Error, ValueError):
        raise _invalid() from None
    if raw[:_MARK] != _mark(scope):
        raise _invalid()
    return after


def page_of(
    items: Sequence[T],
    key: Callable[[T], str],
    *,
    size: int,
    token: str,
    scope: str = "",
    default: int = DEFAULT_PAGE,
    most: int = MAX_PAGE,
) -> tuple[list[T], str]:
    """(A page, token of the next) of items in the order of their keys, by a request's page_size and page_token."""
    after = decode_page_token(token, scope)
    first = 0 if after is None else bisect_right(items, after, key=key)
    end = first + page_size(size, default, most)
    return list(items[first:end]), encode_page_token(key(items[end - 1]), scope) if end < len(items) else ""


def _mark(scope: str) -> bytes:
    return hashlib.sha256(scope.encode()).digest()[:_MARK]


def _invalid() -> InvalidArgument:
    return InvalidArgument(
        "INVALID_PAGE_TOKEN", "page_token is not from the last answer to this request", metadata={"field": "page_token"}
    )
