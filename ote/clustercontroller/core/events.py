"""What happens to a controller, as the shell tells its core. `Controller.handle(event, now)` returns effects.

Links are numbered by the side that opens them here: the shell takes numbers for children's links from the same counter
that `Controller.new_link()` hands out for dials, so a number names one link of this process for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ote.clustercontroller.core.messages import (
    Alternate,
    DownItem,
    Hello,
    Item,
    Payload,
    Refused,
    Standing,
    Totals,
    UpItem,
    Welcome,
)


@dataclass(slots=True)
class Started:
    """The process runs and everything on disk has been loaded."""


@dataclass(slots=True)
class Wake:
    """The time asked for by `WakeAt` has come."""


@dataclass(slots=True)
class ChildHello:
    """A child opened a link. Its certificate has been verified and is that of `peer_uid` and `peer_name`.

    peer_key: the certificate's key, SubjectPublicKeyInfo in DER. leaf: it was not enrolled to have children.
    """

    link: int
    hello: Hello
    peer_uid: str
    peer_name: str
    peer_key: bytes = b""
    leaf: bool = False


@dataclass(slots=True)
class FromChild:
    link: int
    items: list[UpItem]


@dataclass(slots=True)
class FromParent:
    link: int
    items: list[DownItem]


@dataclass(slots=True)
class LinkLost:
    """A link of either kind ended without `CloseLink` of ours."""

    link: int
    reason: str


@dataclass(slots=True)
class LaneFull:
    """An item found no room on a link that goes on: nothing of it was sent, and nobody else will say it again."""

    link: int
    item: Item


@dataclass(slots=True)
class DialWelcome:
    link: int
    welcome: Welcome


@dataclass(slots=True)
class DialReached:
    """Somebody listens at the address of a dial; an answer may take as long as it is busy."""

    link: int


@dataclass(slots=True)
class DialRefused:
    link: int
    refused: Refused


@dataclass(slots=True)
class DialFailed:
    link: int
    reason: str


@dataclass(slots=True)
class ProbeAnswered:
    candidate: Alternate
    standing: Standing
    connected: bool
    draining: bool


@dataclass(slots=True)
class ProbeFailed:
    candidate: Alternate
    reason: str


@dataclass(slots=True)
class SubmitTarget:
    """A cluster that the selector matched, as the registry had it."""

    uid: str
    name: str


@dataclass(slots=True)
class Submit:
    """A caller's dispatch with its targets resolved. `digest` stands for the content, for comparison of repeats.

    Answered by `Answer(request, value=dispatch id)` after the commit. `ttl` and `timeout` in seconds, timeout 0
    without limit.
    """

    request: int
    dispatch_id: str
    digest: bytes
    command: str
    inline: bytes | None
    payload: Payload | None
    targets: list[SubmitTarget]
    ttl: float
    timeout: float
    caller: str
    clusters: str = ""
    labels: str = ""
    created: float = 0.0
    """Wall clock in seconds, to be shown and never compared."""


@dataclass(slots=True)
class SubmitMany:
    """Several dispatches at once, each answered by its own number."""

    submits: list[Submit]


@dataclass(slots=True)
class CancelDispatch:
    """Answered by `Answer(request)`."""

    request: int
    dispatch_id: str


@dataclass(slots=True)
class Evict:
    """Answered by `Answer(request, value=(uid, orphans: list[str], delivered: bool))`."""

    request: int
    uid: str


@dataclass(slots=True)
class ShimUp:
    """The shim is reachable."""

    kind: str
    name: str
    version: str
    capabilities: list[str]
    instance: str
    durable: bool
    max_command_bytes: int


@dataclass(slots=True)
class ShimDown:
    reason: str


@dataclass(slots=True)
class ShimSilent:
    """The shim has not come back: those above are to know. `since_ms` is since 1970."""

    since_ms: int


@dataclass(slots=True)
class ShimStatus:
    """`cluster_status` as the shim told it, and the numbers in it."""

    cluster_status: bytes
    totals: Totals = field(default_factory=Totals)


@dataclass(slots=True)
class ShimProgress:
    key: str
    body: bytes
    effect_done: bool


@dataclass(slots=True)
class ShimResult:
    """`state` is SUCCEEDED, FAILED or CANCELLED; `body` a serialized Result; `output_bytes` the size of an output
    that the shell keeps and pushes to the origin itself because it is too large for a report."""

    key: str
    state: str
    body: bytes
    output_bytes: int = 0


@dataclass(slots=True)
class ShimLost:
    """The call of an execution broke before its result."""

    key: str
    reason: str


@dataclass(slots=True)
class PayloadReady:
    key: str


@dataclass(slots=True)
class PayloadFailed:
    """`final`: asking again cannot help (the hash is wrong, the payload too large). `absent`: whoever was asked has not
    got it, or does not know of it."""

    key: str
    reason: str
    final: bool
    absent: bool = False


@dataclass(slots=True)
class PayloadLost:
    """A payload that was on disk could not be read: the execution did not reach the shim."""

    key: str
    reason: str


@dataclass(slots=True)
class Asked:
    """The shell wants something of another controller. Answered by `Answer(request, value=Reply)`, or an error after
    10 s."""

    request: int
    to_uid: str
    method: str
    body: bytes


@dataclass(slots=True)
class Answered:
    """The shell's answer to `Ask`."""

    id: str
    from_uid: str
    code: str
    reason: str = ""
    message: str = ""
    body: bytes = b""


@dataclass(slots=True)
class FactsChange:
    """A `set_facts` command of this cluster, decoded. Ends with `FinishHere`."""

    key: str
    labels: dict[str, str]
    remove_labels: list[str]
    tags: list[str]
    remove_tags: list[str]


@dataclass(slots=True)
class DrainAsked:
    """A `drain` command of this cluster, decoded; `timeout` in seconds. Ends with `FinishHere`."""

    key: str
    off: bool
    timeout: float
    since_ms: int = 0
    """Wall clock in milliseconds, to be shown and never compared."""


@dataclass(slots=True)
class Renewed:
    """The member has fresh certificates: the tunnel to the parent is opened anew with them, make-before-break."""


@dataclass(slots=True)
class Stop:
    """SIGTERM: move the children away, then say goodbye. Answered by `Answer(request)` when done, at most `grace` s."""

    request: int
    grace: float


Event = (
    Started
    | Wake
    | ChildHello
    | FromChild
    | FromParent
    | LinkLost
    | LaneFull
    | DialWelcome
    | DialReached
    | DialRefused
    | DialFailed
    | ProbeAnswered
    | ProbeFailed
    | Submit
    | SubmitMany
    | CancelDispatch
    | Evict
    | ShimUp
    | ShimDown
    | ShimSilent
    | ShimStatus
    | ShimProgress
    | ShimResult
    | ShimLost
    | PayloadReady
    | PayloadFailed
    | PayloadLost
    | Asked
    | Answered
    | FactsChange
    | DrainAsked
    | Renewed
    | Stop
)
