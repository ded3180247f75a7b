"""The program `ote-ctl`: its options and its nouns. Each noun has a file of its own, imported when it is used."""

from __future__ import annotations

import click

from ote import __version__
from ote.cli.program import Program, Session

_NOUNS = {
    "status": "ote.cli.status:status",
    "cluster": "ote.cli.cluster:cluster",
    "tree": "ote.cli.tree:tree",
    "apply": "ote.cli.apply:apply",
    "delete": "ote.cli.apply:delete",
    "get": "ote.cli.objects:get",
    "logs": "ote.cli.objects:logs",
    "dispatch": "ote.cli.dispatch:dispatch",
    "route": "ote.cli.route:route",
    "token": "ote.cli.token:token",
    "context": "ote.cli.context:context",
    "shim": "ote.cli.shim:shim",
    "version": "ote.cli.version:version",
    "completion": "ote.cli.version:completion",
}


@click.group(cls=Program, lazy=_NOUNS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", metavar="FILE", help="Contexts file.  [default: $OTE_CONFIG or ~/.config/ote/config.yaml]")
@click.option(
    "--context", "context_name", metavar="NAME", help="Context to use.  [default: $OTE_CONTEXT or the current]"
)
@click.option("--entry", metavar="NAME|HOST:PORT", help="Only this entry of the context, and no other in its place.")
@click.version_option(__version__, prog_name="ote-ctl")
@click.pass_context
def cli(ctx: click.Context, config: str | None, context_name: str | None, entry: str | None) -> None:
    """Speak to a tree of edge clusters.

    Clusters are selected by --clusters and -l; both given, both must hold.

    \b
      --clusters a,b       the clusters of these names
      --clusters 'shop-*'  a glob over names, tags and values of labels
      --clusters 'eu/**'   the clusters below eu; 'eu/*/shop-*' a path from the entry down
      --clusters 're:x+'   a regular expression, matched whole
      -l 'region=eu,tier in (gold,silver),!legacy'   labels, and tags as labels without value

    \b
    Exit codes:
      0  done
      1  internal error
      2  usage or invalid input
      3  a target failed, expired, was cancelled, was unreachable or is unknown
      4  not final within --timeout, or held for clusters that are offline
      5  controller not reachable, or it does not take this identity
      6  not found; the selector matches nothing

    A controller that does not answer at first is given up after 5 s, one that falls silent, also under a watch, after
    13 s; the next entry of the context is asked then.

    \b
    Example:
      ote-ctl apply -f app.yaml --clusters 'shop-*'
    """
    ctx.obj = Session(config, context_name, entry)
