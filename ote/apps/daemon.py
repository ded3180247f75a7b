"""What programs that run for long have in common: options made of their settings, one line when they cannot run.

Not here: any program. The one idea: whatever a command raises ends as a line on stderr and an exit code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import ote
from ote.config.settings import BaseSettings, Option, describe
from ote.model.errors import OteError


def run_program(program: click.Group, name: str) -> int:
    """Runs a command line to its end; the exit code is 0, 1, for bad input 2, after ctrl-C 130."""
    try:
        code = program.main(prog_name=name, standalone_mode=False)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        message = error.format_message().rstrip(".")
        click.echo(f"{name}: {message[:1].lower()}{message[1:]}", err=True)
        return 2
    except click.Abort:
        return 130
    except OteError as error:
        click.echo(f"{name}: {error.message}", err=True)
        return 2 if error.code == "INVALID_ARGUMENT" else 1
    except OSError as error:
        click.echo(f"{name}: cannot use {error.filename or 'the output'}: {error.strerror or error}", err=True)
        return 1
    return code if isinstance(code, int) else 0


def with_settings(settings: type[BaseSettings]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--version`, `--config`, and an option for each field; one that is not given is None."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(describe(settings)):
            function = _option(option)(function)
        file = click.Path(path_type=Path)
        function = click.option("--config", type=file, metavar="FILE", help="YAML file with any of these settings.")(
            function
        )
        return click.version_option(ote.__version__, message="%(prog)s %(version)s")(function)

    return decorate


def _option(option: Option) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    if option.kind == "bool":
        return click.option(f"--{option.flag}", option.name, is_flag=True, default=None, help=option.doc)
    shown = f" [default: {option.show(option.default)}]" if option.default not in (None, (), {}, "", False) else ""
    return click.option(
        f"--{option.flag}",
        option.name,
        default=None,
        multiple=option.repeated,
        metavar=option.metavar,
        help=f"{option.doc}{shown}",
    )
