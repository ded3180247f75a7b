from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.reference_shim import ReferenceServer

CHECKOUT = Path(__file__).parents[3]
FEW = ("--only", "handshake.described", "--only", "handshake.stable")


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    path = str(tmp_path / "shim.sock")
    server = ReferenceServer(path)
    await server.start()
    yield f"unix:{path}"
    await server.stop()


async def ctl(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(CHECKOUT / "cmd" / "ote-ctl" / "main.py"),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
    )
    out, errors = await asyncio.wait_for(process.communicate(), 50)
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


async def test_info_tells_what_a_shim_can_do(address: str) -> None:
    code, out, _ = await ctl("shim", "info", address, "-o", "json")
    document = json.loads(out)
    assert code == 0
    assert (document["protocol_version"], document["memory"]) == ("v1", "INSTANCE")
    assert "apply" in document["capabilities"]
    _, text, _ = await ctl("shim", "info", address)
    assert "Memory:   INSTANCE" in text.splitlines()


async def test_conformance_shows_each_check_and_the_report(address: str) -> None:
    code, out, errors = await ctl("shim", "conformance", address, *FEW, "-o", "json")
    document = json.loads(out)
    assert code == 0, out
    assert document["summary"]["total"] == len(document["checks"]) == len(errors.splitlines())
    code, out, _ = await ctl("shim", "conformance", address, *FEW)
    assert code == 0, out
    assert out.splitlines()[-1].split()[1] == "checks:"


async def test_a_shim_that_fails_is_exit_code_3(tmp_path: Path) -> None:
    server = ReferenceServer(str(tmp_path / "bad.sock"), fault="instance-id-changes")
    await server.start()
    code, _, _ = await ctl("shim", "conformance", f"unix:{tmp_path}/bad.sock", *FEW)
    await server.stop()
    assert code == 3


async def test_where_no_shim_is_is_exit_code_5(tmp_path: Path) -> None:
    for verb in ("info", "conformance"):
        code, out, errors = await ctl("shim", verb, f"unix:{tmp_path}/none.sock")
        assert (code, out, errors.count("\n")) == (5, "", 1)


async def test_a_shim_elsewhere_is_dialled_with_a_context_only(tmp_path: Path) -> None:
    code, _, errors = await ctl("--config", str(tmp_path / "none.yaml"), "shim", "info", "10.255.255.1:8262")
    assert (code, "no context" in errors) == (6, True)
