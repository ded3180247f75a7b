from __future__ import annotations

import pytest

from ote.model.durations import check_duration
from ote.model.errors import InvalidArgument


@pytest.mark.parametrize("seconds", [0, 0.5, 3600.0, 366 * 86400])
def test_what_can_be_meant_is_taken(seconds: float) -> None:
    assert check_duration("ttl", seconds) == seconds


@pytest.mark.parametrize(("seconds", "why"), [(-0.001, "less than 0"), (366 * 86400 + 1, "at most 366d")])
def test_what_cannot_be_meant_is_refused(seconds: float, why: str) -> None:
    with pytest.raises(InvalidArgument, match=f"^ttl .*{why}"):
        check_duration("ttl", seconds)
