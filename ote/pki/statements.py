"""Statements signed with a member's own key, such as its attachments. Not here: what they say (`model`)."""

from __future__ import annotations

from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ote.pki.keys import load_private_key

_DOMAIN = b"ote statement 1\0"
"""Goes before every statement, so that no signature of TLS or of a certificate request can pass for one."""

_ALGORITHM = ec.ECDSA(hashes.SHA256())


def sign_statement(key: bytes | ec.EllipticCurvePrivateKey, statement: bytes) -> bytes:
    """ECDSA signature (DER) with a private key (PEM, or loaded)."""
    loaded = load_private_key(key) if isinstance(key, bytes) else key
    return loaded.sign(_DOMAIN + statement, _ALGORITHM)


def verify_statement(public_key_der: bytes, statement: bytes, signature: bytes) -> bool:
    """Whether the holder of the key signed exactly these bytes. A key that cannot be read signed nothing."""
    key = _load(public_key_der)
    if key is None:
        return False
    try:
        key.verify(signature, _DOMAIN + statement, _ALGORITHM)
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=4096)
def _load(public_key_der: bytes) -> ec.EllipticCurvePublicKey | None:
    try:
        key = serialization.load_der_public_key(public_key_der)
    except (ValueError, UnsupportedAlgorithm):
        return None
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    return None
