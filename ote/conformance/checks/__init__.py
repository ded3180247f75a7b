"""Every check, by subject, in the order in which the suite runs them."""

from __future__ import annotations

from ote.conformance.checks import (
    bad_input,
    cancel,
    capabilities,
    concurrency,
    deadlines,
    handshake,
    idempotency,
    logs,
    objects,
    payloads,
    progress,
    restart,
    status,
    unknown,
)
from ote.conformance.model import Check

ALL_CHECKS: tuple[Check, ...] = (
    *handshake.check.checks,
    *capabilities.check.checks,
    *objects.check.checks,
    *logs.check.checks,
    *idempotency.check.checks,
    *progress.check.checks,
    *cancel.check.checks,
    *deadlines.check.checks,
    *payloads.check.checks,
    *unknown.check.checks,
    *bad_input.check.checks,
    *concurrency.check.checks,
    *status.check.checks,
    *restart.check.checks,
)
"""All checks."""
