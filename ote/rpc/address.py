"""Addresses as people write them: HOST:PORT, [V6]:PORT or unix:/PATH."""

from __future__ import annotations

import ipaddress
import socket
import sys

from ote.config.values import split_host_port as split_host_port
from ote.model.errors import InvalidArgument

MAX_SOCKET_PATH = 107
"""Linux's sun_path, less the final zero."""


def is_unix(address: str) -> bool:
    """Whether the address is a socket file."""
    return address.startswith("unix:")


def socket_path(address: str) -> str:
    """Path of a unix: address. Raises InvalidArgument (INVALID_ADDRESS) for one that the kernel would refuse."""
    path = address.removeprefix("unix:")
    if path.startswith("//"):
        path = path[2:]
    if not path or len(path.encode()) > MAX_SOCKET_PATH:
        raise InvalidArgument(
            "INVALID_ADDRESS", f"a socket's path has 1 to {MAX_SOCKET_PATH} bytes, this has {len(path.encode())}"
        )
    return path


def join_host_port(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reserve(host: str, port: int = 0) -> tuple[str, socket.socket]:
    """The address, with a free port instead of 0, and the socket that holds it until it is closed.

    The socket is bound and never listens: so the kernel gives its port to nobody else, neither to who asks for any port
    nor to who connects, and lets a server with SO_REUSEADDR listen beside it. Only Linux does; elsewhere the socket is
    closed already, and the port was free a moment ago. Raises OSError when the address cannot be listened on.
    """
    family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    held = socket.socket(family)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(where)
        bound = held.getsockname()[1]
    except OSError:
        held.close()
        raise
    if sys.platform != "linux":
        held.close()
    return join_host_port(host, bound), held


def is_local(address: str) -> bool:
    """Whether an address can only be reached from this machine: a socket file or a loopback address."""
    if is_unix(address):
        return True
    host, _ = split_host_port(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
