"""P-256 keys, signatures and certificate requests. Not here: what is signed with them (`authority`, `statements`)."""

from __future__ import annotations

from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from ote.model.errors import InvalidArgument

_MAX_CSR_BYTES = 8 * 1024
_ALGORITHM = ec.ECDSA(hashes.SHA256())


def new_key() -> bytes:
    """A fresh P-256 private key as unencrypted PKCS #8 PEM."""
    return private_pem(ec.generate_private_key(ec.SECP256R1()))


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8 PEM of a key."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@lru_cache(maxsize=16)
def load_private_key(key_pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The key of a PEM. Raises InvalidArgument (INVALID_KEY) for anything but a P-256 private key."""
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidArgument("INVALID_KEY", "the private key cannot be read: it has to be unencrypted PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidArgument("INVALID_KEY", "the private key has to be on the curve P-256")
    return key


def public_der(key: ec.EllipticCurvePublicKey) -> bytes:
    """SubjectPublicKeyInfo in DER, the form in which keys are kept and compared."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


class Key:
    """A private key (PEM), as `ote.pki.openssl.Key`, for where that cannot be used. Raises InvalidArgument."""

    def __init__(self, key_pem: bytes) -> None:
        self._key = load_private_key(key_pem)
        self.public_der = public_der(self._key.public_key())

    def sign(self, message: bytes) -> bytes:
        """ECDSA signature (DER) over SHA-256."""
        return self._key.sign(message, _ALGORITHM)


def is_signed(public_key_der: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the holder of a P-256 key signed exactly these bytes."""
    key = _load_public_key(public_key_der)
    if key is None:
        return False
    try:
        key.verify(signature, message, _ALGORITHM)
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=4096)
def _load_public_key(public_key_der: bytes) -> ec.EllipticCurvePublicKey | None:
    try:
        key = serialization.load_der_public_key(public_key_der)
    except (ValueError, UnsupportedAlgorithm):
        return None
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    return None


def new_member(name: str) -> tuple[bytes, bytes]:
    """A member's fresh private key (PEM), and its certificate request."""
    key = new_key()
    return key, csr(key, name)


def csr(key_pem: bytes, common_name: str) -> bytes:
    """A PKCS #10 request in DER. The name in it is for people: an authority takes only key and signature from it."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(load_private_key(key_pem), hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def public_key_of_csr(csr_der: bytes) -> bytes:
    """The public key (DER) of a request whose signature proves that the sender holds the private key.

    Raises InvalidArgument (INVALID_CSR).
    """
    return public_der(requested_key(csr_der))


def requested_key(csr_der: bytes) -> ec.EllipticCurvePublicKey:
    """The loaded key of a request; see public_key_of_csr."""
    if len(csr_der) > _MAX_CSR_BYTES:
        raise InvalidArgument("INVALID_CSR", f"the certificate request is over {_MAX_CSR_BYTES} bytes")
    try:
        request = x509.load_der_x509_csr(csr_der)
        key = request.public_key()
        signed = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        raise InvalidArgument("INVALID_CSR", "the certificate request is not PKCS #10 in DER") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidArgument("INVALID_CSR", "the key of the certificate request has to be on the curve P-256")
    if not signed:
        raise InvalidArgument("INVALID_CSR", "the certificate request is not signed with its own key")
    return key
