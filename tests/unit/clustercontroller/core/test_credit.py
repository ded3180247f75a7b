"""The credit of bulk on a link, against an imitated one: what it grows to, and how long the tunnel waits beside it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ote.clustercontroller.core.credit import CHUNK, FLOOR, LARGEST_CHUNK, MOST, START, Credit


@dataclass(slots=True)
class Link:
    """A link with a queue in front of its narrow place. `rate`: bytes a second; `delay`: quiet round trip, seconds."""

    rate: float
    delay: float
    other: int = 0
    """Bytes of somebody else that are always queued there, too."""

    def round_trip(self, under_way: int) -> float:
        """Of a small question, while so much bulk is under way: what does not fit on the way itself is queued."""
        return self.delay + (max(0, under_way - self.rate * self.delay) + self.other) / self.rate


def transfer(credit: Credit, link: Link, seconds: float, now: float = 0.0) -> list[int]:
    """Fill the credit for so long; what it was at each round trip."""
    credit.begin(now)
    credit.sample(link.round_trip(0), now, used=False)
    seen = []
    end = now + seconds
    while now < end:
        taken = link.round_trip(credit.bytes)
        now += max(taken, 0.02)
        credit.sample(taken, now, used=True)
        seen.append(credit.bytes)
    return seen


def test_on_a_quick_link_it_doubles_to_the_most_within_a_quarter_of_a_second() -> None:
    seen = transfer(Credit(), Link(rate=1e9, delay=0.001), 0.25)
    assert seen[:4] == [2 * START, 4 * START, 8 * START, 16 * START]
    assert seen[-1] == MOST


def test_a_message_brings_more_than_a_chunk_only_where_the_credit_is_large() -> None:
    credit = Credit()
    transfer(credit, Link(1e9, 0.001), 1)
    assert (credit.bytes, credit.chunk) == (MOST, LARGEST_CHUNK)
    credit.sample(0.2, 2, used=True)
    assert credit.chunk == LARGEST_CHUNK // 2


@pytest.mark.parametrize(("rate", "delay"), [(125_000, 0.1), (16_000, 0.1), (250_000, 0.3)])
def test_on_a_thin_link_a_message_brings_one_chunk(rate: float, delay: float) -> None:
    credit = Credit()
    transfer(credit, Link(rate, delay), 60)
    assert credit.chunk == CHUNK


@pytest.mark.parametrize(("rate", "delay"), [(125_000, 0.1), (16_000, 0.1), (250_000, 0.3)])
def test_on_a_thin_link_the_tunnel_waits_for_little_more_than_one_chunk(rate: float, delay: float) -> None:
    credit, link = Credit(), Link(rate, delay)
    waited = [link.round_trip(size) - delay for size in transfer(credit, link, 60)]
    assert max(waited[3:]) <= max(0.002 + delay, CHUNK / rate) + CHUNK / rate


@pytest.mark.parametrize(("rate", "delay"), [(1_250_000, 0.04), (12_500_000, 0.04), (1_250_000, 0.2)])
def test_a_link_that_bears_it_is_used_in_full(rate: float, delay: float) -> None:
    seen = transfer(Credit(), Link(rate, delay), 20)
    later = seen[len(seen) // 4 :]
    assert sum(later) / len(later) >= 0.7 * min(MOST, rate * delay)


def test_it_is_halved_when_the_round_trip_is_slow_and_grows_by_chunks_after() -> None:
    credit = Credit()
    transfer(credit, Link(1e9, 0.001), 1)
    credit.sample(0.2, 2, used=True)
    assert credit.bytes == MOST // 2
    credit.sample(0.001, 3, used=True)
    assert credit.bytes == MOST // 2
    credit.sample(0.001, 4, used=True)
    assert credit.bytes == MOST // 2 + CHUNK


def test_one_round_trip_that_jitters_changes_nothing_and_two_halve_it() -> None:
    credit = Credit()
    transfer(credit, Link(1e9, 0.001), 1)
    for seconds in (0.01, 0.004, 0.01):
        credit.sample(seconds, 2, used=True)
    assert credit.bytes == MOST
    credit.sample(0.01, 3, used=True)
    assert credit.bytes == MOST // 2


def test_it_stays_while_the_wait_is_bearable_and_while_it_is_not_used() -> None:
    credit = Credit()
    credit.sample(0.01, 0, used=True)
    grown = credit.bytes
    credit.sample(0.02, 1, used=True)
    credit.sample(0.01, 2, used=False)
    assert credit.bytes == grown


def test_others_on_the_link_bring_it_down_to_the_floor_and_not_below() -> None:
    credit, link = Credit(), Link(rate=1_250_000, delay=0.02)
    transfer(credit, link, 10)
    link.other = 500_000
    for second in range(20):
        credit.sample(link.round_trip(credit.bytes), 10 + second, used=True)
    assert credit.bytes == FLOOR


def test_a_queue_of_its_own_never_becomes_the_quiet_link() -> None:
    credit, link = Credit(), Link(rate=64_000, delay=0.1)
    seen = transfer(credit, link, 7200)
    assert max(link.round_trip(size) for size in seen[3:]) <= 0.8


def test_after_a_change_of_path_the_new_round_trip_counts() -> None:
    credit = Credit()
    transfer(credit, Link(1e9, 0.001), 10)
    seen = transfer(credit, Link(1e9, 0.3), 1200, now=11)
    assert seen[10] == FLOOR
    assert seen[-1] == MOST


def test_after_a_pause_a_link_shows_anew_what_it_bears() -> None:
    credit = Credit()
    transfer(credit, Link(1e9, 0.001), 1)
    credit.begin(5)
    assert credit.bytes == MOST
    credit.begin(60)
    assert credit.bytes == START


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e4), st.booleans()), max_size=200))
def test_whatever_is_heard_it_stays_within_its_bounds(samples: list[tuple[float, float, bool]]) -> None:
    credit = Credit()
    times = itertools.accumulate(later for _, later, _ in samples)
    for (round_trip, _, used), now in zip(samples, times, strict=True):
        credit.sample(round_trip, now, used=used)
        assert FLOOR <= credit.bytes <= MOST
        assert credit.bytes % CHUNK == 0
