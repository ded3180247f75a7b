"""What Prometheus sees of a real controller: the numbers are those of what was done, and their series stay few."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.api.shim.v1 import shim_pb2, shim_pb2_grpc
from ote.client.payloads import payload_ref
from ote.clustercontroller.core import messages
from ote.model.errors import PermissionDenied, Unsupported
from ote.pki import new_key
from ote.rpc.errors import ErrorInterceptor
from ote.rpc.server import Server
from ote.telemetry.catalog import CATALOG
from tests.wire.controller.tree import PATIENCE, Raw, Tree, attached, dispatch, hello, record, refused

METRICS_PAGE = Path(__file__).parents[3] / "docs" / "metrics.md"


async def get(port: int, path: str) -> tuple[int, str]:
    """(status, body) of a page."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with asyncio.timeout(PATIENCE):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body.decode()
    finally:
        writer.close()


@dataclass
class Watched:
    """Controllers by name with the port of their metrics."""

    tree: Tree
    ports: dict[str, int] = field(default_factory=dict)

    async def start(self, name: str, parent: str = "", **more: Any) -> None:
        address = self.tree.address()
        port = self.ports[name] = int(address.rpartition(":")[2])
        await self.tree.start(name, parent, metrics_listen=address, **more)
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    await get(port, "/healthz")
                except ConnectionRefusedError:
                    await asyncio.sleep(0.01)
                else:
                    return

    async def scrape(self, name: str) -> dict[str, float]:
        """{sample, with its labels in order: value}."""
        status, text = await get(self.ports[name], "/metrics")
        assert status == 200
        return {
            _key(sample.name, sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    async def until(self, name: str, within: float = PATIENCE, **wanted: Callable[[float], bool]) -> dict[str, float]:
        """Scrape until all of these samples are as wanted; keys have __ for the blank before labels."""
        async with asyncio.timeout(within):
            while True:
                seen = await self.scrape(name)
                if all(ok(seen.get(key.replace("__", " "), 0.0)) for key, ok in wanted.items()):
                    return seen
                await asyncio.sleep(0.05)


def _key(name: str, labels: Any) -> str:
    return " ".join([name, *labels])


@pytest.fixture
def watched(tree: Tree) -> Watched:
    return Watched(tree)


class Shim(shim_pb2_grpc.ShimServiceServicer):
    """Does nothing, and says so. Deletes fail, reads are not known."""

    def __init__(self) -> None:
        self.instance = "i1"

    async def GetShimInfo(self, request: shim_pb2.GetShimInfoRequest, context: object) -> shim_pb2.GetShimInfoResponse:
        return shim_pb2.GetShimInfoResponse(
            name="nothing",
            kind="test",
            capabilities=["apply", "delete", "get"],
            instance_id=self.instance,
            memory=shim_pb2.MEMORY_DURABLE,
        )

    async def Cancel(self, request: shim_pb2.CancelRequest, context: object) -> shim_pb2.CancelResponse:
        return shim_pb2.CancelResponse()

    async def PutPayload(self, requests: Any, context: object) -> shim_pb2.PutPayloadResponse:
        raise Unsupported("UNSUPPORTED", "this shim takes what fits into one message")

    async def WatchStatus(self, request: shim_pb2.WatchStatusRequest, context: object) -> Any:
        raise Unsupported("UNSUPPORTED", "this shim has no status")
        yield

    async def Execute(self, request: shim_pb2.ExecuteRequest, context: object) -> Any:
        if request.command.WhichOneof("kind") == "get":
            raise Unsupported("UNSUPPORTED", "this shim reads nothing")
        failed = request.command.WhichOneof("kind") == "delete"
        outcome = command_pb2.OUTCOME_FAILED if failed else command_pb2.OUTCOME_SUCCEEDED
        yield shim_pb2.ExecuteResponse(result=command_pb2.Result(outcome=outcome))


async def serve(shim: Shim, path: Path) -> Server:
    server = Server(f"unix:{path}", interceptors=[ErrorInterceptor()])
    server.add(shim_pb2_grpc.add_ShimServiceServicer_to_server, shim, "ote.api.shim.v1.ShimService")
    await server.start()
    return server


async def test_the_three_pages_of_a_controller(watched: Watched) -> None:
    await watched.start("root")
    port = watched.ports["root"]
    assert await get(port, "/healthz") == (200, "ok\n")
    assert await get(port, "/readyz") == (200, "ready\n")
    shell, status, why = watched.tree.nodes["root"].shell, 0, ""
    async with asyncio.timeout(PATIENCE):
        while status != 503:  # a commit that succeeds meanwhile says that the disk is well
            shell.commit_error = "disk full"
            status, why = await get(port, "/readyz")
    assert "disk full" in why
    assert (await get(port, "/healthz"))[0] == 200


async def test_a_new_root_shows_all_that_it_has(watched: Watched) -> None:
    await watched.start("root")
    seen = await watched.scrape("root")
    assert seen["ote_registry_clusters ONLINE"] == 1
    assert seen["ote_registry_clusters OFFLINE"] == 0
    assert seen["ote_tunnel_sessions up"] == seen["ote_tunnel_sessions down"] == 0
    assert seen["ote_failover_depth"] == seen["ote_failover_beat_age_seconds"] == 0
    assert seen["ote_dispatch_unsettled"] == seen["ote_dispatch_oldest_unsettled_seconds"] == 0
    assert seen["ote_shim_connected"] == 0
    assert seen["ote_trust_evicted"] == 0
    assert seen["ote_trust_certificate_expiry_seconds"] > 1.7e9
    assert seen["process_resident_memory_bytes"] > 1e6


async def test_a_member_that_joins_is_counted_at_both_ends(watched: Watched) -> None:
    await watched.start("root")
    await watched.start("edge", "root")
    both: dict[str, Any] = {
        "ote_tunnel_received_bytes_total__tunnel": bool,
        "ote_tunnel_sent_bytes_total__beat": bool,
        "ote_tunnel_sent_bytes_total__session": bool,
    }
    root = await watched.until(
        "root", ote_tunnel_sessions__down=bool, ote_registry_clusters__ONLINE=lambda n: n == 2, **both
    )
    edge = await watched.until(
        "edge",
        **both,
        ote_tunnel_sessions__up=bool,
        ote_failover_beat_age_seconds=lambda age: age < 0.9,
    )
    assert root["ote_trust_enrolments_total"] == 1
    assert root["ote_registry_clusters ONLINE"] == 2
    assert edge["ote_failover_attaches_total home"] == 1
    assert edge["ote_failover_depth"] == 1
    assert edge["ote_failover_beat_age_seconds"] >= 0
    for seen in (root, edge):
        assert seen["ote_tunnel_frames_total sent"] > 0
        assert seen["ote_tunnel_frames_total received"] > 0
        assert seen["ote_tunnel_queue_bytes dispatch"] == 0
        assert seen["ote_tunnel_refused_total dispatch"] == 0


async def test_a_dispatch_is_counted_at_its_origin(watched: Watched) -> None:
    await watched.start("root")
    await watched.start("edge", "root")
    await watched.until("root", ote_tunnel_sessions__down=bool)
    await watched.tree.stop("edge")
    await watched.until("root", ote_registry_clusters__OFFLINE=bool)
    begun = time.monotonic()
    waiting = asyncio.create_task(dispatch(watched.tree.admin("root"), "edge"))
    root = await watched.until("root", ote_dispatch_unsettled=lambda n: n == 1)
    assert root["ote_dispatch_accepted_total"] == root["ote_dispatch_targets_total"] == 1
    later = await watched.until("root", ote_dispatch_oldest_unsettled_seconds=lambda age: age > 0.1)
    assert later["ote_dispatch_oldest_unsettled_seconds"] <= time.monotonic() - begun
    await watched.start("edge", "root")
    assert await waiting == {"edge": "SUCCEEDED"}
    root = await watched.scrape("root")
    assert root["ote_dispatch_settled_total SUCCEEDED"] == root["ote_dispatch_latency_seconds_count"] == 1
    assert root["ote_dispatch_latency_seconds_sum"] > 0.1
    assert root["ote_dispatch_unsettled"] == root["ote_dispatch_oldest_unsettled_seconds"] == 0
    assert root["ote_tunnel_sent_bytes_total dispatch"] > 0
    edge = await watched.scrape("edge")
    assert edge["ote_tunnel_sent_bytes_total result"] > 0
    assert "ote_dispatch_accepted_total" not in edge


async def test_what_is_unreachable_from_the_start_is_settled_without_a_latency(watched: Watched) -> None:
    await watched.start("root")
    await watched.start("edge", "root")
    await watched.until("root", ote_tunnel_sessions__down=bool)
    await watched.tree.stop("edge")
    await watched.until("root", ote_registry_clusters__OFFLINE=bool)
    more = route_pb2.DispatchRequest()
    more.ttl.FromSeconds(0)
    assert await dispatch(watched.tree.admin("root"), "edge", ttl=more.ttl) == {"edge": "UNREACHABLE"}
    root = await watched.scrape("root")
    assert root["ote_dispatch_settled_total UNREACHABLE"] == 1
    assert "ote_dispatch_latency_seconds_count" not in root


async def test_a_lost_parent_and_the_way_back_are_counted(watched: Watched) -> None:
    await watched.start("root")
    await watched.start("region", "root", stop_grace=4.0)
    await watched.start("edge", "region")
    await watched.until("root", ote_registry_clusters__ONLINE=lambda n: n == 3)
    region = watched.tree.nodes["region"].address
    await watched.until("edge", ote_tunnel_sessions__up=bool)
    for link in list(watched.tree.nodes["region"].shell.links.values()):
        if link.peer == "edge":
            link.close("CERTIFICATE_EXPIRED")
    edge = await watched.until("edge", ote_failover_attach_seconds_count=lambda n: n == 1)
    assert edge["ote_failover_parent_losses_total closed"] == 1
    assert edge["ote_failover_attach_seconds_sum"] < 5
    await watched.until("root", ote_registry_clusters__ONLINE=lambda n: n == 3)
    await watched.tree.stop("region")
    await watched.until("edge", ote_failover_attaches_total__grandparent=bool, ote_failover_depth=lambda n: n == 1)
    await watched.start("region", "root", listen=region)
    edge = await watched.until("edge", ote_failover_depth=lambda n: n == 2)
    assert edge["ote_failover_attaches_total home"] >= 2


async def test_news_that_may_not_be_taken_and_accounts_that_differ_are_counted(watched: Watched) -> None:
    await watched.start("root")
    uid = secrets.token_hex(16)
    key = watched.tree.mint("root", "liar", uid, parent=True)
    async with attached(watched.tree, "root", key, "liar", uid) as liar:
        stranger = record("stranger", secrets.token_hex(16), key.private_key, secrets.token_hex(16))
        await liar.say(messages.News([stranger]))
        below = record("below", secrets.token_hex(16), new_key(), uid)
        await liar.say(messages.News([below]))
        await watched.until(
            "root", ote_registry_news_total__refused=lambda n: n == 1, ote_registry_news_total__taken=lambda n: n == 1
        )
        for _ in range(2):
            await liar.say(messages.Heartbeat(0, messages.Digest(5, 5)))
        await liar.heard(messages.Resync)
        await watched.until("root", ote_registry_resyncs_total=bool)


async def test_refused_joiners_are_counted_by_reason(watched: Watched) -> None:
    await watched.start("root")
    secret = (await watched.tree.token("root", name_pattern="shop-*")).secret
    with pytest.raises(PermissionDenied, match="shop"):
        await watched.tree.start("edge", "root", token=secret, children=False)
    root = await watched.scrape("root")
    assert root["ote_trust_refusals_total name_not_allowed"] == 1
    assert "ote_trust_enrolments_total" not in root


async def test_renewals_are_counted_where_they_are_signed(watched: Watched) -> None:
    await watched.start("root", certificate_lifetime=1.5)
    await watched.start("edge", "root", certificate_lifetime=1.5)
    root = await watched.until("root", ote_trust_renewals_total=bool)
    assert root["ote_trust_renewals_total"] >= 1
    await watched.until("edge", ote_failover_attaches_total__same=bool)


async def test_evicted_members_are_counted(watched: Watched) -> None:
    await watched.start("root")
    await watched.start("edge", "root")
    await watched.until("root", ote_registry_clusters__ONLINE=lambda n: n == 2)
    await watched.tree.admin("root").clusters.EvictCluster(cluster_pb2.EvictClusterRequest(name="edge"))
    root = await watched.scrape("root")
    assert root["ote_trust_evicted"] == 1
    assert root["ote_registry_clusters ONLINE"] == 1
    assert root["ote_registry_clusters OFFLINE"] == 0


async def test_what_the_shim_does_is_counted_at_its_controller(watched: Watched, tmp_path: Path) -> None:
    shim = Shim()
    path = tmp_path / "s.sock"
    server = await serve(shim, path)
    await watched.start("root", shim=f"unix:{path}")
    await watched.until("root", ote_shim_connected=lambda up: up == 1)
    admin = watched.tree.admin("root")
    commands: Sequence[tuple[command_pb2.Command, str]] = [
        (command_pb2.Command(apply=command_pb2.Apply()), "SUCCEEDED"),
        (command_pb2.Command(delete=command_pb2.Delete()), "FAILED"),
        (command_pb2.Command(get=command_pb2.Get()), "FAILED"),
    ]
    for command, state in commands:
        assert await dispatch(admin, "root", command=command) == {"root": state}
    root = await watched.scrape("root")
    assert root["ote_shim_executions_total apply succeeded"] == 1
    assert root["ote_shim_executions_total delete failed"] == 1
    assert root["ote_shim_executions_total get failed"] == 1
    assert root["ote_shim_execution_seconds_count"] == 3
    await server.stop(0)
    await watched.until("root", ote_shim_connected=lambda up: up == 0)
    shim.instance = "i2"
    server = await serve(shim, path)
    await watched.until("root", ote_shim_restarts_total=lambda n: n == 1, ote_shim_connected=lambda up: up == 1)
    await server.stop(0)


async def test_a_large_command_shows_as_bulk(watched: Watched, tmp_path: Path) -> None:
    server = await serve(Shim(), tmp_path / "s.sock")
    await watched.start("root")
    await watched.start("edge", "root", shim=f"unix:{tmp_path / 's.sock'}")
    await watched.until("root", ote_tunnel_sessions__down=bool)
    large = command_pb2.Command(apply=command_pb2.Apply(manifests=secrets.token_bytes(300_000)))
    assert await dispatch(watched.tree.admin("root"), "edge", command=large) == {"edge": "SUCCEEDED"}
    root, edge = await watched.scrape("root"), await watched.scrape("edge")
    assert root["ote_tunnel_sent_bytes_total bulk"] >= 300_000
    assert edge["ote_tunnel_received_bytes_total bulk"] >= 300_000
    assert root["ote_tunnel_bulk_streams"] == edge["ote_tunnel_bulk_streams"] == 0
    assert edge["ote_dispatch_piece_cache_bytes"] >= 0
    assert root["ote_dispatch_unused_payload_bytes"] == 0
    ref = payload_ref(large.SerializeToString())

    async def parts() -> AsyncIterator[route_pb2.PutPayloadRequest]:
        yield route_pb2.PutPayloadRequest(payload=ref)
        yield route_pb2.PutPayloadRequest(data=large.SerializeToString())

    await watched.tree.admin("root").routes.PutPayload(parts())
    assert (await watched.scrape("root"))["ote_dispatch_unused_payload_bytes"] == ref.size
    await server.stop(0)


async def test_watches_are_counted_while_they_are_open(watched: Watched) -> None:
    await watched.start("root")
    call = watched.tree.admin("root").clusters.WatchClusters(cluster_pb2.WatchClustersRequest())
    await call.read()
    await watched.until("root", ote_registry_watchers=lambda n: n == 1)
    call.cancel()
    await watched.until("root", ote_registry_watchers=lambda n: n == 0)


async def test_rpcs_are_counted_by_method_and_code(watched: Watched) -> None:
    await watched.start("root")
    admin = watched.tree.admin("root")
    await admin.clusters.ListClusters(cluster_pb2.ListClustersRequest())
    error = await refused(admin.clusters.GetCluster(cluster_pb2.GetClusterRequest(name="nobody")))
    assert error.code == "NOT_FOUND"
    service = "ote.api.cluster.v1.ClusterService"
    wanted: dict[str, Any] = {f"ote_rpc_handled_total__NOT_FOUND__{service}/GetCluster": bool}
    root = await watched.until("root", **wanted)
    assert root[f"ote_rpc_handled_total OK {service}/ListClusters"] == 1
    assert root[f"ote_rpc_handled_total NOT_FOUND {service}/GetCluster"] == 1
    assert root[f"ote_rpc_seconds_count {service}/GetCluster"] == 1


async def test_a_link_without_attachment_is_no_tunnel(watched: Watched) -> None:
    await watched.start("root")
    uid = secrets.token_hex(16)
    async with Raw(watched.tree.as_("root", watched.tree.mint("root", "shy", uid))) as raw:
        raw.read()
        await raw.say(hello("shy", uid))
        await raw.heard(messages.Welcome)
        assert (await watched.scrape("root"))["ote_tunnel_sessions down"] == 0


async def test_series_have_the_labels_and_values_that_the_page_lists(watched: Watched) -> None:
    """Runs a little of everything; then nothing is shown that docs/metrics.md does not name."""
    await watched.start("root")
    await watched.start("region", "root")
    await watched.start("edge", "region")
    await watched.until("root", ote_registry_clusters__ONLINE=lambda n: n == 3)
    await dispatch(watched.tree.admin("root"), "*", allow_no_match=True)
    page = METRICS_PAGE.read_text()
    rows = dict(re.findall(r"^\| `(ote_\w+)` \| (.*)$", page, re.MULTILINE))
    assert rows.keys() == {metric.name for metric in CATALOG}
    labels = {metric.name: metric for metric in CATALOG}
    for name in watched.ports:
        _, text = await get(watched.ports[name], "/metrics")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                known = re.sub(r"_(bucket|count|sum)$", "", sample.name)
                if not sample.name.startswith("ote_"):
                    continue
                assert set(sample.labels) - {"le"} == set(labels[known].labels), sample
                for label, value in sample.labels.items():
                    if label not in ("le", "method", "code", "reason", "command"):
                        assert value in rows[known], f"{sample.name} {label}={value} is not on the page"
