"""The program ote-ctl: the command line of `ote.cli`, and `demo`, which runs other programs."""

from __future__ import annotations

import click

from ote.cli.main import cli


@click.command()
@click.option("--keep", is_flag=True, help="Leave the tree up, and say what to try next and how to stop it.")
def demo(keep: bool) -> None:
    """Start a tree on this machine, and show what it does.

    Seven controllers: join, apply, kill, heal, return. Every step is checked.

    \b
    Example:
      ote-ctl demo --keep
    """
    from ote.apps.demo import main as run_demo

    click.get_current_context().exit(run_demo(["--keep"] if keep else []))


def program() -> click.Group:
    """The whole command line."""
    cli.add_command(demo)
    return cli


def main() -> int:
    """Runs ote-ctl, and ends the process with one of the exit codes of its help."""
    program().main(prog_name="ote-ctl")


if __name__ == "__main__":
    main()
