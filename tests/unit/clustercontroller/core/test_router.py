"""What passes through a hop: once per link, whatever the number of targets behind it."""

from __future__ import annotations

import random

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import Context, CoreSettings
from ote.clustercontroller.core.router import Router

ME, ORIGIN = "uid-me", "uid-origin"
UP, EAST, WEST = 1, 2, 3


class Hop:
    """A router with children EAST and WEST; those below are told by the first letter of their uid."""

    def __init__(self) -> None:
        self.ctx = Context(
            ME, "me", "instance", b"", CoreSettings(), random.Random(1), sign=bytes, verify=lambda *_: False
        )
        self.router = Router(self.ctx, self, lambda: UP, lambda: None)
        self.router.ends = self
        self.mine: list[m.Item] = []

    def next_hop(self, uid: str) -> int | None:
        return {"e": EAST, "w": WEST}.get(uid[0])

    def deliver(self, deliver: m.Deliver, target: m.DeliveryTarget) -> None:
        self.mine.append(deliver)

    def revoke(self, revoke: m.Revoke, target: m.DeliveryTarget) -> None:
        self.mine.append(revoke)

    def acknowledged(self, ack: m.Ack) -> None:
        self.mine.append(ack)

    def reported(self, report: m.Report) -> None:
        self.mine.append(report)

    def take(self) -> list[tuple[int, m.Item]]:
        effects, self.ctx.effects = self.ctx.effects, []
        return [(effect.link, effect.item) for effect in effects if isinstance(effect, fx.Send)]


def test_an_acknowledgement_crosses_each_link_once_for_all_targets_behind_it() -> None:
    hop = Hop()
    ack = m.Ack(ORIGIN, ["e1", "w1", ME, "e2", "other"], ["d1", "d2"], 5)
    hop.router.ack(ack)
    assert hop.mine == [ack]
    assert hop.take() == [
        (EAST, m.Ack(ORIGIN, ["e1", "e2"], ["d1", "d2"], 4)),
        (WEST, m.Ack(ORIGIN, ["w1"], ["d1", "d2"], 4)),
        (UP, m.Ack(ORIGIN, ["other"], ["d1", "d2"], 4)),
    ]


def test_an_acknowledgement_of_many_targets_takes_more_than_one_frame() -> None:
    hop = Hop()
    uids = [f"e{number:031d}" for number in range(2000)]
    hop.router.ack(m.Ack(ORIGIN, uids, ["d1"]))
    sent = hop.take()
    assert [uid for _, item in sent if isinstance(item, m.Ack) for uid in item.target_uids] == uids
    assert len(sent) == 3


def test_an_acknowledgement_that_has_crossed_too_many_links_goes_no_further() -> None:
    hop = Hop()
    hop.router.ack(m.Ack(ORIGIN, ["e1"], ["d1"], 0))
    assert hop.take() == []


def test_a_command_crosses_each_link_once_for_all_targets_behind_it() -> None:
    hop = Hop()
    targets = [m.DeliveryTarget(uid, "j", 1, 0, 1) for uid in ("e1", "w1", "e2", ME)]
    hop.router.deliver(m.Deliver(ORIGIN, "o", 1, "d1", "apply", True, b"body", None, 1000, 0, 32, targets))
    links = [(link, [aim.uid for aim in item.targets]) for link, item in hop.take() if isinstance(item, m.Deliver)]
    assert links == [(EAST, ["e1", "e2"]), (WEST, ["w1"])]
    assert len(hop.mine) == 1
