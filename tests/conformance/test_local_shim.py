"""Our own shim takes the same road as a stranger's: a process, a socket, the whole suite."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
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


IMAGE = "localhost/ote-conformance-busybox:1"
APPLETS = ("sh", "sleep", "false")


def made_image(podman: str, busybox: str, folder: Path) -> None:
    """An image with what the suite's Pods run, made without a registry."""
    (folder / "busybox").write_bytes(Path(busybox).read_bytes())
    (folder / "busybox").chmod(0o755)
    copies = "\n".join(f"COPY busybox /bin/{applet}" for applet in APPLETS)
    (folder / "Containerfile").write_text(f"FROM scratch\n{copies}\n")
    command = [podman, "build", "--quiet", "--tag", IMAGE, str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=240)


@pytest.mark.real
@pytest.mark.timeout(600)
async def test_the_local_shim_keeps_the_contract_with_containers(
    real_part: Callable[[str], str], tmp_path: Path
) -> None:
    made_image(real_part("podman"), real_part("busybox"), tmp_path)
    with tempfile.TemporaryDirectory(prefix="ote-") as directory:
        command = [sys.executable, "-m", "ote.apps.local_shim", "--driver", "podman", "--listen", "ADDRESS"]
        async with running([*command, "--data-dir", f"{directory}/data"], Path(directory)) as shim:
            report = await suite(shim, pod_image=IMAGE)
    assert report.ok, table_text(report)
    skipped = {check.id for check in report.checks if check.status is CheckStatus.SKIPPED}
    assert skipped <= NEVER_APPLIES, table_text(report)
