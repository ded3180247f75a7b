"""Signing with a private key by the OpenSSL that Python's own `ssl` has loaded.

Not here: anything else; certificates and the verifying of signatures are `cryptography`'s. The one idea: a controller
without children does nothing with its key but sign its attachments, and for that need not load a second OpenSSL,
10 MB of it.
"""

from __future__ import annotations

import ctypes
import weakref
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_void_p
from functools import lru_cache
from importlib.util import find_spec

_P256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
"""How the SubjectPublicKeyInfo of a P-256 key begins; what follows is the point."""

_FUNCTIONS = {
    "BIO_new_mem_buf": (c_void_p, [c_char_p, c_int]),
    "BIO_free": (c_int, [c_void_p]),
    "PEM_read_bio_PrivateKey": (c_void_p, [c_void_p, c_void_p, c_void_p, c_char_p]),
    "EVP_PKEY_free": (None, [c_void_p]),
    "i2d_PUBKEY": (c_int, [c_void_p, POINTER(c_char_p)]),
    "EVP_MD_CTX_new": (c_void_p, []),
    "EVP_MD_CTX_free": (None, [c_void_p]),
    "EVP_sha256": (c_void_p, []),
    "EVP_DigestSignInit": (c_int, [c_void_p, c_void_p, c_void_p, c_void_p, c_void_p]),
    "EVP_DigestSign": (c_int, [c_void_p, c_char_p, POINTER(c_size_t), c_char_p, c_size_t]),
    "ERR_clear_error": (None, []),
}


class Key:
    """A P-256 private key (unencrypted PEM). ValueError for any other, OSError where Python shows no OpenSSL."""

    def __init__(self, pem: bytes) -> None:
        self._lib = _library()
        bio = self._lib.BIO_new_mem_buf(pem, len(pem))
        self._key = self._lib.PEM_read_bio_PrivateKey(bio, None, None, b"")
        self._lib.BIO_free(bio)
        if self._key is None:
            self._lib.ERR_clear_error()
            raise ValueError("not an unencrypted private key")
        weakref.finalize(self, self._lib.EVP_PKEY_free, self._key)
        self.public_der = self._public_der()
        """SubjectPublicKeyInfo."""
        if not self.public_der.startswith(_P256):
            raise ValueError("not a key on the curve P-256")

    def sign(self, message: bytes) -> bytes:
        """ECDSA signature (DER) over SHA-256."""
        signature = ctypes.create_string_buffer(128)
        size = c_size_t(len(signature))
        context = self._lib.EVP_MD_CTX_new()
        try:
            begun = self._lib.EVP_DigestSignInit(context, None, self._lib.EVP_sha256(), None, self._key)
            signed = begun == 1 and self._lib.EVP_DigestSign(context, signature, byref(size), message, len(message))
        finally:
            self._lib.EVP_MD_CTX_free(context)
        if signed != 1:
            self._lib.ERR_clear_error()
            raise ValueError("OpenSSL cannot sign with the key")
        return signature.raw[: size.value]

    def _public_der(self) -> bytes:
        size = self._lib.i2d_PUBKEY(self._key, None)
        der = ctypes.create_string_buffer(max(size, 1))
        self._lib.i2d_PUBKEY(self._key, byref(ctypes.cast(der, c_char_p)))
        return der.raw[: max(size, 0)]


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    """The library that the module `_ssl` is linked with; OSError where it is built into Python itself."""
    spec = find_spec("_ssl")
    library = ctypes.CDLL(spec.origin if spec is not None else None)
    for name, (result, arguments) in _FUNCTIONS.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise OSError(f"Python's OpenSSL does not show {name}") from error
        function.restype, function.argtypes = result, arguments
    return library
