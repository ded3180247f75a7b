"""Options that several verbs have, and what their values look like."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

from ote.cli.output import Format
from ote.model.durations import check_duration
from ote.model.errors import InvalidArgument
from ote.model.selectors import compile_selector

F = TypeVar("F", bound=Callable[..., Any])

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


class DurationType(click.ParamType):  # type: ignore[type-arg]  # generic in the stubs only
    """ "90s", "1h30m", "500ms", "2d" or "0"; the value is seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, int | float):
            return float(value)
        text = str(value).strip()
        parts = _DURATION.findall(text)
        if text == "0":
            return 0.0
        if not parts or "".join(number + unit for number, unit in parts) != text:
            self.fail(f"{text!r} is not a duration: write 90s, 1h30m, 500ms or 0", param, ctx)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
        try:
            return check_duration(text, seconds)
        except InvalidArgument as error:
            self.fail(error.message, param, ctx)


DURATION = DurationType()


def output_option(function: F) -> F:
    """-o table|json|yaml|name."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice([format.value for format in Format]),
        default=Format.TABLE.value,
        show_default=True,
        help="How to print.",
        callback=lambda ctx, param, value: Format(value),
    )(function)


def _joined(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> str:
    """All values as one, each checked by itself. Raises InvalidArgument (INVALID_SELECTOR)."""
    for value in values:
        if not value:
            raise InvalidArgument("INVALID_SELECTOR", f"{param.opts[-1]} '' is empty: say which, or leave it out")
        compile_selector(**{str(param.name): value})
    return ",".join(values)


def clusters_option(function: F) -> F:
    """--clusters. Given several times: what any of them means."""
    text = "Names, globs, paths, re:…, by commas; several times: any."
    return click.option("--clusters", metavar="PATTERNS", multiple=True, callback=_joined, help=text)(function)


def labels_option(*names: str) -> Callable[[F], F]:
    """-l under these names. Given several times: what all of them mean."""
    text = "Label selector: 'region=eu,!legacy'; several times: all."
    return click.option(*names, "labels", metavar="LABELS", multiple=True, callback=_joined, help=text)


def selector_options(function: F) -> F:
    """--clusters and -l."""
    return clusters_option(labels_option("-l", "--selector")(function))


def namespace_option(function: F) -> F:
    """-n."""
    return click.option("-n", "--namespace", metavar="NS", default="", help="Namespace.  [default: default]")(function)


def timeout_option(default: str) -> Callable[[F], F]:
    """--timeout."""
    return click.option(
        "--timeout",
        type=DURATION,
        default=default,
        show_default=True,
        help="How long to wait for the end (exit code 4).",
    )
