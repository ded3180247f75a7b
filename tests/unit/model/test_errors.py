from __future__ import annotations

from ote.model.errors import BY_CODE, NotFound, OteError


def test_an_error_says_its_message_and_keeps_what_programs_want() -> None:
    error = NotFound("NO_MATCH", "nothing matches", metadata={"selector": "x"}, retry_after=2.0)
    assert str(error) == "nothing matches"
    assert (error.reason, error.metadata, error.retry_after) == ("NO_MATCH", {"selector": "x"}, 2.0)


def test_every_error_is_found_by_the_code_that_carries_it() -> None:
    assert {code: kind.code for code, kind in BY_CODE.items()} == {code: code for code in BY_CODE}
    assert OteError not in BY_CODE.values()
