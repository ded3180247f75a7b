"""Who holds a name, and the order of all of them."""

from __future__ import annotations

from ote.clustercontroller.core.names import NameIndex


def test_the_order_follows_who_comes_and_goes_and_has_rivals_in_it() -> None:
    names = NameIndex()
    names.add("shop-2", "b" * 32)
    names.add("shop-1", "c" * 32)
    assert names.in_order() == ["c" * 32, "b" * 32]
    names.add("shop-1", "a" * 32)
    assert names.in_order() == ["a" * 32, "c" * 32, "b" * 32]
    assert names.remove("shop-1", "c" * 32) == "a" * 32
    assert names.in_order() == ["a" * 32, "b" * 32]
