"""docs/architecture.md walks the tree of the code as it is."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs" / "architecture.md").read_text()
HEADED = re.findall(r"^### (.+)$", PAGE, re.MULTILINE)


def test_every_package_has_a_section() -> None:
    named = {name for heading in HEADED for name in re.findall(r"`ote/([a-z_]+)", heading)}
    packages = {path.parent.name for path in (CHECKOUT / "ote").glob("*/__init__.py")}
    assert packages - {"api"} == named


def test_every_file_that_is_named_exists() -> None:
    files = {str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob("ote/**/*.py")}
    files |= {str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob("tests/**/*.py")}
    files |= {str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob("proto/**/*.proto")}
    named = set(re.findall(r"`([\w./<>]+\.(?:py|proto))[`:]", PAGE)) - {"cmd/<program>/main.py"}
    assert sorted(name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in files)) == []


def test_every_module_of_the_controller_is_named() -> None:
    sections = dict(zip(HEADED, re.split(r"^### .+$", PAGE, flags=re.MULTILINE)[1:], strict=True))
    for package in ("ote/clustercontroller", "ote/clustercontroller/core"):
        text = sections[f"`{package}`"]
        modules = {path.name for path in (CHECKOUT / package).glob("*.py")} - {"__init__.py"}
        assert sorted(name for name in modules if f"`{name}`" not in text) == [], package
