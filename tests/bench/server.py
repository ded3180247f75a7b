"""The bare server: `python -m tests.bench.server FOLDER ADDRESS`. Nothing of OTE is in it, so its memory is gRPC's."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio


async def _unary(request: bytes, context: object) -> bytes:
    return request


async def _echo(request_iterator: object, context: Any) -> None:
    while (message := await context.read()) is not grpc.aio.EOF:
        await context.write(message)


async def _serve(folder: Path, address: str) -> None:
    chain, key, root = ((folder / name).read_bytes() for name in ("chain", "key", "root"))
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    unary: Any = grpc.unary_unary_rpc_method_handler(_unary)
    echo: Any = grpc.stream_stream_rpc_method_handler(_echo)
    handlers = {"Unary": unary, "Echo": echo}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare", handlers),))
    server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)], root, require_client_auth=True))
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        factory = asyncio.new_event_loop
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_serve(Path(sys.argv[1]), sys.argv[2]))
