"""Trees for the tests of this folder; the ends of their logs are shown when a test fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.trees import FAST, Tree

_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    """Remembers at the test whether it failed."""
    report = yield
    item.stash[_FAILED] = item.stash.get(_FAILED, False) or report.failed
    return report


@pytest.fixture
async def tree(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Tree]:
    """A tree without a root yet, with short heartbeats."""
    tree = Tree(tmp_path / "tree", FAST)
    try:
        yield tree
    finally:
        await tree.stop()
        if request.node.stash.get(_FAILED, False):
            print(tree.logs())
