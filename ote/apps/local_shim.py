"""`ote-local-shim`: the local shim as a process of its own.

Not here: what a shim does (`ote.shims.local`). The one idea: the process may end at any time, in whatever way; the pods
go on and the next process on the same folder takes them over.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click

import ote
from ote.api.shim.v1 import shim_pb2_grpc
from ote.apps.daemon import run_program, with_settings
from ote.config.load import effective, load
from ote.config.values import split_host_port
from ote.model.errors import PermissionDenied
from ote.rpc.address import is_unix, socket_path
from ote.rpc.calllog import LogInterceptor
from ote.rpc.errors import ErrorInterceptor
from ote.rpc.peer import Peer
from ote.rpc.policy import POLICY, PolicyInterceptor
from ote.rpc.server import Server
from ote.rpc.tls import TlsIdentity
from ote.runtime.main import run_main, stop_on_signals
from ote.shims.local.settings import LocalShimSettings
from ote.shims.local.shim import SERVER_OPTIONS, SERVICE, LocalShim
from ote.telemetry.logs import get_logger, set_up_logs
from ote.telemetry.metrics import Metrics

_log = get_logger("ote.apps.local_shim")
_EPILOG = """Example: ote-local-shim --driver process --listen unix:/run/ote/shim.sock --data-dir /var/lib/ote-shim"""


def main() -> int:
    """Runs the program; returns its exit code."""
    return run_program(program, "ote-local-shim")


@click.group(invoke_without_command=True, epilog=_EPILOG, context_settings={"max_content_width": 110})
@with_settings(LocalShimSettings)
@click.pass_context
def program(context: click.Context, /, config: Path | None, **flags: Any) -> int | None:
    """Serve this machine as a cluster: Kubernetes manifests as processes or podman containers."""
    if context.invoked_subcommand is not None:
        return None
    settings = load(LocalShimSettings, file=config, env=os.environ, flags=flags)
    set_up_logs(level=settings.log_level, fmt=settings.log_format)
    run_main(serve(settings))
    return 0


@program.command(epilog="Example: ote-local-shim stop --data-dir /var/lib/ote-shim")
@click.option("--data-dir", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
def stop(data_dir: Path) -> None:
    """End all pods of a shim that does not run any more, and delete what made them."""
    set_up_logs(level="warning", fmt="plain")
    count = run_main(_stop_pods(data_dir))
    click.echo(f"stopped: {count} objects deleted, no pod is left")


async def serve(settings: LocalShimSettings) -> None:
    """Serves until SIGTERM or SIGINT. Raises what LocalShim.start and Server.start raise."""
    stopping = stop_on_signals()
    _log.info("settings", **effective(settings))
    shim = LocalShim(settings.driver, settings.data_dir)
    await shim.start()
    try:
        metrics = Metrics()
        server = _server(settings, shim, metrics)
        bound = await server.start()
        _log.info("serving", listen=bound, driver=settings.driver, version=ote.__version__)
        telemetry = _telemetry(settings, shim, metrics)
        try:
            await _first(stopping.wait(), shim.failed(), *telemetry)
        finally:
            await server.set_serving(False)
            await server.stop(settings.grace)
    finally:
        await shim.stop()
    _log.info("stopped, pods go on")


async def _first(*waits: Any) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            await task
    finally:
        for task in tasks:
            task.cancel()


def _server(settings: LocalShimSettings, shim: LocalShim, metrics: Metrics) -> Server:
    if is_unix(settings.listen):
        folder = Path(socket_path(settings.listen)).parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def admit(peer: Peer, method: str) -> None:
        if settings.client and not peer.is_local and peer.name not in settings.client:
            raise PermissionDenied("CLUSTER_NOT_ALLOWED", f"{peer.name} is not among the clients of this shim")

    interceptors = [
        LogInterceptor(metrics.rpc_observer(POLICY)),
        ErrorInterceptor(),
        PolicyInterceptor(POLICY, admit),
    ]
    server = Server(settings.listen, tls=_identity(settings), interceptors=interceptors, options=SERVER_OPTIONS)
    server.add(shim_pb2_grpc.add_ShimServiceServicer_to_server, shim.servicer, SERVICE)
    return server


def _identity(settings: LocalShimSettings) -> TlsIdentity | None:
    if settings.tls_cert is None or settings.tls_key is None or settings.tls_ca is None:
        return None
    try:
        return TlsIdentity(
            certificate_chain=settings.tls_cert.read_bytes(),
            private_key=settings.tls_key.read_bytes(),
            root=settings.tls_ca.read_bytes(),
        )
    except OSError as error:
        raise click.ClickException(f"cannot read {error.filename}: {error.strerror}") from None


def _telemetry(settings: LocalShimSettings, shim: LocalShim, metrics: Metrics) -> list[Any]:
    if settings.metrics_listen is None:
        return []
    from ote.telemetry.http import TelemetryServer  # late: who is not scraped saves 1.6 MB

    host, port = split_host_port(settings.metrics_listen)
    return [TelemetryServer(host, port, metrics, lambda: shim.trouble or None).run()]


async def _stop_pods(data_dir: Path) -> int:
    kind = LocalShim.driver_of(data_dir)
    shim = LocalShim(kind, data_dir)
    await shim.start()
    try:
        return await shim.stop_pods()
    finally:
        await shim.stop()


if __name__ == "__main__":
    raise SystemExit(main())
