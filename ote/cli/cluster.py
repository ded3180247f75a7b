"""`ote-ctl cluster`: who is in the tree, and what they say about themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

import click

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.cli import facts
from ote.cli.exits import Exit
from ote.cli.output import Column, Format, as_json, plain, print_table, show, state_text
from ote.cli.params import clusters_option, labels_option, output_option, selector_options, timeout_option
from ote.cli.program import Nouns, connected, note
from ote.cli.sending import Sending, selector_of, send_and_show
from ote.cli.views import (
    Document,
    age,
    cluster_detail,
    cluster_view,
    mapping_text,
    shim_text,
    state_name,
    totals_text,
    usage_text,
)
from ote.client.client import Client
from ote.model.errors import NotFound
from ote.model.names import check_name, is_name
from ote.model.selectors import compile_selector

_FACTS_TTL, _FACTS_TIMEOUT = 3600.0, 60.0
_TAGS_LOOKED_UP = 3
_COLUMNS = [
    Column("NAME"),
    Column("STATE"),
    Column("PARENT"),
    Column("SHIM"),
    Column("SEEN", optional=True),
    Column("TAGS", optional=True),
    Column("LABELS", optional=True),
]


@click.group(cls=Nouns)
def cluster() -> None:
    """The clusters of the tree.

    \b
    Example:
      ote-ctl cluster list --clusters 'shop-*'
    """


@cluster.command("list")
@selector_options
@click.option("--explain", metavar="NAME", help="Why this cluster is selected or not.")
@output_option
def list_(clusters: str, labels: str, explain: str | None, output: Format) -> None:
    """List clusters: those that a command would reach.

    \b
    JSON:
      {"clusters":[{"name","uid","state","parent","configured_parent","path":[root first],"labels":{},"tags":[],
       "epoch","shim":{"kind","name","version","capabilities":[],"not_answering_since"},"last_seen"}]}
      shim is null for a cluster without one, not_answering_since while it answers. With --explain also
      "explain":{"cluster","selected","why":[]}.

    \b
    Example:
      ote-ctl cluster list -l 'region=eu,!legacy' --explain shop-7
    """
    show_meant(selector_of(clusters, labels), explain, output)


def show_meant(selector: cluster_pb2.Selector, explain: str | None, format: Format, *, for_shim: bool = False) -> None:
    """Shows the clusters that a selector means, and why one is meant or not. None is NotFound (NO_MATCH).

    for_shim: for a command to the shim, whose patterns do not mean clusters without one; their exact names do.
    """
    names = compile_selector(selector.clusters, selector.labels).exact_names

    def misses_shim(one: cluster_pb2.Cluster) -> bool:
        return for_shim and not one.HasField("shim") and bool(one.version) and one.name not in names

    hints: list[str] = []

    async def work(client: Client) -> tuple[list[cluster_pb2.Cluster], cluster_pb2.Cluster | None]:
        found = [one for one in await client.list_clusters(selector) if not misses_shim(one)]
        if not explain:
            hints.extend(await _tags_among(client, names) if not found else ())
            return found, None
        explained = await client.get_cluster(explain)
        entry = (await client.controller()).name
        if entry in explained.path:  # a path pattern begins there, whatever is above
            del explained.path[: list(explained.path).index(entry)]
        return found, explained

    found, explained = connected(work)
    document: Document = {"clusters": [cluster_view(one) for one in found]}
    if explained is not None:
        document["explain"] = _explanation(selector, explained, misses_shim(explained))
    show(format, document, table=lambda: _print(document), names=lambda: [one.name for one in found])
    if not found and explained is None and (selector.clusters or selector.labels):
        what = "no cluster with a shim" if for_shim else "no cluster"
        hint = hints[0] if hints else "ote-ctl cluster list shows all"
        raise NotFound("NO_MATCH", f"the selector matches {what}; {hint}")
    for name in sorted(names - {one.name for one in found}):
        note(f"warning: no cluster {name} among those selected")


async def _tags_among(client: Client, names: Iterable[str]) -> list[str]:
    """What to write instead of a tag that was given as a name."""
    for name in sorted(names)[:_TAGS_LOOKED_UP]:
        if is_name(name) and await client.list_clusters(cluster_pb2.Selector(labels=name)):
            return [f"{name} is a tag or label: write -l {name}"]
    return []


def _explanation(selector: cluster_pb2.Selector, cluster: cluster_pb2.Cluster, misses_shim: bool) -> Document:
    compiled = compile_selector(selector.clusters, selector.labels)
    why = compiled.explain(cluster)
    conflict = state_name(cluster) == "NAME_CONFLICT"
    if conflict:
        why.append("no selector matches it while its name is also another's: evict one of the two")
    if misses_shim:
        why.append("it has no shim: of those, only an exact name means it")
    return {
        "cluster": cluster.name,
        "selected": compiled.matches(cluster) and not conflict and not misses_shim,
        "why": why,
    }


def _print(document: Document) -> None:
    rows = [
        [
            one["name"],
            one["state"],
            one["parent"] + ("" if _at_home(one) else f" (home: {one['configured_parent']})"),
            shim_text(one["shim"]) if one["shim"] else "",
            age(one["last_seen"]),
            ",".join(one["tags"]),
            mapping_text(one["labels"]),
        ]
        for one in document["clusters"]
    ]
    if rows:
        print_table(_COLUMNS, rows)
    if "explain" in document:
        explain = document["explain"]
        click.echo(f"{explain['cluster']} is {'selected' if explain['selected'] else 'not selected'}:")
        for line in explain["why"]:
            click.echo(f"  {line}")


def _at_home(one: Document) -> bool:
    return not one["configured_parent"] or one["parent"] == one["configured_parent"]


@cluster.command()
@click.argument("name")
@output_option
def get(name: str, output: Format) -> None:
    """Show one cluster, by name or uid; "." is the controller.

    \b
    JSON: a cluster as in list, and "state_since","away_from_home_since","home_problem","draining","advertise",
      "instance","version","changed_facts":[],"descendants","status":{"ready","message","capacity":{},"usage":{},
      "nodes","nodes_ready","workloads":{},"pods_running","pods_failing","as_of"},"status_as_of","status_stale",
      "totals":{"clusters","clusters_ready","clusters_silent","capacity":{},"usage":{},"nodes","nodes_ready","workloads":{},
      "pods_running","pods_failing","unwell":[]}

    Of a cluster that is not below the parent of its settings it is asked since when (away_from_home_since) and why that
    was not taken when it was tried last (home_problem): a --parent that is wrong shows here.

    The status is asked of the cluster itself; while that does not answer it is what it told last (stale). Totals are
    sums over it and all below it; clusters_silent are those whose shim does not answer. They are told upwards every
    30 s at most, within 2 s where the number of clusters changes: each level below may add so much to their age.

    \b
    Example:
      ote-ctl cluster get edge-1
    """
    found = connected(lambda client: client.get_cluster(name))
    document = cluster_detail(found)
    show(output, document, table=lambda: _print_detail(document), names=lambda: [found.name])


def _print_detail(one: Document) -> None:
    status = one["status"] or {}
    lines = {
        "Name": one["name"],
        "State": state_text(one["state"]) + (f" since {one['state_since']}" if one["state_since"] else ""),
        "Last seen": one["last_seen"] or "never",
        "Path": " / ".join(one["path"]),
        "Home": "" if _at_home(one) else plain(_home_text(one)),
        "Draining": "yes" if one["draining"] else "",
        "Labels": mapping_text(one["labels"]),
        "Tags": ", ".join(one["tags"]),
        "Shim": _shim_detail(one["shim"]) if one["shim"] else "none",
        "Workloads": plain(", ".join(f"{count} {kind}" for kind, count in status.get("workloads", {}).items())),
        "Pods": _pods_detail(one) if status else "",
        "In use": usage_text(status) if status and any(status["capacity"].values()) else "",
        "As of": f"{age(one['status_as_of'])} ago; it does not answer now" if one["status_stale"] else "",
        "Below": f"{one['descendants']} clusters" if one["descendants"] else "",
        "In all": totals_text(one["totals"]) if one["descendants"] else "",
        "Address": one["advertise"],
        "Version": one["version"],
        "Uid": one["uid"],
        "Epoch": str(one["epoch"]),
    }
    for title, text in lines.items():
        if text:
            click.echo(f"{title + ':':<11}{text}")


def _shim_detail(shim: Document) -> str:
    text = f"{shim['kind']} ({shim['name']} {shim['version']}): {', '.join(shim['capabilities'])}"
    since = shim["not_answering_since"]
    return f"{text}; not answering since {since} ({age(since)} ago)" if since else text


def _pods_detail(one: Document) -> str:
    status = one["status"]
    silent = one["shim"] and one["shim"]["not_answering_since"]
    text = f"{status['pods_running']} running, {status['pods_failing']} failing"
    return f"{text}, when the shim answered last" if silent else text


def _home_text(one: Document) -> str:
    since, problem = one["away_from_home_since"], one["home_problem"]
    away = f", not there since {since}" if since else ""
    return f"{one['configured_parent']}{away}" + (f"; tried last: {problem}" if problem else "")


@cluster.command()
@selector_options
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="json: one per line.")
def watch(clusters: str, labels: str, output: str) -> None:
    """Print clusters as they are, then every change.

    Until ctrl-C; in the table, changes of state and parent only. Where the entry of the context is lost it goes on at
    the next one, with that one and what is below it, and goes back to the first when it answers again; both are told
    on stderr. It lists again then: what differs comes as put or removed, and a bookmark ends the listing. Of what that
    entry cannot know nothing is told until the first one is back.

    \b
    JSON, one per line: {"event":"put","cluster":{…}}, {"event":"removed","uid"}, {"event":"bookmark"}: all is listed.

    \b
    Example:
      ote-ctl cluster watch -l region=eu
    """
    selector = selector_of(clusters, labels)

    async def work(client: Client) -> None:
        shown: dict[str, str] = {}
        async for event in client.watch_clusters(selector):
            _print_event(event, shown, as_document=output == "json")

    connected(work)


def _print_event(event: cluster_pb2.WatchClustersResponse, shown: dict[str, str], *, as_document: bool) -> None:
    """Prints an event. shown: the last line of each cluster by uid, so that what looks the same is not said again."""
    kind = event.WhichOneof("event")
    if as_document:
        details: Document = {"cluster": cluster_view(event.put)} if kind == "put" else {}
        details |= {"uid": event.removed} if kind == "removed" else {}
        click.echo(as_json({"event": kind, **details}, indent=None))
    elif kind == "put":
        view = cluster_view(event.put)
        line = f"{view['name']}  {state_text(view['state'])}  under {view['parent'] or '-'}"
        if shown.get(view["uid"]) != line:
            shown[view["uid"]] = line
            click.echo(line)
    elif kind == "removed":
        click.echo(f"{shown.pop(event.removed, event.removed).partition(' ')[0]}  removed")


@cluster.command()
@click.argument("words", nargs=-1, required=True, metavar="[NAME] KEY=VALUE|KEY-...")
@selector_options
def label(words: Sequence[str], clusters: str, labels: str) -> None:
    """Set labels (KEY=VALUE) and remove them (KEY-).

    Of the cluster NAME, or of all that --clusters and -l select. Each cluster keeps them; one that is offline changes
    when it is back (exit code 4).

    \b
    Example:
      ote-ctl cluster label edge-1 tier=gold legacy-
      ote-ctl cluster label --clusters 'shop-*' tier=gold
    """
    name, changes = _whom(words, clusters, labels)
    added, removed = facts.label_changes(changes)
    _update(name, clusters, labels, command_pb2.SetFacts(labels=added, remove_labels=removed))


class _Tags(click.Command):
    """Takes `-TAG` as a word: of what begins with one dash only `-l` and `-h`, alone, are options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {"-l": "--selector", "-h": "--help"}
        return super().parse_args(ctx, [known.get(word, word) for word in args])


