"""`ote-ctl tree`: the tree as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from ote.cli.output import Format, show, state_text
from ote.cli.params import output_option
from ote.cli.program import connected
from ote.cli.views import Document, age, cluster_view


@click.command()
@output_option
def tree(output: Format) -> None:
    """Show who hangs under whom, and who is away from home.

    \b
    JSON: {"name","state","shim","shim_not_answering_since","configured_parent","last_seen","children":[…]}

    \b
    Example:
      ote-ctl tree
    """
    clusters = [cluster_view(one) for one in connected(lambda client: client.list_clusters())]
    roots = nest(clusters)
    document = roots[0] if len(roots) == 1 else {"name": "", "children": roots}
    show(
        output,
        document,
        table=lambda: click.echo("\n".join(line for root in roots for line in draw(root))),
        names=lambda: [name for root in roots for name in _names(root)],
    )


def nest(clusters: Sequence[Document]) -> list[Document]:
    """The clusters as nodes with children; a cluster whose parent is not among them is a root."""
    nodes: dict[str, Document] = {
        one["uid"]: {
            "name": one["name"],
            "state": one["state"],
            "shim": one["shim"]["kind"] if one["shim"] else None,
            "shim_not_answering_since": one["shim"]["not_answering_since"] if one["shim"] else None,
            "configured_parent": one["configured_parent"],
            "last_seen": one["last_seen"],
            "children": [],
        }
        for one in clusters
    }
    by_name = {one["name"]: nodes[one["uid"]] for one in clusters if one["state"] != "NAME_CONFLICT"}
    roots: list[Document] = []
    for one in sorted(clusters, key=lambda one: (len(one["path"]), one["name"])):
        parent = by_name.get(one["parent"])
        node = nodes[one["uid"]]
        if parent is None or parent is node or _is_below(parent, node):
            roots.append(node)
        else:
            parent["children"].append(node)
    return roots


def draw(node: Document, parent: str = "", lead: str = "") -> Iterator[str]:
    """The lines of a node and of all below it."""
    yield lead + _text(node, parent)
    bare = lead.replace("├── ", "│   ").replace("└── ", "    ")
    for index, child in enumerate(node["children"]):
        last = index == len(node["children"]) - 1
        yield from draw(child, node["name"], bare + ("└── " if last else "├── "))


def _text(node: Document, parent: str) -> str:
    parts = [node["name"]]
    if node["state"] != "ONLINE":
        seen = age(node["last_seen"])
        parts.append(state_text(node["state"]) + (f" (last seen {seen} ago)" if seen else ""))
    if node["shim"]:
        since = node["shim_not_answering_since"]
        parts.append(f"[{node['shim']}: not answering for {age(since)}]" if since else f"[{node['shim']}]")
    if parent and node["configured_parent"] and node["configured_parent"] != parent:
        parts.append(f"(home: {node['configured_parent']})")
    return " ".join(parts)


def _names(node: Document) -> Iterator[str]:
    yield node["name"]
    for child in node["children"]:
        yield from _names(child)


def _is_below(node: Document, other: Document) -> bool:
    return any(child is node or _is_below(node, child) for child in other["children"])
