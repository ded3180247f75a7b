"""Options of the scenario tests: more histories, one history, new golden traces."""

from __future__ import annotations

import pytest

HISTORIES = 300
"""Random histories of a normal run, the same each time, about half a minute of a core; `make histories` has others."""
AT_ONCE = 20


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--histories", type=int, help="how many random histories of a tree to play")
    parser.addoption("--first-seed", type=int, default=0, help="the seed of the first of them")
    parser.addoption("--seed", type=int, help="play only the history of this seed, and print what happened")
    parser.addoption("--update-golden", action="store_true", help="write the golden traces anew; read the diff")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Histories in batches, so that they share out over processes."""
    if "seeds" not in metafunc.fixturenames:
        return
    seed = metafunc.config.getoption("--seed", default=None)
    first = metafunc.config.getoption("--first-seed", default=0)
    end = first + (metafunc.config.getoption("--histories", default=None) or HISTORIES)
    batches = [range(start, min(start + AT_ONCE, end)) for start in range(first, end, AT_ONCE)]
    if seed is not None:
        batches = [range(seed, seed + 1)]
    metafunc.parametrize("seeds", batches, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
