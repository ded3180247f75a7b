"""How many bytes of bulk may be under way on one link, so that whatever else crosses it stays quick.

Round trips of the tunnel in, bytes out. The one idea (that of LEDBAT and TCP Vegas): the lowest round trip of the last
minutes is what the quiet link takes; whatever a round trip takes beyond it, it has waited behind bytes, most of them
ours. So the credit grows while that is little, stays while it is bearable, and is halved when it is more; twice in a
row, because one question may meet an empty queue or a late packet.

Invariants: FLOOR <= bytes <= MOST, whatever is heard; nothing is remembered but two numbers of the past.
Not here: whose bytes are under way, and when a round trip is measured (`bulk`).
"""

from __future__ import annotations

CHUNK = 16 * 1024
"""Bytes of one bulk message: what a heartbeat waits for at the least on a thin link."""
START = 32 * 1024
FLOOR = 16 * 1024
MOST = 512 * 1024
LARGEST_CHUNK = MOST // 8
"""What a message brings where the link bears the most: nothing waits long for it there, and a message costs more than
its bytes."""
SLOW = 0.5
"""A round trip that takes so long is slow on any link that has ever been quicker."""
_BEARABLE = 0.002
"""Seconds that the tunnel may wait for bulk, beside one round trip of the quiet link. So little, because on a quick
link a small credit is as fast as a large one."""
_MUCH = 4
"""So many times what is bearable is believed at once; less may be the jitter of a single round trip."""
_LITTLE = 0.5
"""Of what is bearable: below this share the credit grows."""
_LOWEST_FOR = 300.0
"""Seconds for which a lowest round trip counts, and once more as long: paths change, and queues of ours never leave
the link while much is sent."""
_IDLE = 10.0
"""Seconds without a transfer after which a link has to show anew what it bears."""


class Credit:
    """The credit of one link."""

    def __init__(self) -> None:
        self.bytes = START
        self.round_trip = 0.0
        """The newest, seconds; 0 before the first."""
        self._lowest = self._lowest_before = float("inf")
        self._lowest_since = float("-inf")
        self._doubling = True
        self._little = True
        self._slow = False
        """The newest round trip was more than bearable, and nothing was done about it yet."""
        self._last = float("-inf")

    @property
    def quiet(self) -> float:
        """The round trip of the quiet link, as far as it is known, seconds."""
        return min(self._lowest, self._lowest_before)

    @property
    def chunk(self) -> int:
        """Bytes of one message: where much may be under way, an eighth of it."""
        return max(CHUNK, self.bytes // 8 // CHUNK * CHUNK)

    def begin(self, now: float) -> None:
        """A transfer begins, the only one at the moment."""
        if now > self._last + _IDLE:
            self.bytes = min(self.bytes, START)
            self._doubling = True
        self._last = now

    def sample(self, round_trip: float, now: float, *, used: bool) -> None:
        """A round trip has ended. `used`: all of the credit was under way meanwhile, so a larger one makes sense."""
        self.round_trip, self._last = round_trip, now
        if now >= self._lowest_since + _LOWEST_FOR:
            self._lowest_before, self._lowest, self._lowest_since = self._lowest, float("inf"), now
        self._lowest = min(self._lowest, round_trip)
        quiet = self.quiet
        bearable = _BEARABLE + quiet
        if quiet + bearable > SLOW:
            bearable = max(SLOW - quiet, quiet / 4)
        waited = round_trip - quiet
        slow, little = waited > bearable, waited <= bearable * _LITTLE
        if waited > _MUCH * bearable or (slow and self._slow):
            self.bytes = max(FLOOR, self.bytes // 2 // CHUNK * CHUNK)
            slow = False
        elif little and self._little and used:
            self.bytes = min(MOST, self.bytes * 2 if self._doubling else self.bytes + CHUNK)
        self._doubling = self._doubling and waited <= bearable
        self._slow, self._little = slow, little
