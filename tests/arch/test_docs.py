"""The generated pages of docs/ say what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from ote.apps import docs

FOLDER = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", sorted(docs.pages()))
def test_a_generated_page_is_up_to_date(name: str) -> None:
    assert (FOLDER / name).read_text() == docs.pages()[name], "make generate"


def test_a_page_that_differs_is_named(tmp_path: Path) -> None:
    for name, text in docs.pages().items():
        (tmp_path / name).write_text(text)
    assert docs.outdated(tmp_path) == []
    (tmp_path / "metrics.md").write_text("edited")
    assert docs.outdated(tmp_path) == ["metrics.md"]
