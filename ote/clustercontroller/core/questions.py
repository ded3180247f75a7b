"""Questions between controllers, and their answers: asked here, answered here, or passed on.

What lives here: who may ask what, and who waits for an answer. What does not: the answers (the shell's), the way
(`router`). The one idea: nothing is sent again; who asked hears an answer, or that there was none.
"""

from __future__ import annotations

from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.context import Context
from ote.clustercontroller.core.registry import Registry
from ote.clustercontroller.core.router import Router
from ote.model.errors import DeadlineExceeded, Unavailable

_CALL_TIMEOUT = 10.0
_UID = 32
"""Characters."""

ASKED_FROM_BELOW = frozenset(
    {
        "ping",
        "key-of",
        "reserve-name",
        "/ote.api.trust.v1.TrustService/Enrol",
        "/ote.api.route.v1.RouteService/GetDispatch",
    }
)
"""All that a controller may ask of one that is not below it; each hop stops the rest where it comes from a child."""


class Questions:
    """`is_root`: questions for the root are for this controller."""

    def __init__(self, ctx: Context, registry: Registry, router: Router, *, is_root: bool) -> None:
        self._ctx = ctx
        self._registry = registry
        self._router = router
        self._is_root = is_root
        self._waiting: dict[str, tuple[int, float]] = {}
        """By the id of the question: which request of the shell waits, and until when; earliest first."""

    def asked(self, event: ev.Asked) -> None:
        """The shell asks another controller, or this one."""
        call = m.Call(self._ctx.new_id(), self._ctx.uid, event.to_uid, event.method, event.body)
        if event.to_uid == self._ctx.uid or (not event.to_uid and self._is_root):
            self._wait(call, event.request)
            self._ctx.emit(fx.Ask(call.id, self._ctx.uid, event.method, event.body, from_above=True))
        elif self._router.pass_on(event.to_uid, call):
            self._wait(call, event.request)
        else:
            error = Unavailable("NO_ROUTE", "there is no way to that controller now; try again")
            self._ctx.emit(fx.Answer(event.request, error=error))

    def answered(self, event: ev.Answered) -> None:
        """The shell has answered what was asked here."""
        reply = m.Reply(event.id, event.from_uid, event.code, event.reason, event.message, event.body)
        self.pass_on(reply, from_above=True)

    def from_below(self, link: int, via: str, call: m.Call) -> None:
        """A question of a child, or of one below it: in its own name, and nothing that changes what is above."""
        if self._registry.via(call.from_uid) != via:
            self._ctx.log("warning", "a question in the name of another", via=via, claimed=call.from_uid[:_UID])
        elif call.method in ASKED_FROM_BELOW:
            self.pass_on(call, from_above=False)
        else:
            refusal = "this is asked by controllers above only"
            self._ctx.send(link, m.Reply(call.id, call.from_uid, "PERMISSION_DENIED", "NOT_FROM_BELOW", refusal))

    def pass_on(self, item: m.Call | m.Reply, *, from_above: bool) -> None:
        """Bring a question or an answer to whom it is for, here or further on."""
        if isinstance(item, m.Reply):
            if item.to_uid != self._ctx.uid:
                self._router.pass_on(item.to_uid, item)
            elif (waiting := self._waiting.pop(item.id, None)) is not None:
                self._ctx.emit(fx.Answer(waiting[0], item))
            return
        mine = item.to_uid == self._ctx.uid or (not item.to_uid and self._is_root)
        if mine:
            self._ctx.emit(fx.Ask(item.id, item.from_uid, item.method, item.body, from_above))
        elif not self._router.pass_on(item.to_uid, item):
            self.pass_on(
                m.Reply(item.id, item.from_uid, "UNAVAILABLE", "NO_ROUTE", "there is no way to that controller now"),
                from_above=from_above,
            )

    def _wait(self, call: m.Call, request: int) -> None:
        self._waiting[call.id] = (request, self._ctx.now + _CALL_TIMEOUT)

    # --- time -----------------------------------------------------------------------------------------------------

    def next_wake(self) -> float | None:
        """When `wake` is to be called; None for not at all."""
        return next(iter(self._waiting.values()))[1] if self._waiting else None

    def wake(self) -> None:
        """Nobody waits for ever."""
        for call, (request, until) in list(self._waiting.items()):
            if until > self._ctx.now:
                return
            del self._waiting[call]
            error = DeadlineExceeded("NO_ANSWER", "the controller did not answer within 10 s")
            self._ctx.emit(fx.Answer(request, error=error))
