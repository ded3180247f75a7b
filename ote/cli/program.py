"""What every verb shares: the program's options, one line per error, loading a verb only when it is used.

Not here: any verb. The one idea: a verb raises `ote.model.errors` like everything else, and the program makes it one
line on stderr and an exit code.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import os
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from ote.cli.exits import Exit, of_error
from ote.cli.output import plain
from ote.model.errors import OteError

if TYPE_CHECKING:
    from ote.client.client import Client
    from ote.client.contexts import Context

T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    """The program's options: which contexts file, which context of it, and which entry of that alone."""

    config: str | None = None
    context_name: str | None = None
    entry: str | None = None

    def context(self) -> Context:
        """The context in use. Raises NotFound or InvalidArgument of `ote.client.contexts`."""
        from ote.client.contexts import config_path, load_contexts
        from ote.model.errors import NotFound

        path = config_path(self.config)
        contexts = load_contexts(path)
        if not contexts.contexts:
            raise NotFound(
                "CONTEXT_NOT_FOUND",
                f"no context in {path}: a root writes one into its data directory, "
                "ote-ctl context import DATA_DIR/admin.yaml",
            )
        named = self.context_name or ("" if self.config else os.environ.get("OTE_CONTEXT", ""))
        return contexts.get(named)

    def way_in(self) -> Context:
        """The context with the entries that may be used. Raises also NotFound (ENTRY_NOT_FOUND)."""
        context = self.context()
        return context if self.entry is None else context.only(self.entry)


def session() -> Session:
    """The options of the program that runs."""
    return click.get_current_context().find_object(Session) or Session()


def connected(work: Callable[[Client], Awaitable[T]]) -> T:
    """Runs the work with a client of the context in use."""
    context = session().way_in()

    async def run() -> T:
        from ote.client.client import Client

        async with Client(context, warn=lambda text: note(f"warning: {plain(text)}")) as client:
            return await work(client)

    return asyncio.run(run())


def note(text: str) -> None:
    """A line for people, on stderr."""
    click.echo(text, err=True)


class Failure(click.ClickException):
    """An error as one line on stderr."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(plain(" ".join(message.split())))
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints the line."""
        click.echo(f"error: {self.message}", file=file, err=file is None)


class Nouns(click.Group):
    """A group whose members are imported when they are used. lazy: name → "module:attribute"."""

    def __init__(self, *args: Any, lazy: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were listed."""
        return [*self.lazy, *(name for name in self.commands if name not in self.lazy)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, and of those that are not imported yet it knows the names, too."""
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            close = get_close_matches(args[0], self.list_commands(ctx))
            hint = f" (did you mean {' or '.join(close)}?)" if close else ""
            ctx.fail(f"no such command {args[0]!r}{hint}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now if need be."""
        if cmd_name in self.lazy and cmd_name not in self.commands:
            module, _, attribute = self.lazy[cmd_name].partition(":")
            self.add_command(getattr(importlib.import_module(module), attribute), cmd_name)
        return super().get_command(ctx, cmd_name)


class Program(Nouns):
    """The root of all commands: turns errors into lines and exit codes."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Reads the program's own options."""
        with _in_one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            with _in_one_line():
                return super().invoke(ctx)
        except OteError as error:
            raise Failure(error.message, of_error(error)) from error
        except KeyboardInterrupt:
            ctx.exit(Exit.INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, OSError, EOFError):
            raise
        except Exception as error:  # a fault of ours: a line and exit code 1, like everything else that goes wrong
            if os.environ.get("OTE_DEBUG"):
                traceback.print_exc()
            text = f"internal: {type(error).__name__}: {error}; OTE_DEBUG=1 shows where"
            raise Failure(text, Exit.INTERNAL) from error


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "ote-ctl"
        message = error.format_message().rstrip(".")
        raise Failure(f"{message[:1].lower()}{message[1:]}; see {command} --help", Exit.USAGE) from error
    except OSError as error:
        if error.errno == errno.EPIPE:  # who reads has had enough, and click ends quietly
            raise
        raise Failure(f"cannot use {error.filename or 'the output'}: {error.strerror}", Exit.INTERNAL) from error
