"""The shape of the checkout: what may lie where, and how large it may grow."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
SCRIPTS: dict[str, str] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["scripts"]
LONGEST = 600


def test_no_package_is_named_cmd() -> None:
    """A package `cmd` would shadow the standard library's, which pdb and pytest import."""
    assert list((CHECKOUT / "cmd").rglob("__init__.py")) == []


@pytest.mark.parametrize("binary", sorted(SCRIPTS))
def test_every_binary_has_a_main_that_only_calls_its_app(binary: str) -> None:
    module, function = SCRIPTS[binary].split(":")
    expected = f"from {module} import {function}\n\nraise SystemExit({function}())\n"
    assert (CHECKOUT / "cmd" / binary / "main.py").read_text() == expected


def test_every_folder_in_cmd_is_a_binary() -> None:
    assert {path.name for path in (CHECKOUT / "cmd").iterdir()} - {"__pycache__"} == set(SCRIPTS)


def test_no_module_is_longer_than_a_reader_can_hold() -> None:
    modules = [
        path
        for folder in ("ote", "tests")
        for path in (CHECKOUT / folder).rglob("*.py")
        if "api" not in path.relative_to(CHECKOUT).parts[1:2]
    ]
    lengths = {str(path.relative_to(CHECKOUT)): len(path.read_text().splitlines()) for path in modules}
    assert {path: length for path, length in lengths.items() if length > LONGEST} == {}


def test_packages_have_an_init() -> None:
    """A folder without one is a namespace package: import-linter and the build would not see it."""
    folders = {path.parent for path in (CHECKOUT / "ote").rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []
