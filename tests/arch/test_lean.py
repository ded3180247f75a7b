"""A controller without children loads only what it needs: on thousands of small machines each megabyte counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
NOT_NEEDED = {
    "cryptography": "10 MB: only those with children sign and verify certificates; `ote.pki.apart` does it for others",
    "rich": "5 MB: for people's terminals; structlog loads it where it can",
    "prometheus_client": "1.6 MB: only who is scraped",
    "http": "for prometheus_client and /metrics",
    "tarfile": "0.6 MB: for backups",
    "yaml": "for contexts and manifests: the shim reads those in a process of its own",
    "importlib.metadata": "0.6 MB, with email",
    "multiprocessing": "1 MB",
    "aiohttp": "10 MB",
}


def test_a_leaf_does_not_load_what_it_does_not_need() -> None:
    program = "import sys, ote.apps.clustercontroller, ote.shims.local.shim; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert sorted(NOT_NEEDED.keys() & set(done.stdout.split())) == []
