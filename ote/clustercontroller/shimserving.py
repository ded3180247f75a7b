"""Ways to a shim: one that this process started, served to its own controller, or a stranger's address.

Not here: what is said to it (`shimlink`). The one idea: a built-in shim is served on a unix socket, so it takes the
same road as a stranger's.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from ote.api.shim.v1 import shim_pb2_grpc
from ote.clustercontroller.membership import Membership
from ote.rpc.address import is_unix, split_host_port
from ote.rpc.channel import open_channel
from ote.rpc.errors import ErrorInterceptor
from ote.rpc.server import Server

BUILT_IN = frozenset({"process", "podman"})
"""Kinds of shim that run in the controller's own process."""

_OPTIONS = (("grpc.max_receive_message_length", 20 * 1024 * 1024),)
"""Outputs of reads come whole."""


@dataclass(slots=True)
class BuiltInShim:
    """A started shim of this process."""

    servicer: shim_pb2_grpc.ShimServiceServicer
    options: Sequence[tuple[str, int]]
    stop: Callable[[], Awaitable[None]]
    failed: Callable[[], Coroutine[Any, Any, None]]
    """Returns never; raises what ended its work."""


StartShim = Callable[[str, Path], Awaitable[BuiltInShim]]
"""Starts the built-in shim of a kind (process, podman) on a folder."""


@contextlib.asynccontextmanager
async def served(shim: BuiltInShim) -> AsyncIterator[str]:
    """Serve a built-in shim; gives the address, and stops the shim at the end."""
    async with contextlib.AsyncExitStack() as resources:
        resources.push_async_callback(shim.stop)
        folder = resources.enter_context(tempfile.TemporaryDirectory(prefix="ote-", ignore_cleanup_errors=True))
        server = Server(f"unix:{folder}/shim.sock", interceptors=[ErrorInterceptor()], options=shim.options)
        server.add(shim_pb2_grpc.add_ShimServiceServicer_to_server, shim.servicer, "ote.api.shim.v1.ShimService")
        await server.start()
        resources.push_async_callback(server.stop, 0.5)
        yield f"unix:{folder}/shim.sock"


def shim_channel(address: str, membership: Membership) -> grpc.aio.Channel:
    """A channel to a shim: in the clear on this machine, elsewhere it has to prove that it is this cluster's."""
    if is_unix(address) or split_host_port(address)[0] in ("127.0.0.1", "localhost", "::1"):
        return open_channel(address, options=_OPTIONS)
    name = f"{membership.member.name}.shim.ote"
    return open_channel(address, tls=membership.tls, server_name=name, options=_OPTIONS)
