"""One log line, and one pair of metrics, per RPC. Nothing per message: a tunnel is one RPC, one line at its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import structlog

from ote.model.errors import OteError
from ote.rpc.handlers import AroundInterceptor, Behaviour
from ote.rpc.peer import peer_of

Observe = Callable[[str, str, float], None]
"""(full method name, code name, seconds)."""

QUIET = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/ote.api.route.v1.RouteService/Dispatch",
        "/ote.api.route.v1.RouteService/Probe",
    }
)
"""Called so often that success is logged at debug only."""

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_BAD = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS"})

_log = structlog.get_logger("ote.rpc")


class LogInterceptor(AroundInterceptor):
    """Logs method, peer, role, code and milliseconds of each RPC when it ends. Put it outermost.

    observe: is told the same, for metrics. quiet: methods whose success is a debug line.
    """

    def __init__(self, observe: Observe | None = None, *, quiet: frozenset[str] = QUIET) -> None:
        super().__init__(self._logged)
        self._observe = observe
        self._quiet = quiet

    def _logged(self, method: str, behaviour: Behaviour) -> Behaviour:
        async def logging(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            begun = time.perf_counter()
            code = "OK"
            try:
                response = await behaviour(request, context)
                code = _code_of(context)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except grpc.aio.AbortError:
                code = _code_of(context)
                raise
            except BaseException:
                code = "UNKNOWN"
                raise
            finally:
                self._report(method, context, code, time.perf_counter() - begun)
            return response

        return logging

    def _report(self, method: str, context: grpc.aio.ServicerContext[Any, Any], code: str, seconds: float) -> None:
        if self._observe is not None:
            self._observe(method, code, seconds)
        if code == "OK" and method in self._quiet:
            return
        try:
            peer = peer_of(context)
            name, role = peer.name, peer.role.value
        except OteError:
            name, role = "unknown", "none"
        log = _log.warning if code in _BAD else _log.info
        log("rpc", method=method, peer=name, role=role, code=code, ms=round(seconds * 1000, 2))


def _code_of(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    code: object = context.code()  # an int, a StatusCode or None, whatever the stubs say
    if isinstance(code, grpc.StatusCode):
        return code.name
    return _CODES.get(code, "UNKNOWN") if isinstance(code, int) else "OK"
