"""Reads at their target: at once, a few at a time, and nothing remembered.

Whoever asks again while one runs hears RECEIVED; after its result a repeated question is answered anew.
"""

from __future__ import annotations

from collections.abc import Callable

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.target_shim import Hands, Refusal

_AT_ONCE = 16
_BUSY_MS = 250


class Reads:
    """Reads that run, by key."""

    def __init__(self, ctx: Context, hands: Hands, report: Callable[[m.Report], None]) -> None:
        self._ctx = ctx
        self._hands = hands
        self._report = report
        self._running: dict[str, m.Deliver] = {}

    def deliver(self, key: str, deliver: m.Deliver, aim: m.DeliveryTarget) -> None:
        """Run a read, or say that it runs."""
        if key in self._running:
            self._say(deliver, m.RECEIVED, attempt=aim.attempt)
            return
        if len(self._running) >= _AT_ONCE:
            self._say(deliver, m.BUSY, attempt=aim.attempt, retry_after_ms=_BUSY_MS)
            return
        self._running[key] = deliver
        refusal = self._hands.refusal(deliver.command, deliver.inline, deliver.payload)
        if refusal is None and deliver.payload is not None:
            refusal = Refusal("COMMAND_TOO_LARGE", "a read must fit into one message")
        if refusal is None and not self._hands.up:
            refusal = _AWAY
        if refusal is not None:
            self._hands.refuse(key, refusal)
            return
        self._ctx.emit(fx.Execute(key, deliver.command, False, deliver.inline, None, deliver.timeout_ms))

    def revoke(self, key: str) -> None:
        """Nobody waits for it any more."""
        if self._running.pop(key, None) is not None:
            self._ctx.emit(fx.CancelExecution(key))

    def result(self, key: str, state: str, body: bytes, output_bytes: int) -> bool:
        """Answer a read that has ended. Returns whether it was one."""
        deliver = self._running.pop(key, None)
        if deliver is None:
            return False
        self._say(deliver, m.RESULT, state=state, body=body, output_bytes=output_bytes)
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


_AWAY = Refusal("SHIM_UNAVAILABLE", "the shim is not reachable; try again")
