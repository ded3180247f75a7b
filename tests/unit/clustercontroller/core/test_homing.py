"""Since when a cluster is away from home, and why."""

from __future__ import annotations

from ote.clustercontroller.core.homing import Homing
from tests.unit.clustercontroller.core.registry_tree import make_context


def test_home_is_away_from_the_start_or_its_loss_on_until_it_is_the_parent_and_why_is_forgotten_then() -> None:
    ctx = make_context("x")
    begun = ctx.now
    homing = Homing(ctx)
    homing.problem = "nobody is there"
    ctx.now += 5
    homing.attached(home=False, again=False)
    assert (homing.away_since, homing.problem) == (begun, "nobody is there")
    ctx.now += 5
    homing.attached(home=True, again=True)
    assert (homing.away_since, homing.problem) == (None, "")
    ctx.now += 5
    homing.lost_home()
    ctx.now += 5
    homing.attached(home=False, again=True)
    assert homing.away_since == begun + 15
