"""Sends a command to clusters and stays with it: what apply, delete, drain, get and logs have in common.

Not here: what the commands are. The one idea: the dispatch has its name before it is sent, so whoever stops waiting, or
gets no answer, is told how to pick it up again; and a refusal says that there is nothing under that name.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta

import click

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.cli.exits import Exit, of_states
from ote.cli.output import Format, show
from ote.cli.program import connected, note
from ote.cli.reporting import Reporter, Silent, counts_text, reporter_for
from ote.cli.story import Story
from ote.cli.views import target_state
from ote.client.client import Client, new_dispatch_id
from ote.model.errors import OteError
from ote.model.selectors import compile_selector

_HELD_FOR = 1.0
"""Seconds in which a cluster that only moves to another parent is back, and no reason to stop waiting for it."""

_NOTHING_DONE = frozenset({"UNREACHABLE", "EXPIRED", "CANCELLED"})
_NOTHING_BEGUN = frozenset({"ROOT_CANNOT_DRAIN", "NOTHING_TO_DRAIN"})
"""Reasons of a cluster that has looked at a command and left all as it was."""


@dataclass(frozen=True)
class Sending:
    """A command and whom it is for. ttl, timeout: seconds; timeout 0 waits for ever. wait: until all is final."""

    command: command_pb2.Command
    selector: cluster_pb2.Selector
    ttl: float
    timeout: float
    wait: bool = True

    @property
    def kind(self) -> str:
        """ "apply", "delete", …"""
        return self.command.WhichOneof("kind") or ""

    def request(self, dispatch_id: str) -> route_pb2.DispatchRequest:
        """The request that sends it."""
        request = route_pb2.DispatchRequest(dispatch_id=dispatch_id, selector=self.selector, command=self.command)
        request.ttl.FromTimedelta(timedelta(seconds=self.ttl))
        return request


def selector_of(clusters: str, labels: str) -> cluster_pb2.Selector:
    """The selector of the options, checked. Raises InvalidArgument (INVALID_SELECTOR)."""
    compile_selector(clusters, labels)
    return cluster_pb2.Selector(clusters=clusters, labels=labels)


def require_selector(clusters: str, labels: str) -> cluster_pb2.Selector:
    """The same, for what must not go to everyone by mistake."""
    if not clusters and not labels:
        raise click.UsageError("say which clusters: --clusters or -l; --clusters '*' means all of them")
    return selector_of(clusters, labels)


def send_and_show(sending: Sending, format: Format, *, afterwards: str = "") -> None:
    """Sends, follows, shows, and ends the program with the exit code of the outcome.

    afterwards: the last line for people, where anything may have happened.
    """
    story = Story()

    async def work(client: Client) -> None:
        await send(client, sending, story, reporter_for(format), announce=True)
        warn_of_unknown_names(sending.selector, story)

    try:
        connected(work)
    except KeyboardInterrupt:
        interrupted(story)
    show(format, story.document(sending.kind), table=lambda: None, names=lambda: [story.name])
    conclude(story)
    if afterwards and any(_has_effect(target) for target in story.targets.values()):
        note(afterwards)
    if sending.wait or not story.accepted:
        end(story)


def _has_effect(target: route_pb2.Target) -> bool:
    """Whether anything may have happened there."""
    return target_state(target) not in _NOTHING_DONE and target.reason not in _NOTHING_BEGUN


async def send(client: Client, sending: Sending, story: Story, reporter: Reporter, *, announce: bool = False) -> None:
    """Sends and follows until all is final, or the time is over, or it is accepted and nobody waits."""
    dispatch_id = new_dispatch_id()
    story.name = f"{(await client.controller()).name}/{dispatch_id}"
    if announce:
        note(f"dispatch {story.name}")
    events = client.dispatch(sending.request(dispatch_id))
    held_for = None if sending.ttl < sending.timeout else _HELD_FOR
    try:
        await follow(events, story, reporter, sending.timeout, wait=sending.wait, held_for=held_for)
    except OteError as error:
        if announce:
            error.message = _with_fate(error, story)
        raise


def _with_fate(error: OteError, story: Story) -> str:
    """What the error says, and what it means for the dispatch whose name was printed already."""
    if error.reason == "ACCEPTANCE_UNKNOWN":
        return error.message  # it says so itself
    if story.accepted:
        return f"{error.message}; the dispatch goes on: ote-ctl dispatch watch {story.name}"
    if error.code in ("INTERNAL", "UNKNOWN"):
        return f"{error.message}; whether it was accepted is not known: ote-ctl dispatch get {story.name}"
    return f"{story.name} was not accepted: {error.message}"


async def follow(
    events: AsyncIterator[route_pb2.DispatchResponse],
    story: Story,
    reporter: Reporter,
    timeout: float,
    *,
    wait: bool = True,
    held_for: float | None = None,
) -> None:
    """Takes events in until the summary or the end of the time (0: no end).

    held_for: also ends after so many seconds in which only clusters that are offline were awaited.
    """
    limit = asyncio.timeout(timeout or None)
    until = asyncio.get_running_loop().time() + timeout if timeout else math.inf
    enough = math.inf
    try:
        with reporter:
            async with limit, aclosing(events):  # type: ignore[type-var]  # it is a generator
                async for event in events:
                    reporter.changed(story, story.take(event))
                    if story.finished or (story.accepted and not wait):
                        return
                    held = held_for is not None and story.held
                    enough = min(enough, asyncio.get_running_loop().time() + (held_for or 0)) if held else math.inf
                    limit.reschedule(min(until, enough) if min(until, enough) < math.inf else None)
    except TimeoutError:
        if not limit.expired():
            raise


def warn_of_unknown_names(selector: cluster_pb2.Selector, story: Story) -> None:
    """Says which of the exact names meant nobody, when others did."""
    meant = {target.cluster for target in story.targets.values()}
    if story.accepted:
        for name in sorted(compile_selector(selector.clusters, "").exact_names - meant):
            note(f"warning: no cluster {name} among those selected")


def conclude(story: Story) -> None:
    """The last lines on stderr: counts, and how to go on when it is not over."""
    states = story.states()
    if states:
        note(f"{len(story.targets)} {'target' if len(story.targets) == 1 else 'targets'}: {counts_text(states)}")
    if not story.finished:
        how_far = _held_text(story.held) if story.held else _how_far(story)
        note(f"{how_far}; to follow: ote-ctl dispatch watch {story.name}")


def end(story: Story) -> None:
    """Ends the program with the exit code of the outcome; one that was never accepted is not final."""
    click.get_current_context().exit(of_states(story.states()) if story.accepted else Exit.NOT_FINAL)


def interrupted(story: Story) -> None:
    """Says that stopping to wait stops nothing, and ends the program with 130."""
    if story.name:
        note(f"stopped waiting, {_how_far(story)}; to follow: ote-ctl dispatch watch {story.name}")
        note(f"to end it: ote-ctl dispatch cancel {story.name}")
    click.get_current_context().exit(Exit.INTERRUPTED)


def _how_far(story: Story) -> str:
    return "the dispatch goes on" if story.accepted else "whether it was accepted is not known yet"


def _held_text(count: int) -> str:
    if count == 1:
        return "1 cluster is offline and gets it when it is back, within --ttl"
    return f"{count} clusters are offline and get it when they are back, within --ttl"


async def read(client: Client, sending: Sending) -> Story:
    """Sends a read and waits for all answers, showing nothing."""
    story = Story()
    await send(client, sending, story, Silent())
    return story
