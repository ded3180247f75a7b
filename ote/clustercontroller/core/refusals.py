"""What a candidate's refusal means for the child: how loudly it is said, and how long that candidate is passed over.

A refusal speaks of one candidate only; the others are still tried. What ends the process or changes the epoch
(CLUSTER_CLONED, SUPERSEDED) is decided in `parents`. A longer `retry_after` of the candidate wins.
"""

from __future__ import annotations

from typing import NamedTuple


class Refusal(NamedTuple):
    """Level of the log line, and seconds to wait before this candidate is asked again."""

    level: str
    wait: float


REFUSALS: dict[str, Refusal] = {
    "EVICTED": Refusal("error", 600.0),
    "CLUSTER_NAME_TAKEN": Refusal("error", 30.0),
    "NAME_CONFLICT": Refusal("error", 30.0),
    "IDENTITY_MISMATCH": Refusal("error", 60.0),
    "PROTOCOL_VERSION": Refusal("error", 60.0),
    "NOT_A_PARENT": Refusal("warning", 60.0),
    "CERTIFICATE_EXPIRED": Refusal("warning", 5.0),
    "BAD_ATTACHMENT": Refusal("warning", 5.0),
    "BAD_FRAME": Refusal("warning", 5.0),
    "BUSY": Refusal("info", 1.0),
    "DRAINING": Refusal("info", 0.0),
    "STOPPING": Refusal("info", 1.0),
    "REPLACED": Refusal("info", 0.0),
    "SUPERSEDED": Refusal("warning", 0.0),
}

UNKNOWN = Refusal("warning", 5.0)
"""A reason of a newer version."""


def meaning(reason: str) -> Refusal:
    return REFUSALS.get(reason, UNKNOWN)
