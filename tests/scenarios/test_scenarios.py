"""Scenario files beside this one: each expectation in them holds, and the conversation is the golden one beside it.

A golden trace that changes is read before it is accepted: `pytest tests/scenarios --update-golden`, then the diff.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.sim.script import Failed, Script

FOLDER = Path(__file__).parent


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_scenario(path: Path, request: pytest.FixtureRequest) -> None:
    script = Script(path.read_text())
    try:
        trace = script.play()
    except Failed as failure:
        tail = "\n".join(script.trace.lines[-60:])
        pytest.fail(f"{path.name}, {failure}\n{tail}", pytrace=False)
    golden = path.with_suffix(".golden")
    if request.config.getoption("--update-golden", default=False):
        golden.write_text("\n".join(trace) + "\n")
    assert trace == golden.read_text().splitlines()
