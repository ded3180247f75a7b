"""Lines of the log: the field `cluster` says whose log it is, on every line, and nothing else."""

from __future__ import annotations

import ast
from pathlib import Path

OTE = Path(__file__).parents[2] / "ote"
CALLS = {"debug", "info", "warning", "error", "log"}


def test_no_line_gives_the_name_of_another_where_that_of_the_controller_is() -> None:
    wrong = [
        f"{path.relative_to(OTE)}:{call.lineno}"
        for path in OTE.rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in CALLS
        and any(keyword.arg == "cluster" for keyword in call.keywords)
    ]
    assert wrong == []
