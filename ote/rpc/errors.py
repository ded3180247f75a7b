"""Our errors as gRPC status and back, once for everybody.

Not here: the errors (`ote.model.errors`) and exit codes (the CLI). The one idea: a reason crosses the wire as
`google.rpc.ErrorInfo` of the domain "ote.dev", so no program ever reads a message.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from types import TracebackType
from typing import Any, NoReturn

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

from ote.model.errors import BY_CODE, OteError, Unavailable
from ote.rpc.handlers import AroundInterceptor, Behaviour

DOMAIN = "ote.dev"
DETAILS_KEY = "grpc-status-details-bin"

_STATUS = {code.name: code for code in grpc.StatusCode}
_MAX_MESSAGE = 1024
_MAX_METADATA_VALUE = 512

_TLS_MEANINGS = (
    ("hostname verification", "the other side has another name than the one expected there"),
    ("local issuer", "the other side's certificate is not of this tree"),
    ("self signed", "the other side's certificate is not of this tree"),
    ("self-signed", "the other side's certificate is not of this tree"),
    ("certificate has expired", "the other side's certificate has expired, or a clock is wrong"),
    ("not yet valid", "the other side's certificate is not yet valid: a clock is wrong"),
    ("wrong version number", "the other side does not speak TLS"),
    ("handshake", "the TLS handshake failed: one side refuses the other's certificate, or does not speak TLS"),
    ("ssl_error", "the TLS handshake failed: one side refuses the other's certificate, or does not speak TLS"),
    ("verification check", "one side refuses the other's certificate"),
)
"""What gRPC's texts say about a handshake → what it means; the first that fits."""

LOST_ANSWER = "Internal error from Core"
"""What grpc.aio makes of a call that the server refuses while a message is being written: the server's own answer is
lost in our process."""

_CLOSED_HINT = " (it also ends this way when the other side does not accept our certificate)"
_NOISE = re.compile(r"^(?:[A-Z_]+: )?(?:(?:ipv4|ipv6|unix):\S+: )?")

_log = structlog.get_logger("ote.rpc")


def to_status(error: OteError) -> status_pb2.Status:
    """The error as google.rpc.Status with ErrorInfo and, where a retry makes sense, RetryInfo.

    Texts are cut to 1,024 characters and metadata values to 512, so that trailers stay small. An InvalidArgument with
    the metadata `field` also carries a BadRequest naming it.
    """
    status = status_pb2.Status(
        code=code_pb2.Code.Value(error.code if error.code in _STATUS else "UNKNOWN"),
        message=error.message[:_MAX_MESSAGE],
    )
    info = error_details_pb2.ErrorInfo(domain=DOMAIN, reason=error.reason)
    for key, value in error.metadata.items():
        info.metadata[key] = value[:_MAX_METADATA_VALUE]
    status.details.add().Pack(info)
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(max(0.0, error.retry_after) * 1e9))
        status.details.add().Pack(retry)
    if error.code == "INVALID_ARGUMENT" and "field" in error.metadata:
        request = error_details_pb2.BadRequest()
        request.field_violations.add(
            field=error.metadata["field"], description=error.message[:_MAX_MESSAGE], reason=error.reason
        )
        status.details.add().Pack(request)
    return status


def from_status(status: status_pb2.Status) -> OteError:
    """The error of a status; one without our ErrorInfo has its code's name as reason."""
    code = code_pb2.Code.Name(status.code) if status.code in code_pb2.Code.values() else "UNKNOWN"
    reason, metadata, retry_after = code, {}, None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            if info.domain == DOMAIN:
                reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    return BY_CODE.get(code, OteError)(reason, status.message, metadata=metadata, retry_after=retry_after)


