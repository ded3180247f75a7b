"""Delays between attempts. Not here: who attempts what."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Literal

Jitter = Literal["full", "equal", "none"]


def backoff(base: float, cap: float, factor: float, rng: Random, jitter: Jitter = "full") -> Iterator[float]:
    """Endless delays in seconds whose bound grows from `base` by `factor` up to `cap`; take a new one after success.

    jitter: "full" draws from 0 to the bound, "equal" from half of it to all of it, "none" takes the bound. (Full jitter
    spreads a crowd best: Brooker, "Exponential Backoff And Jitter", 2015.)
    """
    bound = min(base, cap)
    while True:
        if jitter == "full":
            yield rng.uniform(0.0, bound)
        elif jitter == "equal":
            yield rng.uniform(bound / 2, bound)
        else:
            yield bound
        bound = min(bound * factor, cap)
