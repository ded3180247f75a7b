"""Statements count only with the right key and the exact bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

from ote.model.errors import InvalidArgument
from ote.pki import keys, new_key, openssl, public_key_of, sign_statement, verify_statement


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


@pytest.mark.parametrize("own", [openssl.Key, keys.Key])
def test_a_key_is_the_same_by_either_library(own: Callable[[bytes], openssl.Key | keys.Key]) -> None:
    pem = new_key()
    key = own(pem)
    assert key.public_der == keys.public_der(keys.load_private_key(pem).public_key())
    assert keys.is_signed(key.public_der, b"message", key.sign(b"message"))
    assert not keys.is_signed(key.public_der, b"massage", key.sign(b"message"))


def test_only_open_p256_keys_are_taken() -> None:
    secret = serialization.BestAvailableEncryption(b"secret")
    wrong = (
        b"",
        b"garbage",
        new_key()[:100],
        _pem(ec.generate_private_key(ec.SECP384R1())),
        _pem(ed25519.Ed25519PrivateKey.generate()),
        _pem(ec.generate_private_key(ec.SECP256R1()), secret),
    )
    for pem in wrong:
        with pytest.raises(InvalidArgument, match="private key") as caught:
            sign_statement(pem, b"x")
        assert caught.value.reason == "INVALID_KEY"


def test_a_python_without_an_openssl_of_its_own_signs_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise OSError("built in")

    monkeypatch.setattr(openssl, "_library", none)
    key = new_key()
    assert verify_statement(public_key_of(key), b"x", sign_statement(key, b"x"))


def _pem(
    key: PrivateKeyTypes, encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
