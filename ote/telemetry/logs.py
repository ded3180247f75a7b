"""Set-up of structlog: JSON for machines, one short line for people; secrets masked.

Not here: messages. The one idea: a message is constant and what varies is a field, so that logs can be counted.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog

LogFormat = Literal["auto", "json", "plain"]
LogLevel = Literal["debug", "info", "warning", "error"]

MASK = "***"

_LEVELS: dict[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_SECRET_WORDS = ("token", "secret", "password", "private_key", "key_pem", "authorization")
_NOT_SECRET = frozenset({"resume_token", "page_token", "token_id"})
_PEM_KEY = "PRIVATE KEY-----"
_TOKEN = "ote1."


def set_up_logs(
    *, level: LogLevel = "info", fmt: LogFormat = "auto", stream: TextIO | None = None, **fields: str
) -> None:
    """Sets structlog up for the process; the last call holds.

    fmt: "auto" is plain on a terminal, else JSON. stream: standard error unless given. fields: go on every line, such
    as cluster="edge-1". Lines of the standard library's logging (warnings of asyncio, of grpc) take the same way.
    """
    target = stream or sys.stderr
    as_json = fmt == "json" or (fmt == "auto" and not target.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            _add_fields(fields),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            mask_secrets,
            *_renderers(as_json=as_json, colors=target.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=_Writers(target),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Forward()], force=True)


def get_logger(name: str) -> Any:
    """A logger; for programs, which must not import structlog before this package."""
    return structlog.get_logger(name)


def mask_secrets(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replaces the values of fields that name a secret, and anything that looks like a key or a join token."""
    for name, value in event.items():
        if (value and is_secret_name(name)) or looks_secret(value):
            event[name] = MASK
        elif isinstance(value, Mapping):
            event[name] = dict(mask_secrets(_logger, _method, dict(value)))
    return event


def is_secret_name(name: str) -> bool:
    """Whether a field or setting of this name holds a secret."""
    lower = name.lower()
    return lower not in _NOT_SECRET and any(word in lower for word in _SECRET_WORDS)


def looks_secret(value: object) -> bool:
    """Whether a value holds a private key or a join token, whatever its name."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return isinstance(text, str) and (_PEM_KEY in text or _TOKEN in text)


def _renderers(*, as_json: bool, colors: bool) -> list[Any]:
    if as_json:
        return [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(default=str),
        ]
    return [_quoted, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]


def _quoted(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Quotes a peer's words that would begin a line of their own, or move the cursor."""
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = repr(value)
    return event


def _add_fields(fields: Mapping[str, str]) -> Any:
    def adding(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for name, value in fields.items():
            event.setdefault(name, value)
        return event

    return adding


class _Writers:
    """Makes the loggers that write; the name given to get_logger is for readers of the code."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, *_args: object) -> structlog.WriteLogger:
        return structlog.WriteLogger(self._stream)


class _Forward(logging.Handler):
    """Hands what others log by the standard library to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, "log of a library", library=record.name, text=record.getMessage(), exc_info=record.exc_info
        )
