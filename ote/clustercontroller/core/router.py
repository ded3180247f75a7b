"""Everything that passes through: commands down, answers to their origin, acknowledgements to their target, questions.

A hop keeps nothing. It forwards, or says NO_ROUTE to the origin, or drops what its end will send again. Commands travel
down only; reports, acknowledgements and questions go up until a controller has the addressee below itself, then down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import Context

_FRAME = 28 * 1024
"""Bytes that one Deliver may roughly take, so that it fits a frame."""
_TARGET = 96
"""Bytes that one target takes in a Deliver, roughly."""
_UID = 34
"""Bytes that a uid, or the id of a dispatch, takes in an Ack."""


class Routes(Protocol):
    """What the router asks of the registry."""

    def next_hop(self, uid: str) -> int | None: ...


class Ends(Protocol):
    """Where messages end that are for this controller."""

    def deliver(self, deliver: m.Deliver, target: m.DeliveryTarget) -> None: ...

    def revoke(self, revoke: m.Revoke, target: m.DeliveryTarget) -> None: ...

    def acknowledged(self, ack: m.Ack) -> None: ...

    def reported(self, report: m.Report) -> None: ...


class Router:
    """`parent_link` returns the link on which to send upward, None while there is none; `before_up` runs before it
    is used."""

    def __init__(
        self, ctx: Context, routes: Routes, parent_link: Callable[[], int | None], before_up: Callable[[], None]
    ) -> None:
        self._ctx = ctx
        self._routes = routes
        self._parent_link = parent_link
        self._before_up = before_up
        self.ends: Ends

    def deliver(self, deliver: m.Deliver) -> None:
        """Carry a command to each of its targets, once per next hop."""
        for link, targets in self._by_hop(deliver, deliver.targets).items():
            if deliver.payload is not None:
                self._ctx.emit(fx.ServePayload(link, deliver.payload))
            room = max(1, (_FRAME - len(deliver.inline or b"")) // _TARGET)
            for start in range(0, len(targets), room):
                chunk = targets[start : start + room]
                self._ctx.send(link, replace(deliver, targets=chunk, hop_limit=deliver.hop_limit - 1))

    def revoke(self, revoke: m.Revoke) -> None:
        """Carry a request to end early to each of its targets."""
        for link, targets in self._by_hop(revoke, revoke.targets).items():
            for start in range(0, len(targets), _FRAME // _TARGET):
                chunk = targets[start : start + _FRAME // _TARGET]
                self._ctx.send(link, replace(revoke, targets=chunk, hop_limit=revoke.hop_limit - 1))

    def report(self, report: m.Report) -> None:
        """Carry a report to its origin; dropped where there is no way, its target sends it again."""
        if report.origin_uid == self._ctx.uid:
            self.ends.reported(report)
        elif report.hop_limit > 0:
            self._toward(report.origin_uid, replace(report, hop_limit=report.hop_limit - 1))

    def ack(self, ack: m.Ack) -> None:
        """Carry an acknowledgement to its targets, once per next hop; dropped where there is no way, the target asks
        again."""
        hops: dict[int, list[str]] = {}
        for uid in ack.target_uids:
            if uid == self._ctx.uid:
                self.ends.acknowledged(ack)
            elif ack.hop_limit > 0 and (link := self._way(uid)) is not None:
                hops.setdefault(link, []).append(uid)
        room = max(1, (_FRAME - _UID * len(ack.dispatch_ids)) // _UID)
        for link, uids in hops.items():
            for start in range(0, len(uids), room):
                chunk = uids[start : start + room]
                self._ctx.send(link, m.Ack(ack.origin_uid, chunk, ack.dispatch_ids, ack.hop_limit - 1))

    def pass_on(self, uid: str, item: m.Call | m.Reply) -> bool:
        """Carry a question or an answer toward `uid` ("" is the root); False where there is no way."""
        if item.hop_limit <= 0:
            return False
        return self._toward(uid, replace(item, hop_limit=item.hop_limit - 1))

    def _toward(self, uid: str, item: m.Report | m.Call | m.Reply) -> bool:
        link = self._way(uid)
        if link is None:
            return False
        self._ctx.send(link, item)
        return True

    def _way(self, uid: str) -> int | None:
        """The link for what is to be sent now toward a controller, down if it is below, else up."""
        link = self._routes.next_hop(uid) if uid else None
        if link is None:
            link = self._parent_link()
            if link is not None:
                self._before_up()
        return link

    def _by_hop(self, item: m.Deliver | m.Revoke, targets: list[m.DeliveryTarget]) -> dict[int, list[m.DeliveryTarget]]:
        hops: dict[int, list[m.DeliveryTarget]] = {}
        for target in targets:
            if target.uid == self._ctx.uid:
                if isinstance(item, m.Deliver):
                    self.ends.deliver(item, target)
                else:
                    self.ends.revoke(item, target)
                continue
            link = self._routes.next_hop(target.uid) if item.hop_limit > 0 else None
            if link is None:
                self._no_route(item, target)
            else:
                hops.setdefault(link, []).append(target)
        return hops

    def _no_route(self, item: m.Deliver | m.Revoke, target: m.DeliveryTarget) -> None:
        if isinstance(item, m.Deliver):
            self.report(
                m.Report(
                    item.origin_uid, item.incarnation, item.dispatch_id, target.uid, m.NO_ROUTE, attempt=target.attempt
                )
            )
