"""Delays grow, are spread, and have an end."""

from __future__ import annotations

from itertools import islice
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from ote.runtime.backoff import backoff


def test_bounds_grow_by_the_factor_up_to_the_cap() -> None:
    assert list(islice(backoff(0.5, 5.0, 2.0, Random(1), "none"), 6)) == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


@given(st.integers(), st.floats(0.01, 10), st.floats(0.01, 100), st.floats(1, 4))
def test_full_jitter_stays_under_the_bound_and_equal_jitter_over_half_of_it(
    seed: int, base: float, cap: float, factor: float
) -> None:
    bounds = list(islice(backoff(base, cap, factor, Random(0), "none"), 20))
    assert max(bounds) <= cap
    for bound, full, equal in zip(
        bounds,
        backoff(base, cap, factor, Random(seed)),
        backoff(base, cap, factor, Random(seed), "equal"),
        strict=False,
    ):
        assert 0 <= full <= bound
        assert bound / 2 <= equal <= bound


def test_a_crowd_is_spread() -> None:
    first = [next(backoff(1.0, 60.0, 2.0, Random(seed))) for seed in range(200)]
    assert min(first) < 0.1
    assert max(first) > 0.9
