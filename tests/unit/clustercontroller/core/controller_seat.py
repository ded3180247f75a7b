"""A whole controller between a parent and children that the test plays."""

from __future__ import annotations

from typing import TypeVar

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.controller import Controller
from ote.model.errors import OteError
from tests.unit.clustercontroller.core.registry_tree import make_context, make_record

T = TypeVar("T")

PARENT = m.Alternate("p", "p", "p:1")
NOTHING = m.Digest(0, 0)


HUB = m.Facts(version=1, advertise="c:8287")
"""Of a controller that takes children."""


class Seat:
    """The controller "c" under "p", or as a root. `said` has what it has sent since it was last taken."""

    def __init__(self, *, root: bool = False, attached: bool = True, facts: m.Facts | None = None) -> None:
        self.ctx = make_context("c")
        self.now = self.ctx.now
        self.effects: list[fx.Effect] = []
        self.up = 0
        self.core = Controller(
            self.ctx, home=None if root else PARENT, facts=facts or m.Facts(), tables={}, has_shim=False
        )
        self.do(ev.Started())
        if not root and attached:
            self.attach()
        self.forget()

    def do(self, event: ev.Event) -> None:
        self.effects += self.core.handle(event, self.now)

    def attach(self) -> None:
        """The parent is dialled and takes this cluster."""
        self.pass_time(0.5)
        self.up = self.of(fx.Dial)[-1].link
        path = [m.PathStep("r", "r"), m.PathStep("p", "p")]
        self.do(ev.DialWelcome(self.up, m.Welcome("p", "p", "p-1", m.Standing(10, 1), True, path, 2000, 5000, 0)))
        self.from_parent(m.Attached(self.sent(self.up, m.Attach)[-1].record.epoch))

    def child(self, uid: str, *, leaf: bool = False, facts: m.Facts | None = None) -> int:
        """A child attaches; the number of its link."""
        link = self.ctx.new_link()
        self.do(ev.ChildHello(link, m.Hello(uid, uid, f"{uid}-1", 0, None), uid, uid, uid.encode(), leaf))
        record = make_record(uid, "c", facts=facts or m.Facts(version=1, journal_id=f"journal-{uid}"))
        self.do(ev.FromChild(link, [m.Attach(record, NOTHING)]))
        self.forget()
        return link

    def from_child(self, link: int, *items: m.UpItem) -> None:
        self.do(ev.FromChild(link, list(items)))

    def from_parent(self, *items: m.DownItem) -> None:
        self.do(ev.FromParent(self.up, list(items)))

    def pass_time(self, seconds: float) -> None:
        """Wakes come when they were asked for."""
        end = self.now + seconds
        while (at := self.core._wake_at) is not None and at <= end:
            self.now = max(self.now, at)
            self.do(ev.Wake())
        self.now = end

    def forget(self) -> None:
        self.effects = []

    def of(self, kind: type[T]) -> list[T]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def sent(self, link: int, kind: type[T]) -> list[T]:
        return [send.item for send in self.of(fx.Send) if send.link == link and isinstance(send.item, kind)]

    def refused(self) -> list[str]:
        """Reasons of the errors that were answered."""
        return [answer.error.reason for answer in self.of(fx.Answer) if isinstance(answer.error, OteError)]


def submit(request: int, dispatch_id: str, *uids: str) -> ev.Submit:
    targets = [ev.SubmitTarget(uid, uid) for uid in uids]
    return ev.Submit(request, dispatch_id, b"digest", "apply", b"body", None, targets, 60.0, 0.0, "me")


def report(origin: str, target: str, kind: str = m.RESULT) -> m.Report:
    return m.Report(origin, 1, "d1", target, kind, state="SUCCEEDED")
