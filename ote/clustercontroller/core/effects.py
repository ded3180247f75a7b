"""What the core asks the shell to do, in the order of the list.

`Barrier` splits a list: what follows it may only happen once every `Put` and `Remove` before it is on disk. Lists of
later events do not wait for an earlier list's barrier; the protocol bears any order between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ote.clustercontroller.core.messages import Alternate, Hello, Item, Payload


@dataclass(slots=True)
class Put:
    """Remember `value` (a dataclass of `records`) under (table, key), over restarts; as it is once the event has been
    handled."""

    table: str
    key: str
    value: Any


@dataclass(slots=True)
class Remove:
    table: str
    key: str


@dataclass(slots=True)
class Barrier:
    pass


@dataclass(slots=True)
class Send:
    """Queue an item on a link. One to a link that is gone is dropped silently."""

    link: int
    item: Item


@dataclass(slots=True)
class CloseLink:
    """End a link after what is queued on it has been written (bounded by 5 s). No `LinkLost` follows."""

    link: int
    reason: str


@dataclass(slots=True)
class Dial:
    """Open a tunnel to a candidate as link `link` and say `hello`.

    Answered by `DialReached`, then by `DialWelcome`, `DialRefused` or `DialFailed`. Undone by `CloseLink`.
    """

    link: int
    candidate: Alternate
    hello: Hello


@dataclass(slots=True)
class Probe:
    """Ask a candidate how it stands, on a channel of its own, within 2 s. Answered by `ProbeAnswered` or
    `ProbeFailed`."""

    candidate: Alternate


@dataclass(slots=True)
class WakeAt:
    """Send `Wake` at this time (the shell keeps only the earliest)."""

    at: float


@dataclass(slots=True)
class Execute:
    """Hand a command to the shim. Answered by any number of `ShimProgress`, then `ShimResult`, or by `ShimLost`.

    `key` names the execution: "ORIGIN_UID/DISPATCH_ID". `timeout_ms` 0 is without limit.
    """

    key: str
    command: str
    change: bool
    body: bytes | None
    payload: Payload | None
    timeout_ms: int
    forget: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ExecuteHere:
    """Decode a controller's own command: the shell answers with the event `FactsChange` or `DrainAsked`."""

    key: str
    command: str
    body: bytes


@dataclass(slots=True)
class FinishHere:
    """A controller's own command ended: the shell answers with `ShimResult` of the same key."""

    key: str
    state: str
    reason: str
    message: str


@dataclass(slots=True)
class CancelExecution:
    key: str


@dataclass(slots=True)
class FetchPayload:
    """Fetch a payload's missing pieces from the parent, or the local store, and keep it on disk until `DropPayload`.

    Answered by `PayloadReady` or `PayloadFailed`; may be asked again.
    """

    key: str
    payload: Payload


@dataclass(slots=True)
class DropPayload:
    key: str


@dataclass(slots=True)
class ServePayload:
    """Children on `link` may fetch this payload's pieces from here from now on (bounded cache, fetched from above)."""

    link: int
    payload: Payload


@dataclass(slots=True)
class ClustersChanged:
    """Entries of these clusters changed, as `ClusterService.WatchClusters` shows them."""

    uids: list[str]


@dataclass(slots=True)
class TargetChanged:
    """A target of a dispatch of this origin changed. `settled`: it was the dispatch's last."""

    dispatch_id: str
    uid: str
    settled: bool


@dataclass(slots=True)
class Answer:
    """The end of a request of the shell: `error` (an OteError) or `value`."""

    request: int
    value: Any = None
    error: Exception | None = None


@dataclass(slots=True)
class Ask:
    """Somebody asks this controller (`messages.Call`): the shell answers with the event `Answered`."""

    id: str
    from_uid: str
    method: str
    body: bytes
    from_above: bool


@dataclass(slots=True)
class Exit:
    """End the process with this reason."""

    reason: str
    message: str


@dataclass(slots=True)
class Count:
    """Add `value` to the counter of this name and label values, or observe it if the name is a histogram's."""

    name: str
    labels: tuple[str, ...] = ()
    value: float = 1.0


@dataclass(slots=True)
class Log:
    """One log line: a constant message and fields. `level`: debug, info, warning, error."""

    level: str
    message: str
    fields: dict[str, Any]


Effect = (
    Put
    | Remove
    | Barrier
    | Send
    | CloseLink
    | Dial
    | Probe
    | WakeAt
    | Execute
    | ExecuteHere
    | FinishHere
    | CancelExecution
    | FetchPayload
    | DropPayload
    | ServePayload
    | ClustersChanged
    | TargetChanged
    | Answer
    | Ask
    | Exit
    | Count
    | Log
)
