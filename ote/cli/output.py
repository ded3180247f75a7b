"""The one printer: a document as JSON or YAML, a table for people, or names for scripts.

Not here: what the documents hold (`views`). The one idea: only a table on a terminal is decorated or cut; everything
else is the same bytes wherever it goes.
"""

from __future__ import annotations

import enum
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import click

_COLOURS = {
    "ONLINE": "green",
    "SUCCEEDED": "green",
    "OFFLINE": "red",
    "FAILED": "red",
    "EXPIRED": "red",
    "UNREACHABLE": "red",
    "NAME_CONFLICT": "red",
    "OUTCOME_UNKNOWN": "magenta",
    "AWAY": "yellow",
    "QUEUED": "yellow",
    "RUNNING": "cyan",
    "SENT": "cyan",
}
_WIDE = 10_000


class Format(enum.Enum):
    """How to print."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


@dataclass(frozen=True)
class Column:
    """A column of a table. optional: left out where the terminal is too narrow, the last ones first."""

    title: str
    optional: bool = False


def show(format: Format, document: Any, *, table: Callable[[], None], names: Callable[[], Iterable[str]]) -> None:
    """Prints the document, its table or its names."""
    if format is Format.JSON:
        click.echo(as_json(document))
    elif format is Format.YAML:
        import yaml

        click.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, default_flow_style=False), nl=False)
    elif format is Format.NAME:
        for name in names():
            click.echo(name)
    else:
        table()


def as_json(document: Any, *, indent: int | None = 2) -> str:
    """The document as JSON text; indent None puts it on one line."""
    return json.dumps(document, indent=indent, ensure_ascii=False)


def on_terminal() -> bool:
    """Whether both outputs are terminals that can move their cursor."""
    return sys.stdout.isatty() and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def coloured() -> bool:
    """Whether colours are wanted on stdout: on a terminal, unless NO_COLOR or TERM=dumb says otherwise."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def state_text(state: str) -> str:
    """A state in its colour; click takes the colour away where it does not belong."""
    return click.style(state, fg=_COLOURS.get(state)) if coloured() else state


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table without lines, as wide as it needs to be, or fitted to the terminal."""
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else _WIDE
    cells = [[plain(cell) or "-" for cell in row] for row in rows]
    kept = _fitting(columns, cells, width)
    widths = _widths([columns[index].title for index in kept], [[row[index] for index in kept] for row in cells], width)
    titles = [columns[index].title for index in kept]
    click.echo(_line(titles, widths))
    for row in cells:
        line = _line([row[index] for index in kept], widths)
        click.echo(_with_colours(line, [row[index] for index in kept]) if coloured() else line)


def plain(text: str) -> str:
    """A text on one line, as a terminal may have it: what clusters say of themselves is a stranger's word."""
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


def _fitting(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    kept = list(range(len(columns)))
    natural = [max([len(column.title), *(len(row[at]) for row in rows)]) for at, column in enumerate(columns)]
    for index in reversed(range(len(columns))):
        if sum(natural[at] + 2 for at in kept) - 2 <= width:
            break
        if columns[index].optional:
            kept.remove(index)
    return kept


def _widths(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Natural widths; where they are too much for the terminal the widest gives first."""
    widths = [max([len(title), *(len(row[at]) for row in rows)]) for at, title in enumerate(titles)]
    excess = sum(widths) + 2 * (len(widths) - 1) - width
    while excess > 0 and max(widths) > 8:
        widest = widths.index(max(widths))
        second = max([*widths[:widest], *widths[widest + 1 :], 8])
        cut = min(excess, max(1, widths[widest] - second))
        widths[widest] -= cut
        excess -= cut
    return widths


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    fitted = [
        cell if len(cell) <= width else cell[: width - 1] + "…" for cell, width in zip(cells, widths, strict=True)
    ]
    return "  ".join(cell.ljust(width) for cell, width in zip(fitted, widths, strict=True)).rstrip()


def _with_colours(line: str, cells: Sequence[str]) -> str:
    for cell in cells:
        if cell in _COLOURS:
            return line.replace(f" {cell}", " " + click.style(cell, fg=_COLOURS[cell]), 1)
    return line
