"""What of the tunnel's ends can be said without a stream."""

from __future__ import annotations

from ote.clustercontroller.core import messages as m
from ote.clustercontroller.tunnel import answer_first


def test_a_beat_that_has_overtaken_the_welcome_comes_after_it() -> None:
    beat, drained = m.Beat(m.Standing(2, 1), 0, []), m.Drained()
    welcome = m.Welcome("E", "uid-E", "i", m.Standing(1, 1), True, [], 2000, 5000, 0, False)
    assert answer_first([beat, welcome, drained]) == [welcome, beat, drained]
    refused = m.Refused("BUSY", "later")
    assert answer_first([beat, refused]) == [refused, beat]
    assert answer_first([]) == []
