"""`ote-ctl context`: ways into trees. Nothing here but `add-entry` without a name needs a controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from ote.cli.output import Column, Format, print_table, show
from ote.cli.params import output_option
from ote.cli.program import Nouns, connected, session
from ote.client.contexts import Context, Entry, add_entries, config_path, load_contexts, save_contexts
from ote.model.errors import NotFound
from ote.model.names import check_name


@click.group(cls=Nouns)
def context() -> None:
    """Ways into trees: entries, and the certificate to show there.

    \b
    Example:
      ote-ctl context import root/admin.yaml
    """


@context.command("list")
@output_option
def list_(output: Format) -> None:
    """List the contexts; "*" marks the current one.

    \b
    JSON: {"current","contexts":[{"name","entries":[{"address","server_name"}],"tls"}]}

    \b
    Example:
      ote-ctl context list
    """
    contexts = load_contexts(config_path(session().config))
    rows = [_view(one) for one in contexts.contexts]
    columns = [Column(""), Column("NAME"), Column("ENTRIES"), Column("TLS", optional=True)]
    show(
        output,
        {"current": contexts.current, "contexts": rows},
        table=lambda: print_table(
            columns,
            [
                [
                    "*" if one["name"] == contexts.current else " ",
                    one["name"],
                    ",".join(entry["address"] for entry in one["entries"]),
                    "yes" if one["tls"] else "no",
                ]
                for one in rows
            ],
        ),
        names=lambda: [one["name"] for one in rows],
    )


def _view(one: Context) -> dict[str, Any]:
    entries = [{"address": entry.address, "server_name": entry.server_name} for entry in one.entries]
    return {"name": one.name, "entries": entries, "tls": bool(one.cert)}


@context.command()
@click.argument("name")
def use(name: str) -> None:
    """Make a context the current one.

    \b
    Example:
      ote-ctl context use root
    """
    path = config_path(session().config)
    save_contexts(path, load_contexts(path).use(name))
    click.echo(f"using {name}")


@context.command("add-entry")
@click.argument("address", metavar="HOST:PORT")
@click.option("--name", metavar="CLUSTER", help="The controller there.  [default: found by its address in the tree]")
def add_entry(address: str, name: str | None) -> None:
    """Add another way in to the context in use.

    It is tried when those before it do not answer. A warning on stderr says so, because a selector means there what is
    at and below that controller alone; the exit code is that of what was done. With ote-ctl --entry NAME no other entry
    is tried.

    \b
    Example:
      ote-ctl context add-entry 10.0.2.1:8287 --name region-east
    """
    from ote.rpc.address import split_host_port

    split_host_port(address)
    name = check_name(name) if name else _name_at(address)
    path = config_path(session().config)
    contexts = load_contexts(path)
    changed = add_entries(session().context(), [Entry(address, f"{name}.ote")])
    save_contexts(path, contexts.put(changed))
    click.echo(f"{changed.name}: {', '.join(entry.address for entry in changed.entries)}")


def _name_at(address: str) -> str:
    for one in connected(lambda client: client.list_clusters()):
        if one.advertise == address:
            return one.name
    raise NotFound("CLUSTER_NOT_FOUND", f"no controller of the tree says that it is at {address}: give its --name")


@context.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--name", help="What to call it here.  [default: as in the file]")
@click.option("--replace", is_flag=True, help="Also in the place of one that is for somebody else.")
@click.option("--use", "switch", is_flag=True, help="Make it the current context.")
def import_(file: str, name: str | None, replace: bool, switch: bool) -> None:
    """Take over contexts, such as the admin.yaml of a root.

    A known context gets the entries of the file. One of its name that is for somebody else in the same tree, such as
    the viewer where there is the admin, is refused: --name keeps both.

    \b
    Example:
      ote-ctl context import root/admin.yaml --use
      ote-ctl context import viewer.yaml --name viewer
    """
    path = config_path(session().config)
    found = load_contexts(Path(file)).contexts
    if not found:
        raise NotFound("CONTEXT_NOT_FOUND", f"there is no context in {file}")
    if name is not None:
        if len(found) > 1:
            raise click.UsageError(f"--name is for one context, and {file} has {len(found)}")
        if not name.isprintable() or not name.strip():
            raise click.UsageError(f"{name!r} is no name for a context")
        found = (msgspec.structs.replace(found[0], name=name),)
    contexts, added = load_contexts(path).merge(found, replace=replace)
    if switch:
        contexts = contexts.use(added[0].name)
    save_contexts(path, contexts)
    for one in added:
        click.echo(f"{one.name}: {', '.join(entry.address for entry in one.entries)}")
    if contexts.current not in [one.name for one in added]:
        click.echo(f"to use it: ote-ctl context use {added[0].name}", err=True)
