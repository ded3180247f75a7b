"""Who is told that clusters moved, and what that costs."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from ote.clustercontroller.core.states import SENT
from ote.clustercontroller.dispatches import Dispatches


class Listener:
    """Remembers which targets it was told of."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def target_changed(self, dispatch_id: str, uid: str, settled: bool) -> None:
        self.told.append(uid)


def test_a_region_that_moves_does_not_cost_a_look_at_each_of_its_clusters_for_each_dispatch_that_is_watched() -> None:
    kept = {
        f"d{n}": SimpleNamespace(targets={f"u{n}": SimpleNamespace(row=SimpleNamespace(state=SENT))})
        for n in range(4096)
    }
    core: Any = SimpleNamespace(core=SimpleNamespace(origin=SimpleNamespace(dispatch=kept.get)))
    nothing: Any = None
    dispatches = Dispatches(core, nothing, nothing, nothing)
    listeners = {dispatch_id: Listener() for dispatch_id in kept}
    for dispatch_id, listener in listeners.items():
        dispatches.listen(dispatch_id, listener)
    begun = time.process_time()
    dispatches.clusters_changed([f"u{n}" for n in range(96, 10_096)])
    assert time.process_time() - begun < 0.3
    assert [listener.told for listener in listeners.values()] == [[]] * 96 + [[f"u{n}"] for n in range(96, 4096)]
