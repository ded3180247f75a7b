"""What a peer may not even say."""

from __future__ import annotations

import pytest

from ote.clustercontroller.core import messages as m
from ote.clustercontroller.wire.limits import check_item
from ote.model.errors import InvalidArgument


@pytest.mark.parametrize("ids", [["d" * 32] * 257, ["d" * 65]])
def test_an_ack_that_would_grow_at_each_hop_is_refused(ids: list[str]) -> None:
    """Its targets are parted over next hops and frames, and each part has all the ids."""
    check_item(m.Ack("a" * 32, ["b" * 32] * 10_000, ["d" * 32] * 256, 32))
    with pytest.raises(InvalidArgument) as refused:
        check_item(m.Ack("a" * 32, ["b" * 32], ids, 32))
    assert refused.value.reason == "BAD_FRAME"
