"""How a check says that the contract does not hold, or does not apply. Not here: what becomes of it (`suite`)."""

from __future__ import annotations


class CheckFailed(Exception):
    """The shim does not do what the contract says; the message says what was expected and what came."""


class CheckSkipped(Exception):
    """The check does not apply to this shim; the message says why."""


def expect(condition: bool, message: str) -> None:
    """Fail the check with this message unless the condition holds."""
    if not condition:
        raise CheckFailed(message)
