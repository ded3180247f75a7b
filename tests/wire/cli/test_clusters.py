from __future__ import annotations

import json
import time

import pytest
import yaml

from ote.api.cluster.v1 import cluster_pb2
from ote.model.errors import NotFound, OutOfRange, PermissionDenied, Unavailable
from tests.wire.cli.conftest import Ctl
from tests.wire.cli.fake import FakeController, cluster, story, target

TREE = [
    cluster("root", parent="", path=["root"], shim=""),
    cluster("east", path=["root", "east"], shim="", labels={"region": "eu"}),
    cluster("edge-1", "west", configured_parent="east", path=["root", "west", "edge-1"], tags=["gpu"], epoch=3),
    cluster("edge-2", "east", "OFFLINE", path=["root", "east", "edge-2"]),
    cluster("west", path=["root", "west"], shim=""),
]


def page(*clusters: cluster_pb2.Cluster, token: str = "") -> cluster_pb2.ListClustersResponse:
    return cluster_pb2.ListClustersResponse(clusters=clusters, next_page_token=token)


def test_the_json_of_the_list_has_the_promised_shape(root: FakeController, ctl: Ctl) -> None:
    one = cluster("edge-1", tags=["b", "a"], labels={"x": "y"}, epoch=7)
    one.last_seen.FromJsonString("2026-01-02T03:04:05.678Z")
    root.will("ListClusters", page(one))
    assert json.loads(ctl.ok("cluster", "list", "-o", "json")) == {
        "clusters": [
            {
                "name": "edge-1",
                "uid": "uid-edge-1",
                "state": "ONLINE",
                "parent": "root",
                "configured_parent": "root",
                "path": ["root", "edge-1"],
                "labels": {"x": "y"},
                "tags": ["a", "b"],
                "epoch": 7,
                "shim": {
                    "kind": "local",
                    "name": "ote-local-shim",
                    "version": "1",
                    "capabilities": ["apply"],
                    "not_answering_since": None,
                },
                "last_seen": "2026-01-02T03:04:05.678Z",
            }
        ]
    }


def test_all_pages_are_joined_and_the_selector_goes_to_the_controller(root: FakeController, ctl: Ctl) -> None:
    root.will("ListClusters", page(TREE[0], token="next"), page(TREE[1]))
    assert ctl.ok("cluster", "list", "--clusters", "*", "-l", "!x", "-o", "name") == "root\neast\n"
    first, second = root.requests["ListClusters"]
    assert (first.selector.clusters, first.selector.labels, first.page_token) == ("*", "!x", "")
    assert second.page_token == "next"


def test_the_table_shows_who_is_away_from_home(root: FakeController, ctl: Ctl) -> None:
    root.will("ListClusters", page(*TREE))
    lines = ctl.ok("cluster", "list").splitlines()
    assert lines[0].split() == ["NAME", "STATE", "PARENT", "SHIM", "SEEN", "TAGS", "LABELS"]
    assert lines[3].split() == ["edge-1", "ONLINE", "west", "(home:", "east)", "local", "-", "gpu", "-"]
    assert not any("\x1b" in line or line != line.rstrip() for line in lines)


def test_yaml_says_the_same_as_json(root: FakeController, ctl: Ctl) -> None:
    root.will("ListClusters", page(*TREE), page(*TREE))
    assert yaml.safe_load(ctl.ok("cluster", "list", "-o", "yaml")) == json.loads(
        ctl.ok("cluster", "list", "-o", "json")
    )


def test_a_selector_that_matches_nothing_is_not_found(root: FakeController, ctl: Ctl) -> None:
    root.will("ListClusters", page(), page())
    result = ctl("cluster", "list", "--clusters", "x*", "-o", "json")
    assert (result.exit_code, json.loads(result.stdout)) == (6, {"clusters": []})
    assert result.stderr.startswith("error: the selector matches no cluster")
    assert ctl("cluster", "list").exit_code == 0


def test_a_tag_that_was_given_as_a_name_is_told(root: FakeController, ctl: Ctl) -> None:
    root.will("ListClusters", page(), page(TREE[2]))
    result = ctl("cluster", "list", "--clusters", "gpu")
    assert result.exit_code == 6
    assert result.stderr.startswith("error: the selector matches no cluster; gpu is a tag or label: write -l gpu")


def test_names_that_mean_nobody_are_told(root: FakeController, ctl: Ctl) -> None:
    root.will("ListClusters", page(TREE[1]))
    result = ctl("cluster", "list", "--clusters", "east,nobody", "-o", "name")
    assert (result.exit_code, result.stdout) == (0, "east\n")
    assert result.stderr == "warning: no cluster nobody among those selected\n"


