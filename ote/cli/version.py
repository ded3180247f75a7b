"""`ote-ctl version` and `completion`: what needs no controller."""

from __future__ import annotations

import asyncio

import click

from ote import __version__
from ote.cli.output import Format, show
from ote.cli.params import output_option
from ote.cli.program import session
from ote.model.errors import OteError


@click.command()
@output_option
def version(output: Format) -> None:
    """Show the versions of this program and the controller.

    \b
    JSON: {"client","controller":{"name","version"}}; controller is null when none answers.

    \b
    Example:
      ote-ctl version
    """
    controller = _controller()
    document = {"client": __version__, "controller": controller}

    def table() -> None:
        click.echo(f"ote-ctl {__version__}")
        click.echo(f"{controller['name']} {controller['version']}" if controller else "no controller answers")

    show(output, document, table=table, names=lambda: [__version__])


def _controller() -> dict[str, str] | None:
    from ote.client.client import Client
    from ote.client.connection import Policy

    async def ask() -> dict[str, str]:
        async with Client(session().way_in(), policy=Policy(dial=2.0)) as client:
            controller = await client.controller()
            return {"name": controller.name, "version": controller.version}

    try:
        return asyncio.run(ask())
    except OteError:
        return None


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that completes commands and options.

    \b
    Example:
      source <(ote-ctl completion bash)
    """
    from click.shell_completion import BashComplete, FishComplete, ZshComplete

    script = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}[shell]
    click.echo(script(ctx.find_root().command, {}, "ote-ctl", "_OTE_CTL_COMPLETE").source())
