"""Channels to servers of OTE. Not here: calls and retries (`ote.client`).

The one idea: a channel is one connection of its own to one expected peer, and gRPC retries nothing behind our back.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import grpc.aio

from ote.model.errors import InvalidArgument, Unavailable
from ote.rpc.address import is_local, is_unix, socket_path, split_host_port
from ote.rpc.tls import TlsIdentity, channel_credentials

CHANNEL_OPTIONS: Sequence[tuple[str, int | str]] = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.min_reconnect_backoff_ms", 20_000),  # also what a handshake may take; a slow link needs seconds
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
"""Variables by which gRPC finds a proxy, the first that is set."""


async def knock(address: str) -> None:
    """Whether anybody listens there, at a fiftieth of what a failed call on a new channel costs.

    Says nothing of sockets and of addresses behind a proxy. Errors: Unavailable (NOT_REACHED); none for silence.
    """
    if is_unix(address) or (not is_local(address) and any(os.environ.get(name) for name in _PROXIES)):
        return
    host, port = split_host_port(address)
    try:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, host, port)
    except OSError as error:
        raise Unavailable("NOT_REACHED", f"{address} was not reached: {error.strerror or error}") from None
    transport.close()


def open_channel(
    address: str,
    *,
    tls: TlsIdentity | None = None,
    server_name: str | None = None,
    options: Sequence[tuple[str, int | str]] = (),
) -> grpc.aio.Channel:
    """A channel to HOST:PORT or unix:/PATH; nothing is sent before its first call. Close it.

    tls: None is allowed only on loopback and unix sockets, else InvalidArgument (INSECURE_NOT_LOCAL). server_name:
    whose certificate is expected, `<name>.ote`; TLS refuses every other.
    """
    local = is_local(address)
    target = f"unix:{socket_path(address)}" if is_unix(address) else address
    named = dict(CHANNEL_OPTIONS)
    if local:
        named["grpc.enable_http_proxy"] = 0
    if server_name is not None:
        named["grpc.ssl_target_name_override"] = named["grpc.default_authority"] = server_name
    named.update(options)
    chosen = list(named.items())
    if tls is not None:
        return grpc.aio.secure_channel(target, channel_credentials(tls), options=chosen)
    if not local:
        raise InvalidArgument(
            "INSECURE_NOT_LOCAL",
            f"{address} is not on this machine: without certificates only loopback and unix sockets are allowed",
        )
    return grpc.aio.insecure_channel(target, options=chosen)
