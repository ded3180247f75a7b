"""Join tokens as text: everything that a joiner needs to call Enrol, in one word.

Not here: who made a token and how often it was used (the controller). The one idea: a token carries the tree's CA and a
certificate of role join with its key, so the very first connection is already mTLS.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from dataclasses import dataclass, field

import msgspec

from ote.model.errors import InvalidArgument

PREFIX = "ote1."
_HEAD = struct.Struct(">HI")
_MAX_CHARS = 64 * 1024


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What a token carries.

    ca_pem: the tree's root certificate. chain_pem, key_pem: of role join. maker_name: controller that made it and has
    to redeem it. parent: address to dial, empty when its maker advertises none.
    """

    ca_pem: bytes
    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    maker_name: str
    parent: str


def encode_token(ca_pem: bytes, join_chain_pem: bytes, join_key_pem: bytes, maker_name: str, parent: str = "") -> str:
    """The token as one word, `ote1.` and base64url. It is a secret."""
    fields = (_pack_pem(ca_pem), _pack_pem(join_chain_pem), _pack_pem(join_key_pem), maker_name, parent)
    body = zlib.compress(msgspec.msgpack.encode(fields), 9)
    raw = _HEAD.pack(len(body), zlib.crc32(body)) + body
    return PREFIX + base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


def decode_token(text: str) -> JoinToken:
    """Reads a token; white space from wrapped lines does not matter.

    Raises InvalidArgument (TOKEN_MALFORMED): not a token, cut off, or damaged, and says which.
    """
    word = "".join(text.split())
    if not word.startswith(PREFIX):
        raise _malformed(f"this is not a join token: a token begins with {PREFIX!r}")
    if len(word) > _MAX_CHARS:
        raise _malformed("this is not a join token: it is too long")
    try:
        encoded = word.removeprefix(PREFIX)
        encoded = encoded[: len(encoded) - (len(encoded) % 4 == 1)]
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _malformed("the join token is damaged: it holds characters that no token has") from None
    if len(raw) < _HEAD.size:
        raise _malformed("the join token is cut off: copy all of it, or use a file (@FILE)")
    length, checksum = _HEAD.unpack_from(raw)
    body = raw[_HEAD.size :]
    if len(body) < length:
        raise _malformed("the join token is cut off: copy all of it, or use a file (@FILE)")
    if len(body) > length or zlib.crc32(body) != checksum:
        raise _malformed("the join token is damaged: copy it again")
    return _unpack(body)


def _unpack(body: bytes) -> JoinToken:
    try:
        inflater = zlib.decompressobj()
        packed = inflater.decompress(body, _MAX_CHARS)
        fields = msgspec.msgpack.decode(packed, type=tuple[list[bytes], list[bytes], list[bytes], str, str])
    except (zlib.error, msgspec.MsgspecError):
        raise _malformed("the join token is damaged: make another") from None
    ca, chain, key, maker, parent = fields
    return JoinToken(
        ca_pem=_unpack_pem("CERTIFICATE", ca),
        chain_pem=_unpack_pem("CERTIFICATE", chain),
        key_pem=_unpack_pem("PRIVATE KEY", key),
        maker_name=maker,
        parent=parent,
    )


def _malformed(message: str) -> InvalidArgument:
    return InvalidArgument("TOKEN_MALFORMED", message)


def _pack_pem(pem: bytes) -> list[bytes]:
    blocks: list[bytes] = []
    lines: list[bytes] = []
    for line in pem.splitlines():
        if line.startswith(b"-----BEGIN"):
            lines = []
        elif line.startswith(b"-----END"):
            blocks.append(base64.b64decode(b"".join(lines)))
        else:
            lines.append(line)
    return blocks


def _unpack_pem(label: str, blocks: list[bytes]) -> bytes:
    text: list[str] = []
    for block in blocks:
        encoded = base64.b64encode(block).decode("ascii")
        rows = [encoded[i : i + 64] for i in range(0, len(encoded), 64)]
        text += [f"-----BEGIN {label}-----", *rows, f"-----END {label}-----"]
    return ("\n".join(text) + "\n").encode("ascii")
