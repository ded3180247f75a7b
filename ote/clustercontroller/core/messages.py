"""What controllers say to each other on a tunnel, as the core sees it: `tunnel.proto` without protobuf.

Field for field the same as the messages of `proto/ote/api/route/v1/tunnel.proto`, whose comments say what they mean;
`wire.codec` translates. Durations are milliseconds where the name ends in `_ms`. Instances are treated as immutable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar


class Standing(NamedTuple):
    """How fresh and how near the tie to the root is. Compare with `better`."""

    beat: int
    depth: int

    def better(self, other: Standing) -> bool:
        """Whether this one is strictly better: a higher beat, or the same beat at a smaller depth."""
        return self.beat > other.beat or (self.beat == other.beat and self.depth < other.depth)


class PathStep(NamedTuple):
    """One controller on a path."""

    name: str
    uid: str


class Alternate(NamedTuple):
    """A candidate parent: whom to expect, and where."""

    name: str
    uid: str
    address: str


class Digest(NamedTuple):
    """Order-free sum over a set of active attachments."""

    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody calls
    sum: int


@dataclass(slots=True)
class Payload:
    """A body that is fetched in pieces."""

    sha256: bytes
    size: int
    pieces: list[bytes]


@dataclass(slots=True)
class Facts:
    """What a cluster says of itself; it alone counts the versions."""

    version: int = 0
    labels: dict[str, str] = field(default_factory=dict)
    tags: list[str] = field(default_factory=list)
    configured_parent: str = ""
    advertise: str = ""
    draining: bool = False
    shim_kind: str = ""
    shim_name: str = ""
    shim_version: str = ""
    capabilities: list[str] = field(default_factory=list)
    software: str = ""
    journal_id: str = ""
    changed: list[str] = field(default_factory=list)
    draining_since_ms: int = 0
    shim_silent_since_ms: int = 0
    clones: tuple[str, ...] = ()


class Resources(NamedTuple):
    """Amounts of computing."""

    cpu_millis: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    pods: int = 0


NOTHING = Resources()


@dataclass(slots=True)
class Totals:
    """Sums over the clusters of a subtree that can be reached and tell their status."""

    clusters: int = 0
    clusters_ready: int = 0
    capacity: Resources = NOTHING
    usage: Resources = NOTHING
    nodes: int = 0
    nodes_ready: int = 0
    workloads: dict[str, int] = field(default_factory=dict)
    pods_running: int = 0
    pods_failing: int = 0
    unwell: list[str] = field(default_factory=list)
    clusters_silent: int = 0


@dataclass(slots=True)
class Status:
    """What a cluster's shim says of it, as opaque bytes, and the sums over the cluster and all below it."""

    version: int
    cluster_status: bytes
    totals: Totals = field(default_factory=Totals)


@dataclass(slots=True)
class ClusterRecord:
    """One cluster: its attachment and, unless they are as last sent on this link, its facts and status."""

    uid: str
    name: str
    parent_uid: str
    epoch: int
    instance: str
    signature: bytes
    public_key: bytes
    up: bool
    silent_ms: int = 0
    facts: Facts | None = None
    status: Status | None = None


# --- opening and keeping a link -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Hello:
    name: str
    uid: str
    instance: str
    epoch: int
    best: Standing | None
    software: str = ""
    evictions_digest: bytes = b""
    last_resort: bool = False
    protocol_versions: list[int] = field(default_factory=lambda: [1])


@dataclass(slots=True)
class Welcome:
    name: str
    uid: str
    instance: str
    standing: Standing
    connected: bool
    path: list[PathStep]
    heartbeat_ms: int
    dead_after_ms: int
    known_epoch: int
    draining: bool = False
    evictions_digest: bytes = b""
    protocol_version: int = 1


@dataclass(slots=True)
class Refused:
    reason: str
    message: str
    retry_after_ms: int = 0
    epoch: int = 0


@dataclass(slots=True)
class Attach:
    record: ClusterRecord
    digest: Digest


@dataclass(slots=True)
class Attached:
    epoch: int


@dataclass(slots=True)
class Heartbeat:
    silence_ms: int
    digest: Digest


