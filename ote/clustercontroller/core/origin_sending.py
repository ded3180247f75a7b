"""What leaves an origin: deliveries, revocations and acknowledgements, and which of them go together.

What lives here: making messages of what is remembered. What does not: when something is sent, and to whom (`origin`).
The one idea: whatever was written for a message is on disk before it leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.origin_ports import Route
from ote.clustercontroller.core.origin_state import OriginDispatch, OriginTarget
from ote.clustercontroller.core.timers import Timers

_HOPS = 32
_ACKS_AT_ONCE = 256
_ACK_AFTER = 0.3
"""Seconds for which acknowledgements gather: far less than after which a result is said again."""

Outgoing = dict[OriginDispatch, list[OriginTarget]]


class Sending:
    """`route` is the way to the targets; `after_ended` tells of a target whether what it comes after has ended."""

    def __init__(self, ctx: Context, route: Route, timers: Timers, after_ended: Callable[[OriginTarget], bool]) -> None:
        self._ctx = ctx
        self._route = route
        self._timers = timers
        self._after_ended = after_ended
        self._acks: dict[str, dict[str, None]] = {}

    def send(self, outgoing: Outgoing, revoked: Outgoing) -> None:
        """Deliver and revoke what was collected, after all that was written for it; the earliest dispatch first."""
        if outgoing or revoked:
            self._ctx.barrier()
        for dispatch, targets in sorted(outgoing.items(), key=lambda item: item[0].row.number):
            self.deliver(dispatch, [target for target in targets if target.is_open and target.row.maybe_sent])
        for dispatch, targets in revoked.items():
            self.revoke(dispatch, targets)

    def deliver(self, dispatch: OriginDispatch, targets: Iterable[OriginTarget]) -> None:
        """Send the command to these targets; each time is an attempt of its own."""
        row, ctx = dispatch.row, self._ctx
        by_incarnation: dict[int, list[m.DeliveryTarget]] = {}
        again = 0
        for target in targets:
            aim = target.row
            repeated = aim.attempts > 0
            again += repeated
            aim.attempts += 1
            target.attempts |= 1 << aim.attempts
            by_incarnation.setdefault(aim.incarnation, []).append(
                m.DeliveryTarget(
                    aim.uid,
                    aim.journal_id,
                    aim.seq,
                    aim.after,
                    aim.attempts,
                    aim.received,
                    repeated and self._after_ended(target),
                )
            )
        if again:
            ctx.count("ote_dispatch_resends_total", "command", value=again)
        for incarnation, aims in by_incarnation.items():
            self._route.deliver(
                m.Deliver(
                    origin_uid=ctx.uid,
                    origin_name=ctx.name,
                    incarnation=incarnation,
                    dispatch_id=row.id,
                    command=row.command,
                    change=dispatch.change,
                    inline=row.inline,
                    payload=row.payload,
                    ttl_ms=max(0, round((dispatch.deadline - ctx.now) * 1000)),
                    timeout_ms=round(row.timeout * 1000),
                    hop_limit=_HOPS,
                    targets=aims,
                )
            )

    def revoke(self, dispatch: OriginDispatch, targets: Iterable[OriginTarget]) -> None:
        """Ask these targets to end it."""
        by_incarnation: dict[int, list[m.DeliveryTarget]] = {}
        for target in targets:
            aim = target.row
            by_incarnation.setdefault(aim.incarnation, []).append(
                m.DeliveryTarget(
                    aim.uid, aim.journal_id, aim.seq, aim.after, 0, aim.received, self._after_ended(target)
                )
            )
        row = dispatch.row
        for incarnation, aims in by_incarnation.items():
            expired = dispatch.change and not row.cancelled
            self._route.revoke(m.Revoke(self._ctx.uid, incarnation, row.id, expired, _HOPS, aims))

    def ack(self, report: m.Report) -> None:
        """Acknowledge a result, soon, and once it is on disk."""
        if not self._acks:
            self._timers.at(self._ctx.now + _ACK_AFTER, self._acknowledge)
        self._acks.setdefault(report.target_uid, {})[report.dispatch_id] = None

    def _acknowledge(self) -> None:
        """Acknowledge the results that came lately, once they are on disk: those of the same dispatches together."""
        acks, self._acks = self._acks, {}
        self._ctx.barrier()
        alike: dict[tuple[str, ...], list[str]] = {}
        for uid, some in acks.items():
            ids = list(some)
            for start in range(0, len(ids), _ACKS_AT_ONCE):
                alike.setdefault(tuple(ids[start : start + _ACKS_AT_ONCE]), []).append(uid)
        for same, uids in alike.items():
            self._route.ack(m.Ack(self._ctx.uid, uids, list(same), _HOPS))
