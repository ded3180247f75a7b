"""Payloads: bytes that are too large for one message, sent ahead in hashed pieces and named by their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from ote.api.command.v1 import command_pb2
from ote.model.errors import ResourceExhausted

PIECE_BYTES = 256 * 1024
MAX_PAYLOAD_BYTES = 16 * 1024 * 1024 + 4096
"""The largest manifest and its envelope."""
MAX_INLINE_BYTES = 1024 * 1024
"""The largest command that goes inside its request."""


def pieces_of(data: bytes) -> Iterator[bytes]:
    """The data in pieces; the last may be shorter."""
    return (data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES))


def payload_ref(data: bytes) -> command_pb2.PayloadRef:
    """The name of the bytes. Raises ResourceExhausted (PAYLOAD_TOO_LARGE)."""
    if len(data) > MAX_PAYLOAD_BYTES:
        raise ResourceExhausted(
            "PAYLOAD_TOO_LARGE",
            f"the command has {len(data):,} bytes, at most {MAX_PAYLOAD_BYTES:,} are carried: split the manifests",
        )
    return command_pb2.PayloadRef(
        sha256=hashlib.sha256(data).digest(),
        size=len(data),
        pieces=[hashlib.sha256(piece).digest() for piece in pieces_of(data)],
    )
