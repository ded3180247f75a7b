"""Outputs of reads that are too large for a report: kept at the origin, pushed hop by hop to get there.

Not here: the RPC itself (`bulk`, `bulkserving`). The one idea: an output is for whoever looks soon, so it is in memory
only, the newest of them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable

from ote.api.route.v1 import route_pb2
from ote.clustercontroller.bulk import Uplink, push_output
from ote.clustercontroller.pieces import RETRIES, RETRY_DELAY
from ote.model.errors import OteError, Unavailable
from ote.rpc.errors import translated

_OUTPUT_BYTES = 64 * 1024 * 1024


class Outputs:
    """Those of one controller; `me` is its uid."""

    def __init__(self, me: Callable[[], str], uplink: Uplink) -> None:
        self._me = me
        self._uplink = uplink
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._bytes = 0

    def get(self, dispatch_id: str, uid: str) -> bytes:
        """The output of a target; empty when it was small, or is gone."""
        return self._kept.get((dispatch_id, uid), b"")

    def keep(self, dispatch_id: str, uid: str, output: bytes) -> None:
        """Keep an output here; the oldest go when there is no room."""
        self._bytes += len(output) - len(self._kept.pop((dispatch_id, uid), b""))
        self._kept[(dispatch_id, uid)] = output
        while self._bytes > _OUTPUT_BYTES and len(self._kept) > 1:
            _, old = self._kept.popitem(last=False)
            self._bytes -= len(old)

    async def push(self, origin: str, dispatch_id: str, uid: str, output: bytes) -> None:
        """Bring an output to its origin. Errors: Unavailable (OUTPUT_NOT_DELIVERED) after a minute of trying."""
        if origin == self._me():
            self.keep(dispatch_id, uid, output)
            return
        header = route_pb2.OutputHeader(origin_uid=origin, dispatch_id=dispatch_id, target_uid=uid, size=len(output))
        for _ in range(2 * RETRIES):
            if (up := self._uplink.now()) is not None:
                channel, window = up
                traffic = self._uplink.traffic
                with contextlib.suppress(OteError), window.share(len(output)) as share, traffic.bulk(), translated():
                    await push_output(channel, header, output, share)
                    traffic.bulk_sent += len(output)
                    return
            await asyncio.sleep(RETRY_DELAY)
        raise Unavailable("OUTPUT_NOT_DELIVERED", "the output could not be brought to the origin; ask again")
