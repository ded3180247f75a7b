"""Reads at their target: at once, a few at a time, and nothing remembered.

Whoever asks again while one runs hears RECEIVED; after its result a repeated question is answered anew. One that a shim
does not end is given up when it is asked for again, or when its place is wanted: so nobody waits for it for ever.
"""

from __future__ import annotations

from collections.abc import Callable

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.target_shim import Hands, Refusal

_AT_ONCE = 16
_BUSY_MS = 250
_LONGEST = 900.0
"""Seconds that a read may take, with its output on a slow way up; longer if it was given more."""


class Reads:
    """Reads that run, by key."""

    def __init__(self, ctx: Context, hands: Hands, report: Callable[[m.Report], None]) -> None:
        self._ctx = ctx
        self._hands = hands
        self._report = report
        self._running: dict[str, tuple[m.Deliver, float]] = {}
        """With when they began."""

    def deliver(self, key: str, deliver: m.Deliver, aim: m.DeliveryTarget) -> None:
        """Run a read, or say that it runs."""
        if key in self._running:
            self._say(deliver, m.RECEIVED, attempt=aim.attempt)
            self._give_up()
            return
        if len(self._running) >= _AT_ONCE:
            self._give_up()
            self._say(deliver, m.BUSY, attempt=aim.attempt, retry_after_ms=_BUSY_MS)
            return
        self._running[key] = deliver, self._ctx.now
        refusal = self._hands.refusal(deliver.command, deliver.inline, deliver.payload)
        if refusal is None and deliver.payload is not None:
            refusal = Refusal("COMMAND_TOO_LARGE", "a read must fit into one message")
        if refusal is None and not self._hands.up:
            refusal = _AWAY
        if refusal is not None:
            self._hands.refuse(key, refusal)
            return
        self._ctx.emit(fx.Execute(key, deliver.command, False, deliver.inline, None, deliver.timeout_ms))

    def _give_up(self) -> None:
        """End those that take too long."""
        for key, (deliver, begun) in self._running.items():
            if self._ctx.now - begun >= max(_LONGEST, deliver.timeout_ms / 1000):
                self._ctx.emit(fx.CancelExecution(key))
                self._hands.refuse(key, _TOO_LONG)

    def revoke(self, key: str) -> None:
        """Nobody waits for it any more."""
        if self._running.pop(key, None) is not None:
            self._ctx.emit(fx.CancelExecution(key))

    def result(self, key: str, state: str, body: bytes, output_bytes: int) -> bool:
        """Answer a read that has ended. Returns whether it was one."""
        running = self._running.pop(key, None)
        if running is None:
            return False
        self._say(running[0], m.RESULT, state=state, body=body, output_bytes=output_bytes)
        return True

    def lost(self, key: str) -> bool:
        """The shim's call broke: the read has failed. Returns whether it was one."""
        if key not in self._running:
            return False
        self._hands.refuse(key, _AWAY)
        return True

    def _say(
        self,
        deliver: m.Deliver,
        kind: str,
        *,
        attempt: int = 0,
        retry_after_ms: int = 0,
        state: str = "",
        body: bytes = b"",
        output_bytes: int = 0,
    ) -> None:
        self._report(
            m.Report(
                deliver.origin_uid,
                deliver.incarnation,
                deliver.dispatch_id,
                self._ctx.uid,
                kind,
                attempt=attempt,
                state=state,
                body=body,
                retry_after_ms=retry_after_ms,
                output_bytes=output_bytes,
            )
        )


_TOO_LONG = Refusal("DEADLINE_EXCEEDED", "the shim did not answer in time")
_AWAY = Refusal("SHIM_UNAVAILABLE", "the shim is not reachable; try again")
