"""Payloads that were on a controller's disk and are not any more, on real controllers with a shim."""

from __future__ import annotations

import asyncio
import io
import secrets
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.api.shim.v1 import shim_pb2, shim_pb2_grpc
from ote.clustercontroller.backup import backup, restore
from ote.clustercontroller.core import target_payloads
from ote.clustercontroller.node import Node
from ote.model.errors import InvalidArgument
from ote.rpc.errors import ErrorInterceptor
from ote.rpc.server import Server
from tests.wire.controller.tree import Stubs, Tree, dispatch, until

LARGE = command_pb2.Command(apply=command_pb2.Apply(manifests=b"x" * 100_000))


class Shim(shim_pb2_grpc.ShimServiceServicer):
    """Does all that it is told, and writes down how large it was."""

    def __init__(self) -> None:
        self.executed: list[int] = []

    async def GetShimInfo(self, request: Any, context: Any) -> shim_pb2.GetShimInfoResponse:
        return shim_pb2.GetShimInfoResponse(
            name="all", kind="all", capabilities=["apply"], memory=shim_pb2.MEMORY_DURABLE, instance_id="one"
        )

    async def Execute(self, request: Any, context: Any) -> AsyncIterator[shim_pb2.ExecuteResponse]:
        self.executed.append(request.command.ByteSize())
        yield shim_pb2.ExecuteResponse(result=command_pb2.Result(outcome=command_pb2.OUTCOME_SUCCEEDED))


@asynccontextmanager
async def served(socket: Path) -> AsyncIterator[Shim]:
    """A shim at a socket."""
    server, shim = Server(f"unix:{socket}", interceptors=[ErrorInterceptor()]), Shim()  # type: ignore[abstract]
    server.add(shim_pb2_grpc.add_ShimServiceServicer_to_server, shim, "ote.api.shim.v1.ShimService")
    await server.start()
    try:
        yield shim
    finally:
        await server.stop(0.1)


async def sent(admin: Stubs, command: command_pb2.Command) -> str:
    """Send a change to the leaf; its id, once the leaf has it."""
    dispatch_id = secrets.token_hex(16)
    request = route_pb2.DispatchRequest(
        dispatch_id=dispatch_id, selector=cluster_pb2.Selector(clusters="leaf"), command=command
    )
    async for response in admin.routes.Dispatch(request, timeout=10):
        if response.HasField("accepted"):
            break
    return dispatch_id


async def end_of(admin: Stubs, dispatch_id: str) -> tuple[str, str]:
    """State and reason at the end."""
    request = route_pb2.WatchDispatchRequest(dispatch=dispatch_id)
    async for response in admin.routes.WatchDispatch(request, timeout=20):
        for target in (*response.accepted.targets, *response.changed.targets):
            if target.state in (route_pb2.TARGET_STATE_SUCCEEDED, route_pb2.TARGET_STATE_FAILED):
                return route_pb2.TargetState.Name(target.state), target.reason
    raise AssertionError("it has not ended")


def lose(node: Node) -> None:
    """Remove all payloads of a controller."""
    files = list(node.payloads._folder.iterdir())
    assert files
    for file in files:
        file.unlink()


async def received(tree: Tree, leaf: Node) -> None:
    """Until the leaf has told that it has all of it."""
    root = tree.nodes["root"].shell.core.origin
    await until(lambda: all(t.row.received for d in root.newest() for t in d.targets.values()))
    assert leaf.shell.core.target.unsettled


@pytest.fixture
async def leaf(tree: Tree, tmp_path: Path) -> Node:
    """Below a region, with a shim that nobody serves yet."""
    await tree.start("root")
    await tree.start("region", "root")
    await tree.start("leaf", "region", children=False, shim=f"unix:{tmp_path}/s")
    await until(lambda: tree.nodes["root"].shell.core.registry.find("leaf") is not None)
    return tree.nodes["leaf"]


