"""`ote-ctl shim`: looks at a shim directly, without a controller."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

import click
import grpc.aio

from ote.cli.exits import Exit
from ote.cli.output import Format, as_json, show
from ote.cli.params import output_option
from ote.cli.program import Nouns, note, session
from ote.cli.views import Document, shim_info_view, size_text
from ote.client.shims import get_shim_info, open_shim
from ote.rpc.address import is_local

_server_name_option = click.option(
    "--server-name", metavar="NAME", help="Name in the shim's certificate: dial with TLS, as the context in use."
)


def _open(address: str, server_name: str | None) -> AbstractAsyncContextManager[grpc.aio.Channel]:
    context = session().context() if server_name or not is_local(address) else None
    return open_shim(address, context=context, server_name=server_name)


@click.group(cls=Nouns)
def shim() -> None:
    """Shims, the adapters between a controller and a cluster.

    \b
    Example:
      ote-ctl shim conformance unix:/run/my-shim.sock
    """


@shim.command()
@click.argument("address", metavar="HOST:PORT|unix:/PATH")
@_server_name_option
@output_option
def info(address: str, server_name: str | None, output: Format) -> None:
    """Show who a shim is and what it can do.

    \b
    JSON: {"name","kind","version","protocol_version","capabilities":[],"instance_id","memory","max_command_bytes",
      "object_kinds":[]}

    \b
    Example:
      ote-ctl shim info unix:/run/my-shim.sock
    """

    async def work() -> Document:
        async with _open(address, server_name) as channel:
            return shim_info_view(await get_shim_info(channel))

    document = asyncio.run(work())
    show(output, document, table=lambda: _print(document), names=lambda: [document["name"]])


def _print(one: Document) -> None:
    lines = {
        "Name": f"{one['name']} {one['version']}",
        "Kind": one["kind"],
        "Contract": one["protocol_version"],
        "Can": ", ".join(one["capabilities"]),
        "Objects": ", ".join(one["object_kinds"]) or "not said",
        "Memory": one["memory"],
        "Largest": size_text(one["max_command_bytes"]),
        "Instance": one["instance_id"],
    }
    for title, text in lines.items():
        click.echo(f"{title + ':':<10}{text}")


@shim.command()
@click.argument("address", metavar="HOST:PORT|unix:/PATH")
@_server_name_option
@click.option(
    "--restart-command",
    metavar="COMMAND",
    help="Shell command that restarts the shim; without it those checks are skipped.",
)
@click.option("--pod-image", metavar="IMAGE", help="Image with sh, sleep and false for the suite's Pods.")
@click.option("--only", multiple=True, metavar="CHECK", help="Ids of checks or of their subjects; several times.")
@click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="How to print."
)
def conformance(
    address: str,
    server_name: str | None,
    restart_command: str | None,
    pod_image: str | None,
    only: tuple[str, ...],
    output: str,
) -> None:
    """Check a shim against the contract.

    The suite makes objects of its own there and deletes them. Exit code 3: the shim fails.

    \b
    JSON: {"shim":{…as shim info…},"checks":[{"id","title","status","message","duration_ms"}],
      "summary":{"passed","failed","skipped","total"}}

    \b
    Example:
      ote-ctl shim conformance 127.0.0.1:8262 --restart-command 'systemctl restart my-shim'
    """
    from ote.conformance import render
    from ote.conformance.manifests import POD_IMAGE
    from ote.conformance.model import CheckResult, SuiteReport
    from ote.conformance.restarting import restart_with
    from ote.conformance.suite import run_suite

    def on_check(result: CheckResult) -> None:
        note(render.line_text(result))

    async def work() -> SuiteReport:
        async with _open(address, server_name) as channel:
            restart = restart_with(restart_command) if restart_command else None
            return await run_suite(
                channel, restart=restart, on_check=on_check, only=only, pod_image=pod_image or POD_IMAGE
            )

    report = asyncio.run(work())
    click.echo(as_json(render.to_json(report)) if output == "json" else render.table_text(report), nl=output == "json")
    click.get_current_context().exit(Exit.DONE if report.ok else Exit.TARGET)
