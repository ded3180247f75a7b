"""Answers to questions of other controllers, which come through the tunnels.

Not here: how a question finds its way, and which of them may come from below (the core). The one idea: whoever asks is
known by uid and by direction only, so each answer gives no more than these two allow.
"""

from __future__ import annotations

import msgspec

from ote.api.route.v1 import route_pb2
from ote.clustercontroller.admission import KEY_OF, Admission
from ote.clustercontroller.core import effects as fx
from ote.clustercontroller.details import HOME_OF, STATUS_OF, ClusterDetails
from ote.clustercontroller.dispatches import CANCEL_DISPATCH, GET_DISPATCH, Dispatches
from ote.clustercontroller.routes import PING
from ote.clustercontroller.trust import ENROL, RESERVE, TrustServicer
from ote.model.errors import Unsupported

LOOK_UPS = frozenset({PING, GET_DISPATCH, KEY_OF, STATUS_OF, HOME_OF})
"""Questions that are answered from memory."""


class Answers:
    """`name` is this controller's."""

    def __init__(
        self,
        name: str,
        dispatches: Dispatches,
        trust: TrustServicer,
        admission: Admission,
        details: ClusterDetails,
    ) -> None:
        self._details = details
        self._name = name
        self._dispatches = dispatches
        self._trust = trust
        self._admission = admission

    async def answer(self, ask: fx.Ask) -> bytes:
        """The answer's bytes. Errors: those of the method, Unsupported, DecodeError when the body is no question."""
        if ask.method == PING:
            return b""
        if ask.method == GET_DISPATCH:
            wanted = route_pb2.GetDispatchRequest.FromString(ask.body).dispatch
            shown = self._dispatches.shown_to(wanted, ask.from_uid)
            return route_pb2.GetDispatchResponse(dispatch=shown).SerializeToString()
        if ask.method == CANCEL_DISPATCH and ask.from_above:
            wanted = route_pb2.CancelDispatchRequest.FromString(ask.body).dispatch
            dispatch = await self._dispatches.cancel(wanted)
            return route_pb2.CancelDispatchResponse(dispatch=dispatch).SerializeToString()
        if ask.method == ENROL:
            return await self._trust.handed_on(ask.body)
        if ask.method == RESERVE:
            name, uid = msgspec.msgpack.decode(ask.body, type=tuple[str, str])
            self._trust.reserve_for(ask.from_uid, name, uid)
            return b""
        if ask.method == KEY_OF:
            return self._admission.key_of(ask.body.decode("ascii", "replace"))
        if ask.method == STATUS_OF and ask.from_above:
            return self._details.told(ask.body.decode("ascii", "replace"))
        if ask.method == HOME_OF and ask.from_above:
            return self._details.away()
        raise Unsupported("UNSUPPORTED", f"{self._name} does not answer {ask.method} from there")
