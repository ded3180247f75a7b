"""The guide keeps its word: its skeleton runs, and the suite finds nothing wrong with it."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ote.conformance import CHECKS, CheckStatus, table_text
from ote.conformance.manifests import READY_ANNOTATION
from tests.conformance.shim_process import ShimProcess, suite

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "authoring-shims.md").read_text()


def skeleton() -> str:
    """The one Python program in the guide."""
    found = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    assert len(found) == 1
    return str(found[0])


async def test_the_skeleton_of_the_guide_passes_the_suite() -> None:
    with tempfile.TemporaryDirectory(prefix="ote-") as directory:
        program = Path(directory) / "my_shim.py"
        program.write_text(skeleton())
        shim = ShimProcess([sys.executable, str(program), "ADDRESS"], f"unix:{directory}/s", {"PYTHONPATH": str(ROOT)})
        await shim.start()
        try:
            report = await suite(shim)
        finally:
            await shim.stop()
    assert report.ok, table_text(report)
    assert report.count(CheckStatus.PASSED) >= 30, table_text(report)


def test_the_stubs_are_generated_with_the_command_of_the_guide(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools")
    found = re.search(r"python -m grpc_tools\.protoc (-I .*?)```", GUIDE, re.DOTALL)
    assert found
    arguments = found.group(1).replace("\\\n", " ").split()
    moved = [word.replace("_out=.", f"_out={tmp_path}") for word in arguments]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *moved], cwd=ROOT, check=True, timeout=120)
    assert (tmp_path / "ote/api/shim/v1/shim_pb2_grpc.py").exists()


def test_the_guide_speaks_of_every_subject_and_of_the_annotation() -> None:
    for subject in {check.id.partition(".")[0] for check in CHECKS}:
        assert f"`{subject}`" in GUIDE, subject
    assert READY_ANNOTATION in GUIDE
