"""`ote-ctl demo`, without what it takes to run one."""

from __future__ import annotations

import click


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
