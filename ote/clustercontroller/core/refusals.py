"""What a candidate's refusal means for the child: how loudly it is said, and how long that candidate is passed over.

The one idea: a refusal speaks of one candidate only, the others are still tried. What ends the process or changes the
epoch (CLUSTER_CLONED, SUPERSEDED) is decided in `parents`.
"""

from __future__ import annotations

from typing import NamedTuple

from ote.clustercontroller.core.candidates import Candidates, key
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.messages import Alternate, Refused

_LONGEST = 600.0
_REPEAT = 60.0
"""Seconds after which it is said again that a candidate is not reached."""


class Refusal(NamedTuple):
    """Level of the log line, and seconds to wait before this candidate is asked again."""

    level: str
    wait: float


_MEANINGS: dict[str, Refusal] = {
    "EVICTED": Refusal("error", 600.0),
    "CLUSTER_NAME_TAKEN": Refusal("error", 30.0),
    "IDENTITY_MISMATCH": Refusal("error", 60.0),
    "PROTOCOL_VERSION": Refusal("error", 60.0),
    "NOT_A_PARENT": Refusal("warning", 60.0),
    "CERTIFICATE_EXPIRED": Refusal("warning", 5.0),
    "BUSY": Refusal("info", 1.0),
    "DRAINING": Refusal("info", 0.0),
    "REPLACED": Refusal("info", 0.0),
    "SUPERSEDED": Refusal("warning", 0.0),
}
_OTHER = Refusal("warning", 5.0)
"""What is wrong with our frames, and reasons of newer versions."""


class Refusals:
    """Refusals since the last attachment: each is said aloud once."""

    def __init__(self, ctx: Context, candidates: Candidates) -> None:
        self._ctx = ctx
        self._candidates = candidates
        self._said: set[tuple[str, str]] = set()
        self._unreached_said: dict[str, float] = {}
        self.last: Refused | None = None
        """The latest since the last attachment."""

    def note(self, candidate: Alternate, refused: Refused) -> bool:
        """Log it and let the candidate wait; whether it said so for the first time."""
        meaning = _MEANINGS.get(refused.reason, _OTHER)
        what = (key(candidate), refused.reason)
        first = what not in self._said
        self.last = refused
        self._said.add(what)
        level = meaning.level if first else "debug"
        self._ctx.log(level, "refused", candidate=what[0], reason=refused.reason, detail=refused.message)
        wait = min(_LONGEST, max(meaning.wait, refused.retry_after_ms / 1000))
        if wait > 0:
            self._candidates.wait(candidate, wait)
        if refused.reason == "DRAINING":
            self._candidates.drains(candidate, True)
        return first

    def unreached(self, candidate: Alternate, reason: str) -> None:
        """Nobody there, or nobody that we may trust: said aloud now and then while there is no parent."""
        now = self._ctx.now
        aloud = now - self._unreached_said.get(key(candidate), -_REPEAT) >= _REPEAT
        if aloud:
            self._unreached_said[key(candidate)] = now
        self._ctx.log("warning" if aloud else "debug", "candidate not reached", candidate=key(candidate), reason=reason)
        self.last = Refused("NO_PARENT", f"{key(candidate)} at {candidate.address} was not reached: {reason}")

    def attached(self) -> None:
        self._said.clear()
        self._unreached_said.clear()
        self.last = None
