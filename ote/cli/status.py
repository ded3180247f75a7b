"""`ote-ctl status`: how the controller that answers does, and what is wrong since when."""

from __future__ import annotations

import click

from ote.cli.output import Column, Format, plain, print_table, show
from ote.cli.params import output_option
from ote.cli.program import connected
from ote.cli.views import Document, age, size_text, status_view, totals_text


@click.command()
@output_option
def status(output: Format) -> None:
    """Show what is wrong since when, and what the tunnels do.

    Of the controller that answers; worst first. The exit code is 0 also with problems.

    \b
    JSON:
      {"self":{a cluster},"version","connected","connected_since","beat","depth",
       "problems":[{"reason","message","since","cluster"}],
       "tunnels":[{"peer","direction":"parent"|"child","since","sent_bytes":{LANE:n},"received_bytes","queued_bytes","refused_items",
         "silent_ms","bulk_streams"}],
       "clusters":{STATE:count},"totals":{as in cluster get},"alternates":[],"unsettled_dispatches","oldest_unsettled",
       "started","certificate_expires"}

    \b
    Example:
      ote-ctl status
    """
    document = status_view(connected(lambda client: client.status()))
    show(output, document, table=lambda: _print(document), names=lambda: [document["self"]["name"]])


def _print(one: Document) -> None:
    _print_problems(one)
    counts = ", ".join(f"{count} {state}" for state, count in one["clusters"].items())
    me = one["self"]["name"]
    link = "connected" if one["connected"] else "cut off from the root"
    lines = {
        "Controller": f"{me} {one['version']}, {_role(one)}, up {age(one['started'])}",
        "Tree": link
        + (f" for {age(one['connected_since'])}" if one["connected_since"] else "")
        + f", beat {one['beat']}",
        "Clusters": counts or "none below",
        "In all": totals_text(one["totals"]),
        "Dispatches": _dispatches(one),
        "Alternates": ", ".join(one["alternates"]),
        "Certificate": f"until {one['certificate_expires']}" if one["certificate_expires"] else "",
    }
    for title, text in lines.items():
        if text:
            click.echo(f"{title + ':':<13}{text}")
    if one["tunnels"]:
        click.echo()
        print_table(_TUNNELS, [_tunnel(tunnel) for tunnel in one["tunnels"]])


def _role(one: Document) -> str:
    """What it is in the tree; one that is cut off has no depth, but may have a home."""
    home = one["self"]["configured_parent"]
    if one["depth"]:
        return f"{one['depth']} below the root"
    return "root" if one["connected"] or not home else f"at home below {home}"


def _print_problems(one: Document) -> None:
    if not one["problems"]:
        click.secho("all is well", fg="green")
    for problem in one["problems"]:
        since = f" for {age(problem['since'])}" if problem["since"] else ""
        cluster = f" {problem['cluster']}" if problem["cluster"] else ""
        click.echo(click.style(problem["reason"], fg="red") + f"{cluster}{since}: {plain(problem['message'])}")
    click.echo()


def _dispatches(one: Document) -> str:
    if not one["unsettled_dispatches"]:
        return "all settled"
    oldest = age(one["oldest_unsettled"])
    return f"{one['unsettled_dispatches']} not settled" + (f", the oldest for {oldest}" if oldest else "")


_TUNNELS = [
    Column("TUNNEL"),
    Column("FOR"),
    Column("SILENT"),
    Column("SENT"),
    Column("RECEIVED"),
    Column("QUEUED"),
    Column("REFUSED", optional=True),
    Column("BULK", optional=True),
    Column("SENT BY LANE", optional=True),
]


def _tunnel(tunnel: Document) -> list[str]:
    return [
        f"{tunnel['direction']} {tunnel['peer']}",
        age(tunnel["since"]),
        f"{tunnel['silent_ms']} ms",
        size_text(sum(tunnel["sent_bytes"].values())),
        size_text(tunnel["received_bytes"]),
        size_text(tunnel["queued_bytes"]),
        str(tunnel["refused_items"]),
        str(tunnel["bulk_streams"]),
        " ".join(f"{lane} {size_text(count)}" for lane, count in tunnel["sent_bytes"].items()),
    ]
