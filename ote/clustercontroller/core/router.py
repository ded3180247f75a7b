"""Everything that passes through: commands down, answers to their origin, acknowledgements to their target, questions.

A hop keeps nothing. It forwards, or says NO_ROUTE to the origin, or drops what its end will send again. Commands travel
down only; reports, acknowledgements and questions go up until a controller has the addressee below itself, then down.

What one event brings for one target, or what one event makes this target say to one origin, travels in one item, whose
content hops pass on unopened (`flush`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol, TypeVar

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import Context

_FRAME = 28 * 1024
"""Bytes that one Deliver may roughly take, so that it fits a frame."""
_TARGET = 96
"""Bytes that one target takes in a Deliver, roughly."""
_LETTER = 300
"""Bytes that a Deliver or a Report takes besides its body, roughly."""
_UID = 34
"""Bytes that a uid, or the id of a dispatch, takes in an Ack."""

T = TypeVar("T")


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
        self._deliveries: dict[tuple[int, str, int], list[m.Deliver]] = {}
        """By link, target and hop limit."""
        self._reports: dict[str, list[m.Report]] = {}
        """Of this controller, by origin."""

    def flush(self) -> None:
        """Send what the present event brought together."""
        if self._deliveries:
            deliveries, self._deliveries = self._deliveries, {}
            for (link, uid, hops), delivers in deliveries.items():
                for some in _in_frames(delivers, lambda deliver: len(deliver.inline or b"")):
                    self._ctx.send(link, m.Deliveries(uid, hops - 1, some))
        if self._reports:
            told, self._reports = self._reports, {}
            for origin, reports in told.items():
                up = self._way(origin)
                if up is None:
                    continue
                for batch in _in_frames(reports, lambda report: len(report.body)):
                    self._ctx.send(up, m.Reports(origin, self._ctx.uid, reports[0].hop_limit - 1, batch))

    def drop(self) -> None:
        """Forget what was brought together."""
        self._deliveries.clear()
        self._reports.clear()

    def deliver(self, deliver: m.Deliver) -> None:
        """Carry a command to each of its targets, once per next hop."""
        for link, targets in self._by_hop(deliver, deliver.targets).items():
            if deliver.payload is None and len(targets) == 1:
                alone = deliver if len(deliver.targets) == 1 else replace(deliver, targets=targets)
                self._deliveries.setdefault((link, targets[0].uid, deliver.hop_limit), []).append(alone)
                continue
            if deliver.payload is not None:
                self._ctx.emit(fx.ServePayload(link, deliver.payload))
            room = max(1, (_FRAME - len(deliver.inline or b"")) // _TARGET)
            for start in range(0, len(targets), room):
                chunk = targets[start : start + room]
                self._ctx.send(link, replace(deliver, targets=chunk, hop_limit=deliver.hop_limit - 1))

    def deliveries(self, item: m.Deliveries) -> None:
        """Carry commands to their one target."""
        uid, mine = item.target_uid, item.target_uid == self._ctx.uid
        link = self._routes.next_hop(uid) if item.hop_limit > 0 and not mine else None
        if link is not None:
            self._ctx.send(link, m.Deliveries(uid, item.hop_limit - 1, item.items))
            return
        for deliver in item.items:
            for target in deliver.targets:
                if not mine:
                    self.turn_back(deliver, target, m.NO_ROUTE)
                elif target.uid == uid:
                    self.ends.deliver(deliver, target)

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
        elif report.target_uid == self._ctx.uid:
            self._reports.setdefault(report.origin_uid, []).append(report)
        elif report.hop_limit > 0:
            self._toward(report.origin_uid, replace(report, hop_limit=report.hop_limit - 1))

    def reports(self, item: m.Reports) -> None:
        """Carry what a target says to its origin; dropped as a single report is."""
        if item.origin_uid == self._ctx.uid:
            for report in item.items:
                if report.target_uid == item.target_uid:
                    self.ends.reported(report)
        elif item.hop_limit > 0:
            self._toward(item.origin_uid, m.Reports(item.origin_uid, item.target_uid, item.hop_limit - 1, item.items))

    def turn_back(self, deliver: m.Deliver, target: m.DeliveryTarget, kind: str, retry_after_ms: int = 0) -> None:
        """Tell the origin that a command got no further than here by this attempt."""
        self.report(
            m.Report(
                deliver.origin_uid,
                deliver.incarnation,
                deliver.dispatch_id,
                target.uid,
                kind,
                attempt=target.attempt,
                retry_after_ms=retry_after_ms,
            )
        )

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

    def _toward(self, uid: str, item: m.Report | m.Reports | m.Call | m.Reply) -> bool:
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
            if link is not None:
                hops.setdefault(link, []).append(target)
            elif isinstance(item, m.Deliver):
                self.turn_back(item, target, m.NO_ROUTE)
        return hops


def _in_frames(letters: list[T], body: Callable[[T], int]) -> Iterator[list[T]]:
    """Split letters into lists that fit a frame."""
    some: list[T] = []
    room = _FRAME
    for letter in letters:
        size = _LETTER + body(letter)
        if some and size > room:
            yield some
            some, room = [], _FRAME
        some.append(letter)
        room -= size
    yield some
