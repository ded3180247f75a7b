"""How an interceptor gets around a method's handler, of all four kinds, at a price per call and none per message."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio

from ote.model.errors import Unsupported

Behaviour = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]
"""A handler as one coroutine: (request or iterator of requests, context) → response, or None once all are written."""

Around = Callable[[str, Behaviour], Behaviour]
"""Makes a new behaviour of (full method name, behaviour)."""


class AroundInterceptor(grpc.aio.ServerInterceptor):
    """Puts `around` around every handler, and remembers the result for each method."""

    def __init__(self, around: Around) -> None:
        self._around = around
        self._wrapped: dict[str, tuple[object, grpc.RpcMethodHandler[Any, Any]]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Called by gRPC for every RPC; a method that nobody serves has no handler and stays so."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        wrapped = wrap(method, handler, self._around)
        self._wrapped[method] = (handler, wrapped)
        return wrapped


def wrap(method: str, handler: grpc.RpcMethodHandler[Any, Any], around: Around) -> grpc.RpcMethodHandler[Any, Any]:
    """The same handler with `around` around it."""
    inner: Callable[..., Any] | None
    if handler.request_streaming and handler.response_streaming:
        inner, make = handler.stream_stream, grpc.stream_stream_rpc_method_handler
    elif handler.request_streaming:
        inner, make = handler.stream_unary, grpc.stream_unary_rpc_method_handler
    elif handler.response_streaming:
        inner, make = handler.unary_stream, grpc.unary_stream_rpc_method_handler
    else:
        inner, make = handler.unary_unary, grpc.unary_unary_rpc_method_handler
    if inner is None:
        raise TypeError(f"{method} has no handler")
    behaviour = _as_coroutine(inner)
    new: grpc.RpcMethodHandler[Any, Any] = make(
        around(method, behaviour), handler.request_deserializer, handler.response_serializer
    )
    return new


async def _not_served(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Stands for the generated base class's methods, the only ones that are no coroutines."""
    raise Unsupported("UNIMPLEMENTED", "this method is not served here")


def _as_coroutine(inner: Callable[..., Any]) -> Behaviour:
    if not inspect.isasyncgenfunction(inner):
        return inner if inspect.iscoroutinefunction(inner) else _not_served

    async def written(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        responses: AsyncIterator[Any] = inner(request, context)
        async with aclosing(responses):  # type: ignore[type-var]
            async for response in responses:
                await context.write(response)

    return written
