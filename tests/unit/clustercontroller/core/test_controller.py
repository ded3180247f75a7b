"""Which part is told what: a whole controller between a parent and children that the test plays.

Rules of parents, registry and dispatches have tests of their own; here is what the composition alone decides.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar, cast

import pytest

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core import records as rec
from ote.clustercontroller.core.context import CoreSettings
from ote.clustercontroller.core.controller import Controller
from ote.clustercontroller.core.questions import ASKED_FROM_BELOW
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


# --- what passes through ------------------------------------------------------------------------------------------


def test_a_child_reports_for_those_below_it_only() -> None:
    seat = Seat()
    east, west = seat.child("east"), seat.child("west")
    seat.from_child(east, report("r", "west"))
    assert seat.sent(seat.up, m.Report) == []
    seat.from_child(west, report("r", "west"))
    assert [item.target_uid for item in seat.sent(seat.up, m.Report)] == ["west"]


@pytest.mark.parametrize("kind", [m.NO_ROUTE, m.BUSY])
def test_a_child_turns_back_what_went_through_it_also_when_its_target_is_away_since(kind: str) -> None:
    seat = Seat()
    east, west = seat.child("east"), seat.child("west")
    seat.from_child(east, m.News([make_record("e1", "east")]))
    for _ in range(2):
        seat.forget()
        seat.from_child(west, report("r", "e1", kind), report("r", "nobody", kind), report("r", "c", kind))
        assert seat.sent(seat.up, m.Report) == []
        seat.from_child(east, report("r", "e1", kind))
        assert [item.kind for item in seat.sent(seat.up, m.Report)] == [kind]
        seat.from_parent(m.Away("e1", 5, "elsewhere"))
    assert seat.core.registry.state("e1") == "AWAY"


@pytest.mark.parametrize("kind", [m.NO_ROUTE, m.BUSY])
def test_a_child_cannot_have_a_command_to_anothers_cluster_counted_as_not_sent(kind: str) -> None:
    seat = Seat(root=True)
    east, west = seat.child("east"), seat.child("west")
    seat.do(replace(submit(1, "d1", "west", "c"), ttl=0.0))
    forged = [m.Report("c", 1, "d1", uid, kind, attempt=1) for uid in ("west", "c")]
    seat.forget()
    seat.from_child(east, *forged)
    assert seat.of(fx.TargetChanged) == []
    seat.from_child(west, *forged)
    assert [change.uid for change in seat.of(fx.TargetChanged)] == ["west"]


def test_a_child_acknowledges_for_origins_below_it_only() -> None:
    seat = Seat()
    east, west = seat.child("east"), seat.child("west")
    seat.from_child(east, m.Ack("west", ["east"], ["d1"]), m.Ack("r", ["east"], ["d1"]))
    assert seat.sent(east, m.Ack) == []
    seat.from_child(west, m.Ack("west", ["east"], ["d1"]))
    assert [item.origin_uid for item in seat.sent(east, m.Ack)] == ["west"]


def test_reports_and_acknowledgements_from_above_find_their_end() -> None:
    seat = Seat()
    east = seat.child("east")
    seat.from_parent(report("east", "far"), m.Ack("r", ["east"], ["d1"]))
    assert len(seat.sent(east, m.Report)) == len(seat.sent(east, m.Ack)) == 1


def test_reports_from_above_are_passed_on_together() -> None:
    seat = Seat()
    east = seat.child("east")
    seat.from_parent(m.Reports("east", "far", 30, [report("east", "far")]))
    assert [(reports.target_uid, reports.hop_limit) for reports in seat.sent(east, m.Reports)] == [("far", 29)]


def test_what_has_no_hops_left_goes_no_further() -> None:
    seat = Seat()
    east = seat.child("east")
    last, ack, call = report("east", "far"), m.Ack("r", ["east"], ["d1"]), m.Call("q", "r", "east", "ping", b"")
    last.hop_limit = ack.hop_limit = call.hop_limit = 0
    deliver = m.Deliver("r", "r", 1, "d1", "apply", True, b"", None, 0, 0, 0, [m.DeliveryTarget("east", "", 1, 0, 3)])
    seat.from_parent(last, ack, call, deliver)
    assert [send.item for send in seat.of(fx.Send) if send.link == east] == []
    [reply] = seat.sent(seat.up, m.Reply)
    assert (reply.to_uid, reply.code, reply.reason) == ("r", "UNAVAILABLE", "NO_ROUTE")
    [turned_back] = seat.sent(seat.up, m.Report)
    assert (turned_back.kind, turned_back.attempt) == (m.NO_ROUTE, 3)


def test_what_an_event_had_gathered_before_it_failed_does_not_leave_with_the_next() -> None:
    seat = Seat()
    east = seat.child("east")
    aim = m.DeliveryTarget("east", "", 1, 0, 3)
    good = m.Deliver("r", "r", 1, "d1", "apply", True, b"", None, 0, 0, 30, [aim])
    broken = m.Deliver("r", "r", 1, "d2", "apply", True, b"", None, 0, 0, 30, cast(Any, None))
    with pytest.raises(TypeError):
        seat.core.handle(ev.FromParent(seat.up, [good, broken]), seat.now)
    assert not any(isinstance(effect, fx.Send) for effect in seat.core.failed())
    seat.do(ev.Wake())
    assert seat.sent(east, m.Deliveries) == []
    seat.from_parent(good)
    assert len(seat.sent(east, m.Deliveries)) == 1


def test_a_request_to_end_early_that_has_no_way_is_dropped_for_its_origin_asks_again() -> None:
    seat = Seat()
    seat.from_parent(m.Revoke("r", 1, "d1", False, 30, [m.DeliveryTarget("nobody", "", 1, 0, 1)]))
    assert seat.of(fx.Send) == []


def test_an_answer_that_has_no_way_is_dropped() -> None:
    seat = Seat(root=True)
    east = seat.child("east")
    seat.from_child(east, m.Reply("q", "nobody", "OK"))
    assert seat.of(fx.Send) == []


def test_a_command_with_a_payload_opens_it_to_the_children_it_goes_through_before_it_is_sent() -> None:
    seat = Seat()
    east = seat.child("east")
    seat.child("west")
    payload = m.Payload(b"hash", 100_000, [b"piece"])
    targets = [m.DeliveryTarget("east", "", 1, 0, 1)]
    seat.from_parent(m.Deliver("r", "r", 1, "d1", "apply", True, None, payload, 0, 0, 30, targets))
    kinds = [type(effect) for effect in seat.effects]
    assert [(serve.link, serve.payload) for serve in seat.of(fx.ServePayload)] == [(east, payload)]
    assert kinds.index(fx.ServePayload) < kinds.index(fx.Send)


def test_a_command_for_many_is_split_into_messages_that_fit_a_frame() -> None:
    seat = Seat()
    east = seat.child("east")
    below = [f"e{n}" for n in range(500)]
    seat.from_child(east, m.News([make_record(uid, "east") for uid in below]))
    seat.forget()
    targets = [m.DeliveryTarget(uid, "", 1, 0, 1) for uid in below]
    seat.from_parent(m.Deliver("r", "r", 1, "d1", "apply", True, b"b" * 10_000, None, 0, 0, 30, targets))
    seat.from_parent(m.Revoke("r", 1, "d1", False, 30, targets))
    messages: list[tuple[list[m.Deliver] | list[m.Revoke], int]] = [
        (seat.sent(east, m.Deliver), (28 * 1024 - 10_000) // 96),
        (seat.sent(east, m.Revoke), 28 * 1024 // 96),
    ]
    for parts, room in messages:
        assert [target.uid for part in parts for target in part.targets] == below
        assert max(len(part.targets) for part in parts) == room
        assert {part.hop_limit for part in parts} == {29}


def test_a_full_lane_is_told_to_the_origin_for_each_target() -> None:
    seat = Seat()
    east = seat.child("east")
    targets = [m.DeliveryTarget("east", "", 1, 0, 4), m.DeliveryTarget("far", "", 7, 0, 2)]
    seat.do(ev.LaneFull(east, m.Deliver("r", "r", 1, "d1", "apply", True, b"", None, 0, 0, 30, targets)))
    told = [(r.kind, r.target_uid, r.attempt, r.retry_after_ms) for r in seat.sent(seat.up, m.Report)]
    assert told == [(m.BUSY, "east", 4, 100), (m.BUSY, "far", 2, 100)]


def test_what_a_childs_queue_had_no_room_for_is_said_at_its_next_heartbeat() -> None:
    seat = Seat()
    east = seat.child("east")
    seat.from_child(east, m.News([make_record("below", "east")]))
    away, evictions = m.Away("below", 5, "elsewhere"), m.Evictions(["gone-1", "gone-2"])
    seat.from_parent(away, evictions)
    [alternates] = seat.sent(east, m.Alternates) or [m.Alternates()]
    for item in (away, evictions, alternates, m.Resync()):
        seat.do(ev.LaneFull(east, item))
    seat.do(ev.LaneFull(99, away))
    seat.forget()
    for again in ([away], []):
        seat.from_child(east, m.Heartbeat(0, seat.core.registry.whole_digest("east")))
        assert seat.sent(east, m.Away) == again
        assert seat.sent(east, m.Evictions) == ([evictions] if again else [])
        assert len(seat.sent(east, m.Alternates)) == len(again)
        seat.forget()
    seat.do(ev.LaneFull(east, evictions))
    seat.from_child(east, m.Heartbeat(0, seat.core.registry.whole_digest("east")))
    assert [type(send.item) for send in seat.of(fx.Send)] == [m.Evictions]


def test_what_the_parents_queue_had_no_room_for_is_said_a_second_later() -> None:
    seat = Seat()
    east = seat.child("east")
    seat.pass_time(1.0)
    seat.forget()
    seat.from_child(east, m.News([make_record("below", "east")]), m.Evictions(["lost"]))
    seat.pass_time(0.5)
    said = [(send.link, send.item) for send in seat.of(fx.Send) if isinstance(send.item, m.News | m.Evictions)]
    assert [type(item) for _, item in said] == [m.Evictions, m.News]
    seat.forget()
    for link, item in said:
        seat.do(ev.LaneFull(link, item))
    seat.do(ev.LaneFull(seat.up, m.Away("below", 1)))
    seat.pass_time(0.9)
    seat.from_child(east, report("r", "below"))
    assert len(seat.sent(seat.up, m.Report)) == 1
    assert not seat.sent(seat.up, m.News)
    assert not seat.sent(seat.up, m.Evictions)
    seat.pass_time(0.2)
    assert [r.uid for news in seat.sent(seat.up, m.News) for r in news.records] == ["below"]
    assert seat.sent(seat.up, m.Evictions) == [m.Evictions(["lost"])]


def test_news_that_another_message_has_told_meanwhile_are_not_told_again() -> None:
    seat = Seat()
    seat.pass_time(1.0)
    seat.child("east")
    seat.child("west")
    seat.forget()
    seat.from_parent(m.Resync())
    seat.pass_time(1.0)
    assert [news.full_end for news in seat.sent(seat.up, m.News)] == [True]


def test_what_no_child_may_say_ends_its_link() -> None:
    seat = Seat()
    east = seat.child("east")
    seat.from_child(east, m.Attach(make_record("east", "c", 2), NOTHING))
    assert [refused.reason for refused in seat.sent(east, m.Refused)] == ["BAD_FRAME"]
    assert [close.link for close in seat.of(fx.CloseLink)] == [east]


def test_what_no_parent_may_say_is_logged_and_does_nothing() -> None:
    seat = Seat()
    seat.from_parent(m.Welcome("p", "p", "p-1", m.Standing(10, 1), True, [], 2000, 5000, 0))
    assert [(log.level, log.fields) for log in seat.of(fx.Log)] == [("warning", {"item": "Welcome"})]
    assert not [effect for effect in seat.effects if isinstance(effect, fx.Send | fx.CloseLink)]


# --- registry -----------------------------------------------------------------------------------------------------


def test_a_new_parent_is_told_at_once_and_then_at_most_every_tenth_of_a_second() -> None:
    seat = Seat()
    seat.pass_time(1.0)
    seat.forget()
    seat.child("east")
    link = seat.child("west")
    seat.pass_time(0.09)
    assert seat.sent(seat.up, m.News) == []
    seat.from_child(link, m.News([make_record("below", "west")]))
    seat.pass_time(0.02)
    [news] = seat.sent(seat.up, m.News)
    assert [record.uid for record in news.records] == ["west", "below"]


def test_news_before_there_is_a_parent_are_kept_for_it() -> None:
    seat = Seat(attached=False)
    seat.child("east")
    seat.pass_time(0.2)
    seat.attach()
    told = [record.uid for news in seat.sent(seat.up, m.News) for record in news.records]
    assert sorted(told) == ["c", "east"]


def test_a_full_account_has_a_first_and_a_last_message_and_no_news_are_left_after_it() -> None:
    labels = {f"key-{n}": "v" * 60 for n in range(200)}
    seat = Seat(facts=m.Facts(version=1, labels=labels, tags=["tag"]))
    link = seat.child("east")
    wide = m.Facts(version=1, labels={f"key-{n}": "v" * 60 for n in range(120)})
    many = [make_record(f"e{n}", "east", facts=wide) for n in range(4)]
    seat.from_child(link, m.News(many))
    seat.forget()
    seat.from_parent(m.Resync())
    news = seat.sent(seat.up, m.News)
    assert [(item.full_begin, item.full_end) for item in news] == [(True, False), (False, False), (False, True)]
    assert [len(item.records) for item in news] == [2, 2, 2]
    assert [record.uid for record in news[0].records] == ["c", "east"]
    seat.forget()
    seat.pass_time(0.5)
    assert seat.sent(seat.up, m.News) == []


def test_one_record_larger_than_a_message_goes_alone() -> None:
    seat = Seat(root=False, facts=m.Facts(version=1))
    seat.do(ev.ShimStatus(b"s" * 50_000))
    seat.forget()
    seat.from_parent(m.Resync())
    [news] = seat.sent(seat.up, m.News)
    assert (news.full_begin, news.full_end, len(news.records)) == (True, True, 1)


def test_away_is_passed_down_the_former_chain() -> None:
    seat = Seat()
    link = seat.child("east")
    seat.from_child(link, m.News([make_record("below", "east")]))
    seat.from_parent(m.Away("below", 5, "elsewhere"), m.Away("nobody", 5))
    assert seat.sent(link, m.Away) == [m.Away("below", 5, "elsewhere")]


def test_candidates_from_above_are_told_to_the_children_when_they_are_others_in_the_end() -> None:
    seat = Seat()
    east = seat.child("east")
    uncle = m.Alternate("u", "u", "u:1")
    before, after = m.Alternates(parent=PARENT), m.Alternates(siblings=[uncle], parent=PARENT)
    rounds: list[tuple[list[m.DownItem], int]] = [([before], 1), ([after], 1), ([after], 0), ([before, after], 0)]
    for items, told in rounds:
        seat.forget()
        seat.from_parent(*items)
        seat.from_child(east, m.Heartbeat(0, seat.core.registry.whole_digest("east")))
        seat.pass_time(0.5)
        assert len(seat.sent(east, m.Alternates)) == told


def test_evictions_from_above_are_told_to_everybody_else_and_end_links() -> None:
    seat = Seat()
    east, west = seat.child("east"), seat.child("west")
    seat.from_parent(m.Evictions(["east", "far"]))
    assert [refused.reason for refused in seat.sent(east, m.Refused)] == ["EVICTED"]
    assert seat.sent(west, m.Evictions) == [m.Evictions(["east", "far"])]
    assert seat.sent(seat.up, m.Evictions) == []
    seat.forget()
    seat.from_parent(m.Evictions(["far"]))
    assert seat.of(fx.Send) == []


def test_a_child_evicts_what_is_below_it_and_the_root_decides_of_what_nobody_knows() -> None:
    seat = Seat()
    east, west = seat.child("east"), seat.child("west")
    seat.from_child(east, m.News([make_record("below", "east")]))
    seat.forget()
    seat.from_child(east, m.Evictions(["below", "west", "p", "c", "lost"]))
    assert set(seat.core.registry.evicted) == {"below"}
    assert seat.sent(west, m.Evictions) == [m.Evictions(["below"])]
    assert seat.sent(seat.up, m.Evictions) == [m.Evictions(["lost"]), m.Evictions(["below"])]


def test_a_root_takes_evictions_of_what_it_does_not_know_but_not_from_a_leaf() -> None:
    seat = Seat(root=True)
    east, leaf = seat.child("east"), seat.child("leaf", leaf=True)
    seat.from_child(leaf, m.Evictions(["never-seen"]))
    assert set(seat.core.registry.evicted) == set()
    seat.from_child(east, m.Evictions(["never-seen", "leaf"]))
    assert set(seat.core.registry.evicted) == {"never-seen"}


def test_without_a_parent_evictions_of_the_unknown_wait_for_the_next_exchange() -> None:
    seat = Seat(attached=False)
    east = seat.child("east")
    seat.from_child(east, m.Evictions(["lost"]))
    assert seat.of(fx.Send) == []
    assert set(seat.core.registry.evicted) == set()


def test_evicting_the_unknown_is_refused() -> None:
    seat = Seat(root=True)
    seat.do(ev.Evict(1, "nobody"))
    assert seat.refused() == ["CLUSTER_NOT_FOUND"]


def test_an_eviction_is_on_disk_before_it_is_answered_and_says_whether_it_was_heard() -> None:
    seat = Seat(root=True)
    seat.child("east")
    seat.do(ev.Evict(1, "east"))
    kinds = [type(effect) for effect in seat.effects]
    assert kinds.index(fx.Put) < kinds.index(fx.Barrier) < kinds.index(fx.Answer)
    assert [answer.value for answer in seat.of(fx.Answer)] == [("east", [], True)]


# --- the cluster itself -------------------------------------------------------------------------------------------


def test_dispatches_may_come_several_at_once_and_each_is_answered() -> None:
    seat = Seat(root=True)
    east = seat.child("east")
    seat.do(ev.SubmitMany([submit(1, "d1", "east"), submit(2, "d2", "east")]))
    assert [(answer.request, answer.value) for answer in seat.of(fx.Answer)] == [(1, "d1"), (2, "d2")]
    [together] = seat.sent(east, m.Deliveries)
    assert [deliver.dispatch_id for deliver in together.items] == ["d1", "d2"]


def test_a_lane_without_room_is_busy_for_each_command_of_the_item() -> None:
    seat = Seat()
    east = seat.child("east")
    aims = [m.DeliveryTarget("east", "", seq, 0, 3) for seq in (1, 2)]
    delivers = [m.Deliver("r", "r", 1, f"d{aim.seq}", "apply", True, b"", None, 0, 0, 30, [aim]) for aim in aims]
    seat.do(ev.LaneFull(east, m.Deliveries("east", 30, delivers)))
    told = [(r.kind, r.dispatch_id, r.attempt) for r in seat.sent(seat.up, m.Report)]
    assert told == [(m.BUSY, "d1", 3), (m.BUSY, "d2", 3)]


def test_reports_are_taken_only_for_a_target_below_the_child_that_brings_them() -> None:
    seat = Seat()
    east = seat.child("east")
    for target in ("west", "east"):
        seat.do(ev.FromChild(east, [m.Reports("r", target, 30, [report("r", target)])]))
    assert [item.target_uid for item in seat.sent(seat.up, m.Reports)] == ["east"]


def test_a_status_is_told_upward_with_a_version_of_its_own_and_not_at_every_change() -> None:
    seat = Seat()
    seat.ctx.settings = replace(seat.ctx.settings, status_interval=2.0)
    seat.pass_time(1.0)
    for body in (b"one", b"two", b"three"):
        seat.do(ev.ShimStatus(body))
        seat.pass_time(0.5)
    seat.pass_time(1.0)
    told = [record.status for news in seat.sent(seat.up, m.News) for record in news.records]
    assert told == [m.Status(1, b"one"), m.Status(2, b"three")]


def test_labels_that_cannot_be_end_their_command_and_change_nothing() -> None:
    seat = Seat()
    seat.do(ev.FactsChange("r/d1", {"no key!": "v"}, [], [], []))
    assert [(f.key, f.state, f.reason) for f in seat.of(fx.FinishHere)] == [("r/d1", "FAILED", "INVALID_LABEL")]
    assert seat.of(fx.Put) == []
    seat.do(ev.FactsChange("r/d2", {"k": "v"}, [], [], []))
    assert [(f.key, f.state) for f in seat.of(fx.FinishHere)[1:]] == [("r/d2", "SUCCEEDED")]


def test_a_drain_that_moves_nobody_fails_with_the_names_of_those_who_stayed() -> None:
    seat = Seat(facts=HUB)
    for name in ("west", "east"):
        seat.child(name)
    seat.do(ev.DrainAsked("r/d1", False, 3.0))
    seat.pass_time(2.9)
    assert seat.of(fx.FinishHere) == []
    seat.pass_time(0.2)
    [finish] = seat.of(fx.FinishHere)
    assert (finish.state, finish.reason, finish.message) == (
        "FAILED",
        "CHILDREN_STAYED",
        "could not move: east, west",
    )


def test_a_drain_ends_when_the_last_child_is_seen_elsewhere_or_has_had_its_time_and_is_remembered_first() -> None:
    seat = Seat(facts=HUB)
    east = seat.child("east")
    seat.do(ev.DrainAsked("r/d1", False, 30.0))
    kinds = [type(effect) for effect in seat.effects]
    assert kinds.index(fx.Put) < kinds.index(fx.Barrier) < kinds.index(fx.Send)
    assert seat.of(fx.FinishHere) == []
    seat.from_child(east, m.Goodbye(1, 2))
    seat.do(ev.LinkLost(east, "closed"))
    assert seat.of(fx.FinishHere) == []
    seat.pass_time(2 * seat.ctx.settings.heartbeat)
    assert [(f.state, f.message) for f in seat.of(fx.FinishHere)] == [("SUCCEEDED", "all children have moved")]


@pytest.mark.parametrize(
    ("seat", "state", "reason", "says"),
    [
        (Seat(root=True, facts=HUB), "FAILED", "ROOT_CANNOT_DRAIN", "a root has nobody to hand its children to"),
        (Seat(), "SUCCEEDED", "NOTHING_TO_DRAIN", "it takes no children: there is nothing to drain"),
    ],
)
def test_a_root_and_a_leaf_do_not_drain_and_say_why(seat: Seat, state: str, reason: str, says: str) -> None:
    seat.do(ev.DrainAsked("r/d1", False, 30.0, 1_000))
    [finish] = seat.of(fx.FinishHere)
    assert (finish.state, finish.reason) == (state, reason)
    assert finish.message.startswith(says)
    assert not seat.core.registry.own.facts.draining


def test_since_when_it_drains_is_remembered_and_told() -> None:
    seat = Seat(facts=HUB)
    seat.do(ev.DrainAsked("r/d1", False, 30.0, 1_000))
    seat.do(ev.DrainAsked("r/d2", False, 30.0, 2_000))
    assert [finish.message for finish in seat.of(fx.FinishHere)] == ["it has no children, and takes none now"] * 2
    assert seat.core.registry.own.facts.draining_since_ms == 1_000
    kept = {put.key: put.value for put in seat.of(fx.Put) if put.table == "self"}
    assert kept["self"].draining_since_ms == 1_000
    seat.do(ev.DrainAsked("r/d3", True, 30.0, 3_000))
    assert seat.core.registry.own.facts.draining_since_ms == 0


def test_an_evicted_child_that_has_not_gone_does_not_hold_up_a_drain() -> None:
    seat = Seat(facts=HUB)
    seat.child("east")
    seat.do(ev.DrainAsked("r/d1", False, 30.0))
    seat.do(ev.Evict(1, "east"))
    assert [finish.state for finish in seat.of(fx.FinishHere)] == ["SUCCEEDED"]


@pytest.mark.parametrize("told", [m.Refused("EVICTED", "not a member"), m.Evictions(["c"])])
def test_the_children_of_an_evicted_cluster_go_at_once(told: m.DownItem) -> None:
    seat = Seat(facts=HUB)
    east = seat.child("east")
    seat.from_parent(told)
    assert seat.sent(east, m.Beat)[-1].draining
    seat.do(ev.ChildHello(99, m.Hello("west", "west", "west-1", 0, None), "west", "west", b"west"))
    assert [refused.reason for refused in seat.sent(99, m.Refused)] == ["DRAINING"]
    assert not seat.core.registry.own.facts.draining
    seat.do(ev.DrainAsked("r/d1", True, 30.0))
    assert seat.core.children.draining, "what people take back is only what they asked for"


def test_who_is_evicted_while_it_looks_for_a_parent_lets_its_children_go_until_it_is_taken() -> None:
    seat = Seat(facts=HUB)
    east = seat.child("east")
    seat.do(ev.LinkLost(seat.up, "closed"))
    seat.pass_time(0.5)
    seat.do(ev.DialRefused(seat.of(fx.Dial)[-1].link, m.Refused("EVICTED", "not a member", retry_after_ms=0)))
    assert seat.sent(east, m.Beat)[-1].draining
    seat.forget()
    while not seat.of(fx.Dial):
        seat.pass_time(0.5)
    up = seat.of(fx.Dial)[-1].link
    path = [m.PathStep("r", "r"), m.PathStep("p", "p")]
    seat.do(ev.DialWelcome(up, m.Welcome("p", "p", "p-1", m.Standing(900, 1), True, path, 2000, 5000, 0)))
    seat.do(ev.FromParent(up, [m.Attached(seat.sent(up, m.Attach)[-1].record.epoch)]))
    assert not seat.core.children.draining


def test_a_candidate_beside_the_parent_cannot_say_that_a_cluster_is_evicted() -> None:
    seat = Seat(facts=HUB)
    seat.do(ev.Renewed())
    seat.do(ev.DialRefused(seat.of(fx.Dial)[-1].link, m.Refused("EVICTED", "not a member")))
    assert not seat.core.children.draining


def test_an_eviction_on_disk_holds_after_a_restart() -> None:
    seat = Seat(facts=HUB)
    tables = {"evictions": {"c": rec.Eviction()}}
    again = Controller(seat.ctx, home=PARENT, facts=HUB, tables=tables, has_shim=False)
    again.handle(ev.Started(), seat.now)
    assert again.children.draining


def test_stopping_moves_the_children_away_then_says_goodbye_then_answers() -> None:
    seat = Seat()
    east = seat.child("east")
    seat.do(ev.Stop(1, 2.0))
    assert [beat.draining for beat in seat.sent(east, m.Beat)] == [True]
    assert seat.sent(seat.up, m.Goodbye) == []
    [said] = [log.fields for log in seat.of(fx.Log) if log.message.startswith("waiting for the children")]
    assert said == {"children": 1, "among_them": ["east"], "at_most": 2.0}
    seat.pass_time(2.0)
    assert [goodbye.next_epoch for goodbye in seat.sent(seat.up, m.Goodbye)] == [0]
    assert seat.of(fx.Answer) == []
    seat.from_parent(m.Drained())
    assert [(answer.request, answer.value) for answer in seat.of(fx.Answer)] == [(1, ["east"])]


def test_a_root_that_stops_does_not_wait_for_there_is_nobody_to_take_its_children() -> None:
    seat = Seat(root=True)
    east, west = (seat.child(name, facts=replace(HUB, advertise=f"{name}:1")) for name in ("east", "west"))
    seat.do(ev.Stop(1, 60.0))
    assert [beat.draining for link in (east, west) for beat in seat.sent(link, m.Beat)] == [True, True]
    assert [(answer.request, answer.value) for answer in seat.of(fx.Answer)] == [(1, ["east", "west"])]
    assert not [log for log in seat.of(fx.Log) if log.message.startswith("waiting for the children")]


# --- questions ----------------------------------------------------------------------------------------------------


def test_a_question_is_answered_once() -> None:
    seat = Seat()
    east = seat.child("east")
    seat.do(ev.Asked(1, "east", "ping", b"?"))
    [call] = seat.sent(east, m.Call)
    assert (call.from_uid, call.to_uid, call.method, call.body) == ("c", "east", "ping", b"?")
    reply = m.Reply(call.id, "c", "OK", body=b"!")
    seat.from_child(east, reply, reply)
    assert [(answer.request, answer.value) for answer in seat.of(fx.Answer)] == [(1, reply)]
    seat.pass_time(20.0)
    assert seat.refused() == []


def test_each_question_has_its_own_time_for_an_answer() -> None:
    seat = Seat()
    seat.child("east")
    seat.do(ev.Asked(1, "east", "ping", b"?"))
    seat.pass_time(1.0)
    seat.do(ev.Asked(2, "east", "ping", b"?"))
    seat.pass_time(9.5)
    assert seat.refused() == ["NO_ANSWER"]


def test_a_question_to_oneself_does_not_leave() -> None:
    for root, to in ((True, ""), (True, "c"), (False, "c")):
        seat = Seat(root=root)
        seat.do(ev.Asked(1, to, "ping", b"?"))
        [ask] = seat.of(fx.Ask)
        assert (ask.from_uid, ask.method, ask.from_above) == ("c", "ping", True)
        seat.do(ev.Answered(ask.id, ask.from_uid, "OK", body=b"!"))
        assert [(answer.request, answer.value.body) for answer in seat.of(fx.Answer)] == [(1, b"!")]
        assert seat.sent(seat.up, m.Call) == []


def test_a_question_to_the_root_goes_up_after_the_news_that_it_may_be_about() -> None:
    seat = Seat()
    seat.child("east")
    seat.do(ev.Asked(1, "", "key-of", b"east"))
    kinds = [type(send.item) for send in seat.of(fx.Send) if send.link == seat.up]
    assert kinds == [m.News, m.Call]


def test_a_question_that_nobody_answers_ends_after_ten_seconds() -> None:
    seat = Seat(root=True)
    seat.child("east")
    seat.do(ev.Asked(1, "east", "ping", b""))
    seat.pass_time(3.0)
    seat.do(ev.Asked(2, "east", "ping", b""))
    seat.pass_time(6.9)
    assert seat.of(fx.Answer) == []
    seat.pass_time(0.2)
    assert seat.refused() == ["NO_ANSWER"]
    seat.pass_time(3.0)
    assert seat.refused() == ["NO_ANSWER", "NO_ANSWER"]


def test_a_question_that_has_no_way_is_refused_at_once() -> None:
    seat = Seat(attached=False)
    seat.do(ev.Asked(1, "", "ping", b""))
    assert seat.refused() == ["NO_ROUTE"]


def test_a_question_from_above_is_passed_down_or_answered_here() -> None:
    seat = Seat()
    east = seat.child("east")
    seat.from_parent(m.Call("q1", "r", "east", "ping", b""), m.Call("q2", "r", "c", "ping", b""))
    assert [call.id for call in seat.sent(east, m.Call)] == ["q1"]
    assert [(ask.id, ask.from_above) for ask in seat.of(fx.Ask)] == [("q2", True)]
    seat.do(ev.Answered("q2", "r", "OK"))
    assert [reply.id for reply in seat.sent(seat.up, m.Reply)] == ["q2"]
    seat.from_child(east, m.Reply("q1", "r", "OK"))
    assert [reply.id for reply in seat.sent(seat.up, m.Reply)] == ["q2", "q1"]


@pytest.mark.parametrize("method", sorted(ASKED_FROM_BELOW))
def test_a_child_asks_what_may_be_asked_from_below(method: str) -> None:
    seat = Seat()
    east = seat.child("east")
    seat.from_child(east, m.Call("q1", "east", "c", method, b""), m.Call("q2", "east", "", method, b""))
    assert [(ask.id, ask.from_above) for ask in seat.of(fx.Ask)] == [("q1", False)]
    assert [call.id for call in seat.sent(seat.up, m.Call)] == ["q2"]


def test_a_child_may_not_ask_for_what_changes_things_above_it() -> None:
    seat = Seat()
    east = seat.child("east")
    seat.from_child(east, m.Call("q", "east", "", "/ote.api.route.v1.RouteService/CancelDispatch", b""))
    assert [(reply.code, reply.reason) for reply in seat.sent(east, m.Reply)] == [
        ("PERMISSION_DENIED", "NOT_FROM_BELOW")
    ]
    assert not seat.of(fx.Ask)
    assert not seat.sent(seat.up, m.Call)


def test_a_child_asks_in_the_name_of_nobody_who_is_not_below_it() -> None:
    seat = Seat()
    east = seat.child("east")
    seat.child("west")
    for claimed in ("west", "p", "c", "nobody"):
        seat.from_child(east, m.Call("q", claimed, "", "ping", b""))
    assert [log.fields["claimed"] for log in seat.of(fx.Log)] == ["west", "p", "c", "nobody"]
    assert not [effect for effect in seat.effects if isinstance(effect, fx.Ask | fx.Answer)]
    assert [send for send in seat.of(fx.Send) if not isinstance(send.item, m.News)] == []


# --- time ---------------------------------------------------------------------------------------------------------


def test_it_is_told_since_when_the_root_is_heard() -> None:
    seat = Seat()
    begun = seat.core.connected_since
    assert begun == seat.now
    seat.pass_time(CoreSettings().dead_after + 1.0)
    assert seat.core.connected_since == pytest.approx(begun + CoreSettings().dead_after, abs=0.5)
