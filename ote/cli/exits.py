"""Exit codes, and which error leads to which. Not here: printing."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from ote.model.errors import OteError


class Exit(enum.IntEnum):
    """How ote-ctl ends."""

    DONE = 0
    INTERNAL = 1
    USAGE = 2
    TARGET = 3
    """A target failed, expired, was cancelled, was unreachable, or its outcome is unknown."""
    NOT_FINAL = 4
    """Not final within --timeout, or it waits for clusters that are offline."""
    NO_CONTROLLER = 5
    """Controller not reachable, busy, or not taking this identity."""
    NOT_FOUND = 6
    """Not found; the selector matches nothing."""
    INTERRUPTED = 130


_BY_CODE = {
    "INVALID_ARGUMENT": Exit.USAGE,
    "ALREADY_EXISTS": Exit.USAGE,
    "FAILED_PRECONDITION": Exit.USAGE,
    "OUT_OF_RANGE": Exit.USAGE,
    "NOT_FOUND": Exit.NOT_FOUND,
    "UNAVAILABLE": Exit.NO_CONTROLLER,
    "UNAUTHENTICATED": Exit.NO_CONTROLLER,
    "PERMISSION_DENIED": Exit.NO_CONTROLLER,
    "RESOURCE_EXHAUSTED": Exit.NO_CONTROLLER,
    "DEADLINE_EXCEEDED": Exit.NOT_FINAL,
}
_BY_REASON = {
    "NO_ROUTE": Exit.TARGET,
    "TARGET_FAILED": Exit.TARGET,
    "PAYLOAD_TOO_LARGE": Exit.USAGE,
    "MESSAGE_TOO_LARGE": Exit.USAGE,
}

FINAL = frozenset(
    {"SUCCEEDED", "FAILED", "EXPIRED", "CANCELLED", "UNREACHABLE", "OUTCOME_UNKNOWN"},
)
"""States of a target that end it."""


def of_error(error: OteError) -> Exit:
    """The exit code of an error."""
    return _BY_REASON.get(error.reason) or _BY_CODE.get(error.code, Exit.INTERNAL)


QUEUED = "QUEUED"
"""The state of a target that waits for its cluster to come back."""


def of_states(states: Mapping[str, int]) -> Exit:
    """The exit code of a dispatch, by the number of its targets in each state.

    Where some clusters are offline, the others tell: a failure is not hidden by what still waits.
    """
    present = {state for state, count in states.items() if count}
    if present - FINAL - {QUEUED}:
        return Exit.NOT_FINAL
    if present & FINAL - {"SUCCEEDED"}:
        return Exit.TARGET
    return Exit.NOT_FINAL if QUEUED in present else Exit.DONE
