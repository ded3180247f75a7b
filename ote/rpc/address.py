"""Addresses as people write them: HOST:PORT, [V6]:PORT or unix:/PATH."""

from __future__ import annotations

import ipaddress

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
