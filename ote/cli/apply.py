"""`ote-ctl apply` and `delete`: changes to the objects of many clusters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.cli.cluster import show_meant
from ote.cli.kinds import object_ref
from ote.cli.manifests import Manifests, Object, read_manifests
from ote.cli.output import Format
from ote.cli.params import DURATION, namespace_option, output_option, selector_options, timeout_option
from ote.cli.program import note
from ote.cli.sending import Sending, require_selector, send_and_show

_file_option = click.option(
    "-f", "--filename", "files", multiple=True, metavar="FILE|DIR|-", help="Manifests; may be given several times."
)
_ttl_option = click.option(
    "--ttl", type=DURATION, default="1h", show_default=True, help="How long to hold it for a cluster that is offline."
)
_dry_run_option = click.option("--dry-run", is_flag=True, help="Show which clusters are meant, and send nothing.")
_explain_option = click.option("--explain", metavar="NAME", help="With --dry-run: why this cluster is meant or not.")
_no_wait_option = click.option("--no-wait", is_flag=True, help="Return once it is accepted and will not be forgotten.")


@click.command()
@_file_option
@selector_options
@timeout_option("60s")
@_ttl_option
@_dry_run_option
@_explain_option
@_no_wait_option
@output_option
def apply(
    files: Sequence[str],
    clusters: str,
    labels: str,
    timeout: float,
    ttl: float,
    dry_run: bool,
    explain: str | None,
    no_wait: bool,
    output: Format,
) -> None:
    """Create or update objects in every selected cluster.

    Takes Kubernetes manifests as they are, up to 16 MiB. A cluster that is offline gets them when it is back, within
    --ttl; --ttl 0 gives up at once. Nobody waits for it here, unless --ttl is over before --timeout: once all others
    are final, the exit code is 4 (3 where one of them failed), and the last line says how to follow. --timeout 0 sets
    no end for the others. Ctrl-C stops the waiting, not the dispatch.

    \b
    JSON:
      {"dispatch","origin","command","targets":[{"cluster","state","objects":
       [{"kind","namespace","name","action"}],"message","attempts","latency_ms"}],"summary":{STATE:count}}

    \b
    Example:
      ote-ctl apply -f app.yaml --clusters 'shop-*' -l 'tier=gold'
    """
    if not files:
        raise click.UsageError("say what to apply: -f FILE, -f DIR or -f - for stdin")
    selector = require_selector(clusters, labels)
    manifests = read_manifests(files)
    if _only_shown(f"would apply: {_listed(manifests.objects)}", selector, dry_run, explain, output):
        return
    command = command_pb2.Command(apply=command_pb2.Apply(manifests=manifests.content))
    send_and_show(Sending(command, selector, ttl, timeout, not no_wait), output)


@click.command()
@click.argument("references", nargs=-1, metavar="[KIND/NAME]...")
@_file_option
@namespace_option
@selector_options
@timeout_option("60s")
@_ttl_option
@_dry_run_option
@_explain_option
@_no_wait_option
@output_option
def delete(
    references: Sequence[str],
    files: Sequence[str],
    namespace: str,
    clusters: str,
    labels: str,
    timeout: float,
    ttl: float,
    dry_run: bool,
    explain: str | None,
    no_wait: bool,
    output: Format,
) -> None:
    """Delete objects in every selected cluster.

    One that does not exist counts as deleted ("absent"). JSON, --dry-run, and what becomes of a cluster that is
    offline, as in apply.

    \b
    Example:
      ote-ctl delete deployment/hello configmap/hello --clusters 'shop-*'
    """
    if not files and not references:
        raise click.UsageError("say what to delete: KIND/NAME, or -f FILE with its manifests")
    selector = require_selector(clusters, labels)
    objects = [object_ref(reference, namespace) for reference in references]
    manifests = read_manifests(files) if files else Manifests(b"", ())
    if _only_shown(f"would delete: {_listed([*objects, *manifests.objects])}", selector, dry_run, explain, output):
        return
    command = command_pb2.Command(delete=command_pb2.Delete(objects=objects, manifests=manifests.content))
    send_and_show(Sending(command, selector, ttl, timeout, not no_wait), output)


def _listed(objects: Iterable[Object | command_pb2.ObjectRef]) -> str:
    return ", ".join(f"{one.kind.lower()}/{one.name}" for one in objects)


def _only_shown(what: str, selector: cluster_pb2.Selector, dry_run: bool, explain: str | None, format: Format) -> bool:
    """Shows what would be done and where, if that is all that is wanted."""
    if explain and not dry_run:
        raise click.UsageError("--explain goes with --dry-run")
    if dry_run:
        note(what)
        show_meant(selector, explain, format, for_shim=True)
    return dry_run
