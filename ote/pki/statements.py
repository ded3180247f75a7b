"""Statements signed with a member's own key, such as its attachments. Not here: what they say (`model`).

The one idea: to sign takes little memory, to verify takes all of `cryptography`, and a member without children only
signs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from ote.model.errors import InvalidArgument

_DOMAIN = b"ote statement 1\0"
"""Goes before every statement, so that no signature of TLS or of a certificate request can pass for one."""


class _OwnKey(Protocol):
    public_der: bytes

    def sign(self, message: bytes) -> bytes: ...


def sign_statement(key_pem: bytes, statement: bytes) -> bytes:
    """ECDSA signature (DER) with a private key. Raises InvalidArgument (INVALID_KEY)."""
    return _own_key(key_pem).sign(_DOMAIN + statement)


def public_key_of(key_pem: bytes) -> bytes:
    """The public key (DER) that belongs to a private key (PEM). Raises InvalidArgument (INVALID_KEY)."""
    return _own_key(key_pem).public_der


def verify_statement(public_key_der: bytes, statement: bytes, signature: bytes) -> bool:
    """Whether the holder of the key signed exactly these bytes. A key that cannot be read signed nothing."""
    from ote.pki.keys import is_signed  # late, as above

    return is_signed(public_key_der, _DOMAIN + statement, signature)


@lru_cache(maxsize=16)
def _own_key(key_pem: bytes) -> _OwnKey:
    try:
        from ote.pki import openssl

        return openssl.Key(key_pem)
    except (ImportError, OSError):  # a Python without ctypes, or with OpenSSL inside
        from ote.pki.keys import Key

        return Key(key_pem)
    except ValueError as error:
        raise InvalidArgument("INVALID_KEY", f"the private key cannot be used: {error}") from None
