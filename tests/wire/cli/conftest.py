from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from ote.apps.ctl import program
from ote.client.contexts import Context, Entry, write_context_file
from tests.wire.cli.fake import FakeController


@dataclass
class Ctl:
    """Runs ote-ctl in this process, with a context whose entries are those given."""

    home: Path
    entries: list[str]

    def __call__(self, *arguments: str, stdin: bytes | None = None, **env: str) -> Result:
        self.write_context()
        runner = CliRunner(env={"OTE_CONFIG": str(self.config), "HOME": str(self.home), "OTE_DEBUG": "1", **env})
        command: click.Command = program()
        with ThreadPoolExecutor(
            1
        ) as thread:  # its asyncio.run would take away the loop that pytest's plugins keep here
            return thread.submit(runner.invoke, command, list(arguments), input=stdin, prog_name="ote-ctl").result()

    def write_context(self) -> Path:
        if not self.config.exists():
            write_context_file(self.config, Context("test", tuple(Entry(address) for address in self.entries)))
        return self.config

    @property
    def config(self) -> Path:
        return self.home / "config.yaml"

    def ok(self, *arguments: str, **keywords: Any) -> str:
        result = self(*arguments, **keywords)
        assert result.exit_code == 0, result.output
        return result.stdout


@pytest.fixture
def root() -> Iterator[FakeController]:
    with FakeController() as fake:
        yield fake
    assert fake.unused() == {}


@pytest.fixture
def ctl(root: FakeController, tmp_path: Path) -> Ctl:
    return Ctl(tmp_path, [root.address])
