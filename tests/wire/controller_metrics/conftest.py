"""A tree of controllers whose metrics are served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.wire.controller.tree import Tree


@pytest.fixture
async def tree(tmp_path: Path) -> AsyncIterator[Tree]:
    """An empty tree; what is started in it is stopped."""
    made = Tree(tmp_path)
    yield made
    await made.close()
