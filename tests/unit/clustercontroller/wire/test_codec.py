"""What is written by hand, for speed, reads as what protobuf writes."""

from __future__ import annotations

import pytest

from ote.api.route.v1 import tunnel_pb2
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.wire.codec import decode_down, write_down


@pytest.mark.parametrize("draining", [False, True])
@pytest.mark.parametrize("silence_ms", [0, 1, 127, 128, 20_000, 2**32 - 1])
@pytest.mark.parametrize("path", [[], [m.PathStep("root", "a" * 32), m.PathStep("east", "b" * 32)]])
@pytest.mark.parametrize("standing", [m.Standing(0, 0), m.Standing(2**40, 3)])
def test_a_beat_reads_as_it_was_meant(
    standing: m.Standing, path: list[m.PathStep], silence_ms: int, draining: bool
) -> None:
    beat = m.Beat(standing, silence_ms, path, draining)
    frame = tunnel_pb2.ConnectResponse.FromString(write_down(beat))
    assert [decode_down(item) for item in frame.items] == [beat]
    by_protobuf = tunnel_pb2.Beat(
        standing=tunnel_pb2.Standing(beat=standing.beat, depth=standing.depth),
        silence_ms=silence_ms,
        path=[tunnel_pb2.PathStep(name=step.name, uid=step.uid) for step in path],
        draining=draining,
    )
    assert frame.items[0].beat == by_protobuf
