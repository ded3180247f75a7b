"""The example shims in other languages join a tree, and are members of it like any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.shim_process import running
from tests.e2e.tree_process import controller, ctl, ctl_json, until_entered, until_online

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]

EXAMPLES = Path(__file__).parents[2] / "examples" / "shims"
BUILD_SECONDS = 600

MANIFEST = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: greeting}
data: {hello: "%s"}
"""


def built(language: str, out: Path) -> None:
    """Build an example into this directory."""
    subprocess.run(
        [str(EXAMPLES / language / "build.sh"), str(out)],
        check=True,
        timeout=BUILD_SECONDS,
        env={**os.environ, "PYTHON": sys.executable},
    )


async def joins_a_tree(command: list[str], name: str, directory: Path) -> None:
    """A root and an edge with this shim: listed, applied to, read; again after the shim was killed."""
    with tempfile.TemporaryDirectory(prefix="ote-") as short:
        async with running(command, Path(short)) as shim, controller("root", directory) as root:
            address = await until_entered(root)
            token = directory / "token"
            code, _, errors = await ctl(root, "token", "create", "-o", str(token))
            assert code == 0, errors
            edge = ["--parent", address, "--join-token", f"@{token}", "--shim", shim.address]
            async with controller("edge", directory, *edge):
                shown = await until_online(root, "edge")
                assert shown["shim"]["name"] == name
                assert "apply" in shown["shim"]["capabilities"]
                await _apply_and_read(root, directory, "world")
                await shim.restart()
                await _apply_and_read(root, directory, "again")
                done = await ctl_json(root, "delete", "ConfigMap/greeting", "--clusters", "edge")
                assert done["targets"][0]["objects"][0]["action"] == "deleted"


async def _apply_and_read(root: Path, directory: Path, word: str) -> None:
    manifest = directory / "greeting.yaml"
    manifest.write_text(MANIFEST % word)
    done = await ctl_json(root, "apply", "-f", str(manifest), "--clusters", "edge")
    assert done["summary"] == {"SUCCEEDED": 1}, json.dumps(done)
    assert done["targets"][0]["objects"][0]["action"] == "created"
    read = await ctl_json(root, "get", "ConfigMap", "greeting", "--clusters", "edge")
    assert read["items"][0]["object"]["data"] == {"hello": word}


async def test_a_shim_written_in_go_joins_a_tree(real_part: Callable[[str], str], tmp_path: Path) -> None:
    real_part("go")
    built("go", tmp_path / "shim")
    command = [str(tmp_path / "shim" / "ote-memory-shim"), "--listen", "ADDRESS"]
    await joins_a_tree(command, "ote-memory-shim-go", tmp_path)


async def test_a_shim_written_in_node_joins_a_tree(real_part: Callable[[str], str], tmp_path: Path) -> None:
    node = real_part("node")
    built("node", tmp_path / "shim")
    await joins_a_tree(
        [node, str(tmp_path / "shim" / "main.js"), "--listen", "ADDRESS"], "ote-memory-shim-node", tmp_path
    )
