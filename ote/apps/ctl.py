"""The program ote-ctl: the command line of `ote.cli`, and `demo`, which runs other programs.

Nothing is imported before `main` runs: ctrl-C ends the program without a word at that time too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import click

_INTERRUPTED = 130


def program() -> click.Group:
    """The whole command line."""
    from ote.cli.main import cli

    cli.lazy["demo"] = "ote.apps.demo_command:demo"
    return cli


def main() -> int:
    """Runs ote-ctl, and ends the process with one of the exit codes of its help."""
    try:
        program().main(prog_name="ote-ctl")
    except KeyboardInterrupt:
        return _INTERRUPTED


if __name__ == "__main__":
    raise SystemExit(main())
