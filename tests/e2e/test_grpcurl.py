"""docs/grpcurl.md is run with the real grpcurl: every block of a part, in order, in one shell."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tests.conformance.shim_process import running
from tests.e2e.tree_process import controller, until_entered

pytestmark = pytest.mark.real

PAGE = (Path(__file__).parents[2] / "docs" / "grpcurl.md").read_text()
SCRIPT_SECONDS = 180.0


def script(part: str) -> str:
    """The commands of one part of the page. Every block of a shell says whose part it is, or that it is not run."""
    blocks = re.findall(r"^```sh ?(.*)\n((?:.*\n)*?)```$", PAGE, re.MULTILINE)
    assert {word for word, _ in blocks} == {"shim", "controller", "no-run"}
    return "set -euxo pipefail\n" + "\n".join(text for word, text in blocks if word == part)


async def said(part: str, variables: Mapping[str, str], directory: Path) -> str:
    """What the commands of a part print, standard error in between; the test fails when one of them does."""
    process = await asyncio.create_subprocess_exec(
        "bash",
        "-c",
        script(part),
        cwd=directory,
        env={**os.environ, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), SCRIPT_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    text = output.decode()
    assert process.returncode == 0, text
    return text


async def works_with(command: Sequence[str], directory: Path) -> None:
    """Every block for shims does what the page says with this one."""
    async with running(command, directory) as shim:
        text = await said("shim", {"SHIM": shim.address}, directory)
    assert "ote.api.shim.v1.ShimService\n" in text
    assert '"status": "SERVING"' in text
    assert text.count('"action": "ACTION_CREATED"') == 2, "the same id has one effect and one result"
    assert '"data":{"to":"you"}' in text.replace('": ', '":')
    assert '"state": "CANCEL_STATE_UNKNOWN"' in text
    assert '"outcome": "OUTCOME_CANCELLED"' in text
    assert '"action": "ACTION_DELETED"' in text


async def test_the_page_works_with_the_local_shim(real_part: Callable[[str], str]) -> None:
    real_part("grpcurl")
    with tempfile.TemporaryDirectory(prefix="ote-") as name:
        command = [sys.executable, "-m", "ote.apps.local_shim", "--driver", "process", "--listen", "ADDRESS"]
        await works_with([*command, "--data-dir", f"{name}/data"], Path(name))


@pytest.mark.parametrize("language", ["go", "node"])
async def test_the_page_works_with_the_example_shims(
    language: str, real_part: Callable[[str], str], example_shim: Callable[[str], list[str]]
) -> None:
    real_part("grpcurl")
    with tempfile.TemporaryDirectory(prefix="ote-") as name:
        await works_with([*example_shim(language), "--listen", "ADDRESS"], Path(name))


async def test_the_page_works_with_a_controller(real_part: Callable[[str], str], tmp_path: Path) -> None:
    real_part("grpcurl")
    async with controller("root", tmp_path, "--shim", "process") as data:
        variables = {
            "CONTROLLER": await until_entered(data),
            "NAME": "root",
            "CONTEXT": str(data / "admin.yaml"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        text = await said("controller", variables, tmp_path)
    assert "ote.api.route.v1.RouteService\n" in text
    assert '"status": "SERVING"' in text
    assert '"state": "TARGET_STATE_SUCCEEDED"' in text
    assert '"SUCCEEDED": 1' in text
    assert "CLUSTER_NOT_FOUND" in text
    assert (tmp_path / "key.pem").stat().st_mode & 0o077 == 0
