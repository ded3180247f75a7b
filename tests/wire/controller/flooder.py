"""A child that attaches, and then says the same for ever: `python -m tests.wire.controller.flooder`, the job on stdin.

A process of its own, so that what its siblings notice is the controller's doing, and not that it shares their loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import grpc.aio
import msgspec

from ote.api.route.v1 import tunnel_pb2
from ote.rpc.channel import open_channel
from ote.rpc.tls import TlsIdentity
from ote.runtime.main import run_main
from tests.wire.controller.tree import Stubs, attach


class Job(msgspec.Struct):
    """Where to, as whom, and what to say."""

    address: str
    server_name: str
    parent_uid: str
    chain: bytes
    key: bytes
    root: bytes
    name: str
    uid: str
    epoch: int
    items: list[bytes]
    """Serialized UpItems, one frame together."""


async def flood(job: Job) -> None:
    """Say "flooding" on stdout once attached, and go on until killed."""
    identity = TlsIdentity(job.chain, job.key, job.root)
    frame = tunnel_pb2.ConnectRequest(items=[tunnel_pb2.UpItem.FromString(item) for item in job.items])
    async with (
        open_channel(job.address, tls=identity, server_name=job.server_name) as channel,
        attach(Stubs(channel), job.parent_uid, identity, job.name, job.uid, epoch=job.epoch) as link,
    ):
        link.deaf = True
        print("flooding", flush=True)
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            while True:
                async with link._writing:
                    await link.call.write(frame)


if __name__ == "__main__":
    run_main(flood(msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Job)))
