from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ote.api.cluster.v1 import cluster_pb2
from ote.api.route.v1 import route_pb2
from ote.api.trust.v1 import trust_pb2
from ote.client.contexts import Context, Contexts, Entry, load_contexts, save_contexts
from ote.model.errors import Unavailable
from ote.pki import Authority
from ote.rpc.address import reserve
from tests.wire.cli.conftest import Ctl
from tests.wire.cli.fake import FakeController, cluster


def token(**fields: object) -> trust_pb2.JoinToken:
    one = trust_pb2.JoinToken(id="t1", uses=1, **fields)  # type: ignore[arg-type]
    one.expires.FromJsonString("2126-01-02T03:04:05Z")
    return one


def test_routes_are_listed(root: FakeController, ctl: Ctl) -> None:
    route = route_pb2.Route(cluster="edge-1", next_hop="east", path=["root", "east", "edge-1"], up=True)
    root.will("ListRoutes", route_pb2.ListRoutesResponse(routes=[route], next_page_token="x"))
    root.will("ListRoutes", route_pb2.ListRoutesResponse(), route_pb2.ListRoutesResponse(routes=[route]))
    document = json.loads(ctl.ok("route", "list", "-o", "json"))
    assert document == {
        "routes": [{"cluster": "edge-1", "next_hop": "east", "path": ["root", "east", "edge-1"], "up": True}]
    }
    assert ctl.ok("route", "list").splitlines()[1].split() == ["edge-1", "east", "yes", "root/east/edge-1"]


def test_a_trace_tells_each_hop_and_fails_when_one_is_silent(root: FakeController, ctl: Ctl) -> None:
    hops = [route_pb2.Hop(cluster="root", rtt_ms=0), route_pb2.Hop(cluster="east", rtt_ms=1.25)]
    root.will("TraceRoute", route_pb2.TraceRouteResponse(hops=hops))
    silent = route_pb2.TraceRouteResponse(
        hops=[*hops, route_pb2.Hop(cluster="e", rtt_ms=-1)], reason="NO_ROUTE", message="e is OFFLINE: …"
    )
    root.will("TraceRoute", silent, silent)
    assert json.loads(ctl.ok("route", "trace", "east", "-o", "json")) == {
        "hops": [{"cluster": "root", "rtt_ms": 0.0}, {"cluster": "east", "rtt_ms": 1.25}],
        "ends_at": "east",
        "reason": "",
        "message": "",
    }
    shown = ctl("route", "trace", "e")
    assert (shown.exit_code, shown.stdout.splitlines()[3].split()) == (3, ["2", "e", "no", "answer"])
    assert shown.stderr == "e is OFFLINE: …\n"
    document = ctl("route", "trace", "e", "-o", "json")
    assert document.exit_code == 3
    assert json.loads(document.stdout) == {
        "hops": [
            {"cluster": "root", "rtt_ms": 0.0},
            {"cluster": "east", "rtt_ms": 1.25},
            {"cluster": "e", "rtt_ms": -1.0},
        ],
        "ends_at": "east",
        "reason": "NO_ROUTE",
        "message": "e is OFFLINE: …",
    }


def test_token_create_prints_the_whole_join_line(root: FakeController, ctl: Ctl) -> None:
    answer = trust_pb2.CreateJoinTokenResponse(token=token(), secret="se.cret", parent="10.0.0.1:8287")
    root.will("CreateJoinToken", answer)
    out = ctl("token", "create", "--ttl", "1h", "--uses", "3", "--name-pattern", "edge-*", "--allow-children")
    assert out.stdout == (
        "ote-clustercontroller --name NAME --data-dir ./NAME --parent 10.0.0.1:8287 --join-token se.cret "
        "--advertise HOST:PORT\n"
    )
    request = root.requests["CreateJoinToken"][0]
    assert (request.ttl.seconds, request.uses, request.name_pattern, request.allow_children) == (
        3600,
        3,
        "edge-*",
        True,
    )


def test_a_token_has_one_pattern_and_a_second_is_not_lost_silently(root: FakeController, ctl: Ctl) -> None:
    out = ctl("token", "create", "--name-pattern", "edge-*", "--name-pattern", "shop-*")
    assert (out.exit_code, "make a token for each" in out.stderr) == (2, True)


