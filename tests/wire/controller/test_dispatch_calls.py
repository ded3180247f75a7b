"""What callers of dispatches are told by a real controller: in a watch, and when nobody is meant."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import Any

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.clustercontroller.core import events as ev
from ote.clustercontroller.core import messages as m
from ote.rpc.errors import from_rpc_error
from tests.wire.controller.tree import PATIENCE, Tree, attached, dispatch, refused, until, write


async def test_a_watch_is_told_that_a_cluster_went_away_after_it_was_sent_to_and_that_it_is_back(tree: Tree) -> None:
    await tree.start("root")
    uid = secrets.token_hex(16)
    identity = tree.mint("root", "edge", uid)
    said: list[tuple[int, str]] = []
    stubs = tree.admin("root")

    async def watch(dispatch_id: str) -> None:
        request = route_pb2.WatchDispatchRequest(dispatch=dispatch_id)
        async for event in stubs.routes.WatchDispatch(request):
            said.extend((target.state, target.message) for target in [*event.accepted.targets, *event.changed.targets])

    async with attached(tree, "root", identity, "edge", uid) as raw:
        request = route_pb2.DispatchRequest(
            dispatch_id=secrets.token_hex(16),
            selector=cluster_pb2.Selector(clusters="edge"),
            command=command_pb2.Command(noop=command_pb2.Noop()),
        )
        call = stubs.routes.Dispatch(request)
        await call.read()
        await raw.heard(m.Deliveries)
    watching = asyncio.create_task(watch(request.dispatch_id))
    try:
        sent = route_pb2.TARGET_STATE_SENT
        async with asyncio.timeout(PATIENCE):
            while not any(state == sent and "went away" in message for state, message in said):
                await asyncio.sleep(0.01)
            async with attached(tree, "root", identity, "edge", uid, epoch=2):
                while said[-1] != (sent, ""):
                    await asyncio.sleep(0.01)
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


async def test_a_watch_is_told_that_a_command_waits_for_a_shim_that_does_not_answer(tree: Tree) -> None:
    await tree.start("root")
    edge = await tree.start("edge", "root", children=False, shim=f"unix:{tree.folder}/nobody")
    stubs, registry = tree.admin("root"), tree.nodes["root"].shell.core.registry
    await until(lambda: (entry := registry.find("edge")) is not None and bool(entry.facts.journal_id))
    apply = _noop("edge")
    apply.command.CopyFrom(command_pb2.Command(apply=command_pb2.Apply(manifests=b"{}")))
    said: list[tuple[str, str]] = []

    async def watch() -> None:
        async for event in stubs.routes.Dispatch(apply):
            for target in [*event.accepted.targets, *event.changed.targets]:
                said.append((route_pb2.TargetState.Name(target.state), target.message))

    watching = asyncio.create_task(watch())
    try:
        await until(lambda: ("TARGET_STATE_SENT", "") in said)
        edge.shell.post(ev.ShimSilent(1_000))
        waits = "waits: the shim does not answer"
        await until(lambda: said[-1] == ("TARGET_STATE_SENT", waits))
        before = len(said)
        edge.shell.post(ev.ShimUp("memory", "shim", "1", ["get"], "i1", True, 1000))
        await until(lambda: any(message != waits for _, message in said[before:]))
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_names_that_nobody_has_are_told(tree: Tree) -> None:
    await tree.start("root")
    error = await refused(dispatch(tree.admin("root"), "root-1,nope"))
    assert (error.reason, "none here is called nope or root-1;" in error.message) == ("NO_MATCH", True)
    error = await refused(dispatch(tree.admin("root"), "shop-*"))
    assert "called" not in error.message


def _noop(clusters: str, **more: Any) -> route_pb2.DispatchRequest:
    return route_pb2.DispatchRequest(
        dispatch_id=secrets.token_hex(16),
        selector=cluster_pb2.Selector(clusters=clusters),
        command=command_pb2.Command(noop=command_pb2.Noop()),
        **more,
    )


@pytest.mark.parametrize("fields", [{"clusters": " "}, {"labels": "\t"}, {"clusters": "*", "labels": " "}])
async def test_a_blank_selector_means_nobody(tree: Tree, fields: dict[str, str]) -> None:
    root = await tree.start("root")
    stubs, selector = tree.admin("root"), cluster_pb2.Selector(**fields)
    command = command_pb2.Command(noop=command_pb2.Noop())
    request = route_pb2.DispatchRequest(dispatch_id=secrets.token_hex(16), selector=selector, command=command)

    for asked in (
        stubs.routes.Dispatch(request).read(),
        stubs.clusters.ListClusters(cluster_pb2.ListClustersRequest(selector=selector)),
        stubs.clusters.WatchClusters(cluster_pb2.WatchClustersRequest(selector=selector)).read(),
    ):
        assert (await refused(asked)).reason == "INVALID_SELECTOR"
    assert root.shell.core.origin.dispatch(request.dispatch_id) is None


async def test_many_dispatches_settle_whatever_their_target_says_of_them_and_in_messages_that_any_client_takes(
    tree: Tree,
) -> None:
    await tree.start("root")
    uid = secrets.token_hex(16)
    identity = tree.mint("root", "edge", uid)
    requests = [_noop("edge") for _ in range(40)]
    large = command_pb2.Result(outcome=command_pb2.OUTCOME_SUCCEEDED, output=bytes(50_000)).SerializeToString()
    sizes: list[int] = []
    settled: set[str] = set()
    async with attached(tree, "root", identity, "edge", uid) as raw:
        call = tree.admin("root").routes.DispatchMany()
        await write(call, route_pb2.DispatchManyRequest(dispatches=requests))
        await raw.heard(m.Deliveries)
        for number, request in enumerate(requests):
            body = large if number else b"\xff\xff"
            said = m.Report(tree.uid("root"), 1, request.dispatch_id, uid, m.RESULT, state="SUCCEEDED", body=body)
            await raw.say(said)
        async with asyncio.timeout(PATIENCE):
            while len(settled) < len(requests):
                message = await call.read()
                sizes.append(message.ByteSize())
                settled.update(event.dispatch_id for event in message.events if event.HasField("summary"))
        call.cancel()
    assert settled == {request.dispatch_id for request in requests}
    assert max(sizes) < 512 * 1024


async def test_times_that_cannot_be_meant_are_refused(tree: Tree) -> None:
    await tree.start("root")
    for wrong in (Duration(seconds=9_000_000_000), Duration(seconds=-5), Duration(nanos=-1)):
        for request in (_noop("root", ttl=wrong), _noop("root", timeout=wrong)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await tree.admin("root").routes.Dispatch(request).read()
            error = from_rpc_error(caught.value)
            assert (error.code, error.reason) == ("INVALID_ARGUMENT", "INVALID_DURATION")


async def test_a_drain_may_take_beyond_all_measure(tree: Tree) -> None:
    await tree.start("root")
    endless, longest = Duration(seconds=2**62), Duration(seconds=366 * 86400)
    drain = command_pb2.Command(drain=command_pb2.Drain(timeout=endless))
    await tree.start("region", "root")
    registry = tree.nodes["root"].shell.core.registry
    await until(lambda: (entry := registry.find("region")) is not None and bool(entry.facts.journal_id))
    first = _noop("region", ttl=longest, timeout=Duration())
    first.command.CopyFrom(drain)
    for request in (first, _noop("region", ttl=longest, timeout=longest)):
        states = [
            event.summary.states
            async for event in tree.admin("root").routes.Dispatch(request)
            if event.HasField("summary")
        ]
        assert states == [{"SUCCEEDED": 1}]
