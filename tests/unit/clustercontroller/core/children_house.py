"""A parent without sockets whose children a test plays."""

from __future__ import annotations

from dataclasses import replace

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core import records as rec
from ote.clustercontroller.core.children import Children
from ote.clustercontroller.core.registry import Registry
from tests.unit.clustercontroller.core.registry_tree import Above, effects, make_context, make_record, sent

NOTHING = m.Digest(0, 0)


class House:
    """A parent "root" and the children that a test lets in; heartbeat 2 s, dead after 5 s."""

    def __init__(self, admit_per_second: float = 400.0) -> None:
        self.ctx = make_context("root", admit_per_second)
        self.registry = Registry(self.ctx)
        self.above = Above()
        self.row = rec.Self()
        self.children = Children(self.ctx, self.registry, self.above, self.row)

    def hello(self, link: int, uid: str, /, **changes: object) -> m.Welcome | m.Refused:
        hello = m.Hello(uid, uid, f"{uid}-1", 0, None)
        return self.children.hello(link, replace(hello, **changes), uid, uid)  # type: ignore[arg-type]

    def attach(self, link: int, uid: str, /, epoch: int = 1, **changes: object) -> bool:
        record = make_record(uid, "root", epoch, **changes)
        return self.children.attach(link, m.Attach(record, NOTHING))

    def let_in(self, link: int, uid: str, epoch: int = 1, instance: str = "", advertise: str = "") -> None:
        instance = instance or f"{uid}-1"
        assert isinstance(self.hello(link, uid, instance=instance), m.Welcome)
        assert self.attach(link, uid, epoch, instance=instance, facts=m.Facts(version=1, advertise=advertise))

    def heartbeat(self, link: int, uid: str) -> None:
        self.children.heartbeat(link, m.Heartbeat(0, self.registry.whole_digest(uid)))

    def closed(self) -> dict[int, str]:
        return {effect.link: effect.reason for effect in effects(self.ctx, fx.CloseLink)}

    def refused(self, link: int) -> list[str]:
        return [refused.reason for refused in sent(self.ctx, m.Refused, link)]

    def clear(self) -> None:
        self.ctx.effects.clear()

    def pass_time(self, seconds: float, *alive: int) -> None:
        """Let time pass; the links named are heard twice a second, wakes come when they are due."""
        end = self.ctx.now + seconds
        while self.ctx.now < end:
            self.ctx.now += 0.5
            for link in alive:
                self.children.heard(link)
            due = self.children.next_wake()
            if due is not None and due <= self.ctx.now:
                self.children.wake()