@dataclass(slots=True)
class Beat:
    standing: Standing
    silence_ms: int
    path: list[PathStep]
    draining: bool = False


@dataclass(slots=True)
class Goodbye:
    epoch: int
    next_epoch: int = 0


@dataclass(slots=True)
class Drained:
    pass


@dataclass(slots=True)
class Alternates:
    uncles: list[Alternate] = field(default_factory=list)
    grandparent: Alternate | None = None
    siblings: list[Alternate] = field(default_factory=list)
    parent: Alternate | None = None


# --- registry -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class News:
    records: list[ClusterRecord]
    full_begin: bool = False
    full_end: bool = False
    part: int = 0
    """Of a full account, from 1; 0 outside of one."""


@dataclass(slots=True)
class Resync:
    pass


@dataclass(slots=True)
class Away:
    uid: str
    epoch: int
    parent: str = ""
    instance: str = ""
    """The instance there, when it took the place of one that was attached; empty when an older epoch was announced."""


@dataclass(slots=True)
class Evictions:
    uids: list[str]


# --- dispatch -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class DeliveryTarget:
    uid: str
    journal_id: str
    seq: int
    after: int
    attempt: int
    known: bool = False
    after_ended: bool = False


@dataclass(slots=True)
class Deliver:
    origin_uid: str
    origin_name: str
    incarnation: int
    dispatch_id: str
    command: str
    change: bool
    inline: bytes | None
    payload: Payload | None
    ttl_ms: int
    timeout_ms: int
    hop_limit: int
    targets: list[DeliveryTarget]


T_co = TypeVar("T_co", covariant=True)


class Letters(Protocol[T_co]):
    """Messages that only their addressee reads: what a hop holds of them may still be sealed."""

    def __iter__(self) -> Iterator[T_co]: ...

    def __len__(self) -> int: ...


@dataclass(slots=True)
class Deliveries:
    """Commands for one target."""

    target_uid: str
    hop_limit: int
    items: Letters[Deliver]


@dataclass(slots=True)
class Revoke:
    origin_uid: str
    incarnation: int
    dispatch_id: str
    expired: bool
    hop_limit: int
    targets: list[DeliveryTarget]


RECEIVED = "RECEIVED"
PROGRESS = "PROGRESS"
RESULT = "RESULT"
NO_ROUTE = "NO_ROUTE"
BUSY = "BUSY"
JOURNAL_CHANGED = "JOURNAL_CHANGED"
FORGOTTEN = "FORGOTTEN"


@dataclass(slots=True)
class Report:
    """`kind` is one of the words above; `state` a final state of `states` or empty; `body` a serialized Result or
    Progress."""

    origin_uid: str
    incarnation: int
    dispatch_id: str
    target_uid: str
    kind: str
    attempt: int = 0
    journal_id: str = ""
    journal_number: int = 0
    highest_seq: int = 0
    state: str = ""
    body: bytes = b""
    retry_after_ms: int = 0
    hop_limit: int = 32
    output_bytes: int = 0


@dataclass(slots=True)
class Reports:
    """What one target tells one origin."""

    origin_uid: str
    target_uid: str
    hop_limit: int
    items: Letters[Report]


@dataclass(slots=True)
class Ack:
    """Each of the targets has settled each of the dispatches."""

    origin_uid: str
    target_uids: list[str]
    dispatch_ids: list[str]
    hop_limit: int = 32


# --- questions ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Call:
    id: str
    from_uid: str
    to_uid: str
    method: str
    body: bytes
    hop_limit: int = 32


@dataclass(slots=True)
class Reply:
    id: str
    to_uid: str
    code: str
    reason: str = ""
    message: str = ""
    body: bytes = b""
    hop_limit: int = 32


UpItem = Hello | Attach | Heartbeat | Goodbye | News | Report | Reports | Ack | Call | Reply | Evictions
DownItem = (
    Welcome
    | Refused
    | Attached
    | Beat
    | Drained
    | Alternates
    | Deliver
    | Deliveries
    | Revoke
    | Ack
    | Report
    | Reports
    | Call
    | Reply
    | Evictions
    | Away
    | Resync
)
Item = UpItem | DownItem
