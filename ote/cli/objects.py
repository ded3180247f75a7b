"""`ote-ctl get` and `logs`: reads from many clusters at once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.cli.exits import Exit, of_states
from ote.cli.kinds import kinds_of, split_reference
from ote.cli.output import Column, Format, plain, print_table, show
from ote.cli.params import namespace_option, output_option, selector_options, timeout_option
from ote.cli.program import Failure, connected, note
from ote.cli.sending import Sending, read, selector_of, warn_of_unknown_names
from ote.cli.story import Story
from ote.cli.views import Document, age, objects_view, target_state, target_view
from ote.client.client import Client
from ote.model.errors import DeadlineExceeded
from ote.model.names import check_name

_NAMES_SHOWN = 5


@click.command()
@click.argument("kind")
@click.argument("name", default="")
@namespace_option
@click.option("-A", "--all-namespaces", is_flag=True, help="Objects of all namespaces.")
@selector_options
@timeout_option("30s")
@output_option
def get(
    kind: str,
    name: str,
    namespace: str,
    all_namespaces: bool,
    clusters: str,
    labels: str,
    timeout: float,
    output: Format,
) -> None:
    """Read objects from every selected cluster.

    Without a selector from all that have a shim.

    KIND as in kubectl: pod, pods, po, deploy, several as in deploy,pods, all of the usual ones, or KIND/NAME. A cluster
    that is offline is told in errors (exit code 3); one without a shim is passed over.

    \b
    JSON: {"items":[{"cluster","object":{…}}],"errors":[{"cluster","state","message"}]}
    Names: CLUSTER/KIND/NAME; with -A CLUSTER/NAMESPACE/KIND/NAME of what is in a namespace

    \b
    Example:
      ote-ctl get pods --clusters 'shop-*' -n web
    """
    if "/" in kind:
        if name:
            raise click.UsageError("name the object once: KIND/NAME or KIND NAME")
        kind, name = split_reference(kind)
    if name and all_namespaces:
        raise click.UsageError("an object with a name is in one namespace: -n NS instead of -A")
    kinds = kinds_of(kind)
    if name and len(kinds) > 1:
        raise click.UsageError("an object with a name is of one kind: KIND/NAME")
    selector = selector_of(clusters, labels)
    commands = [
        command_pb2.Command(
            get=command_pb2.Get(kind=one, name=name, namespace=namespace, all_namespaces=all_namespaces)
        )
        for one in kinds
    ]

    async def work(client: Client) -> Story:
        meant = selector if clusters or labels else cluster_pb2.Selector(clusters="*")
        stories = [read(client, Sending(command, meant, 0, timeout)) for command in commands]
        story = _together(await asyncio.gather(*stories), unknown_kinds=kind != "all")
        warn_of_unknown_names(meant, story)
        return story

    story = connected(work)
    document = objects_view(story.targets.values())
    answered = len(document["errors"]) < len(story.targets)
    show(
        output,
        document,
        table=lambda: _print(document, namespace, all_namespaces, kinds) if answered else None,
        names=lambda: _names(document, all_namespaces),
    )
    if output is Format.TABLE or output is Format.NAME:
        _note_errors(document)
    _end(story, found=bool(document["items"]) or not name)


def _together(stories: Sequence[Story], *, unknown_kinds: bool) -> Story:
    """The stories of several kinds as one. unknown_kinds: whether it counts that a cluster does not know a kind."""
    whole = Story(stories[0].name, all(story.accepted for story in stories), all(story.finished for story in stories))
    for number, story in enumerate(map(without_shimless, stories)):
        for uid, target in story.targets.items():
            if unknown_kinds or target.reason != "UNSUPPORTED":
                whole.targets[f"{number} {uid}"] = target
    return whole


def _note_errors(document: Document) -> None:
    """Says on stderr who did not answer: who says the same is told together."""
    same: dict[str, list[str]] = {}
    for error in document["errors"]:
        same.setdefault(f"{error['state']} {error['message']}".rstrip(), []).append(error["cluster"])
    for text, names in same.items():
        more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
        note(f"{', '.join(names[:_NAMES_SHOWN])}{more}: {plain(text)}")


def without_shimless(story: Story) -> Story:
    """Without the clusters that have no shim and so no objects, unless there are no others."""
    others = {uid: target for uid, target in story.targets.items() if target.reason != "NO_SHIM"}
    if others:
        story.targets = others
    return story


def _end(story: Story, *, found: bool) -> None:
    """Ends the program: 6 when every cluster says that there is no such object."""
    if not story.accepted:
        click.get_current_context().exit(Exit.NOT_FINAL)
    failed = [target for target in story.targets.values() if target_state(target) != "SUCCEEDED"]
    absent = failed and all(target.reason == "NOT_FOUND" for target in failed)
    if (absent and len(failed) == len(story.targets)) or (not failed and not found):
        click.get_current_context().exit(Exit.NOT_FOUND)
    click.get_current_context().exit(of_states(story.states()))


def _names(document: Document, all_namespaces: bool) -> list[str]:
    """CLUSTER/KIND/NAME, or CLUSTER/NAMESPACE/KIND/NAME where objects of several namespaces are listed."""
    names: list[str] = []
    for item in document["items"]:
        one = item["object"]
        within = [_meta(one).get("namespace", "")] if all_namespaces else []
        names.append("/".join([item["cluster"], *filter(None, within), _kind(one).lower(), _name(one)]))
    return names


def _print(document: Document, namespace: str, all_namespaces: bool, kinds: Sequence[str]) -> None:
    items = document["items"]
    if not items:
        note("no objects found" if all_namespaces else f"no objects found in namespace {namespace or 'default'}")
        return
    columns = [Column("CLUSTER"), *([Column("NAMESPACE")] if all_namespaces else []), Column("NAME")]
    with_pods = any(_kind(item["object"]) == "Pod" for item in items)
    columns += [Column("READY"), Column("STATUS"), *([Column("RESTARTS")] if with_pods else [])]
    columns.append(Column("AGE", optional=True))
    rows = []
    for item in items:
        one = item["object"]
        ready, status = readiness(one)
        within = [_meta(one).get("namespace", "")] if all_namespaces else []
        created = _meta(one).get("creationTimestamp")
        name = f"{_kind(one).lower()}/{_name(one)}" if len(kinds) > 1 else _name(one)
        starts = [_restarts(one)] if with_pods else []
        rows.append([item["cluster"], *within, name, ready, status, *starts, _age(created)])
    print_table(columns, rows)


def _age(created: object) -> str:
    try:
        return age(created) if isinstance(created, str) else ""
    except (ValueError, TypeError):
        return ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _meta(one: object) -> Mapping[str, Any]:
    return _mapping(_mapping(one).get("metadata"))


def _kind(one: object) -> str:
    return str(_mapping(one).get("kind", ""))


def _name(one: object) -> str:
    return str(_meta(one).get("name", ""))


def _containers(pod: object) -> list[Mapping[str, Any]]:
    found = _mapping(_mapping(pod).get("status")).get("containerStatuses")
    return [_mapping(container) for container in found] if isinstance(found, list) else []


def _restarts(one: object) -> str:
    if _kind(one) != "Pod":
        return ""
    counts = [container.get("restartCount") for container in _containers(one)]
    return str(sum(count for count in counts if isinstance(count, int)))


def _pod_status(pod: object) -> str:
    """As kubectl says it: what a container waits for or ended with before the pod's phase, "CrashLoopBackOff"."""
    status = _mapping(_mapping(pod).get("status"))
    if _meta(pod).get("deletionTimestamp") or status.get("reason") == "Terminating":
        return "Terminating"
    text = str(status.get("reason") or status.get("phase") or "")
    states = [_mapping(container.get("state")) for container in _containers(pod)]
    for state in reversed(states):
        reason = _mapping(state.get("waiting")).get("reason") or _mapping(state.get("terminated")).get("reason")
        text = str(reason or text)
    return "Running" if text == "Completed" and any("running" in state for state in states) else text


