"""What is shown of a dispatch, whatever its targets have said."""

from __future__ import annotations

import pytest

from ote.clustercontroller.core.records import TargetRow
from ote.clustercontroller.wire import views


@pytest.mark.parametrize("state", ["RUNNING", "SUCCEEDED"])
def test_a_target_that_says_what_nobody_can_read_is_shown_without_it(state: str) -> None:
    view = views.target(TargetRow("u", "leaf", state, body=b"\xff\xff\xff"))
    assert (view.cluster, view.message, view.output) == ("leaf", "", b"")
    assert view.state == views.TARGET_STATE[state]


@pytest.mark.parametrize("seconds", [2.0**62, 2.0**64, -(2.0**53), 253_402_300_799.0, 0.0, 1.25])
def test_a_time_that_cannot_be_is_shown_as_one_that_can(seconds: float) -> None:
    """Else what one cluster says of itself breaks the list of all: neither JSON nor ote-ctl can show it."""
    assert views.timestamp(seconds).ToJsonString()