def from_rpc_error(error: grpc.aio.AioRpcError) -> OteError:
    """The error that a call ended with.

    A status without details of ours comes from gRPC itself or from a stranger: reason CONNECTION_FAILED, TLS_FAILED,
    DEADLINE_EXCEEDED, MESSAGE_TOO_LARGE, or else the code's name.
    """
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            status = status_pb2.Status()
            try:
                status.ParseFromString(value if isinstance(value, bytes) else value.encode("latin-1"))
            except (DecodeError, UnicodeEncodeError):
                break
            if status.code == error.code().value[0]:
                return from_status(status)
    return _plain(error.code().name, error.details() or "")


def _plain(code: str, details: str) -> OteError:
    kind = BY_CODE.get(code, OteError)
    lower = details.lower()
    if code == "UNAVAILABLE":
        for phrase, meaning in _TLS_MEANINGS:
            if phrase in lower:
                return kind("TLS_FAILED", meaning)
        refused = "failed to connect" in lower and ("socket closed" in lower or "connection reset" in lower)
        hint = _CLOSED_HINT if refused else ""
        return kind("CONNECTION_FAILED", f"no connection: {_tail(details)}{hint}")
    if code == "DEADLINE_EXCEEDED":
        return kind("DEADLINE_EXCEEDED", "no answer in time")
    if code == "RESOURCE_EXHAUSTED" and "message larger than max" in lower:
        return kind("MESSAGE_TOO_LARGE", details)
    if details == LOST_ANSWER:
        return kind(code, "the other side ended the call while it was being written to; its reason is lost")
    if code == "UNIMPLEMENTED":
        return kind("UNIMPLEMENTED", details or "the other side does not have this method")
    return kind(code, details or f"the call failed with {code}")


def _tail(details: str) -> str:
    """gRPC's texts nest outwards in: the last part is what happened."""
    _, found, last = details.rpartition("last error: ")
    text = last if found else details
    text = _NOISE.sub("", text)
    return text[:_MAX_MESSAGE] or "the other side closed it"


class translated:
    """Turns what a call in the block ends with into our error: `with translated(): await stub.Get(...)`.

    gRPC cancels whoever waits for a call whose channel is closed; here that is Unavailable (CONNECTION_FAILED), unless
    the task itself is cancelled.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, grpc.aio.AioRpcError):
            raise from_rpc_error(error) from error
        if isinstance(error, grpc.aio.UsageError | asyncio.InvalidStateError) or _is_closed_under_it(error):
            raise Unavailable("CONNECTION_FAILED", "no connection: it was closed on this side") from error


def _is_closed_under_it(error: BaseException | None) -> bool:
    """Whether a wait was cancelled by the call, not by who owns the task."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and not task.cancelling()


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: OteError) -> NoReturn:
    """Ends a call with an error."""
    status = to_status(error)
    await context.abort(
        _STATUS.get(error.code, grpc.StatusCode.UNKNOWN),
        status.message,
        trailing_metadata=((DETAILS_KEY, status.SerializeToString()),),
    )
    raise AssertionError("abort returned")


class ErrorInterceptor(AroundInterceptor):
    """Maps what a servicer raises: our errors to their status, anything else to INTERNAL with a number for the log.

    Costs one frame per call and nothing per message. CancelledError and an abort of the servicer itself pass.
    """

    def __init__(self) -> None:
        super().__init__(_mapped)


def _mapped(method: str, behaviour: Behaviour) -> Behaviour:
    async def mapping(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behaviour(request, context)
        except OteError as error:
            await abort(context, error)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:  # whatever a servicer did wrong, its caller gets a status, and nobody else notices
            if context.cancelled() or context.done():
                raise
            incident = secrets.token_hex(4)
            _log.exception("rpc failed unexpectedly", method=method, incident=incident, error=type(error).__name__)
            await abort(context, _internal(incident))

    return mapping


def _internal(incident: str) -> OteError:
    return BY_CODE["INTERNAL"](
        "INTERNAL",
        f"internal error {incident}: its traceback is in the log of the server",
        metadata={"incident": incident},
    )