def readiness(one: object) -> tuple[str, str]:
    """("2/3", "Running") of an object, as far as its kind has such things; the objects are those of Kubernetes."""
    status, spec = _mapping(_mapping(one).get("status")), _mapping(_mapping(one).get("spec"))
    kind = _kind(one)
    if kind == "Pod":
        containers = _containers(one)
        ready = sum(1 for container in containers if container.get("ready"))
        return f"{ready}/{len(containers) or len(spec.get('containers') or [])}", _pod_status(one)
    if kind in ("Deployment", "ReplicaSet", "StatefulSet"):
        return f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 1)}", ""
    if kind == "DaemonSet":
        return f"{status.get('numberReady', 0)}/{status.get('desiredNumberScheduled', 0)}", ""
    if kind == "Job":
        return f"{status.get('succeeded', 0)}/{spec.get('completions', 1)}", "Failed" if status.get("failed") else ""
    return "", str(status.get("phase", ""))


@click.command()
@click.argument("pod")
@click.option("--cluster", "cluster_name", required=True, metavar="NAME", help="The cluster the pod is in.")
@namespace_option
@click.option("-c", "--container", default="", metavar="NAME", help="Container, where the pod has several.")
@click.option("--tail", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Lines from the end.")
@timeout_option("30s")
def logs(pod: str, cluster_name: str, namespace: str, container: str, tail: int, timeout: float) -> None:
    """Print the end of a container's log.

    \b
    Example:
      ote-ctl logs web-0 --cluster edge-1 --tail 50
    """
    command = command_pb2.Command(
        logs=command_pb2.Logs(pod=pod.removeprefix("pod/"), namespace=namespace, container=container, tail_lines=tail)
    )
    selector = cluster_pb2.Selector(clusters=check_name(cluster_name))
    story = connected(lambda client: read(client, Sending(command, selector, 0, timeout)))
    for target in story.targets.values():
        if target_state(target) == "SUCCEEDED":
            sys.stdout.buffer.write(target.output)
            sys.stdout.buffer.flush()
            return
        view = target_view(target)
        code = Exit.NOT_FOUND if target.reason == "NOT_FOUND" else of_states(story.states())
        raise Failure(f"{view['cluster']}: {view['state']} {view['message']}", code)
    raise DeadlineExceeded("NOT_ACCEPTED", f"the controller did not answer within {timeout:g} s")
