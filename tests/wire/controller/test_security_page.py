"""docs/security.md says who may call what as the policy does."""

from __future__ import annotations

from pathlib import Path

from tests.wire.controller.security_page import roles_table


def test_the_table_of_roles_is_that_of_the_policy() -> None:
    page = Path(__file__).parents[3] / "docs" / "security.md"
    assert roles_table() in page.read_text()
