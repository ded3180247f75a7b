"""The generated files say what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from ote.apps import docs

CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted(docs.generated()))
def test_a_generated_file_is_up_to_date(path: str) -> None:
    assert (CHECKOUT / path).read_text() == docs.generated()[path], "make generate"


def test_a_file_that_differs_is_named(tmp_path: Path) -> None:
    for path, text in docs.generated().items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert docs.outdated(tmp_path) == []
    (tmp_path / "docs/metrics.md").write_text("edited")
    assert docs.outdated(tmp_path) == ["docs/metrics.md"]
