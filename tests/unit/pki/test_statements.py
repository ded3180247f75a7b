"""Statements count only with the right key and the exact bytes."""

from __future__ import annotations

from ote.pki import new_key, public_key_of, sign_statement, verify_statement


def test_a_statement_is_its_signers() -> None:
    key, other = new_key(), new_key()
    signature = sign_statement(key, b"uid 1 epoch 7")
    assert verify_statement(public_key_of(key), b"uid 1 epoch 7", signature)
    assert not verify_statement(public_key_of(other), b"uid 1 epoch 7", signature)
    assert not verify_statement(public_key_of(key), b"uid 1 epoch 8", signature)


def test_nonsense_is_no_signature_and_no_key() -> None:
    key = new_key()
    assert not verify_statement(public_key_of(key), b"x", b"")
    assert not verify_statement(public_key_of(key), b"x", b"\x30\x06garbage")
    assert not verify_statement(b"garbage", b"x", sign_statement(key, b"x"))
