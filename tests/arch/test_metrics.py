"""The catalog of metrics holds what is counted, and nothing else."""

from __future__ import annotations

from pathlib import Path

from ote.telemetry.catalog import CATALOG

OTE = Path(__file__).parents[2] / "ote"


def test_every_metric_of_the_catalog_is_counted_by_some_code() -> None:
    """The catalog refuses to count what it does not name; this is the other way round."""
    sources = [
        path for path in OTE.rglob("*.py") if path.name != "catalog.py" and path.relative_to(OTE).parts[0] != "api"
    ]
    code = "\n".join(path.read_text() for path in sources)
    assert [metric.name for metric in CATALOG if f'"{metric.name}"' not in code] == []
