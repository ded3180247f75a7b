"""How values are written by people: durations, addresses, labels, switches. Standard library only.

Every parser raises InvalidArgument with a message that shows how to write it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from ote.model.errors import InvalidArgument

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h|d))+\Z")
_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


def parse_duration(text: str) -> float:
    """Seconds of "500ms", "2s", "1h30m", "7d"; "0" needs no unit. Raises InvalidArgument (INVALID_DURATION)."""
    word = text.strip()
    if word == "0":
        return 0.0
    if not _DURATION.match(word):
        raise InvalidArgument("INVALID_DURATION", f"{text!r} is not a duration: write 500ms, 2s, 5m, 1h or 7d")
    return math.fsum(float(number) * _UNITS[unit] for number, unit in _PART.findall(word))


def format_duration(seconds: float) -> str:
    """The shortest way to write a duration: "2s", "1h30m", "250ms", "never" for infinity."""
    if math.isinf(seconds):
        return "never"
    left = round(seconds * 1000)
    if left == 0:
        return "0s"
    parts = []
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def split_host_port(address: str) -> tuple[str, int]:
    """(Host, port) of HOST:PORT or [V6]:PORT; port 0 is allowed. Raises InvalidArgument (INVALID_ADDRESS)."""
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else -1
    odd = (":" in bare and bare == host) or any(c.isspace() or c in "/@[]" for c in bare)
    if not colon or not bare or odd or not 0 <= number <= 65535:
        raise InvalidArgument("INVALID_ADDRESS", f"{address!r} is not an address: write HOST:PORT")
    return bare, number


def parse_bool(text: str) -> bool:
    """Raises InvalidArgument (INVALID_BOOL)."""
    word = text.strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise InvalidArgument("INVALID_BOOL", f"{text!r} is neither true nor false")


def parse_pairs(items: Iterable[str]) -> dict[str, str]:
    """The mapping of ("K=V", …). Raises InvalidArgument (INVALID_LABEL) for one without "=", or a key given twice."""
    pairs: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise InvalidArgument("INVALID_LABEL", f"{item!r} is not a label: write KEY=VALUE")
        if key in pairs:
            raise InvalidArgument("INVALID_LABEL", f"the label {key!r} is given twice")
        pairs[key] = value
    return pairs