async def test_a_payload_that_the_target_lost_comes_again(tree: Tree, leaf: Node, tmp_path: Path) -> None:
    admin = tree.admin("root")
    first = await sent(admin, LARGE)
    await received(tree, leaf)
    lose(leaf)
    async with served(tmp_path / "s") as shim:
        assert await end_of(admin, first) == ("TARGET_STATE_SUCCEEDED", "")
        assert shim.executed == [LARGE.ByteSize()]


async def test_a_hop_that_restarted_serves_it_again_once_the_origin_has_sent_it_again(
    tree: Tree, leaf: Node, tmp_path: Path
) -> None:
    admin = tree.admin("root")
    first = await sent(admin, LARGE)
    await received(tree, leaf)
    await tree.stop("region")
    await tree.start("region", "root", listen=leaf.membership.member.parent_address)
    await until(lambda: tree.nodes["region"].shell.links_of(tree.uid("leaf")))
    lose(leaf)
    async with served(tmp_path / "s") as shim:
        assert await end_of(admin, first) == ("TARGET_STATE_SUCCEEDED", "")
        assert shim.executed == [LARGE.ByteSize()]


async def test_a_command_whose_payload_nobody_has_fails_and_what_stands_behind_it_goes_on(
    tree: Tree, leaf: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_payloads, "_MOST_ABSENT", 2)
    admin = tree.admin("root")
    first = await sent(admin, LARGE)
    await received(tree, leaf)
    second = await sent(admin, command_pb2.Command(apply=command_pb2.Apply(manifests=b"small")))
    lose(leaf)
    lose(tree.nodes["root"])
    kept = tree.nodes["region"].payloads.pieces
    for piece in list(kept._loaded):
        kept._let_go(piece, keep=False)
    async with served(tmp_path / "s") as shim:
        assert await end_of(admin, first) == ("TARGET_STATE_FAILED", "PAYLOAD_UNAVAILABLE")
        assert await end_of(admin, second) == ("TARGET_STATE_SUCCEEDED", "")
        assert len(shim.executed) == 1


async def test_a_root_that_lost_a_payload_for_itself_ends_it(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_payloads, "_MOST_ABSENT", 2)
    root = await tree.start("root", shim=f"unix:{tmp_path}/s")
    going = asyncio.create_task(dispatch(tree.admin("root"), "root", command=LARGE))
    await until(lambda: root.shell.core.target.unsettled)
    lose(root)
    async with served(tmp_path / "s"):
        assert await going == {"root": "FAILED"}


async def test_a_restored_controller_sends_on_the_large_commands_that_waited(tree: Tree, tmp_path: Path) -> None:
    root = await tree.start("root")
    async with served(tmp_path / "s") as shim:
        await tree.start("leaf", "root", children=False, shim=f"unix:{tmp_path}/s")
        await until(lambda: root.shell.core.registry.find("leaf") is not None)
        await tree.stop("leaf")
        admin = tree.admin("root")
        waits = await sent(admin, LARGE)
        await asyncio.to_thread(backup, tree.folder / "root", tmp_path / "kept")
        await tree.stop("root")
        (tree.folder / "root").rename(tmp_path / "lost")
        await asyncio.to_thread(restore, tree.folder / "root", tmp_path / "kept")
        root = await tree.start("root", listen=root.address)
        await tree.start("leaf", "root", children=False, shim=f"unix:{tmp_path}/s")
        assert await end_of(tree.admin("root"), waits) == ("TARGET_STATE_SUCCEEDED", "")
        assert shim.executed == [LARGE.ByteSize()]
    await until(lambda: not list(root.payloads._folder.iterdir()))


def test_a_backup_that_breaks_off_in_a_part_is_none(tmp_path: Path) -> None:
    parts = {"identity/member.json": b"{}", "store.db": b"s" * 3_000_000}
    with tarfile.open(tmp_path / "whole", "w") as archive:
        for name, content in parts.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    (tmp_path / "broken").write_bytes((tmp_path / "whole").read_bytes()[:2_000_000])
    with pytest.raises(InvalidArgument, match="cannot be read as a backup"):
        restore(tmp_path / "new", tmp_path / "broken")
    assert not (tmp_path / "new").exists()
