"""Our own shim takes the same road as a stranger's: a process, a socket, the whole suite."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from ote.conformance import CHECKS, CheckStatus, table_text
from tests.conformance.shim_process import running, suite

SUBJECTS = list(dict.fromkeys(check.id.partition(".")[0] for check in CHECKS))

NEVER_APPLIES = {"capabilities.unlisted-refused", "restart.forgotten"}
"""It lists every capability, and it forgets nothing."""


@pytest.mark.parametrize("subject", SUBJECTS)
async def test_the_local_shim_keeps_the_contract(subject: str) -> None:
    with tempfile.TemporaryDirectory(prefix="ote-") as directory:
        command = [sys.executable, "-m", "ote.apps.local_shim", "--driver", "process", "--listen", "ADDRESS"]
        async with running([*command, "--data-dir", f"{directory}/data"], Path(directory)) as shim:
            report = await suite(shim, subject)
    assert report.ok, table_text(report)
    skipped = {check.id for check in report.checks if check.status is CheckStatus.SKIPPED}
    assert skipped <= NEVER_APPLIES, table_text(report)