def test_a_bad_selector_is_refused_before_anything_is_dialled(ctl: Ctl, root: FakeController) -> None:
    result = ctl("cluster", "list", "--clusters", "a[")
    assert result.exit_code == 2
    assert result.stderr == "error: clusters, column 2: '[' is never closed: write a set of characters as in '[0-9]'\n"
    assert not root.requests


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--clusters", " "), "clusters, column 1: ' ' is blank"),
        (("-l", "\t"), "labels, column 1: '\\t' is blank"),
        (("--clusters", "*", "-l", " "), "labels, column 1: ' ' is blank"),
        (("--clusters", "a", "--clusters", " "), "clusters, column 1: ' ' is blank"),
        (("--clusters", "a, ,b"), "clusters, column 4: a pattern is missing in 'a, ,b'"),
        (("--clusters", ""), "--clusters '' is empty"),
        (("--clusters", "*", "-l", ""), "--selector '' is empty"),
    ],
)
@pytest.mark.parametrize(
    "verb",
    [
        ("cluster", "list"),
        ("cluster", "watch"),
        ("cluster", "tag", "+x"),
        ("cluster", "label", "x=y"),
        ("get", "cm"),
        ("delete", "cm/x"),
    ],
)
def test_a_blank_selector_means_nobody_wherever_it_is_given(
    ctl: Ctl, root: FakeController, verb: tuple[str, ...], options: tuple[str, ...], what: str
) -> None:
    result = ctl(*verb, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert what in result.stderr
    assert not root.requests


def test_repeated_selectors_are_joined(ctl: Ctl, root: FakeController) -> None:
    root.will("ListClusters", *[page(cluster("a"))] * 2)
    ctl.ok("cluster", "list", "--clusters", "a", "--clusters", "b,re:[(]", "-l", "x=y", "-l", "!z", "-o", "name")
    ctl.ok("cluster", "list", "--clusters", "a", "-o", "name")
    both, one = (request.selector for request in root.requests["ListClusters"])
    assert (both.clusters, both.labels) == ("a,b,re:[(]", "x=y,!z")
    assert (one.clusters, one.labels) == ("a", "")


def test_explain_tells_why_a_cluster_is_not_selected(root: FakeController, ctl: Ctl) -> None:
    answer = cluster_pb2.GetClusterResponse(cluster=TREE[2])
    root.will("GetCluster", lambda request: cluster_pb2.GetClusterResponse(cluster=root.me), answer)
    root.will("ListClusters", page())
    text = ctl.ok("cluster", "list", "--clusters", "east/*", "-l", "gpu", "--explain", "edge-1")
    assert text.splitlines() == [
        "edge-1 is not selected:",
        "  east/*: no, the path is root/west/edge-1",
        "  gpu: yes, the tag gpu is there",
    ]


def test_a_path_is_explained_from_the_entry_down(root: FakeController, ctl: Ctl) -> None:
    root.me.name = "west"
    answer = cluster_pb2.GetClusterResponse(cluster=TREE[2])
    root.will("GetCluster", lambda request: cluster_pb2.GetClusterResponse(cluster=root.me), answer)
    root.will("ListClusters", page(TREE[2]))
    text = ctl.ok("cluster", "list", "--clusters", "*/*,edge-1,west/*", "--explain", "edge-1")
    assert text.splitlines()[2:] == [
        "edge-1 is selected:",
        "  */*: no, the path is west/edge-1",
        "  edge-1: yes, the name is edge-1",
        "  west/*: yes, the path is west/edge-1",
    ]


def test_explain_in_json(root: FakeController, ctl: Ctl) -> None:
    answer = cluster_pb2.GetClusterResponse(cluster=cluster("edge-1", state="NAME_CONFLICT"))
    root.will("GetCluster", lambda request: cluster_pb2.GetClusterResponse(cluster=root.me), answer)
    root.will("ListClusters", page(TREE[3]))
    document = json.loads(ctl.ok("cluster", "list", "--clusters", "edge-*", "--explain", "edge-1", "-o", "json"))
    assert document["explain"]["selected"] is False
    assert len(document["explain"]["why"]) == 2


def test_get_shows_a_cluster_and_its_status(root: FakeController, ctl: Ctl) -> None:
    one = cluster(
        "edge-1", "west", "OFFLINE", configured_parent="east", path=["root", "west", "edge-1"], labels={"a": "b"}
    )
    one.status.pods_running = 3
    one.status.workloads["Deployment"] = 2
    one.status.capacity.cpu_millis, one.status.usage.cpu_millis = 4000, 500
    one.status.capacity.memory_bytes, one.status.usage.memory_bytes = 8_000_000_000, 1_000_000_000
    one.draining = True
    one.away_from_home_since.FromSeconds(1_800_000_000)
    one.home_problem = "nobody is there"
    one.descendants = 4
    one.status_stale = True
    one.status_as_of.FromSeconds(int(time.time()) - 120)
    one.totals.clusters, one.totals.clusters_ready, one.totals.pods_running = 5, 4, 7
    one.totals.capacity.cpu_millis, one.totals.usage.cpu_millis = 8000, 1500
    one.totals.capacity.memory_bytes, one.totals.usage.memory_bytes = 16_000_000_000, 2_000_000_000
    answer = cluster_pb2.GetClusterResponse(cluster=one)

    def me(request: object) -> cluster_pb2.GetClusterResponse:
        return cluster_pb2.GetClusterResponse(cluster=root.me)

    root.will("GetCluster", me, answer, me, answer)
    text = ctl.ok("cluster", "get", "edge-1")
    for line in ("State:     OFFLINE", "Draining:  yes", "Pods:      3 running, 0 failing"):
        assert line in text.splitlines()
    home = "Home:      east, not there since 2027-01-15T08:00:00.000Z; tried last: nobody is there"
    assert home in text.splitlines()
    assert "In use:    0.5 of 4 cores, 1.0 GB of 8.0 GB memory" in text.splitlines()
    assert "As of:     2m ago; it does not answer now" in text.splitlines()
    in_all = "4 of 5 clusters ready, 7 pods running, 0 failing, 1.5 of 8 cores, 2.0 GB of 16.0 GB memory"
    assert f"In all:    {in_all}" in text.splitlines()
    document = json.loads(ctl.ok("cluster", "get", "edge-1", "-o", "json"))
    assert document["status"]["workloads"] == {"Deployment": 2}
    assert document["away_from_home_since"] == "2027-01-15T08:00:00.000Z"
    assert document["home_problem"] == "nobody is there"
    assert (document["totals"]["clusters"], document["status_stale"]) == (5, True)


def test_a_cluster_that_does_not_exist_is_not_found(root: FakeController, ctl: Ctl) -> None:
    root.will("GetCluster", lambda request: cluster_pb2.GetClusterResponse(cluster=root.me))
    root.will("GetCluster", NotFound("CLUSTER_NOT_FOUND", "there is no cluster x"))
    result = ctl("cluster", "get", "x")
    assert (result.exit_code, result.stderr) == (6, "error: there is no cluster x\n")


def test_the_tree_is_drawn_with_who_is_away_and_who_is_gone(root: FakeController, ctl: Ctl) -> None:
    root.will("ListClusters", page(*TREE), page(*TREE))
    assert ctl.ok("tree").splitlines() == [
        "root",
        "├── east",
        "│   └── edge-2 OFFLINE [local]",
        "└── west",
        "    └── edge-1 [local] (home: east)",
    ]
    document = json.loads(ctl.ok("tree", "-o", "json"))
    assert [one["name"] for one in document["children"]] == ["east", "west"]


def test_labels_are_set_and_removed(root: FakeController, ctl: Ctl) -> None:
    root.will("UpdateCluster", cluster_pb2.UpdateClusterResponse(cluster=cluster("e", labels={"a": "b"}), settled=True))
    assert ctl.ok("cluster", "label", "e", "a=b", "old-") == "e: labels a=b; tags none\n"
    request = root.requests["UpdateCluster"][0]
    assert (dict(request.labels), list(request.remove_labels)) == ({"a": "b"}, ["old"])


def test_tags_are_added_and_removed_and_a_change_that_waits_is_told(root: FakeController, ctl: Ctl) -> None:
    root.will("UpdateCluster", cluster_pb2.UpdateClusterResponse(cluster=cluster("e"), dispatch="root/1f"))
    removed = ["old", "output", "shop", "legacy", "clusters", "selector", "v"]
    result = ctl("cluster", "tag", "e", "+gpu", *(f"-{tag}" for tag in removed))
    assert result.exit_code == 4
    request = root.requests["UpdateCluster"][0]
    assert (list(request.tags), list(request.remove_tags)) == (["gpu"], removed)
    assert result.stderr == "to follow: ote-ctl dispatch watch root/1f\n"
    assert ctl.ok("cluster", "tag", "-h").startswith("Usage:")


def test_labels_and_tags_of_all_selected_clusters_change_with_one_dispatch(root: FakeController, ctl: Ctl) -> None:
    root.will("Dispatch", story([target("a", "SUCCEEDED"), target("b", "SUCCEEDED")]))
    root.will("Dispatch", story([target("a", "SUCCEEDED")]))
    assert ctl.ok("cluster", "label", "--clusters", "shop-*", "x=y", "old-") == "a  SUCCEEDED\nb  SUCCEEDED\n"
    assert ctl.ok("cluster", "tag", "-l", "region=eu", "+gpu", "-legacy") == "a  SUCCEEDED\n"
    label, tag = root.requests["Dispatch"]
    change = label.command.set_facts
    assert (label.selector.clusters, dict(change.labels), list(change.remove_labels)) == ("shop-*", {"x": "y"}, ["old"])
    change = tag.command.set_facts
    assert (tag.selector.labels, list(change.tags), list(change.remove_tags)) == ("region=eu", ["gpu"], ["legacy"])


def test_a_pattern_in_the_place_of_a_name_is_refused_with_what_to_write(ctl: Ctl) -> None:
    result = ctl("cluster", "label", "e-*", "x=y")
    assert result.exit_code == 2
    assert "for several clusters write --clusters 'e-*'" in result.stderr


def test_a_change_that_cannot_be_is_refused_here(ctl: Ctl) -> None:
    for arguments in (
        ["label", "e"],
        ["label", "e", "a"],
        ["label", "e", "a=b", "a-"],
        ["tag", "e", "gpu"],
        ["tag", "e", "+a b"],
    ):
        assert ctl("cluster", *arguments).exit_code == 2


def test_evict_tells_who_loses_a_parent(root: FakeController, ctl: Ctl) -> None:
    root.will("EvictCluster", cluster_pb2.EvictClusterResponse(uid="u", orphans=["a", "b"], delivered=False))
    result = ctl("cluster", "evict", "east")
    assert result.stdout == "east is evicted (u)\n"
    assert "no parent has heard of it yet" in result.stderr
    assert "configured parent of a, b" in result.stderr


def test_who_may_not_is_told_so(root: FakeController, ctl: Ctl) -> None:
    root.will("EvictCluster", PermissionDenied("ROLE_NOT_ALLOWED", "viewer x may not call it"))
    assert ctl("cluster", "evict", "east").exit_code == 5


def test_a_watch_resumes_where_it_was_and_lists_again_when_its_token_is_too_old(root: FakeController, ctl: Ctl) -> None:
    event = cluster_pb2.WatchClustersResponse
    mark = event(bookmark=cluster_pb2.Bookmark(), resume_token="1")
    root.will(
        "WatchClusters",
        [event(put=cluster("a")), event(put=cluster("b")), mark, Unavailable("SHUTTING_DOWN", "stopping")],
        [event(put=cluster("a", state="OFFLINE"), resume_token="2"), Unavailable("SHUTTING_DOWN", "stopping")],
        OutOfRange("RESUME_TOKEN_EXPIRED", "too old"),
        [event(put=cluster("a")), mark, event(removed="uid-a", resume_token="3"), NotFound("END", "end of the test")],
    )
    result = ctl("cluster", "watch", "-l", "!x")
    assert result.exit_code == 6
    assert result.stdout.splitlines() == [
        "a  ONLINE  under root",
        "b  ONLINE  under root",
        "a  OFFLINE  under root",
        "a  ONLINE  under root",
        "b  removed",
        "a  removed",
    ]
    assert [request.resume_token for request in root.requests["WatchClusters"]] == ["", "1", "2", ""]


def test_a_watch_in_json_is_one_object_per_line(root: FakeController, ctl: Ctl) -> None:
    event = cluster_pb2.WatchClustersResponse
    root.will(
        "WatchClusters",
        [event(put=cluster("a")), event(bookmark=cluster_pb2.Bookmark()), event(removed="u"), NotFound("END", "end")],
    )
    lines = [json.loads(line) for line in ctl("cluster", "watch", "-o", "json").stdout.splitlines()]
    assert [line["event"] for line in lines] == ["put", "bookmark", "removed"]
    assert (lines[0]["cluster"]["name"], lines[2]["uid"]) == ("a", "u")


def test_a_shim_that_does_not_answer_shows_wherever_its_cluster_does(root: FakeController, ctl: Ctl) -> None:
    one = cluster("edge-1")
    one.shim.not_answering_since.FromMilliseconds(1_800_000_000_000)
    one.status.pods_running = 1
    root.will("ListClusters", page(TREE[0], one), page(TREE[0], one))
    assert "local (not answering)" in ctl.ok("cluster", "list")
    assert "[local: not answering for " in ctl.ok("tree")
    me = cluster_pb2.GetClusterResponse(cluster=root.me)
    root.will("GetCluster", me, cluster_pb2.GetClusterResponse(cluster=one))
    text = ctl.ok("cluster", "get", "edge-1")
    assert "apply; not answering since 2027-01-15T08:00:00.000Z (" in text
    assert "1 running, 0 failing, when the shim answered last" in text
