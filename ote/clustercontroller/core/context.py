"""What the parts of the core share: who we are, the present event's time, and the list of effects.

The parts never keep time or effects themselves; `Controller.handle` sets `now` (seconds, monotonic, counts suspend)
before it calls them and takes `effects` after. What is random comes from `rng`, what is cryptography from `sign` and
`verify`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core.messages import ClusterRecord, Item
from ote.clustercontroller.core.records import Self


class Rng(Protocol):
    """The part of `random.Random` that the core needs."""

    def random(self) -> float: ...

    def uniform(self, a: float, b: float) -> float: ...

    def getrandbits(self, k: int) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSettings:
    """Everything that can be tuned, in seconds where it is a time."""

    heartbeat: float = 2.0
    """Interval of beats and heartbeats."""
    dead_after: float = 5.0
    """Silence after which a link is lost, and age of the beat after which a controller is cut off."""
    island_after: float = 15.0
    """Time without any connected candidate after which a cut-off one of better standing is taken."""
    leave_cut_off_after: float | None = 30.0
    """How long a parent that is cut off is kept while connected candidates exist; None keeps it for ever."""
    probe_interval: float = 4.0
    """How often the configured parent is probed while attached elsewhere."""
    first_attempt_within: float = 0.25
    """The first dial after a loss is spread over this."""
    retry_base: float = 0.5
    retry_cap: float = 5.0
    """Full jitter between dials: base doubled at each round, up to the cap."""
    return_lasted: float = 60.0
    """A return to the configured parent that ends sooner doubles the wait before the next."""
    return_wait_base: float = 10.0
    return_wait_cap: float = 600.0
    status_interval: float = 30.0
    """Status and sums are told to the parent at most so often."""
    admit_per_second: float = 400.0
    """How many children a parent takes in a second; others are told to try again later, or elsewhere."""
    resend_base: float = 2.0
    resend_cap: float = 60.0
    """Interval at which the ends send again what was not answered, doubled each time, with jitter."""
    received_after: float = 0.5
    """A target says RECEIVED when it has not settled a change within this."""
    unknown_after: float = 600.0
    """Time after the end of the time to live at which an unanswered target becomes OUTCOME_UNKNOWN."""
    hold_limit: int = 512
    """Changes of one origin that a target holds back for their predecessors."""
    keep_dispatches: int = 10_000
    keep_settled_for: float = 7 * 86400.0
    """Settled dispatches are removed when there are more, or when they are older."""
    max_unsettled: int = 200_000
    """Unsettled targets of this origin; more dispatches are refused."""
    drop_results_after: float = 30 * 86400.0
    """Results whose origin was not seen for this long are dropped."""


@dataclass(slots=True)
class Context:
    """Owned by `Controller`, handed to every part."""

    uid: str
    name: str
    instance: str
    public_key: bytes
    settings: CoreSettings
    rng: Rng
    sign: Callable[[bytes], bytes]
    """Signs a statement with the cluster's own key."""
    verify: Callable[[bytes, bytes, bytes], bool]
    """verify(public key, statement, signature)."""
    software: str = ""
    wall_at_zero: float = 0.0
    """Wall clock at time 0 of the core's clock, as known at the start: for ages on disk, that are only shown."""
    now: float = 0.0
    effects: list[fx.Effect] = field(default_factory=list)
    last_link: int = 0

    def new_link(self) -> int:
        """A number for a link, used once in this process."""
        self.last_link += 1
        return self.last_link

    def emit(self, effect: fx.Effect) -> None:
        self.effects.append(effect)

    def send(self, link: int, item: Item) -> None:
        self.effects.append(fx.Send(link, item))

    def put(self, table: str, key: str, value: Any) -> None:
        self.effects.append(fx.Put(table, key, value))

    def put_self(self, row: Self) -> None:
        """Remember of this controller itself what `row` says once the event has been handled."""
        self.put("self", "self", row)

    def remove(self, table: str, key: str) -> None:
        self.effects.append(fx.Remove(table, key))

    def barrier(self) -> None:
        self.effects.append(fx.Barrier())

    @property
    def waits(self) -> bool:
        """Whether what is said now leaves only once something is on disk."""
        return any(isinstance(effect, fx.Barrier) for effect in self.effects)

    def count(self, name: str, *labels: str, value: float = 1.0) -> None:
        self.effects.append(fx.Count(name, labels, value))

    def log(self, level: str, message: str, **fields: Any) -> None:
        self.effects.append(fx.Log(level, message, fields))

    def new_id(self) -> str:
        """128 random bits as 32 hexadecimal digits."""
        return f"{self.rng.getrandbits(128):032x}"


def statement(record: ClusterRecord) -> bytes:
    """The bytes that a cluster signs when it attaches; `ClusterRecord.signature` of tunnel.proto says the form."""
    return f"ote attachment v1\n{record.uid}\n{record.epoch}\n{record.parent_uid}\n{record.instance}\n".encode()
