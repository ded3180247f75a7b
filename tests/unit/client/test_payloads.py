from __future__ import annotations

import hashlib

import pytest

from ote.client.payloads import MAX_PAYLOAD_BYTES, PIECE_BYTES, payload_ref, pieces_of
from ote.model.errors import ResourceExhausted


def test_a_payload_is_named_by_the_hashes_of_its_pieces() -> None:
    data = bytes(range(256)) * (PIECE_BYTES // 256) + b"rest"
    ref = payload_ref(data)
    assert [len(piece) for piece in pieces_of(data)] == [PIECE_BYTES, 4]
    assert list(ref.pieces) == [hashlib.sha256(piece).digest() for piece in pieces_of(data)]
    assert (ref.size, ref.sha256) == (len(data), hashlib.sha256(data).digest())


def test_what_is_too_large_is_refused() -> None:
    with pytest.raises(ResourceExhausted):
        payload_ref(bytes(MAX_PAYLOAD_BYTES + 1))
