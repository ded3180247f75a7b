"""`ote-ctl dispatch`: what became of commands."""

from __future__ import annotations

import click

from ote.api.route.v1 import route_pb2
from ote.cli.output import Column, Format, print_table, show
from ote.cli.params import output_option, timeout_option
from ote.cli.program import Nouns, connected, note
from ote.cli.reporting import counts_text, reporter_for, target_line
from ote.cli.sending import conclude, end, follow, interrupted
from ote.cli.story import Story
from ote.cli.views import age, dispatch_row, dispatch_view
from ote.client.client import Client


@click.group(cls=Nouns)
def dispatch() -> None:
    """Commands that were sent, by their names ORIGIN/ID.

    \b
    Example:
      ote-ctl dispatch list --unsettled
    """


@dispatch.command("list")
@click.option("--unsettled", is_flag=True, help="Only those with targets that are not final, reads too.")
@click.option("--all", "reads", is_flag=True, help="Also reads: get and logs.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@output_option
def list_(unsettled: bool, reads: bool, limit: int, output: Format) -> None:
    """List dispatches of the controller, newest first.

    Those that change something (apply, delete, set_facts, drain, noop); with --all, and --unsettled, reads too,
    whatever the format.

    \b
    JSON: {"dispatches":[{"dispatch","origin","command","clusters","labels","created","caller","settled",
      "summary":{STATE:count}}]}

    \b
    Example:
      ote-ctl dispatch list --unsettled
    """
    changes_only = not (reads or unsettled)
    found = connected(
        lambda client: client.list_dispatches(unsettled_only=unsettled, changes_only=changes_only, limit=limit)
    )
    rows = [dispatch_row(one) for one in found]
    columns = [
        Column("DISPATCH"),
        Column("COMMAND"),
        Column("TARGETS"),
        Column("AGE"),
        Column("SELECTOR", optional=True),
        Column("CALLER", optional=True),
    ]

    def table() -> None:
        print_table(
            columns,
            [
                [
                    one["dispatch"],
                    one["command"],
                    counts_text(one["summary"]),
                    age(one["created"]),
                    _selector_text(one["clusters"], one["labels"]),
                    one["caller"],
                ]
                for one in rows
            ],
        )

    show(output, {"dispatches": rows}, table=table, names=lambda: [one["dispatch"] for one in rows])


def _selector_text(clusters: str, labels: str) -> str:
    """Both parts as a shell takes them, so that one of spaces alone shows."""
    return " ".join(([_word(clusters)] if clusters else []) + ([f"-l {_word(labels)}"] if labels else []))


def _word(text: str) -> str:
    return text if text.isprintable() and not set(text) & set(" '\"") else repr(text)


@dispatch.command()
@click.argument("id")
@output_option
def get(id: str, output: Format) -> None:
    """Show a dispatch as it is now. The JSON is that of apply.

    \b
    Example:
      ote-ctl dispatch get root/0f3c9a5e2b7d4c118a6e5f0d9b3c7a21
    """
    _show(connected(lambda client: client.get_dispatch(id)), output)


@dispatch.command()
@click.argument("id")
@timeout_option("0")
@output_option
def watch(id: str, timeout: float, output: Format) -> None:
    """Follow a dispatch until all its targets are final.

    The exit code tells how they ended. The JSON is that of apply. Where the entry of the context is lost it goes on at
    the next one, and goes back to the first when it answers again; both are told on stderr.

    \b
    Example:
      ote-ctl dispatch watch root/0f3c9a5e2b7d4c118a6e5f0d9b3c7a21
    """
    story = Story(name=id)
    kind = [""]

    async def work(client: Client) -> None:
        found = await client.get_dispatch(id)
        kind[0], story.accepted = found.command, True
        await follow(client.watch_dispatch(id), story, reporter_for(output), timeout)

    try:
        connected(work)
    except KeyboardInterrupt:
        interrupted(story)
    show(output, story.document(kind[0]), table=lambda: None, names=lambda: [story.name])
    conclude(story)
    end(story)


@dispatch.command()
@click.argument("id")
@output_option
def cancel(id: str, output: Format) -> None:
    """End every target that is not final.

    What was never sent ends at once, the rest when the cluster has said so. Of one that is settled nothing is ended,
    and it is told so; the exit code is 0.

    \b
    Example:
      ote-ctl dispatch cancel root/0f3c9a5e2b7d4c118a6e5f0d9b3c7a21
    """

    async def work(client: Client) -> tuple[route_pb2.Dispatch, bool]:
        found = await client.get_dispatch(id)
        return (found, True) if found.settled else (await client.cancel_dispatch(id), False)

    found, was_settled = connected(work)
    if was_settled:
        note(f"{found.name} is already settled ({counts_text(dispatch_row(found)['summary'])}): nothing was cancelled")
    if not was_settled or output is not Format.TABLE:
        _show(found, output)


def _show(found: route_pb2.Dispatch, output: Format) -> None:
    document = dispatch_view(found.name, found.command, found.targets)

    def table() -> None:
        click.echo(f"{found.name}  {found.command}  {'settled' if found.settled else 'not settled'}")
        for target in sorted(found.targets, key=lambda target: target.cluster):
            click.echo(target_line(target))

    show(output, document, table=table, names=lambda: [found.name])
