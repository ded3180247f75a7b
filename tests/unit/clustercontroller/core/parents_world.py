"""One `Parents` in virtual time, and the script of those it talks to. What is random is the middle of its range."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TypeVar

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core import records
from ote.clustercontroller.core.context import Context, CoreSettings, statement
from ote.clustercontroller.core.parents import Parents, ParentsCallbacks

T = TypeVar("T")

HOME = m.Alternate("E", "uid-E", "e:1")
WEST = m.Alternate("W", "uid-W", "w:1")
ROOT = m.Alternate("R", "uid-R", "r:1")
SIBLING = m.Alternate("s2", "uid-s2", "s2:1")
ALTERNATES = m.Alternates(uncles=[WEST], grandparent=ROOT, siblings=[SIBLING], parent=HOME)


class Middle:
    """A generator that always gives the same share of the range."""

    def __init__(self, share: float = 0.5) -> None:
        self.share = share

    def random(self) -> float:
        return self.share

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self.share

    def getrandbits(self, k: int) -> int:
        return 1


@dataclass
class World:
    """`e1`, whose home is E unless said otherwise. Effects gather in `effects`, callbacks in `calls`."""

    row: records.Self = field(default_factory=records.Self)
    home: m.Alternate | None = HOME
    alternates: m.Alternates | None = None
    settings: CoreSettings = field(default_factory=CoreSettings)
    share: float = 0.5

    def __post_init__(self) -> None:
        self.effects: list[fx.Effect] = []
        self.calls: list[tuple[object, ...]] = []
        self.links: dict[str, int] = {}
        self.ctx = Context(
            "uid-e1", "e1", "instance", b"key", self.settings, Middle(self.share), lambda data: b"signed " + data, _no
        )
        callbacks = ParentsCallbacks(
            attached=lambda link, own: self.calls.append(("attached", link, own.parent_uid, own.epoch)),
            detached=lambda link: self.calls.append(("detached", link)),
            standing_changed=lambda: self.calls.append(("standing", self.parents.standing)),
            candidates_changed=lambda: self.calls.append(("candidates",)),
            memory_lost=lambda: self.calls.append(("memory lost",)),
            own_record=lambda: m.ClusterRecord(
                "uid-e1", "e1", "", 0, "", b"", b"key", up=False, silent_ms=7, facts=m.Facts(1)
            ),
            digest=lambda: m.Digest(3, 4),
            whole_digest=lambda: m.Digest(4, 5),
        )
        on_disk = records.AlternatesRow(self.alternates) if self.alternates else None
        self.parents = Parents(self.ctx, self.row, self.home, callbacks, on_disk)

    @property
    def now(self) -> float:
        return self.ctx.now

    def collect(self) -> None:
        # A row is written as it is once the event has been handled.
        self.effects += [deepcopy(effect) if isinstance(effect, fx.Put) else effect for effect in self.ctx.effects]
        for effect in self.ctx.effects:
            if isinstance(effect, fx.Dial):
                self.links[effect.candidate.name or effect.candidate.address] = effect.link
        self.ctx.effects = []

    def do(self, step: Callable[[], T]) -> T:
        """An event: whatever is due comes first, as `Controller.handle` has it."""
        due = self.parents.next_wake()
        if due is not None and due <= self.now:
            self.parents.wake()
        value = step()
        self.collect()
        return value

    def run(self, until: float) -> None:
        """Let time pass, waking when asked to."""
        for _ in range(10_000):
            due = self.parents.next_wake()
            if due is None or due > until:
                self.ctx.now = until
                return
            self.ctx.now = max(self.now, due)
            self.parents.wake()
            self.collect()
        raise AssertionError("woken without end")

    def pass_time(self, seconds: float, *alive: str, beat: m.Standing | None = None) -> None:
        """Let time pass in steps of half a second in which these are heard, with this beat growing each 2 s."""
        end = self.now + seconds
        step = 0
        while self.now < end - 1e-9:
            self.run(min(end, self.now + 0.5))
            step += 1
            for name in alive:
                self.do(lambda name=name: self.parents.heard(self.links[name]))  # type: ignore[misc]
                if beat is not None and step % 4 == 0:
                    self.beat(name, m.Standing(beat.beat + step // 4, beat.depth))

    # --- what the far ends say ------------------------------------------------------------------------------------

    def start(self) -> None:
        self.do(self.parents.start)

    def welcome(
        self,
        name: str,
        standing: m.Standing,
        *,
        connected: bool = True,
        path: list[m.PathStep] | None = None,
        known_epoch: int = 0,
        draining: bool = False,
        heartbeat_ms: int = 2000,
        dead_after_ms: int = 5000,
    ) -> None:
        """The pending dial to this candidate is answered by welcome."""
        steps = [m.PathStep("R", "uid-R"), m.PathStep(name, f"uid-{name}")] if path is None else path
        answer = m.Welcome(
            name,
            f"uid-{name}",
            f"instance-{name}",
            standing,
            connected,
            steps,
            heartbeat_ms,
            dead_after_ms,
            known_epoch,
            draining,
        )
        link = self.links.get(name) or self.links[f"{name.lower()}:1"]
        self.links[name] = link
        self.do(lambda: self.parents.dial_welcome(link, answer))

    def say(self, name: str, item: m.DownItem) -> bool:
        link = self.links[name]
        self.do(lambda: self.parents.heard(link))
        return self.do(lambda: self.parents.item(link, item))

    def attach(self, name: str) -> None:
        """The attach to this one is answered."""
        self.say(name, m.Attached(self.attach_sent(name).record.epoch))

    def beat(self, name: str, standing: m.Standing, *, silence_ms: int = 0, draining: bool = False) -> None:
        self.say(name, m.Beat(standing, silence_ms, [], draining))

    def take(self, name: str, standing: m.Standing, *, connected: bool = True) -> None:
        """Welcome and attach."""
        self.welcome(name, standing, connected=connected)
        self.attach(name)

    def refuse(self, name: str, reason: str, *, retry_after_ms: int = 0, epoch: int = 0) -> None:
        refused = m.Refused(reason, "why", retry_after_ms, epoch)
        link = self.links[name]
        if self.dialled(name):
            self.do(lambda: self.parents.dial_refused(link, refused))
        else:
            self.say(name, refused)

    def reach(self, name: str) -> None:
        """Somebody listens where this one was dialled."""
        link = self.links[name]
        self.do(lambda: self.parents.dial_reached(link))

    def fail(self, name: str) -> None:
        link = self.links[name]
        self.do(lambda: self.parents.dial_failed(link, "connection refused"))

    def lose(self, name: str) -> None:
        link = self.links[name]
        self.do(lambda: self.parents.link_lost(link, "reset"))

    def probe(self, connected: bool = True, draining: bool = False, beat: int = 100) -> None:
        event = ev.ProbeAnswered(self.home or HOME, m.Standing(beat, 1), connected, draining)
        self.do(lambda: self.parents.probe_answered(event))

    # --- what came of it ------------------------------------------------------------------------------------------

    def of(self, kind: type[T]) -> list[T]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def dialled(self, name: str) -> bool:
        """Whether the newest link to this one has not been answered, given up or taken."""
        link = self.parents._links.get(self.links.get(name, 0))
        return link is not None and link.phase == "DIALING"

    def dials(self) -> list[str]:
        return [dial.candidate.name or dial.candidate.address for dial in self.of(fx.Dial)]

    def hello(self, name: str) -> m.Hello:
        return [dial.hello for dial in self.of(fx.Dial) if dial.link == self.links[name]][-1]

    def sent(self, name: str, kind: type[T]) -> list[T]:
        link = self.links[name]
        return [send.item for send in self.of(fx.Send) if send.link == link and isinstance(send.item, kind)]

    def attach_sent(self, name: str) -> m.Attach:
        return self.sent(name, m.Attach)[-1]

    def closed(self, name: str) -> str | None:
        """Why the newest link to this one was closed, None when it was not."""
        return next((close.reason for close in self.of(fx.CloseLink) if close.link == self.links[name]), None)

    def logs(self, level: str) -> list[str]:
        return [log.message for log in self.of(fx.Log) if log.level == level]

    def forget(self) -> None:
        self.effects = []
        self.calls = []


def _no(*_: object) -> bool:
    raise AssertionError("nothing is verified on the child's side")


def at_home(**settings: object) -> World:
    """e1, attached to E at beat 10, knowing W, R and s2, and having told its standing to a child."""
    world = World(**settings)  # type: ignore[arg-type]
    world.start()
    world.run(1.0)
    world.take("E", m.Standing(10, 1))
    world.say("E", ALTERNATES)
    world.do(lambda: world.parents.child_best(None))
    world.forget()
    return world


def signed(record: m.ClusterRecord) -> bool:
    return record.signature == b"signed " + statement(record)
