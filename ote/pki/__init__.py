"""Keys, certificates, join tokens and signed statements; the only package that touches `cryptography` and OpenSSL.

Not here: who may do what (`ote.rpc.policy`), which tokens and evictions exist (the controller). The one idea: a
certificate says in one URI who its holder is and which authority vouches, and each authority is constrained to its own
part of the host names, so that TLS itself refuses what a compromised region signs for others.

Names are loaded when first used, and a member without children has its own certificates made and read `apart`:
`cryptography` costs 10 MB, which an idle leaf need not pay. Who wants that too imports the package, not names from it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ote.pki.authority import BACKDATE as BACKDATE
    from ote.pki.authority import Authority as Authority
    from ote.pki.certificates import identity_of as identity_of
    from ote.pki.certificates import split_chain as split_chain
    from ote.pki.certificates import verify_chain as verify_chain
    from ote.pki.files import make_private_dir as make_private_dir
    from ote.pki.files import replace_private as replace_private
    from ote.pki.files import write_private as write_private
    from ote.pki.identity import Identity as Identity
    from ote.pki.identity import is_vouched_from_above as is_vouched_from_above
    from ote.pki.keys import csr as csr
    from ote.pki.keys import new_key as new_key
    from ote.pki.keys import new_member as new_member
    from ote.pki.keys import public_key_of_csr as public_key_of_csr
    from ote.pki.statements import public_key_of as public_key_of
    from ote.pki.statements import sign_statement as sign_statement
    from ote.pki.statements import verify_statement as verify_statement
    from ote.pki.token import JoinToken as JoinToken
    from ote.pki.token import decode_token as decode_token
    from ote.pki.token import encode_token as encode_token

_HOME = {
    "Authority": "authority",
    "BACKDATE": "authority",
    "make_private_dir": "files",
    "replace_private": "files",
    "write_private": "files",
    "Identity": "identity",
    "identity_of": "certificates",
    "is_vouched_from_above": "identity",
    "split_chain": "certificates",
    "verify_chain": "certificates",
    "csr": "keys",
    "new_key": "keys",
    "new_member": "keys",
    "public_key_of_csr": "keys",
    "public_key_of": "statements",
    "sign_statement": "statements",
    "verify_statement": "statements",
    "JoinToken": "token",
    "decode_token": "token",
    "encode_token": "token",
}


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
