"""What a whole controller does as a member: its dispatches, labels, drain, stop, and the questions it is asked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core import records as rec
from ote.clustercontroller.core.context import CoreSettings
from ote.clustercontroller.core.controller import Controller
from ote.clustercontroller.core.questions import ASKED_FROM_BELOW
from tests.unit.clustercontroller.core.controller_seat import HUB, PARENT, Seat, report, submit

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


def test_since_when_its_shim_is_silent_is_told() -> None:
    seat = Seat(facts=m.Facts(shim_kind="memory", shim_name="shim"))
    seat.do(ev.ShimSilent(4_000))
    version = seat.core.registry.own.facts.version
    seat.do(ev.ShimSilent(5_000))
    facts = seat.core.registry.own.facts
    assert (facts.shim_silent_since_ms, facts.version) == (4_000, version)
