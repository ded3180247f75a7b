"""Random histories of a tree: joins, kills, cuts, delays, sleep, restarts, lost and set-back disks, clones, evictions.

Promises, at every step: no ring, each attachment once, no effect twice, none out of order, none after the origin has
said that there will be none. When all is mended: every registry equals the truth, everybody is home, every dispatch is
final, and what lost its memory is the only excuse for OUTCOME_UNKNOWN.

`make histories` plays thousands, from another seed each time, which it prints; a failure names its own.
`pytest tests/scenarios/test_histories.py --seed N -s` plays that one again.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.scenarios.sim.history import History


def test_a_tree_keeps_its_promises_through_any_history(seeds: Sequence[int], request: pytest.FixtureRequest) -> None:
    for seed in seeds:
        history = History(seed)
        try:
            history.play()
        finally:
            if request.config.getoption("--seed", default=None) is not None:
                print("\n".join(history.log))