@cluster.command(cls=_Tags, context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[NAME] +TAG|-TAG...")
@clusters_option
@labels_option("--selector")  # -l would take -TAG
def tag(words: Sequence[str], clusters: str, labels: str) -> None:
    """Add tags (+TAG) and remove them (-TAG).

    Of the cluster NAME, or of all that --clusters and -l select. Each cluster keeps them; one that is offline changes
    when it is back (exit code 4).

    \b
    Example:
      ote-ctl cluster tag edge-1 +gpu -legacy
      ote-ctl cluster tag -l region=eu +pilot
    """
    name, changes = _whom(words, clusters, labels)
    added, removed = facts.tag_changes(changes)
    _update(name, clusters, labels, command_pb2.SetFacts(tags=added, remove_tags=removed))


def _whom(words: Sequence[str], clusters: str, labels: str) -> tuple[str, Sequence[str]]:
    """(name, changes); no name where a selector says who is meant."""
    if clusters or labels:
        return "", words
    name, *changes = words
    if set(name) & set("*?[,/"):
        raise click.UsageError(f"{name!r} is not one name: for several clusters write --clusters {name!r}")
    if not changes:
        raise click.UsageError("say what to change, after the cluster's name")
    return name, changes


def _update(name: str, clusters: str, labels: str, change: command_pb2.SetFacts) -> None:
    """Changes one cluster, or those selected where there is no name."""
    if not name:
        command = command_pb2.Command(set_facts=change)
        send_and_show(Sending(command, selector_of(clusters, labels), _FACTS_TTL, _FACTS_TIMEOUT), Format.TABLE)
        return
    answer = connected(
        lambda client: client.update_cluster(
            name,
            labels=change.labels,
            remove_labels=change.remove_labels,
            tags=change.tags,
            remove_tags=change.remove_tags,
        )
    )
    if not answer.settled:
        click.echo(f"{answer.cluster.name}: the change is accepted and waits for the cluster")
        note(f"to follow: ote-ctl dispatch watch {answer.dispatch}")
        click.get_current_context().exit(Exit.NOT_FINAL)
    view = cluster_view(answer.cluster)
    click.echo(
        f"{view['name']}: labels {mapping_text(view['labels']) or 'none'}; tags {','.join(view['tags']) or 'none'}"
    )


@cluster.command()
@click.argument("name")
@click.option("--off", is_flag=True, help="End the drain: children may come back.")
@timeout_option("60s")
@output_option
def drain(name: str, off: bool, timeout: float, output: Format) -> None:
    """Move a controller's children away before maintenance.

    Says who could not move.

    \b
    Example:
      ote-ctl cluster drain region-east && ote-ctl cluster drain region-east --off
    """
    order = command_pb2.Drain(off=off)
    if timeout:
        order.timeout.FromTimedelta(timedelta(seconds=max(1.0, timeout * 0.8)))
    command = command_pb2.Command(drain=order)
    sending = Sending(command, cluster_pb2.Selector(clusters=check_name(name)), 0, timeout)
    send_and_show(sending, output, afterwards="" if off else f"to end it: ote-ctl cluster drain {name} --off")


@cluster.command()
@click.argument("name")
def evict(name: str) -> None:
    """End a cluster's membership; its name is free then.

    Nothing on the cluster is deleted. It needs nothing from the far side. Clusters below it find other parents.

    \b
    Example:
      ote-ctl cluster evict edge-1
    """
    answer = connected(lambda client: client.evict_cluster(name))
    click.echo(f"{name} is evicted ({answer.uid})")
    if not answer.delivered:
        note("no parent has heard of it yet; the one that holds the cluster will as soon as it is connected")
    if answer.orphans:
        note(f"it was the configured parent of {', '.join(answer.orphans)}: change --parent in their settings")
