"""What passes through a hop: once per link, whatever the number of targets behind it."""

from __future__ import annotations

import random
from collections.abc import Iterator

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
    hop.router.flush()
    sent = hop.take()
    assert [(link, [aim.uid for aim in item.targets]) for link, item in sent if isinstance(item, m.Deliver)] == [
        (EAST, ["e1", "e2"])
    ]
    assert [(link, item.target_uid) for link, item in sent if isinstance(item, m.Deliveries)] == [(WEST, "w1")]
    assert len(hop.mine) == 1


def command(dispatch: str, uid: str, body: bytes = b"body") -> m.Deliver:
    aim = m.DeliveryTarget(uid, "j", 1, 0, 1)
    return m.Deliver(ORIGIN, "o", 1, dispatch, "apply", True, body, None, 1000, 0, 32, [aim])


def result(dispatch: str, target: str) -> m.Report:
    return m.Report(ORIGIN, 1, dispatch, target, m.RESULT, state="SUCCEEDED")


def test_what_one_event_brings_for_a_target_goes_together_in_items_that_fit_a_frame() -> None:
    hop = Hop()
    large = [command(f"d{number}", "e1", bytes(10_000)) for number in range(5)]
    for deliver in (*large, command("d9", "w1")):
        hop.router.deliver(deliver)
    assert hop.take() == []
    hop.router.flush()
    assert hop.take() == [
        (EAST, m.Deliveries("e1", 31, large[:2])),
        (EAST, m.Deliveries("e1", 31, large[2:4])),
        (EAST, m.Deliveries("e1", 31, large[4:])),
        (WEST, m.Deliveries("w1", 31, [command("d9", "w1")])),
    ]


class Unopened(list[m.Deliver]):
    def __iter__(self) -> Iterator[m.Deliver]:
        raise AssertionError("opened on its way")


def test_a_hop_passes_commands_of_a_target_on_unopened() -> None:
    hop = Hop()
    sealed = Unopened([command("d1", "e1")])
    hop.router.deliveries(m.Deliveries("e1", 5, sealed))
    ((link, item),) = hop.take()
    assert isinstance(item, m.Deliveries)
    assert (link, item.hop_limit) == (EAST, 4)
    assert item.items is sealed


def test_a_hop_without_a_way_answers_for_each_command_of_the_item() -> None:
    hop = Hop()
    hop.router.deliveries(m.Deliveries("x", 5, [command("d1", "x"), command("d2", "x")]))
    hop.router.deliveries(m.Deliveries("e1", 0, [command("d3", "e1")]))
    said = [(link, item.dispatch_id, item.kind) for link, item in hop.take() if isinstance(item, m.Report)]
    assert said == [(UP, "d1", m.NO_ROUTE), (UP, "d2", m.NO_ROUTE), (UP, "d3", m.NO_ROUTE)]


def test_a_target_takes_only_what_names_it() -> None:
    hop = Hop()
    mine, others = command("d1", ME), command("d2", "e1")
    hop.router.deliveries(m.Deliveries(ME, 5, [mine, others]))
    assert hop.mine == [mine]
    assert hop.take() == []


def test_what_a_target_says_in_one_event_goes_together() -> None:
    hop = Hop()
    first, second = result("d1", ME), result("d2", ME)
    hop.router.report(first)
    hop.router.report(second)
    hop.router.flush()
    assert hop.take() == [(UP, m.Reports(ORIGIN, ME, 31, [first, second]))]


def test_an_origin_takes_reports_only_of_the_target_that_the_item_is_of() -> None:
    hop = Hop()
    theirs, forged = result("d1", "e1"), result("d1", "w1")
    hop.router.reports(m.Reports(ME, "e1", 5, [theirs, forged]))
    assert hop.mine == [theirs]


def test_reports_that_have_crossed_too_many_links_go_no_further() -> None:
    hop = Hop()
    hop.router.reports(m.Reports(ORIGIN, "e1", 0, [result("d1", "e1")]))
    assert hop.take() == []
    hop.router.reports(m.Reports(ORIGIN, "e1", 2, [result("d1", "e1")]))
    assert hop.take() == [(UP, m.Reports(ORIGIN, "e1", 1, [result("d1", "e1")]))]
