"""A gRPC server with what every server of OTE has: TLS, health, reflection, limits and options.

Not here: services and who may call them. The one idea: nothing is made before `start`, so a Server can be built, filled
and thrown away without a loop.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ote.model.errors import FailedPrecondition, InvalidArgument
from ote.rpc.address import is_local, is_unix, join_host_port, socket_path, split_host_port
from ote.rpc.tls import ServerTls, TlsIdentity

SERVER_OPTIONS: Sequence[tuple[str, int | str]] = (
    ("grpc.so_reuseport", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_concurrent_streams", 1024),
)
"""Why: two servers may not share a port by chance; BDP probes double idle traffic and let a stopped reader hoard 8 MB;
a half-open TLS peer is gone after 5 s; pings are a backstop only, and those of our own clients are never too many; a
connection cannot open calls without bound, further ones wait at its own end."""

HEALTH_SERVICE = health.SERVICE_NAME
REFLECTION_SERVICE = reflection.SERVICE_NAME


class Server:
    """One listening address and the services on it.

    address: HOST:PORT (port 0: any free one) or unix:/PATH. tls: None is allowed only where nobody else can connect, on
    loopback and unix sockets; else InvalidArgument (INSECURE_NOT_LOCAL).
    """

    def __init__(
        self,
        address: str,
        *,
        tls: TlsIdentity | None = None,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        options: Sequence[tuple[str, int | str]] = (),
        reflection: bool = True,
    ) -> None:
        if tls is None and not is_local(address):
            raise InvalidArgument(
                "INSECURE_NOT_LOCAL",
                f"{address} is not local: without certificates only loopback and unix sockets are allowed",
            )
        self._address = address
        self._tls = ServerTls(tls) if tls is not None else None
        self._interceptors = tuple(interceptors)
        self._options = tuple((dict(SERVER_OPTIONS) | dict(options)).items())
        self._reflection = reflection
        self._services: list[tuple[Callable[..., None], object, str]] = []
        self._server: grpc.aio.Server | None = None
        self._health: health.aio.HealthServicer | None = None

    def add(self, add_fn: Callable[..., None], servicer: object, service_full_name: str) -> None:
        """Adds a service before `start`. add_fn: the generated `add_XServicer_to_server`."""
        self._services.append((add_fn, servicer, service_full_name))

    async def start(self) -> str:
        """Listens, and returns the bound address: HOST:PORT with the real port, or unix:PATH.

        Raises FailedPrecondition (ADDRESS_IN_USE) when the address cannot be bound.
        """
        server = grpc.aio.server(interceptors=self._interceptors, options=self._options)
        for add_fn, servicer, _ in self._services:
            add_fn(servicer, server)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._reflection:
            names = [name for _, _, name in self._services]
            reflection.enable_server_reflection((*names, HEALTH_SERVICE, REFLECTION_SERVICE), server)
        bound = self._bind(server)
        await self.set_serving(True)
        await server.start()
        if is_unix(bound):
            _keep_private(socket_path(bound))
        self._server = server
        return bound

    async def set_serving(self, serving: bool) -> None:
        """What grpc.health.v1 says of the server and of each of its services."""
        if self._health is None:
            return
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *(name for _, _, name in self._services)):
            await self._health.set(name, status)

    def reload_tls(self, identity: TlsIdentity) -> None:
        """Shows renewed certificates on connections made from now on."""
        if self._tls is None:
            raise FailedPrecondition("NO_TLS", "the server was started without certificates")
        self._tls.reload(identity)

    async def stop(self, grace: float) -> None:
        """Takes no more calls, gives those that run `grace` seconds, then ends them. Drain tunnels before."""
        server, self._server = self._server, None
        if server is None:
            return
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        await server.stop(grace)
        if is_unix(self._address):
            _remove(socket_path(self._address))

    def _bind(self, server: grpc.aio.Server) -> str:
        address = f"unix:{socket_path(self._address)}" if is_unix(self._address) else self._address
        if is_unix(address) and _is_served(socket_path(address)):
            raise FailedPrecondition("ADDRESS_IN_USE", f"{address} is served by another process")
        try:
            if self._tls is not None:
                port = server.add_secure_port(address, self._tls.credentials())
            else:
                port = server.add_insecure_port(address)
        except RuntimeError:
            port = 0
        if port == 0:
            raise FailedPrecondition(
                "ADDRESS_IN_USE", f"cannot listen on {self._address}: is it in use, or not of this machine"
            )
        if is_unix(address):
            return address
        return join_host_port(split_host_port(address)[0], port)


def _is_served(path: str) -> bool:
    """Whether somebody answers on a socket file; gRPC would take the file away from a living server."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def _keep_private(path: str) -> None:
    Path(path).chmod(0o600)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()
