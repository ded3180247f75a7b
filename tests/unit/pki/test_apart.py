"""Work on certificates that is done apart is the same work, and leaves nothing in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ote.pki import Authority, csr, identity_of, new_key, public_key_of, public_key_of_csr

_APART = """
import sys
from ote.model.errors import Unauthenticated
from ote.pki import apart, public_key_of

key, request = apart.new_member("shop-7")
print(key.hex(), request.hex(), apart.csr(key, "shop-7").hex(), public_key_of(key).hex())
print(apart.identity_of(bytes.fromhex(sys.argv[1])))
try:
    apart.identity_of(b"garbage")
except Unauthenticated as error:
    print(error.reason)
assert "cryptography" not in sys.modules
apart.load()
assert "cryptography" in sys.modules
"""


def test_it_is_the_same_work_and_leaves_nothing_in_memory() -> None:
    authority = Authority.create_root("0" * 32)
    chain = authority.issue_cluster(csr(new_key(), "shop-7"), "shop-7", "1" * 32, 3600.0)
    command = [sys.executable, "-c", _APART, chain.hex()]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    made, identity, reason = done.stdout.splitlines()
    key, request, again, public = (bytes.fromhex(word) for word in made.split())
    assert public == public_key_of(key) == public_key_of_csr(request) == public_key_of_csr(again)
    assert identity == repr(identity_of(chain))
    assert reason == "CERTIFICATE_UNKNOWN"
