"""States of dispatch targets and of clusters, by the names that the API uses."""

from __future__ import annotations

PENDING = "PENDING"
QUEUED = "QUEUED"
SENT = "SENT"
RUNNING = "RUNNING"
SUCCEEDED = "SUCCEEDED"
FAILED = "FAILED"
EXPIRED = "EXPIRED"
CANCELLED = "CANCELLED"
UNREACHABLE = "UNREACHABLE"
OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"

FINAL = frozenset({SUCCEEDED, FAILED, EXPIRED, CANCELLED, UNREACHABLE, OUTCOME_UNKNOWN})
"""States in which a target is settled; OUTCOME_UNKNOWN alone may later be replaced by the truth."""

ONLINE = "ONLINE"
OFFLINE = "OFFLINE"
AWAY = "AWAY"
NAME_CONFLICT = "NAME_CONFLICT"

CHANGES = frozenset({"apply", "delete", "noop", "set_facts", "drain"})
"""Commands that take effect in order and at most once."""

NOOP = "noop"
"""Changes nothing, in its turn: ordered, remembered and committed like any change."""

CONTROLLER_COMMANDS = frozenset({NOOP, "set_facts", "drain"})
"""Commands that the target's controller answers itself."""
