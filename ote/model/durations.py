"""How long a command may be held, or may take: the same bounds wherever somebody says so.

Not here: how durations are written, and what becomes of them.
"""

from __future__ import annotations

from ote.model.errors import InvalidArgument

_LONGEST_DAYS = 366


def check_duration(name: str, seconds: float) -> float:
    """The seconds, where they can be meant. Errors: InvalidArgument (INVALID_DURATION)."""
    if seconds < 0:
        raise InvalidArgument("INVALID_DURATION", f"{name} cannot be less than 0")
    if seconds > _LONGEST_DAYS * 86400:
        raise InvalidArgument("INVALID_DURATION", f"{name} is too long: at most {_LONGEST_DAYS}d")
    return seconds
