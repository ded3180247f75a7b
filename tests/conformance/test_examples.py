"""The example shims in other languages are built from the contract and pass the whole suite."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from ote.conformance import CheckStatus, table_text
from tests.conformance.shim_process import running, suite

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

EXAMPLES = Path(__file__).parents[2] / "examples" / "shims"
BUILD_SECONDS = 600

NEVER_APPLIES = {
    "capabilities.object-kinds",
    "logs.absent-pod",
    "logs.output",
    "restart.remembered",
    "restart.cancelled-remembered",
    "restart.killed-while-observing",
}
"""An example takes every kind, has no logs, and forgets at a restart, all of which it says."""


def built(language: str, out: Path) -> None:
    """Build an example into this directory."""
    subprocess.run(
        [str(EXAMPLES / language / "build.sh"), str(out)],
        check=True,
        timeout=BUILD_SECONDS,
        env={**os.environ, "PYTHON": sys.executable},
    )


async def passes(command: list[str]) -> None:
    """Run the shim and the suite, all of it."""
    with tempfile.TemporaryDirectory(prefix="ote-") as directory:
        async with running(command, Path(directory)) as shim:
            report = await suite(shim)
    assert report.ok, table_text(report)
    skipped = {check.id for check in report.checks if check.status is CheckStatus.SKIPPED}
    assert skipped <= NEVER_APPLIES, table_text(report)


async def test_the_go_shim_passes_the_suite(real_part: Callable[[str], str], tmp_path: Path) -> None:
    real_part("go")
    built("go", tmp_path)
    await passes([str(tmp_path / "ote-memory-shim"), "--listen", "ADDRESS"])


async def test_the_node_shim_passes_the_suite(real_part: Callable[[str], str], tmp_path: Path) -> None:
    node = real_part("node")
    built("node", tmp_path)
    await passes([node, str(tmp_path / "main.js"), "--listen", "ADDRESS"])


def test_building_the_examples_leaves_the_checkout_as_it_was(real_part: Callable[[str], str], tmp_path: Path) -> None:
    real_part("go")
    real_part("npm")
    before = sorted(EXAMPLES.rglob("*"))
    built("go", tmp_path / "go")
    built("node", tmp_path / "node")
    assert sorted(EXAMPLES.rglob("*")) == before
