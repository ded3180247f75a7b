"""Shows a dispatch while it runs: live on a terminal, plain lines elsewhere, nothing where a document is asked for.

Not here: the document at the end. The one idea: what is final goes to stdout, once and in plain words; everything that
moves goes to stderr.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import click

from ote.api.route.v1 import route_pb2
from ote.cli.exits import FINAL
from ote.cli.output import Format, on_terminal, plain, state_text
from ote.cli.program import note
from ote.cli.story import Story
from ote.cli.views import target_state, target_view

if TYPE_CHECKING:
    from rich.console import RenderableType

COLLAPSE_ABOVE = 20
"""Targets that are shown one by one on a terminal."""

_STYLES = {"SUCCEEDED": "green", "QUEUED": "yellow", "PENDING": "dim", "SENT": "cyan", "RUNNING": "cyan"}


class Reporter(Protocol):
    """Sees a dispatch grow; used with `with`."""

    def __enter__(self) -> Reporter: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def changed(self, story: Story, targets: Iterable[route_pb2.Target]) -> None: ...


def reporter_for(format: Format) -> Reporter:
    """The reporter that fits the format and where the output goes."""
    if format is not Format.TABLE:
        return Silent()
    return Live() if on_terminal() else Lines()


def target_line(target: route_pb2.Target) -> str:
    """One target in one line: name, state, and what happened to its objects, or what is wrong."""
    view = target_view(target)
    parts = [f"{one['kind'].lower()}/{one['name']} {one['action']}" for one in view["objects"]]
    says_more = view["message"].upper() not in ("", view["state"])
    if says_more and (view["state"] != "SUCCEEDED" or not parts):
        parts.append(view["message"])
    return "  ".join([view["cluster"], state_text(view["state"]), plain(", ".join(parts))]).rstrip()


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    def changed(self, story: Story, targets: Iterable[route_pb2.Target]) -> None:
        """Nothing."""


def note_unfinished(story: Story, shown: Container[str] = ()) -> None:
    """Says what the targets that are not final wait for, as far as they say so and it was not shown before."""
    targets = [target for target in story.targets.values() if target_state(target) not in FINAL and target.message]
    lines = sorted({target_line(target) for target in targets if target_line(target) not in shown})
    for line in lines[:COLLAPSE_ABOVE]:
        note(line)
    if len(lines) > COLLAPSE_ABOVE:
        note(f"… and {len(lines) - COLLAPSE_ABOVE} more that are not final")


class Lines(Silent):
    """A line per change of state: on stdout when it is final, else on stderr; at the end what is not final says why."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._lines: set[str] = set()
        self._story = Story()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        note_unfinished(self._story, self._lines)

    def changed(self, story: Story, targets: Iterable[route_pb2.Target]) -> None:
        """Prints the changes that are worth a line."""
        self._story = story
        for target in targets:
            state = target_state(target)
            if state == "PENDING" or self._shown.get(target.cluster) == state:
                continue
            if state == "SENT" and not target.message:
                continue
            self._shown[target.cluster] = state
            line = target_line(target)
            if state not in FINAL:
                self._lines.add(line)
            click.echo(line, err=state not in FINAL)


class Live:
    """A display that is redrawn, and the final lines once it is over; counts only above twenty targets."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._story = Story()
        self._live = RichLive(
            console=Console(stderr=True), transient=True, refresh_per_second=8, get_renderable=self._draw
        )

    def __enter__(self) -> Live:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()
        targets = sorted(self._story.targets.values(), key=lambda target: target.cluster)
        if len(targets) > COLLAPSE_ABOVE:
            targets = [target for target in targets if target_state(target) in FINAL - {"SUCCEEDED"}]
        for target in targets[:COLLAPSE_ABOVE]:
            if target_state(target) in FINAL:
                click.echo(target_line(target))
        if len(targets) > COLLAPSE_ABOVE:
            note(f"… and {len(targets) - COLLAPSE_ABOVE} more that did not succeed")
        note_unfinished(self._story)

    def changed(self, story: Story, targets: Iterable[route_pb2.Target]) -> None:
        """Remembers what to draw."""
        self._story = story

    def _draw(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        story = self._story
        if not story.targets:
            return Spinner("dots", text="waiting for the controller")
        grid = Table.grid(padding=(0, 2))
        if len(story.targets) > COLLAPSE_ABOVE:
            states = story.states()
            final = sum(count for state, count in states.items() if state in FINAL)
            grid.add_row(ProgressBar(total=len(story.targets), completed=final, width=30), counts_text(states))
            return grid
        for target in sorted(story.targets.values(), key=lambda target: target.cluster):
            state = target_state(target)
            style = _STYLES.get(state, "red")
            message = Text(plain(target_view(target)["message"]), overflow="ellipsis", no_wrap=True)
            grid.add_row(target.cluster, Text(state, style=style), message)
        return grid


def counts_text(states: dict[str, int]) -> str:
    """ "12 SUCCEEDED, 3 QUEUED"."""
    return ", ".join(f"{count} {state}" for state, count in states.items())
