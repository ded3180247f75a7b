from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from ote.api.route.v1 import route_pb2
from ote.api.shim.v1 import shim_pb2
from ote.cli import views
from ote.cli.exits import Exit, of_error, of_states
from ote.model.errors import BY_CODE, OteError, ResourceExhausted, Unavailable

NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize("stamp", [Timestamp(seconds=2**62), Timestamp(seconds=1, nanos=-5), Timestamp()])
def test_a_time_that_cannot_be_is_none(stamp: Timestamp) -> None:
    assert views.moment(stamp) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (12_000, "3h20m"), (200_000, "2d")],
)
def test_an_age_has_one_or_two_units(seconds: int, text: str) -> None:
    since = (NOW - timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    assert views.age(since, NOW) == text


def test_no_time_has_no_age() -> None:
    assert views.age(None) == ""


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (3400, "3.4 kB"), (1_200_000, "1.2 MB"), (5 * 10**12, "5.0 TB")]
)
def test_sizes_are_for_people(size: int, text: str) -> None:
    assert views.size_text(size) == text


def test_the_summary_is_in_the_order_of_the_states() -> None:
    states = ["FAILED", "QUEUED", "UNKNOWN_99", "SUCCEEDED", "QUEUED"]
    assert list(views.summary(states).items()) == [("QUEUED", 2), ("SUCCEEDED", 1), ("FAILED", 1), ("UNKNOWN_99", 1)]


def test_a_state_newer_than_this_program_is_shown_as_its_number() -> None:
    target = route_pb2.Target(cluster="a")
    target.MergeFromString(b"\x18\x63")
    assert views.target_state(target) == "UNKNOWN_99"


def test_a_reason_stands_before_the_message_once() -> None:
    def message(reason: str, text: str) -> str:
        shown = views.target_view(route_pb2.Target(reason=reason, message=text))["message"]
        assert isinstance(shown, str)
        return shown

    assert message("NOT_READY", "2 of 3") == "NOT_READY: 2 of 3"
    assert message("NOT_READY", "NOT_READY since long") == "NOT_READY since long"
    assert message("NOT_READY", "") == "NOT_READY"
    assert message("", "why") == "why"


def test_an_object_that_comes_alone_counts_as_a_list_of_one() -> None:
    target = route_pb2.Target(cluster="a", state=route_pb2.TARGET_STATE_SUCCEEDED, output=b'{"kind": "Pod"}')
    assert views.objects_view([target])["items"] == [{"cluster": "a", "object": {"kind": "Pod"}}]


def test_shim_info_names_its_memory() -> None:
    info = shim_pb2.GetShimInfoResponse(name="s", memory=shim_pb2.MEMORY_DURABLE)
    assert views.shim_info_view(info)["memory"] == "DURABLE"


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ({}, Exit.DONE),
        ({"SUCCEEDED": 4}, Exit.DONE),
        ({"SUCCEEDED": 4, "FAILED": 0}, Exit.DONE),
        ({"SUCCEEDED": 4, "EXPIRED": 1}, Exit.TARGET),
        ({"SUCCEEDED": 2, "QUEUED": 1}, Exit.NOT_FINAL),
        ({"FAILED": 1, "QUEUED": 1}, Exit.TARGET),
        ({"FAILED": 1, "RUNNING": 1}, Exit.NOT_FINAL),
    ],
)
def test_the_exit_code_tells_how_the_targets_ended(states: dict[str, int], code: Exit) -> None:
    assert of_states(states) is code


def test_every_error_has_its_exit_code() -> None:
    codes = {code: int(of_error(kind("X", "x"))) for code, kind in BY_CODE.items()}
    assert codes == {
        "INVALID_ARGUMENT": 2,
        "NOT_FOUND": 6,
        "ALREADY_EXISTS": 2,
        "PERMISSION_DENIED": 5,
        "UNAUTHENTICATED": 5,
        "FAILED_PRECONDITION": 2,
        "RESOURCE_EXHAUSTED": 5,
        "OUT_OF_RANGE": 2,
        "UNAVAILABLE": 5,
        "DEADLINE_EXCEEDED": 4,
        "CANCELLED": 1,
        "UNIMPLEMENTED": 1,
        "INTERNAL": 1,
    }
    assert of_error(OteError("X", "x")) is Exit.INTERNAL
    assert of_error(ResourceExhausted("PAYLOAD_TOO_LARGE", "x")) is Exit.USAGE
    assert of_error(Unavailable("NO_ROUTE", "x")) is Exit.TARGET
