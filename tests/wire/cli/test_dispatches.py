from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ote.api.cluster.v1 import cluster_pb2
from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import route_pb2
from ote.cli import sending
from ote.client.payloads import PIECE_BYTES
from ote.model.errors import (
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from tests.wire.cli.conftest import Ctl
from tests.wire.cli.fake import HANG, FakeController, cluster, done, story, target

HELLO = "kind: Deployment\nmetadata:\n  name: hello\n"


@pytest.fixture
def hello(tmp_path: Path) -> str:
    file = tmp_path / "hello.yaml"
    file.write_text(HELLO)
    return str(file)


def test_apply_sends_the_manifests_and_the_json_has_the_promised_shape(
    root: FakeController, ctl: Ctl, hello: str
) -> None:
    result = target("edge-1", "SUCCEEDED", objects=[done("Deployment", "hello")], attempts=1, latency_ms=12)
    root.will("Dispatch", story([target("edge-1", "PENDING")], target("edge-1", "RUNNING", "1 of 2"), result))
    out = ctl("apply", "-f", hello, "--clusters", "edge-*", "-l", "gpu", "--ttl", "2h", "-o", "json")
    request = root.requests["Dispatch"][0]
    assert (request.selector.clusters, request.selector.labels) == ("edge-*", "gpu")
    assert (request.command.apply.manifests, request.ttl.seconds) == (HELLO.encode(), 7200)
    assert len(request.dispatch_id) == 32
    assert out.exit_code == 0
    assert json.loads(out.stdout) == {
        "dispatch": f"root/{request.dispatch_id}",
        "origin": "root",
        "command": "apply",
        "targets": [
            {
                "cluster": "edge-1",
                "state": "SUCCEEDED",
                "objects": [{"kind": "Deployment", "namespace": "default", "name": "hello", "action": "created"}],
                "message": "",
                "attempts": 1,
                "latency_ms": 12,
            }
        ],
        "summary": {"SUCCEEDED": 1},
    }
    assert out.stderr.splitlines()[0] == f"dispatch root/{request.dispatch_id}"


def test_without_a_terminal_what_is_final_is_a_line_on_stdout(root: FakeController, ctl: Ctl, hello: str) -> None:
    root.will(
        "Dispatch",
        story(
            [target("a", "PENDING"), target("b", "QUEUED", "offline")],
            target("a", "RUNNING", "1 of 2 ready"),
            target("a", "SUCCEEDED", objects=[done("Deployment", "hello"), done("Service", "web", "UNCHANGED")]),
            target("b", "EXPIRED", "not back in time", reason="EXPIRED"),
            target("c", "CANCELLED", "cancelled", reason="CANCELLED"),
        ),
    )
    out = ctl("apply", "-f", hello, "--clusters", "*")
    assert out.exit_code == 3
    assert out.stdout.splitlines() == [
        "a  SUCCEEDED  deployment/hello created, service/web unchanged",
        "b  EXPIRED  not back in time",
        "c  CANCELLED",
    ]
    assert out.stderr.splitlines()[1:] == [
        "b  QUEUED  offline",
        "a  RUNNING  1 of 2 ready",
        "3 targets: 1 SUCCEEDED, 1 EXPIRED, 1 CANCELLED",
    ]


@pytest.mark.parametrize("state", ["FAILED", "EXPIRED", "CANCELLED", "UNREACHABLE", "OUTCOME_UNKNOWN"])
def test_a_target_that_did_not_succeed_is_exit_code_3(root: FakeController, ctl: Ctl, hello: str, state: str) -> None:
    root.will("Dispatch", story([target("a", "SUCCEEDED"), target("b", state, "why")]))
    assert ctl("apply", "-f", hello, "--clusters", "*").exit_code == 3


IN_TIME = "3s"
"""For a test that waits for the end of the time: enough for the controller's answers before it."""


def test_what_is_not_final_in_time_is_exit_code_4_and_how_to_follow(root: FakeController, ctl: Ctl, hello: str) -> None:
    root.will("Dispatch", story([target("a", "RUNNING"), target("b", "QUEUED", "offline")], HANG))
    out = ctl("apply", "-f", hello, "--clusters", "a,b", "--timeout", IN_TIME, "-o", "json")
    assert out.exit_code == 4
    name = json.loads(out.stdout)["dispatch"]
    assert out.stderr.splitlines()[-1] == f"the dispatch goes on; to follow: ote-ctl dispatch watch {name}"


def test_what_is_not_final_says_at_last_what_it_waits_for(root: FakeController, ctl: Ctl, hello: str) -> None:
    last = target("a", "RUNNING", "0 of 1 ready; CrashLoopBackOff")
    root.will("Dispatch", story([target("a", "RUNNING", "0 of 1 ready")], last, HANG))
    out = ctl("apply", "-f", hello, "--clusters", "a", "--timeout", IN_TIME)
    assert out.stderr.splitlines()[1:3] == ["a  RUNNING  0 of 1 ready", "a  RUNNING  0 of 1 ready; CrashLoopBackOff"]


def test_nobody_waits_for_clusters_that_are_offline(root: FakeController, ctl: Ctl, hello: str) -> None:
    offline = [target(name, "QUEUED", "offline") for name in "bc"]
    root.will("Dispatch", story([target("a", "SENT"), *offline], target("a", "SUCCEEDED"), HANG))
    root.will("Dispatch", story([target("a", "FAILED", "no"), offline[0]], HANG))
    begun = time.monotonic()
    out = ctl("apply", "-f", hello, "--clusters", "*")
    assert out.exit_code == 4
    name = out.stderr.split()[1]
    assert out.stderr.splitlines()[-2:] == [
        "3 targets: 2 QUEUED, 1 SUCCEEDED",
        f"2 clusters are offline and get it when they are back, within --ttl; to follow: ote-ctl dispatch watch {name}",
    ]
    assert ctl("apply", "-f", hello, "--clusters", "*", "--timeout", "0").exit_code == 3
    assert time.monotonic() - begun < 45, "of the minute that others are waited for"


def test_who_is_offline_is_waited_for_when_its_time_is_over_before_ours(
    root: FakeController, ctl: Ctl, hello: str
) -> None:
    def expiring(request: object) -> Iterator[object]:
        first, *rest = story([target("a", "QUEUED", "offline")], target("a", "EXPIRED", "not back in time"))(request)
        yield first
        time.sleep(1.5)  # the fake's time, in a thread of its own
        yield from rest

    root.will("Dispatch", expiring)
    out = ctl("apply", "-f", hello, "--clusters", "a", "--ttl", "1500ms", "--timeout", "45s")
    assert (out.exit_code, out.stdout) == (3, "a  EXPIRED  not back in time\n")


def test_a_cluster_that_only_moves_to_another_parent_is_waited_for(
    root: FakeController, ctl: Ctl, hello: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_HELD_FOR", 2.0)

    def moving(request: object) -> Iterator[object]:
        first, *rest = story([target("a", "QUEUED")], target("a", "SENT"), target("a", "SUCCEEDED"))(request)
        yield first
        yield rest[0]
        time.sleep(2.5)  # the fake's time, in a thread of its own
        yield from rest[1:]

    def crowded(request: object) -> Iterator[object]:
        first, *rest = story([target("a", "QUEUED", reason="BUSY")], target("a", "SUCCEEDED"))(request)
        yield first
        time.sleep(2.5)
        yield from rest

    root.will("Dispatch", moving, crowded)
    assert ctl("apply", "-f", hello, "--clusters", "a").exit_code == 0
    assert ctl("apply", "-f", hello, "--clusters", "a").exit_code == 0


def test_what_was_not_accepted_in_time_is_told_so(root: FakeController, ctl: Ctl, hello: str) -> None:
    root.will("Dispatch", [HANG])
    out = ctl("apply", "-f", hello, "--clusters", "a", "--timeout", IN_TIME)
    name = f"root/{root.requests['Dispatch'][0].dispatch_id}"
    assert out.exit_code == 4
    assert out.stderr.splitlines() == [
        f"dispatch {name}",
        f"whether it was accepted is not known yet; to follow: ote-ctl dispatch watch {name}",
    ]


def test_no_wait_returns_once_it_is_accepted(root: FakeController, ctl: Ctl, hello: str) -> None:
    root.will("Dispatch", story([target("a", "PENDING")], HANG))
    out = ctl("apply", "-f", hello, "--clusters", "a", "--no-wait", "-o", "name")
    assert (out.exit_code, out.stdout) == (0, f"root/{root.requests['Dispatch'][0].dispatch_id}\n")


def test_nobody_is_meant_by_mistake(ctl: Ctl, hello: str) -> None:
    out = ctl("apply", "-f", hello)
    assert out.exit_code == 2
    assert "--clusters '*' means all of them" in out.stderr


def test_a_selector_that_matches_nothing_is_exit_code_6(root: FakeController, ctl: Ctl, hello: str) -> None:
    root.will("Dispatch", NotFound("NO_MATCH", "no cluster matches x-*"))
    out = ctl("apply", "-f", hello, "--clusters", "x-*")
    assert (out.exit_code, out.stdout) == (6, "")
    name = f"root/{root.requests['Dispatch'][0].dispatch_id}"
    assert out.stderr.splitlines() == [f"dispatch {name}", f"error: {name} was not accepted: no cluster matches x-*"]


def test_a_refusal_says_that_nothing_was_accepted_under_the_name_that_was_printed(
    root: FakeController, ctl: Ctl, hello: str
) -> None:
    root.will("Dispatch", PermissionDenied("ROLE_NOT_ALLOWED", "a viewer may not apply"))
    out = ctl("apply", "-f", hello, "--clusters", "a", "-o", "json")
    name = f"root/{root.requests['Dispatch'][0].dispatch_id}"
    assert (out.exit_code, out.stdout) == (5, "")
    assert out.stderr.splitlines()[1:] == [f"error: {name} was not accepted: a viewer may not apply"]


def test_after_a_fault_of_the_controller_the_name_can_be_looked_up(root: FakeController, ctl: Ctl, hello: str) -> None:
    root.will("Dispatch", Internal("INTERNAL", "a fault"))
    out = ctl("apply", "-f", hello, "--clusters", "a")
    name = f"root/{root.requests['Dispatch'][0].dispatch_id}"
    assert out.exit_code == 1
    assert out.stderr.splitlines()[1:] == [
        f"error: a fault; whether it was accepted is not known: ote-ctl dispatch get {name}"
    ]


def test_what_fails_after_it_was_accepted_is_no_refusal(root: FakeController, ctl: Ctl, hello: str) -> None:
    root.will("Dispatch", story([target("a", "SENT")], Internal("INTERNAL", "a fault")))
    out = ctl("apply", "-f", hello, "--clusters", "a")
    name = f"root/{root.requests['Dispatch'][0].dispatch_id}"
    assert out.stderr.splitlines()[1:] == [f"error: a fault; the dispatch goes on: ote-ctl dispatch watch {name}"]


def test_an_exact_name_that_means_nobody_is_told(root: FakeController, ctl: Ctl, hello: str) -> None:
    root.will("Dispatch", story([target("a", "SUCCEEDED")]))
    out = ctl("apply", "-f", hello, "--clusters", "a,b")
    assert out.exit_code == 0
    assert "warning: no cluster b among those selected" in out.stderr


def test_a_dry_run_shows_who_is_meant_and_sends_nothing(root: FakeController, ctl: Ctl, hello: str) -> None:
    root.will("ListClusters", cluster_pb2.ListClustersResponse(clusters=[cluster("a")]))
    out = ctl("apply", "-f", hello, "--clusters", "*", "--dry-run", "-o", "name")
    assert (out.stdout, out.stderr) == ("a\n", "would apply: deployment/hello\n")
    assert not root.requests["Dispatch"]


def test_a_dry_run_shows_those_without_shim_only_by_their_names(root: FakeController, ctl: Ctl, hello: str) -> None:
    east = cluster("east", shim="", version="1")
    root.will("ListClusters", *[cluster_pb2.ListClustersResponse(clusters=[cluster("a"), east])] * 3)
    root.will("ListClusters", cluster_pb2.ListClustersResponse(clusters=[east]))
    root.will("GetCluster", *[cluster_pb2.GetClusterResponse(cluster=one) for one in (root.me, root.me, east)])
    dry = ("apply", "-f", hello, "--dry-run", "--clusters")
    assert ctl.ok(*dry, "*", "-o", "name") == "a\n"
    root.will("GetCluster", *[cluster_pb2.GetClusterResponse(cluster=root.me)] * 2)
    explained = json.loads(ctl.ok(*dry, "*", "--explain", "east", "-o", "json"))["explain"]
    assert explained["selected"] is False
    assert explained["why"][-1] == "it has no shim: of those, only an exact name means it"
    assert ctl.ok(*dry, "*,east", "-o", "name") == "a\neast\n"
    out = ctl(*dry, "ea*")
    assert (out.exit_code, "matches no cluster with a shim" in out.stderr) == (6, True)


def test_manifests_come_from_stdin_and_folders_too(root: FakeController, ctl: Ctl, tmp_path: Path) -> None:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "b.yml").write_text("kind: B\nmetadata: {name: b}")
    (folder / "a.json").write_text('{"kind": "A", "metadata": {"name": "a"}}')
    (folder / "readme.txt").write_text("not a manifest")
    root.will("Dispatch", story([target("a", "SUCCEEDED")]))
    assert ctl("apply", "-f", str(folder), "-f", "-", "--clusters", "a", stdin=HELLO.encode()).exit_code == 0
    sent = root.requests["Dispatch"][0].command.apply.manifests
    assert (
        sent == b'{"kind": "A", "metadata": {"name": "a"}}\n---\nkind: B\nmetadata: {name: b}\n---\n' + HELLO.encode()
    )


def test_files_that_hold_nothing_or_are_not_there_are_invalid_input(ctl: Ctl, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.yaml").touch()
    for source in ("folder", "none.yaml", "empty.yaml"):
        out = ctl("apply", "-f", str(tmp_path / source), "--clusters", "*")
        assert (out.exit_code, str(tmp_path / source) in out.stderr) == (2, True)


def test_more_than_16_mib_is_refused_here(ctl: Ctl, tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_bytes(HELLO.encode() + b"#" * (16 * 1024 * 1024))
    out = ctl("apply", "-f", str(tmp_path / "big.yaml"), "--clusters", "*")
    assert out.exit_code == 2
    assert "more than 16 MiB" in out.stderr


def test_a_large_command_goes_ahead_in_hashed_pieces(root: FakeController, ctl: Ctl, tmp_path: Path) -> None:
    content = (HELLO + "data: " + "x" * (2 * 1024 * 1024)).encode()
    (tmp_path / "large.yaml").write_bytes(content)
    root.will("PutPayload", route_pb2.PutPayloadResponse(), route_pb2.PutPayloadResponse())
    missing = FailedPrecondition("PAYLOAD_MISSING", "put it first")
    root.will("Dispatch", missing, story([target("a", "SUCCEEDED")]))
    assert ctl("apply", "-f", str(tmp_path / "large.yaml"), "--clusters", "a").exit_code == 0
    first, *pieces = root.requests["PutPayload"][0]
    sent = b"".join(piece.data for piece in pieces)
    assert command_pb2.Command.FromString(sent).apply.manifests.rstrip() == content
    assert (first.payload.size, len(first.payload.pieces)) == (len(sent), len(pieces))
    assert {len(piece.data) for piece in pieces[:-1]} == {PIECE_BYTES}
    assert root.requests["Dispatch"][0].payload == first.payload


def test_a_cut_after_accepted_shows_only_as_time(root: FakeController, ctl: Ctl, hello: str) -> None:
    root.will("Dispatch", story([target("a", "PENDING")], Unavailable("SHUTTING_DOWN", "stopping")))
    root.will("WatchDispatch", story([target("a", "RUNNING")], target("a", "SUCCEEDED")))
    out = ctl("apply", "-f", hello, "--clusters", "a")
    assert (out.exit_code, out.stdout) == (0, "a  SUCCEEDED\n")
    assert root.requests["WatchDispatch"][0].dispatch == f"root/{root.requests['Dispatch'][0].dispatch_id}"


def test_a_cut_before_accepted_sends_the_same_id_to_the_same_controller(
    root: FakeController, ctl: Ctl, hello: str
) -> None:
    with FakeController("other") as other:
        ctl.entries.append(other.address)
        root.will("Dispatch", Unavailable("SHUTTING_DOWN", "stopping"), story([target("a", "SUCCEEDED")]))
        assert ctl("apply", "-f", hello, "--clusters", "a").exit_code == 0
        first, second = root.requests["Dispatch"]
        assert first == second
        assert not other.requests


def test_a_controller_that_is_busy_is_asked_again(root: FakeController, ctl: Ctl, hello: str) -> None:
    busy = ResourceExhausted("TOO_MANY_DISPATCHES", "busy", retry_after=0.05)
    root.will("Dispatch", busy, story([target("a", "SUCCEEDED")]))
    assert ctl("apply", "-f", hello, "--clusters", "a").exit_code == 0


def test_what_the_controller_refuses_is_told_in_its_words(root: FakeController, ctl: Ctl, hello: str) -> None:
    root.will("Dispatch", InvalidArgument("INVALID_SELECTOR", "clusters, column 1: no"))
    out = ctl("apply", "-f", hello, "--clusters", "a")
    assert out.exit_code == 2
    assert out.stderr.endswith(" was not accepted: clusters, column 1: no\n")


def test_a_dry_run_of_delete_sends_nothing_either(root: FakeController, ctl: Ctl, hello: str) -> None:
    root.will("ListClusters", cluster_pb2.ListClustersResponse(clusters=[cluster("a")]))
    out = ctl("delete", "cm/x", "-f", hello, "--clusters", "*", "--dry-run", "-o", "name")
    assert (out.stdout, out.stderr) == ("a\n", "would delete: configmap/x, deployment/hello\n")
    assert not root.requests["Dispatch"]
    assert ctl("delete", "cm/x", "--clusters", "*", "--explain", "a").exit_code == 2


def test_delete_takes_references_and_manifests(root: FakeController, ctl: Ctl, hello: str) -> None:
    root.will("Dispatch", story([target("a", "SUCCEEDED", objects=[done("Deployment", "web", "ABSENT")])]))
    out = ctl("delete", "deploy/web", "cm/x", "-f", hello, "-n", "shop", "--clusters", "a")
    assert out.stdout == "a  SUCCEEDED  deployment/web absent\n"
    sent = root.requests["Dispatch"][0].command.delete
    assert [(one.kind, one.name, one.namespace) for one in sent.objects] == [
        ("Deployment", "web", "shop"),
        ("ConfigMap", "x", "shop"),
    ]
    assert sent.manifests == HELLO.encode()


def test_what_names_no_object_is_usage(ctl: Ctl) -> None:
    assert ctl("delete", "--clusters", "a").exit_code == 2
    assert ctl("delete", "web", "--clusters", "a").exit_code == 2
    assert ctl("delete", "deploy/web").exit_code == 2
    assert ctl("apply", "--clusters", "a").exit_code == 2
    assert ctl("apply", "-f", "x", "--explain", "a", "--clusters", "a").exit_code == 2
    assert ctl("apply", "-f", "/nowhere.yaml", "--clusters", "a").exit_code == 2


def test_drain_is_a_command_to_that_cluster_and_says_how_to_end_it(root: FakeController, ctl: Ctl) -> None:
    root.will("Dispatch", story([target("east", "FAILED", "edge-2 stayed: it has no alternate")]))
    root.will("Dispatch", story([target("east", "SUCCEEDED")]))
    out = ctl("cluster", "drain", "east")
    assert out.exit_code == 3
    assert "edge-2 stayed" in out.stdout
    assert "to end it: ote-ctl cluster drain east --off" in out.stderr
    assert ctl("cluster", "drain", "east", "--off").exit_code == 0
    root.will("Dispatch", story([target("east", "UNREACHABLE", "offline")]))
    assert "--off" not in ctl("cluster", "drain", "east").stderr
    root.will("Dispatch", story([target("east", "FAILED", "a root", reason="ROOT_CANNOT_DRAIN")]))
    assert "--off" not in ctl("cluster", "drain", "east").stderr
    root.will("Dispatch", story([target("east", "SUCCEEDED", "a leaf", reason="NOTHING_TO_DRAIN")]))
    assert "--off" not in ctl("cluster", "drain", "east").stderr
    first, second, *_ = root.requests["Dispatch"]
    assert (first.selector.clusters, first.command.drain.off, second.command.drain.off) == ("east", False, True)


def test_dispatches_are_listed_shown_and_cancelled(root: FakeController, ctl: Ctl) -> None:
    one = route_pb2.Dispatch(name="root/1f", origin="root", command="apply", states={"QUEUED": 1})
    one.selector.clusters = "edge-*"
    one.created.FromJsonString("2026-01-02T03:04:05Z")
    root.will("ListDispatches", *[route_pb2.ListDispatchesResponse(dispatches=[one])] * 2)
    assert json.loads(ctl.ok("dispatch", "list", "-o", "json"))["dispatches"][0]["summary"] == {"QUEUED": 1}
    assert "1 QUEUED" in ctl.ok("dispatch", "list", "--unsettled")
    root.will("ListDispatches", route_pb2.ListDispatchesResponse(dispatches=[one]))
    ctl.ok("dispatch", "list", "--all")
    asked = root.requests["ListDispatches"]
    assert [(one.changes_only, one.unsettled_only) for one in asked] == [(True, False), (False, True), (False, False)]
    one.targets.append(target("a", "QUEUED", "offline"))
    root.will("GetDispatch", *[route_pb2.GetDispatchResponse(dispatch=one)] * 2)
    assert json.loads(ctl.ok("dispatch", "get", "root/1f", "-o", "json"))["summary"] == {"QUEUED": 1}
    root.will("CancelDispatch", route_pb2.CancelDispatchResponse(dispatch=one))
    assert ctl.ok("dispatch", "cancel", "root/1f").splitlines() == [
        "root/1f  apply  not settled",
        "a  QUEUED  offline",
    ]


@pytest.mark.parametrize(
    ("clusters", "labels", "shown"),
    [
        ("edge-*", "", "edge-*"),
        (" ", "", "' '"),
        ("", "\t", "-l '\\t'"),
        ("a", "tier in (x,y)", "a -l 'tier in (x,y)'"),
    ],
)
def test_the_list_of_dispatches_shows_a_selector_as_it_was_written(
    root: FakeController, ctl: Ctl, clusters: str, labels: str, shown: str
) -> None:
    one = route_pb2.Dispatch(name="root/1f", command="apply", caller="admin/root", states={"QUEUED": 1})
    one.selector.clusters, one.selector.labels = clusters, labels
    root.will("ListDispatches", route_pb2.ListDispatchesResponse(dispatches=[one]))
    row = ctl.ok("dispatch", "list").splitlines()[1]
    assert f"  {shown}  " in row


def test_cancelling_what_is_settled_says_that_nothing_was_done(root: FakeController, ctl: Ctl) -> None:
    one = route_pb2.Dispatch(name="root/1f", command="apply", settled=True, states={"SUCCEEDED": 2})
    root.will("GetDispatch", *[route_pb2.GetDispatchResponse(dispatch=one)] * 2)
    out = ctl("dispatch", "cancel", "root/1f")
    assert (out.exit_code, out.stdout) == (0, "")
    assert out.stderr == "root/1f is already settled (2 SUCCEEDED): nothing was cancelled\n"
    assert json.loads(ctl.ok("dispatch", "cancel", "1f", "-o", "json"))["dispatch"] == "root/1f"


def test_dispatch_watch_picks_up_and_ends_with_the_outcome(root: FakeController, ctl: Ctl) -> None:
    one = route_pb2.Dispatch(name="root/1f", command="apply")
    root.will("GetDispatch", *[route_pb2.GetDispatchResponse(dispatch=one)] * 2)
    root.will("WatchDispatch", story([target("a", "RUNNING")], target("a", "SUCCEEDED")))
    root.will("WatchDispatch", story([target("a", "FAILED", "no")]))
    assert ctl.ok("dispatch", "watch", "root/1f") == "a  SUCCEEDED\n"
    out = ctl("dispatch", "watch", "root/1f", "-o", "json")
    assert (out.exit_code, json.loads(out.stdout)["command"]) == (3, "apply")


def test_get_reads_from_all_that_have_a_shim(root: FakeController, ctl: Ctl) -> None:
    pods = [{"kind": "Pod", "metadata": {"name": "web"}, "status": {"phase": "Running"}}]
    answer = target("a", "SUCCEEDED", output=json.dumps(pods).encode())
    root.will("Dispatch", story([answer, target("b", "UNREACHABLE", "offline for 5 min")]))
    out = ctl("get", "pods", "-n", "shop", "-o", "json")
    assert out.exit_code == 3
    assert json.loads(out.stdout) == {
        "items": [{"cluster": "a", "object": pods[0]}],
        "errors": [{"cluster": "b", "state": "UNREACHABLE", "message": "offline for 5 min"}],
    }
    request = root.requests["Dispatch"][0]
    assert (request.selector.clusters, request.ttl.seconds) == ("*", 0)
    assert request.HasField("ttl")
    assert (request.command.get.kind, request.command.get.namespace) == ("Pod", "shop")


def test_get_shows_objects_by_cluster(root: FakeController, ctl: Ctl) -> None:
    pod = {
        "kind": "Pod",
        "metadata": {"name": "web-0", "namespace": "shop", "creationTimestamp": "2026-01-02T03:04:05Z"},
        "status": {"phase": "Running", "containerStatuses": [{"ready": True}, {"ready": False}]},
    }
    root.will("Dispatch", *[story([target("a", "SUCCEEDED", output=json.dumps([pod]).encode())])] * 2)
    lines = ctl.ok("get", "po", "-A", "--clusters", "a").splitlines()
    assert lines[0].split() == ["CLUSTER", "NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert lines[1].split()[:6] == ["a", "shop", "web-0", "1/2", "Running", "0"]
    assert ctl.ok("get", "pod/web-0", "--clusters", "a", "-o", "name") == "a/pod/web-0\n"


def answer_of(*objects: object) -> route_pb2.Target:
    return target("a", "SUCCEEDED", output=json.dumps(objects).encode())


def test_a_crash_loop_is_shown_as_kubectl_shows_it(root: FakeController, ctl: Ctl) -> None:
    crashed = {"ready": False, "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    pod = {
        "kind": "Pod",
        "metadata": {"name": "web-0"},
        "status": {"phase": "Running", "containerStatuses": [crashed]},
    }
    root.will("Dispatch", story([answer_of(pod)]))
    assert ctl.ok("get", "pods", "--clusters", "a").splitlines()[1].split()[1:5] == [
        "web-0",
        "0/1",
        "CrashLoopBackOff",
        "4",
    ]


def test_names_of_all_namespaces_say_which(root: FakeController, ctl: Ctl) -> None:
    objects = [
        {"kind": "ConfigMap", "metadata": {"name": "x", "namespace": "web"}},
        {"kind": "Namespace", "metadata": {"name": "web"}},
    ]
    root.will("Dispatch", *[story([answer_of(*objects)])] * 2)
    get = ("get", "cm", "--clusters", "a", "-o", "name")
    assert ctl.ok(*get, "-A").split() == ["a/web/configmap/x", "a/namespace/web"]
    assert ctl.ok(*get).split() == ["a/configmap/x", "a/namespace/web"]


def test_several_kinds_are_read_at_once(root: FakeController, ctl: Ctl) -> None:
    def answer(request: route_pb2.DispatchRequest) -> list[object]:
        kind = request.command.get.kind
        if kind not in ("Deployment", "Job", "Pod"):
            return story([target("a", "FAILED", f"no {kind}", reason="UNSUPPORTED")])(request)
        return story([answer_of({"kind": kind, "metadata": {"name": "x"}})])(request)

    root.will("Dispatch", *[answer] * 9)
    lines = ctl.ok("get", "deploy,jobs", "--clusters", "a,b").splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [["a", "deployment/x"], ["a", "job/x"]]
    names = ctl.ok("get", "all", "--clusters", "a", "-o", "name").splitlines()
    assert names == ["a/deployment/x", "a/job/x", "a/pod/x"]
    assert ctl("get", "deploy,", "--clusters", "a").exit_code == 2
    assert ctl("get", "deploy,jobs", "x", "--clusters", "a").exit_code == 2


def test_clusters_that_say_the_same_are_told_together(root: FakeController, ctl: Ctl) -> None:
    unknown = [target(f"e-{number}", "FAILED", "kind 'x' is not known") for number in range(1, 10)]
    root.will("Dispatch", story(unknown))
    out = ctl("get", "x", "--clusters", "*")
    assert out.exit_code == 3
    assert out.stderr.splitlines()[-1] == "e-1, e-2, e-3, e-4, e-5 and 4 more: FAILED kind 'x' is not known"


def test_a_cluster_without_shim_is_passed_over_where_others_have_one(root: FakeController, ctl: Ctl) -> None:
    shimless = target("east", "FAILED", "this cluster has no shim", reason="NO_SHIM")
    root.will("Dispatch", story([shimless, target("a", "SUCCEEDED", output=b"[]")]), story([shimless]))
    assert json.loads(ctl.ok("get", "pods", "--clusters", "*", "-o", "json")) == {"items": [], "errors": []}
    assert ctl("get", "pods", "--clusters", "east").exit_code == 3


def test_an_object_that_is_nowhere_is_exit_code_6(root: FakeController, ctl: Ctl) -> None:
    root.will("Dispatch", story([target("a", "FAILED", "no such pod", reason="NOT_FOUND")]))
    root.will("Dispatch", story([target("a", "SUCCEEDED", output=b"[]")]))
    root.will("Dispatch", NotFound("NO_MATCH", "the selector matches no cluster with a shim"))
    assert ctl("get", "pod", "x", "--clusters", "a").exit_code == 6
    assert ctl("get", "pods", "--clusters", "a").exit_code == 0
    assert ctl("get", "pods").exit_code == 6
    assert ctl("get", "pod", "x", "-A").exit_code == 2
    assert ctl("get", "pod/x", "y").exit_code == 2


def test_an_answer_that_is_not_json_is_an_error_of_that_cluster(root: FakeController, ctl: Ctl) -> None:
    root.will("Dispatch", story([target("a", "SUCCEEDED", output=b"{")]))
    errors = json.loads(ctl("get", "pods", "--clusters", "a", "-o", "json").stdout)["errors"]
    assert errors == [{"cluster": "a", "state": "SUCCEEDED", "message": "its answer is not JSON"}]


def test_that_there_are_no_objects_is_told_only_when_a_cluster_says_so(root: FakeController, ctl: Ctl) -> None:
    failed = target("a", "FAILED", "kind 'x' is not known", reason="UNSUPPORTED")
    root.will("Dispatch", story([failed]), story([failed, target("b", "SUCCEEDED", output=b"[]")]))
    out = ctl("get", "x", "--clusters", "*")
    assert (out.exit_code, out.stderr) == (3, "a: FAILED UNSUPPORTED: kind 'x' is not known\n")
    assert "no objects found" in ctl("get", "x", "--clusters", "*").stderr


def test_logs_come_as_they_are(root: FakeController, ctl: Ctl) -> None:
    root.will("Dispatch", story([target("a", "SUCCEEDED", output=b"line\n\xff\n")]))
    root.will("Dispatch", story([target("a", "FAILED", "no pod web", reason="NOT_FOUND")]))
    root.will("Dispatch", story([target("a", "UNREACHABLE", "offline")]))
    out = ctl("logs", "web", "--cluster", "a", "--tail", "5")
    assert (out.exit_code, out.stdout_bytes) == (0, b"line\n\xff\n")
    assert root.requests["Dispatch"][0].command.logs.tail_lines == 5
    assert ctl("logs", "web", "--cluster", "a").exit_code == 6
    assert ctl("logs", "web", "--cluster", "a").exit_code == 3
