"""`ote-clustercontroller`: one controller of the tree as a process.

Not here: what a controller does (`ote.clustercontroller`). The one idea: read the settings, build, run until told to
stop; say in one line what is wrong where it cannot begin.
"""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path
from typing import Any

import click

import ote
from ote.apps.daemon import run_program, with_settings
from ote.clustercontroller.membership import Membership, name_in
from ote.clustercontroller.node import Node
from ote.clustercontroller.settings import Settings
from ote.clustercontroller.shimserving import BuiltInShim
from ote.config.load import effective, load
from ote.model.errors import FailedPrecondition, InvalidArgument
from ote.model.names import check_name
from ote.pki import write_private
from ote.runtime.main import run_main, stop_on_signals
from ote.telemetry.logs import get_logger, set_up_logs
from ote.telemetry.metrics import Metrics

_log = get_logger("ote.apps.clustercontroller")
_PROGRAM = "ote-clustercontroller"
_SHIM_LIFETIME = 366 * 86400.0
_EPILOG = f"""Examples:\n
  {_PROGRAM} --name root --data-dir /var/lib/ote\n
  {_PROGRAM} --name shop-7 --data-dir /var/lib/ote --parent 10.0.0.1:8287 --join-token @token --shim process"""


def main() -> int:
    """Runs the program; returns its exit code."""
    return run_program(program, _PROGRAM)


@click.group(invoke_without_command=True, epilog=_EPILOG, context_settings={"max_content_width": 110})
@with_settings(Settings)
@click.pass_context
def program(context: click.Context, /, config: Path | None, **flags: Any) -> int | None:
    """Run one controller of the tree: a root, or with --parent a member below it."""
    if context.invoked_subcommand is not None:
        return None
    settings = load(Settings, file=config, env=os.environ, flags=flags)
    name = settings.name or name_in(settings.data_dir) or settings.data_dir.name
    set_up_logs(level=settings.log_level, fmt=settings.log_format, cluster=name)
    return run_main(serve(settings))


async def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT, or until the core wants to end. Returns the exit code."""
    stopping = stop_on_signals()
    node = Node(settings, Metrics(), _start_shim)
    told = asyncio.create_task(stopping.wait(), name="signals")
    starting = asyncio.create_task(node.start(), name="start")
    await asyncio.wait((told, starting), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return 0
    address = starting.result()
    _collect_seldom()
    _log.info("settings", **effective(settings))
    _log.info("serving", listen=address, advertise=node.advertise, version=ote.__version__)
    await asyncio.wait((told, node.exit), return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if node.exit.done():
        end = node.exit.result()
        _log.error("ended", reason=end.reason, message=end.message)
        await node.stop()
        click.echo(f"{_PROGRAM}: {end.message} ({end.reason})", err=True)
        return 1
    _log.info("stopping")
    stayed = await node.stop()
    _log.info("stopped", children_without_a_place=stayed)
    return 0


def _collect_seldom() -> None:
    """Nearly all that lives long is kept on purpose and freed without the collector: thousands of dispatches, the
    registry. Full collections would look at it again and again, up to a tenth of a busy controller's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 20)


async def _start_shim(kind: str, data_dir: Path) -> BuiltInShim:
    from ote.shims.local.shim import SERVER_OPTIONS, LocalShim  # a controller without it does not pay for it

    shim = LocalShim("podman" if kind == "podman" else "process", data_dir)
    await shim.start()
    return BuiltInShim(shim.servicer, SERVER_OPTIONS, shim.stop, shim.failed)


_data_dir = click.option(
    "--data-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of the controller.",
)


@program.command("backup", epilog=f"Example: {_PROGRAM} backup --data-dir /var/lib/ote /backup/root.ote")
@_data_dir
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup_command(data_dir: Path, file: Path) -> None:
    """Copy identity, store and large open commands into FILE, also while the controller runs. It holds private keys."""
    from ote.clustercontroller.backup import backup  # late: a controller does not need archives

    backup(data_dir, file)
    click.echo(f"{data_dir} is kept in {file}; it holds private keys")


@program.command("restore", epilog=f"Example: {_PROGRAM} restore --data-dir /var/lib/ote /backup/root.ote")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), required=True, help="An empty folder.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def restore_command(data_dir: Path, file: Path) -> None:
    """Fill an empty folder from a backup. What happened since is not known to the restored controller."""
    from ote.clustercontroller.backup import restore  # late, as above

    restore(data_dir, file)
    click.echo(f"{data_dir} is as it was in {file}; start it as before")


@program.command("admin-context", epilog=f"Example: {_PROGRAM} admin-context --data-dir /var/lib/ote -o admin.yaml")
@_data_dir
@click.option("--role", type=click.Choice(["admin", "operator", "viewer"]), default="admin", show_default=True)
@click.option(
    "--address",
    help="Where the controller is reached from elsewhere; without it, the context is this machine's console: admin.",
)
@click.option(
    "-o", "--output", "file", type=click.Path(dir_okay=False, path_type=Path), help="A file for it, of mode 0600."
)
def admin_context(data_dir: Path, role: str, address: str | None, file: Path | None) -> None:
    """Print a context for ote-ctl, good at this controller and below; -o keeps its key from others."""
    from ote.client.contexts import write_context_file  # late: a controller does not need YAML
    from ote.clustercontroller.people import local_context, person_context

    membership = Membership.open(data_dir, "", 0.0)
    if address is None:
        if role != "admin":
            raise InvalidArgument(
                "MISSING_SETTING",
                f"--role {role} needs --address HOST:PORT: without it the context is the console, and that is admin",
            )
        context = local_context(data_dir, membership.member.name)
    else:
        context = person_context(membership, role, address)
    if file is None:
        click.echo(context.to_yaml(), nl=False)
    else:
        write_context_file(file, context)
        click.echo(f"to use it: ote-ctl context import {file}")


@program.command(
    "shim-certificate", epilog=f"Example: {_PROGRAM} shim-certificate --data-dir /var/lib/ote --name shop-7 /tmp/shim-7"
)
@_data_dir
@click.option("--name", required=True, help="Cluster that the shim belongs to.")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def shim_certificate(data_dir: Path, name: str, folder: Path) -> None:
    """Write cert.pem, key.pem and ca.pem for a shim that its controller reaches over the network.

    For a controller with children only: it has the authority. The shim then listens with them, and the cluster's
    controller is started with --shim HOST:PORT.
    """
    authority = Membership.open(data_dir, "", 0.0).authority
    if authority is None:
        raise FailedPrecondition("NOT_A_PARENT", f"{data_dir} has no authority: do this at a controller above it")
    chain, key = authority.issue_shim(check_name(name), _SHIM_LIFETIME)
    for file, content in (("cert.pem", chain), ("key.pem", key), ("ca.pem", authority.root_pem)):
        write_private(folder / file, content)
    click.echo(f"{folder}: cert.pem, key.pem, ca.pem, good for a year")


if __name__ == "__main__":
    raise SystemExit(main())
