"""`ote-ctl route`: the ways to the clusters."""

from __future__ import annotations

import click

from ote.cli.exits import Exit
from ote.cli.output import Column, Format, plain, print_table, show
from ote.cli.params import output_option
from ote.cli.program import Nouns, connected, note
from ote.cli.views import route_view


@click.group(cls=Nouns)
def route() -> None:
    """The ways to the clusters.

    \b
    Example:
      ote-ctl route trace edge-1
    """


@route.command("list")
@output_option
def list_(output: Format) -> None:
    """List the next hop of every cluster.

    \b
    JSON: {"routes":[{"cluster","next_hop","path":[],"up"}]}

    \b
    Example:
      ote-ctl route list
    """
    rows = [route_view(one) for one in connected(lambda client: client.list_routes())]
    columns = [Column("CLUSTER"), Column("NEXT HOP"), Column("UP"), Column("PATH", optional=True)]
    show(
        output,
        {"routes": rows},
        table=lambda: print_table(
            columns,
            [[one["cluster"], one["next_hop"], "yes" if one["up"] else "no", "/".join(one["path"])] for one in rows],
        ),
        names=lambda: [one["cluster"] for one in rows],
    )


@route.command()
@click.argument("name")
@output_option
def trace(name: str, output: Format) -> None:
    """Ask every controller on the way to a cluster.

    A hop that does not answer, or is not asked because the way ends before it, has a negative rtt_ms; the exit code is
    3 then, and the document says which hop is the last that answers (ends_at) and why the way ends there (reason
    NO_ROUTE or NO_ANSWER, and message; empty when it gets there).

    \b
    JSON: {"hops":[{"cluster","rtt_ms"}],"ends_at","reason","message"}

    \b
    Example:
      ote-ctl route trace edge-1
    """
    answer = connected(lambda client: client.trace_route(name))
    hops = answer.hops
    answered = [hop.cluster for hop in hops if hop.rtt_ms >= 0]
    rows = [{"cluster": hop.cluster, "rtt_ms": round(hop.rtt_ms, 3)} for hop in hops]
    show(
        output,
        {
            "hops": rows,
            "ends_at": answered[-1] if answered else "",
            "reason": answer.reason,
            "message": answer.message,
        },
        table=lambda: print_table(
            [Column("HOP"), Column("CLUSTER"), Column("ROUND TRIP")],
            [
                [str(index), hop.cluster, f"{hop.rtt_ms:.1f} ms" if hop.rtt_ms >= 0 else "no answer"]
                for index, hop in enumerate(hops)
            ],
        ),
        names=lambda: [hop.cluster for hop in hops],
    )
    if answer.message:
        note(plain(answer.message))
    if any(hop.rtt_ms < 0 for hop in hops):
        click.get_current_context().exit(Exit.TARGET)
