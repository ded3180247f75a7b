"""What a measurement says: a figure, the floor it has to reach, and the table of all.

The one idea: a floor on a shared machine is a ratio, so a figure carries what it is divided by, measured beside it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure.

    measured: as a person reads it. value: what is compared with `floor`, in `unit`; "×" is a ratio. at_most: the floor
    is an upper bound, else a lower one. floor: None for a figure that is only reported.
    """

    group: str
    what: str
    measured: str
    value: float
    unit: str
    floor: float | None = None
    at_most: bool = True

    @property
    def reached(self) -> bool | None:
        """Whether the floor is reached; None without one."""
        if self.floor is None:
            return None
        return self.value <= self.floor if self.at_most else self.value >= self.floor


def show(figures: Sequence[Figure]) -> None:
    """The table."""
    table = Table("group", "what", "measured", "value", "floor", "reached", title="make bench")
    for figure in figures:
        floor = "" if figure.floor is None else f"{'≤' if figure.at_most else '≥'} {figure.floor:g} {figure.unit}"
        word = {None: "", True: "[green]yes[/]", False: "[red]NO[/]"}[figure.reached]
        table.add_row(figure.group, figure.what, figure.measured, f"{shorten(figure.value)} {figure.unit}", floor, word)
    width = None if sys.stdout.isatty() else 150
    Console(width=width).print(table)


def as_json(figures: Iterable[Figure], seconds: float) -> dict[str, Any]:
    """The same for machines."""
    return {
        "machine": {"cores": os.cpu_count(), "python": sys.version.split()[0], "load": os.getloadavg()},
        "seconds": round(seconds, 1),
        "figures": [{**asdict(figure), "reached": figure.reached} for figure in figures],
    }


def shorten(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
