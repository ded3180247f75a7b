"""What is kept on disk: one dataclass per table. The shell encodes them (`store`), the core only names table and key.

A table's rows are loaded at start as {key: record}; `TABLES` says which class belongs to which table.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ote.clustercontroller.core.messages import Alternates, ClusterRecord, Facts, Payload


@dataclass(slots=True)
class Self:
    """Table `self`, key "self": what this controller remembers of itself."""

    epoch: int = 0
    """Epoch of the last attachment that may have been announced."""
    had_children: bool = False
    """A child may have heard a standing of ours: after a restart a parent is taken only once its beat has advanced."""
    beat: int = 0
    """A root's beats up to this number may have been used."""
    draining: bool = False
    draining_since_ms: int = 0
    """By the wall clock, to be shown."""
    incarnation: int = 1
    """Memory of this origin; grows when it learns that its disk was set back."""
    journal_id: str = ""
    journal_number: int = 0
    """Changes of the journal up to this number may have been used (written with each journal row as it grows)."""


@dataclass(slots=True)
class OwnFacts:
    """Table `self`, key "facts": labels and tags as changed at run time, over the settings."""

    labels: dict[str, str] = field(default_factory=dict)
    removed_labels: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    removed_tags: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Entry:
    """Table `clusters`, key uid: a cluster as last known."""

    record: ClusterRecord
    first_seen: int = 0
    """Order of arrival here: the holder of a name is the one with the lowest."""
    away: int = 0
    """The epoch of an attachment elsewhere; counts while it is not below the record's."""
    away_parent: str = ""
    heard: float | None = None
    """By the wall clock: when it was last heard of; None while it was up."""


@dataclass(slots=True)
class Eviction:
    """Table `evictions`, key uid."""

    name: str = ""


@dataclass(slots=True)
class AlternatesRow:
    """Table `self`, key "alternates": candidates as told last."""

    alternates: Alternates


@dataclass(slots=True)
class TargetRow:
    """Table `targets`, key "NUMBER/UID": a target of a dispatch of this origin that has several."""

    uid: str
    name: str
    state: str
    seq: int = 0
    after: int = 0
    journal_id: str = ""
    maybe_sent: bool = False
    received: bool = False
    attempts: int = 0
    reason: str = ""
    message: str = ""
    body: bytes = b""
    journal_number: int = 0
    latency_ms: int = 0
    since: float = 0.0
    incarnation: int = 0
    """Of the origin, that `seq` counts in."""
    output_bytes: int = 0
    """Size of an output that the shell keeps, because it was too large for a report."""


@dataclass(slots=True)
class DispatchRow:
    """Table `dispatches`, key `key`: a dispatch of this origin. Where it has several targets, rows of table `targets`
    replace those in it."""

    id: str
    digest: bytes
    command: str
    inline: bytes | None
    payload: Payload | None
    ttl: float
    timeout: float
    caller: str
    clusters: str
    labels: str
    created: float
    number: int
    """Order of acceptance at this origin."""
    targets: list[TargetRow]
    cancelled: bool = False
    accepted: float = 0.0
    """Time of acceptance on the core's clock, which goes on over restarts of the process but not of the machine."""

    @property
    def key(self) -> str:
        """Grows with the number: what is accepted after each other lies beside each other on disk."""
        return f"{self.number:015}"


@dataclass(slots=True)
class Sequence:
    """Table `sequences`, key target uid: numbers that this origin has used for a target."""

    incarnation: int
    last: int
    above: int = 0
    """By how much it counts above this origin's own incarnation with this target, which has told of more than was
    known."""


@dataclass(slots=True)
class JournalRow:
    """Table `journal`, key "ORIGIN_UID/DISPATCH_ID": a change at this target until its origin has acknowledged the
    result."""

    origin_uid: str
    origin_name: str
    incarnation: int
    dispatch_id: str
    seq: int
    after: int
    number: int
    command: str
    inline: bytes | None
    payload: Payload | None
    timeout_ms: int
    started: bool = False
    """Written before a command that cannot be repeated is handed to the shim."""
    shim_instance: str = ""
    state: str = ""
    """Final state, empty while it is not settled."""
    body: bytes = b""
    output_bytes: int = 0


@dataclass(slots=True)
class Floor:
    """Table `floors`, key origin uid: kept for ever. A change at or below `floor` never runs (again)."""

    incarnation: int
    floor: int
    highest: int
    begun: int = 0
    """Changes above it have never been handed to anybody; written ahead in steps."""


@dataclass(slots=True)
class OwnFactsRow:
    """Table `self`, key "record": the last facts told, so that their version never goes back."""

    facts: Facts


TABLES: dict[str, type] = {
    "clusters": Entry,
    "evictions": Eviction,
    "dispatches": DispatchRow,
    "targets": TargetRow,
    "sequences": Sequence,
    "journal": JournalRow,
    "floors": Floor,
}
"""Tables with one class for all rows; table `self` has `SELF_ROWS`."""

SELF_ROWS: dict[str, type] = {"self": Self, "facts": OwnFacts, "alternates": AlternatesRow, "record": OwnFactsRow}
