"""An error that a servicer raises arrives as the same error, through every kind of call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog.testing
from google.rpc import code_pb2, error_details_pb2, status_pb2

from ote.api.route.v1 import route_pb2 as pb
from ote.api.route.v1 import tunnel_pb2 as tunnel
from ote.model.errors import (
    BY_CODE,
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    OteError,
    ResourceExhausted,
    Unavailable,
    Unsupported,
)
from ote.rpc.errors import LOST_ANSWER, from_rpc_error, from_status, to_status, translated
from tests.wire.rpc.tree import Dial, Serve

Call = Callable[[Any], Awaitable[None]]


async def unary(stub: Any) -> None:
    await stub.Probe(pb.ProbeRequest())


async def responses(stub: Any) -> None:
    seen = 0
    try:
        async for _ in stub.Dispatch(pb.DispatchRequest()):
            seen += 1
    finally:
        assert seen == 1, "what was sent before the error arrives"


async def requests(stub: Any) -> None:
    async def some() -> AsyncIterator[pb.PutPayloadRequest]:
        yield pb.PutPayloadRequest()

    await stub.PutPayload(some())


async def both(stub: Any) -> None:
    call = stub.Connect()
    await call.write(tunnel.ConnectRequest())
    assert await call.read() is not grpc.aio.EOF
    await call.read()


KINDS = pytest.mark.parametrize("call", [unary, responses, requests, both])


def raising(error: BaseException) -> Callable[[Any], Awaitable[None]]:
    async def behave(context: Any) -> None:
        raise error

    return behave


@KINDS
async def test_our_errors_cross_the_wire_whole(serve: Serve, dial: Dial, call: Call) -> None:
    sent = ResourceExhausted("TOO_MANY_DISPATCHES", "too many, wait", metadata={"limit": "7"}, retry_after=1.5)
    stub = dial(await serve(raising(sent)))
    with pytest.raises(ResourceExhausted) as caught, translated():
        await call(stub)
    got = caught.value
    assert (got.reason, got.message, got.metadata, got.retry_after) == (
        "TOO_MANY_DISPATCHES",
        "too many, wait",
        {"limit": "7"},
        1.5,
    )


@KINDS
async def test_a_fault_of_ours_is_internal_and_tells_nothing_but_a_number(serve: Serve, dial: Dial, call: Call) -> None:
    stub = dial(await serve(raising(ZeroDivisionError("secret detail"))))
    with structlog.testing.capture_logs() as logs, pytest.raises(Internal) as caught, translated():
        await call(stub)
    assert caught.value.reason == "INTERNAL"
    assert "secret" not in str(caught.value)
    assert "ZeroDivision" not in str(caught.value)
    [line] = [line for line in logs if line["event"] == "rpc failed unexpectedly"]
    assert line["incident"] == caught.value.metadata["incident"]
    assert line["incident"] in str(caught.value)


@KINDS
async def test_an_abort_of_the_servicer_itself_passes(serve: Serve, dial: Dial, call: Call) -> None:
    async def behave(context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    stub = dial(await serve(behave))
    with pytest.raises(OteError) as caught, translated():
        await call(stub)
    assert (caught.value.code, caught.value.reason, str(caught.value)) == ("NOT_FOUND", "NOT_FOUND", "gone")


async def test_a_caller_that_goes_away_cancels_the_servicer_and_is_no_fault(serve: Serve, dial: Dial) -> None:
    running, cancelled = asyncio.Event(), asyncio.Event()

    async def behave(context: Any) -> None:
        running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    stub = dial(await serve(behave))
    with structlog.testing.capture_logs() as logs:
        call = stub.Probe(pb.ProbeRequest())
        await running.wait()
        call.cancel()
        async with asyncio.timeout(30):
            await cancelled.wait()
    assert [line for line in logs if line["log_level"] == "error"] == []


async def test_a_generator_is_closed_when_its_caller_goes_away(serve: Serve, dial: Dial) -> None:
    waiting, closed = asyncio.Event(), asyncio.Event()

    async def behave(context: Any) -> None:
        waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            closed.set()

    stub = dial(await serve(behave))
    call = stub.Dispatch(pb.DispatchRequest())
    await call.read()
    await waiting.wait()
    call.cancel()
    async with asyncio.timeout(30):
        await closed.wait()


async def test_nobody_there_is_a_failed_connection(dial: Dial) -> None:
    stub = dial("127.0.0.1:1")
    with pytest.raises(Unavailable) as caught, translated():
        await stub.Probe(pb.ProbeRequest(), timeout=30)
    assert caught.value.reason == "CONNECTION_FAILED"
    assert "refused" in str(caught.value)


async def test_no_answer_in_time_is_deadline_exceeded(serve: Serve, dial: Dial) -> None:
    async def behave(context: Any) -> None:
        await asyncio.Event().wait()

    stub = dial(await serve(behave))
    with pytest.raises(DeadlineExceeded), translated():
        await stub.Probe(pb.ProbeRequest(), timeout=0.05)


async def test_a_method_that_is_not_served_is_unsupported(serve: Serve, dial: Dial) -> None:
    stub = dial(await serve())
    with pytest.raises(Unsupported), translated():
        await stub.GetDispatch(pb.GetDispatchRequest())


async def test_a_message_over_the_limit_is_named(serve: Serve, dial: Dial) -> None:
    stub = dial(await serve())
    with pytest.raises(ResourceExhausted) as caught, translated():
        await stub.Probe(pb.ProbeRequest(padding=bytes(5 * 1024 * 1024)))
    assert caught.value.reason == "MESSAGE_TOO_LARGE"


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_class_survives_the_status(code: str) -> None:
    sent = BY_CODE[code]("REASON", "what happened", metadata={"name": "edge-1"}, retry_after=0.25)
    got = from_status(to_status(sent))
    assert type(got) is type(sent)
    assert (got.reason, got.message, got.metadata, got.retry_after) == (
        "REASON",
        "what happened",
        {"name": "edge-1"},
        0.25,
    )


def test_a_wrong_field_is_named_in_the_standard_way() -> None:
    status = to_status(InvalidArgument("INVALID_PAGE_SIZE", "too large", metadata={"field": "page_size"}))
    [request] = [detail for detail in status.details if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR)]
    violations = error_details_pb2.BadRequest()
    request.Unpack(violations)
    assert [v.field for v in violations.field_violations] == ["page_size"]


def test_a_strangers_reason_is_not_taken_for_ours() -> None:
    status = status_pb2.Status(code=code_pb2.NOT_FOUND, message="x")
    status.details.add().Pack(error_details_pb2.ErrorInfo(domain="example.org", reason="EVICTED"))
    assert from_status(status).reason == "NOT_FOUND"


def test_endless_texts_are_cut() -> None:
    status = to_status(InvalidArgument("X", "m" * 100_000, metadata={"a": "b" * 100_000}))
    assert len(status.SerializeToString()) < 4096


def test_a_lost_answer_is_told_in_words_of_ours_and_stays_a_bare_internal() -> None:
    nothing = grpc.aio.Metadata()
    error = from_rpc_error(grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, nothing, nothing, LOST_ANSWER))
    assert (error.code, error.reason) == ("INTERNAL", "INTERNAL")
    assert "Core" not in error.message
    assert "ended the call" in error.message
