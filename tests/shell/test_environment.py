"""What `make` does before anything is installed: a registry that fails for a moment fails nobody."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

ENVIRONMENT = runpy.run_path(str(Path(__file__).parents[2] / "requirements" / "environment.py"))
FAILS_TWICE = (
    "import sys; tries = open(sys.argv[1], 'a+'); tries.write('.'); tries.seek(0); sys.exit(tries.read() < '...')"
)


@pytest.mark.parametrize(("tries", "works"), [(3, True), (2, False)])
def test_a_command_that_fails_for_a_moment_is_tried_again(tmp_path: Path, tries: int, works: bool) -> None:
    file = tmp_path / "tries"
    command = [sys.executable, "-c", FAILS_TWICE, str(file)]
    assert ENVIRONMENT["in_the_end"](command, (0.0,) * (tries - 1)) is works
    assert file.read_text() == "." * tries
