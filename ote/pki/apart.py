"""A member's own work on certificates, done by a process that ends after it: `python -m ote.pki.apart`.

Not here: the work itself (`keys`, `certificates`). The one idea: a member without children needs `cryptography` when it
joins and once in weeks, to renew; what a process has loaded it keeps, so that process is another one. Where
`cryptography` is loaded already, as at every controller with children, nothing is gained, and the work is done at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from typing import Any, TypeVar

import msgspec

import ote.pki
from ote.model.errors import Internal, InvalidArgument, Unauthenticated
from ote.pki.identity import Identity

T = TypeVar("T")

_TIMEOUT = 60.0
_ERRORS = {error.code: error for error in (InvalidArgument, Unauthenticated)}


def load() -> None:
    """Load `cryptography` for good, where it is needed anyway: nothing is done apart from then on."""
    import_module("ote.pki.authority")


def new_member(name: str) -> tuple[bytes, bytes]:
    """See `ote.pki.new_member`. Blocks, as all of these, for 0.1 s. Raises Internal (NO_PROCESS), too."""
    return _run("new_member", tuple[bytes, bytes], name)


def csr(key_pem: bytes, common_name: str) -> bytes:
    """See `ote.pki.csr`."""
    return _run("csr", bytes, key_pem, common_name)


def identity_of(cert_pem: bytes) -> Identity:
    """See `ote.pki.identity_of`."""
    return _run("identity_of", Identity, cert_pem)


def verify_chain(chain_pem: bytes, root_pem: bytes) -> Identity:
    """See `ote.pki.verify_chain`."""
    return _run("verify_chain", Identity, chain_pem, root_pem)


def _run(name: str, kind: type[T], *arguments: bytes | str) -> T:
    if "cryptography" in sys.modules:
        here: T = getattr(ote.pki, name)(*arguments)
        return here
    try:
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name],
            input=msgspec.msgpack.encode((name, arguments)),
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            timeout=_TIMEOUT,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Internal("NO_PROCESS", f"certificates cannot be worked on: {error}") from error
    failed, answer = msgspec.msgpack.decode(done.stdout, type=tuple[bool, bytes])
    if failed:
        code, reason, message = msgspec.msgpack.decode(answer, type=tuple[str, str, str])
        raise _ERRORS[code](reason, message)
    return msgspec.msgpack.decode(answer, type=kind)


def _main() -> None:
    name, arguments = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=tuple[str, list[Any]])
    failed, answer = False, None
    try:
        answer = getattr(ote.pki, name)(*arguments)
    except tuple(_ERRORS.values()) as error:
        failed, answer = True, (error.code, error.reason, error.message)
    sys.stdout.buffer.write(msgspec.msgpack.encode((failed, msgspec.msgpack.encode(answer))))


if __name__ == "__main__":
    _main()
