"""What is remembered of dispatch ids."""

from ote.shims.local.core.dispatches import Dispatch, Memory, Watching
from ote.shims.local.core.names import Key
from ote.shims.local.core.records import Acted

DONE = Dispatch(b"content", result=b"result")
OPEN = Dispatch(b"content", watching=Watching([Acted(Key("Pod", "n", "p"), "created")]))


def test_an_id_is_bound_to_its_content() -> None:
    memory = Memory()
    assert not memory.conflicts("a", b"content")
    memory.remember("a", DONE)
    assert not memory.conflicts("a", b"content")
    assert memory.conflicts("a", b"other")
    assert memory.find("a") == DONE


def test_an_id_that_was_cancelled_before_it_came_fits_any_content() -> None:
    memory = Memory()
    memory.remember("a", Dispatch(b"", result=b"cancelled"))
    assert not memory.conflicts("a", b"whatever")


def test_what_took_effect_and_has_no_result_is_taken_up_again() -> None:
    memory = Memory()
    assert memory.load([("a", DONE), ("b", OPEN)]) == ["b"]
    assert len(memory) == 2


def test_only_what_has_a_result_is_forgotten() -> None:
    memory = Memory()
    memory.load([("a", DONE), ("b", OPEN)])
    assert memory.forget(["a", "b", "none", "a"]) == ["a", "a"]
    assert memory.find("a") is None
    assert memory.find("b") == OPEN
