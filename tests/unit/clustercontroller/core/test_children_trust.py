"""What a certificate says of a child counts for more than what the child says: its key, and whether it is a leaf."""

from __future__ import annotations

import pytest

from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core import records as rec
from ote.clustercontroller.core.events import FactsChange
from ote.clustercontroller.core.facts import MAX_LABELS, OwnRecord
from ote.model.errors import InvalidArgument
from tests.unit.clustercontroller.core.children_house import House


def hello(uid: str) -> m.Hello:
    return m.Hello(name=uid, uid=uid, instance=f"{uid}-1", epoch=0, best=None)


def test_another_key_than_the_one_on_record_is_refused(house: House) -> None:
    house.let_in(1, "x")
    known = house.registry.get("x")
    assert known is not None
    answer = house.children.hello(2, hello("x"), "x", "x", b"another")
    assert isinstance(answer, m.Refused)
    assert answer.reason == "IDENTITY_MISMATCH"
    assert isinstance(house.children.hello(3, hello("x"), "x", "x", known.public_key), m.Welcome)


def test_a_leaf_speaks_for_itself_only_and_is_nobodys_parent(house: House) -> None:
    house.children.hello(1, hello("x"), "x", "x", leaf=True)
    assert house.attach(1, "x", facts=m.Facts(version=1, advertise="h:1"))
    assert house.children.is_leaf(1)
    own = house.registry.get("x")
    assert own is not None
    assert own.facts.advertise == ""
    invented = m.ClusterRecord("y", "y", "x", 1, "i", b"", b"k", up=True)
    house.children.news(1, m.News([invented]))
    assert house.registry.get("y") is None


def test_labels_are_bounded_and_refused_whole(house: House) -> None:
    own = OwnRecord(house.ctx, rec.Self(), m.Facts(), {})
    many = {f"k{number}": "" for number in range(MAX_LABELS + 1)}
    for labels, reason in ((many, "TOO_MANY_LABELS"), ({"../x y": ""}, "INVALID_LABEL")):
        with pytest.raises(InvalidArgument) as refusal:
            own.change(FactsChange("key", labels, [], [], []))
        assert refusal.value.reason == reason
    own.change(FactsChange("key", {"k": "v"}, [], ["tag"], []))
    assert (own.record().facts or m.Facts()).labels == {"k": "v"}
