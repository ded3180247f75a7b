"""What can go wrong, as values: every error has a code, a stable reason and one line for people.

The core raises these, `ote.rpc.errors` maps them to gRPC status and back, the CLI maps the code to an exit code.
A message says what and what next, starts lower-case and ends without a period.
"""

from __future__ import annotations

from collections.abc import Mapping


class OteError(Exception):
    """An error with a stable reason.

    reason: UPPER_SNAKE_CASE word for programs. metadata: small strings that a program may want (names, limits).
    retry_after: seconds after which trying again makes sense, None where it does not.
    """

    code = "UNKNOWN"
    """Name of the gRPC status code that carries this error."""

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.message


class InvalidArgument(OteError):
    """The request can never work as it is."""

    code = "INVALID_ARGUMENT"


class NotFound(OteError):
    """The thing named does not exist."""

    code = "NOT_FOUND"


class AlreadyExists(OteError):
    """The thing exists, with other content."""

    code = "ALREADY_EXISTS"


class PermissionDenied(OteError):
    """The caller is known and may not."""

    code = "PERMISSION_DENIED"


class Unauthenticated(OteError):
    """The caller is not known."""

    code = "UNAUTHENTICATED"


class FailedPrecondition(OteError):
    """Something else has to happen first."""

    code = "FAILED_PRECONDITION"


class ResourceExhausted(OteError):
    """A limit is reached; `retry_after` says when to try again."""

    code = "RESOURCE_EXHAUSTED"


class OutOfRange(OteError):
    """A token is too old: list again."""

    code = "OUT_OF_RANGE"


class Unavailable(OteError):
    """Not now; trying again may help."""

    code = "UNAVAILABLE"


class DeadlineExceeded(OteError):
    """It took too long."""

    code = "DEADLINE_EXCEEDED"


class Cancelled(OteError):
    """The caller gave up."""

    code = "CANCELLED"


class Unsupported(OteError):
    """The receiver does not do this."""

    code = "UNIMPLEMENTED"


class Internal(OteError):
    """A fault of ours."""

    code = "INTERNAL"


BY_CODE: dict[str, type[OteError]] = {
    error.code: error
    for error in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        Unauthenticated,
        FailedPrecondition,
        ResourceExhausted,
        OutOfRange,
        Unavailable,
        DeadlineExceeded,
        Cancelled,
        Unsupported,
        Internal,
    )
}
"""The error class of each gRPC status code name."""