def test_token_create_can_write_a_private_file_instead(root: FakeController, ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "join.token"
    root.will("CreateJoinToken", trust_pb2.CreateJoinTokenResponse(token=token(), secret="secret"))
    out = ctl("token", "create", "--name-pattern", "edge-7", "-o", str(file))
    assert out.stdout == (
        f"ote-clustercontroller --name edge-7 --data-dir ./edge-7 --parent {root.address} --join-token @{file}\n"
    )
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("secret\n", 0o600)


@pytest.mark.parametrize("format", ["json", "yaml", "table", "name"])
def test_a_token_is_not_written_into_a_file_called_like_a_format(ctl: Ctl, format: str) -> None:
    out = ctl("token", "create", "-o", format)
    assert (out.exit_code, f"write -o ./{format}" in out.stderr) == (2, True)
    assert not Path(format).exists()


def test_a_token_is_written_over_a_file_only_by_force(root: FakeController, ctl: Ctl, tmp_path: Path) -> None:
    file = tmp_path / "t3"
    file.write_text("precious")
    out = ctl("token", "create", "-o", str(file))
    assert (out.exit_code, "--force" in out.stderr, file.read_text()) == (2, True, "precious")
    root.will("CreateJoinToken", trust_pb2.CreateJoinTokenResponse(token=token(), secret="secret"))
    ctl.ok("token", "create", "-o", str(file), "--force")
    assert file.read_text() == "secret\n"


def test_a_token_is_never_asked_for_twice(root: FakeController, ctl: Ctl) -> None:
    root.will("CreateJoinToken", Unavailable("SHUTTING_DOWN", "stopping"))
    assert ctl("token", "create").exit_code == 5


def test_tokens_are_listed_with_what_became_of_them(root: FakeController, ctl: Ctl) -> None:
    old = token()
    old.expires.FromJsonString("2020-01-01T00:00:00Z")
    tokens = [token(), token(revoked=True), old, token(used_by=["edge-1"])]
    root.will("ListJoinTokens", trust_pb2.ListJoinTokensResponse(tokens=tokens[:2], next_page_token="x"))
    root.will("ListJoinTokens", trust_pb2.ListJoinTokensResponse(tokens=tokens[2:]))
    lines = ctl.ok("token", "list").splitlines()
    assert [" ".join(line.split()[1:3]).split(" 2")[0] for line in lines[1:]] == [
        "good",
        "revoked",
        "expired",
        "used up",
    ]


def test_revoking_a_token_tells_who_stays(root: FakeController, ctl: Ctl) -> None:
    root.will("RevokeJoinToken", trust_pb2.RevokeJoinTokenResponse(token=token(used_by=["edge-1"])))
    out = ctl("token", "revoke", "t1")
    assert out.stdout.startswith("token t1 is revoked")
    assert "still members: edge-1" in out.stderr


def test_status_tells_first_what_is_wrong(root: FakeController, ctl: Ctl) -> None:
    status = cluster_pb2.GetControllerStatusResponse(
        self=cluster("root", parent=""), connected=True, beat=7, clusters={"ONLINE": 3, "OFFLINE": 1}
    )
    status.problems.add(reason="CHILD_OFFLINE", message="nothing heard", cluster="edge-2").since.GetCurrentTime()
    status.tunnels.add(peer="east", sent_bytes={"beat": 100, "results": 2000}, received_bytes=3_000_000)
    status.unsettled_dispatches = 2
    status.totals.clusters = 3
    root.will("GetControllerStatus", status, status)
    lines = ctl.ok("status").splitlines()
    assert lines[0].startswith("CHILD_OFFLINE edge-2 for ")
    assert "Clusters:    1 OFFLINE, 3 ONLINE" in lines
    assert "Dispatches:  2 not settled" in lines
    assert [line for line in lines if line.startswith("In all:      0 of 3 clusters ready")]
    assert "beat 100 B results 2.0 kB" in lines[-1]
    document = json.loads(ctl.ok("status", "-o", "json"))
    assert document["tunnels"][0]["sent_bytes"] == {"beat": 100, "results": 2000}
    assert document["tunnels"][0]["direction"] == "child"
    assert document["problems"][0]["reason"] == "CHILD_OFFLINE"


def test_status_of_a_tree_in_order(root: FakeController, ctl: Ctl) -> None:
    root.will("GetControllerStatus", cluster_pb2.GetControllerStatusResponse(self=cluster("east"), depth=1))
    lines = ctl.ok("status").splitlines()
    assert lines[0] == "all is well"
    assert "Tree:        cut off from the root, beat 0" in lines


def test_a_controller_that_is_cut_off_is_not_called_a_root(root: FakeController, ctl: Ctl) -> None:
    status = cluster_pb2.GetControllerStatusResponse
    root.will("GetControllerStatus", status(self=cluster("e-4", configured_parent="reg-2")))
    root.will("GetControllerStatus", status(self=cluster("root", parent=""), connected=True))
    assert "e-4 , at home below reg-2, up" in ctl.ok("status")
    assert "root , root, up" in ctl.ok("status")


def test_version_needs_no_controller(root: FakeController, ctl: Ctl) -> None:
    assert ctl.ok("version").splitlines()[1] == "root 9.9"
    root.stop()
    assert json.loads(ctl.ok("version", "-o", "json"))["controller"] is None
    assert ctl.ok("--version").startswith("ote-ctl, version ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(ctl: Ctl, shell: str) -> None:
    assert "_OTE_CTL_COMPLETE" in ctl.ok("completion", shell)


@pytest.fixture
def address() -> Iterator[str]:
    """An address at which nobody answers."""
    address, held = reserve("127.0.0.1")
    with held:
        yield address


def test_the_second_entry_is_tried_when_the_first_does_not_answer(
    root: FakeController, address: str, tmp_path: Path
) -> None:
    root.will("GetControllerStatus", cluster_pb2.GetControllerStatusResponse(self=root.me))
    result = Ctl(tmp_path, [address, root.address])("status")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"warning: {address}: ")
    assert result.stderr.endswith("; root answers instead, for itself and what is below it\n")


def test_an_entry_that_is_asked_for_has_no_other_in_its_place(
    root: FakeController, address: str, tmp_path: Path
) -> None:
    save_contexts(
        tmp_path / "config.yaml", Contexts("", (Context("x", (Entry(address, "top.ote"), Entry(root.address))),))
    )
    ctl = Ctl(tmp_path, [])
    root.will("ListClusters", cluster_pb2.ListClustersResponse(clusters=[cluster("a")]))
    for entry in ("top", address):
        out = ctl("--entry", entry, "cluster", "list")
        assert (out.exit_code, out.stdout, address in out.stderr) == (5, "", True)
    out = ctl("--entry", root.address, "cluster", "list", "-o", "name")
    assert (out.exit_code, out.stdout, out.stderr) == (0, "a\n", "")
    assert ctl("--entry", "", "cluster", "list").exit_code == 6
    assert json.loads(ctl.ok("--entry", "top", "version", "-o", "json"))["controller"] is None
    assert json.loads(ctl.ok("version", "-o", "json"))["controller"] is not None
    out = ctl("--entry", "nobody", "cluster", "list")
    assert (out.exit_code, f"there is: top {address}, {root.address}" in out.stderr) == (6, True)
    ctl.ok("--entry", root.address, "context", "add-entry", "10.0.0.2:1", "--name", "east")
    assert len(load_contexts(ctl.config).get().entries) == 3


def test_no_entry_answers_is_exit_code_5_and_names_each(tmp_path: Path) -> None:
    out = Ctl(tmp_path, ["127.0.0.1:1", "127.0.0.1:2"])("status")
    assert out.exit_code == 5
    assert out.stderr.count("\n") == 1
    assert out.stderr.startswith("error: 127.0.0.1:1: ")
    assert "; 127.0.0.1:2: " in out.stderr


def test_a_call_that_was_cut_is_repeated_where_it_may_be(root: FakeController, ctl: Ctl) -> None:
    answer = cluster_pb2.GetControllerStatusResponse(self=root.me)
    root.will("GetControllerStatus", Unavailable("SHUTTING_DOWN", "stopping"), answer)
    ctl.ok("status")


def test_contexts_are_imported_used_and_listed(root: FakeController, ctl: Ctl, tmp_path: Path) -> None:
    ctl.write_context()
    admin = tmp_path / "admin.yaml"
    save_contexts(admin, Contexts("root", (Context("root", (Entry("10.0.0.1:1", "root.ote"),), "ca", "cert", "key"),)))
    out = ctl("context", "import", str(admin))
    assert (out.stdout, out.stderr) == ("root: 10.0.0.1:1\n", "to use it: ote-ctl context use root\n")
    assert ctl.ok("context", "use", "root") == "using root\n"
    assert json.loads(ctl.ok("context", "list", "-o", "json")) == {
        "current": "root",
        "contexts": [
            {"name": "test", "entries": [{"address": root.address, "server_name": ""}], "tls": False},
            {"name": "root", "entries": [{"address": "10.0.0.1:1", "server_name": "root.ote"}], "tls": True},
        ],
    }
    assert ctl.ok("context", "list").splitlines()[2].split() == ["*", "root", "10.0.0.1:1", "yes"]
    assert ctl("context", "use", "x").exit_code == 6
    assert stat.S_IMODE(ctl.config.stat().st_mode) == 0o600
    assert ctl.ok("context", "import", str(admin), "--use") == "root: 10.0.0.1:1\n"
    save_contexts(admin, Contexts())
    assert ctl("context", "import", str(admin)).exit_code == 6


def test_two_people_of_one_tree_have_a_context_each(ctl: Ctl, tmp_path: Path) -> None:
    tree = Authority.create_root("11" * 16)
    files = {}
    for role in ("admin", "viewer"):
        cert, key = tree.issue_person(role, "1a2b", 60.0)
        files[role] = str(tmp_path / f"{role}.yaml")
        one = Context("root", (Entry("10.0.0.1:1", "root.ote"),), "ca", cert.decode(), key.decode())
        save_contexts(Path(files[role]), Contexts("root", (one,)))
    ctl.ok("context", "import", files["admin"])
    before = ctl.config.read_text()
    out = ctl("context", "import", files["viewer"])
    assert (out.exit_code, "--name" in out.stderr, ctl.config.read_text()) == (2, True, before)
    assert ctl.ok("context", "import", files["viewer"], "--name", "viewer") == "viewer: 10.0.0.1:1\n"
    assert ctl.ok("context", "list", "-o", "name").split()[-2:] == ["root", "viewer"]
    assert ctl("context", "import", files["viewer"], "--name", " ").exit_code == 2
    ctl.ok("context", "import", files["viewer"], "--replace")
    assert load_contexts(ctl.config).get("root").cert == load_contexts(ctl.config).get("viewer").cert
    assert ctl("context", "import", str(ctl.config), "--name", "x").exit_code == 2


def test_an_entry_is_added_with_the_name_that_the_tree_knows(root: FakeController, ctl: Ctl) -> None:
    answer = cluster_pb2.ListClustersResponse(clusters=[cluster("east", advertise="10.0.0.2:8287")])
    root.will("ListClusters", answer, answer)
    assert ctl.ok("context", "add-entry", "10.0.0.2:8287") == f"test: {root.address}, 10.0.0.2:8287\n"
    assert load_contexts(ctl.config).get("test").entries[1] == Entry("10.0.0.2:8287", "east.ote")
    unknown = ctl("context", "add-entry", "10.0.0.3:8287")
    assert (unknown.exit_code, "give its --name" in unknown.stderr) == (6, True)
    ctl.ok("context", "add-entry", "10.0.0.3:8287", "--name", "west")
    assert ctl("context", "add-entry", "nonsense").exit_code == 2


def test_without_a_context_it_says_where_to_get_one(tmp_path: Path) -> None:
    ctl = Ctl(tmp_path, [])
    out = ctl("--config", str(tmp_path / "none.yaml"), "status")
    assert out.exit_code == 6
    assert "ote-ctl context import DATA_DIR/admin.yaml" in out.stderr


def test_a_context_without_entry_says_how_to_add_one(tmp_path: Path) -> None:
    out = Ctl(tmp_path, [])("status")
    assert (out.exit_code, "ote-ctl context add-entry" in out.stderr) == (2, True)


def test_a_context_of_another_name_is_chosen_by_flag_and_by_environment(root: FakeController, ctl: Ctl) -> None:
    ctl.write_context()
    assert ctl("--context", "other", "status").exit_code == 6
    assert ctl("status", OTE_CONTEXT="other").stderr == "error: no context 'other'; there is: test\n"
