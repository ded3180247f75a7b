"""What people type, and what becomes of it."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from ote.api.route.v1 import route_pb2
from ote.cli.facts import label_changes, tag_changes
from ote.cli.kinds import kind_of, split_reference
from ote.cli.main import cli
from ote.cli.objects import readiness
from ote.cli.params import DURATION
from ote.cli.program import Program
from ote.cli.story import Story
from ote.cli.token import join_line
from ote.cli.tree import draw, nest
from ote.model.errors import InvalidArgument, NotFound


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90s", 90), ("1h30m", 5400), ("500ms", 0.5), ("2d", 172_800), ("1.5h", 5400)]
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "5", "-5s", "5 s", "s", "1x", "1h-5m", "400d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"is not a duration|is too long"):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize(
    ("typed", "kind"),
    [
        ("deploy", "Deployment"),
        ("Deployments", "Deployment"),
        ("po", "Pod"),
        ("ingresses", "Ingress"),
        ("networkpolicies", "NetworkPolicy"),
        ("secrets", "Secret"),
        ("Widget", "Widget"),
    ],
)
def test_kinds_are_known_by_their_short_and_plural_names(typed: str, kind: str) -> None:
    assert kind_of(typed) == kind


@pytest.mark.parametrize("text", ["web", "pod/", "/web", "pod/a/b"])
def test_a_reference_is_kind_and_name(text: str) -> None:
    with pytest.raises(InvalidArgument):
        split_reference(text)


def test_changes_of_labels_and_tags() -> None:
    assert label_changes(["a=b", "c="]) == ({"a": "b", "c": ""}, [])
    assert label_changes(["a-b-"]) == ({}, ["a-b"])
    assert tag_changes(["+a", "-b"]) == (["a"], ["b"])
    for changes in (["a"], ["=b"], ["a=b", "a-"]):
        with pytest.raises(InvalidArgument):
            label_changes(changes)
    for changes in (["a"], ["+"], ["+a", "-a"], [""]):
        with pytest.raises(InvalidArgument):
            tag_changes(changes)


def test_the_join_line_can_be_pasted() -> None:
    line = join_line("edge-1", "10.0.0.1:8287", "a'b")
    assert line == (
        "ote-clustercontroller --name edge-1 --data-dir ./edge-1 --parent 10.0.0.1:8287 --join-token 'a'\"'\"'b'"
    )
    assert " --name NAME " in join_line("edge-*", "p:1", "t")
    assert " --name NAME " in join_line("", "p:1", "t")
    assert join_line("", "p:1", "t", children=True) == join_line("", "p:1", "t") + " --advertise HOST:PORT"


@pytest.mark.parametrize(
    ("one", "shown"),
    [
        ({"kind": "Pod", "spec": {"containers": [{}, {}]}}, ("0/2", "")),
        ({"kind": "Deployment", "spec": {"replicas": 3}, "status": {"readyReplicas": 2}}, ("2/3", "")),
        ({"kind": "DaemonSet", "status": {"numberReady": 1, "desiredNumberScheduled": 2}}, ("1/2", "")),
        ({"kind": "Job", "status": {"failed": 1}}, ("0/1", "Failed")),
        ({"kind": "Job", "status": {"succeeded": 1}}, ("1/1", "")),
        ({"kind": "Namespace", "status": {"phase": "Active"}}, ("", "Active")),
        ("nonsense", ("", "")),
    ],
)
def test_readiness_is_shown_where_a_kind_has_it(one: object, shown: tuple[str, str]) -> None:
    assert readiness(one) == shown


def member(name: str, parent: str, state: str = "ONLINE", uid: str = "") -> dict[str, object]:
    return {
        "name": name,
        "uid": uid or name,
        "state": state,
        "parent": parent,
        "configured_parent": "",
        "path": ["?"] * (1 if not parent else 2),
        "shim": None,
        "last_seen": None,
    }


def test_a_tree_is_drawn_also_when_its_news_contradict_one_another() -> None:
    clusters = [
        member("root", ""),
        member("a", "b"),
        member("b", "a"),
        member("lost", "nobody"),
        member("twin", "root"),
        member("twin", "root", "NAME_CONFLICT", "other"),
    ]
    lines = [line for root in nest(clusters) for line in draw(root)]
    assert lines == ["root", "├── twin", "└── twin NAME_CONFLICT", "b", "└── a", "lost"]


def test_a_story_takes_each_change_once() -> None:
    story = Story()
    target = route_pb2.Target(cluster="a", state=route_pb2.TARGET_STATE_RUNNING)
    event = route_pb2.DispatchResponse(changed=route_pb2.Targets(targets=[target]))
    assert story.take(event) == [target]
    assert story.take(event) == []
    assert story.take(route_pb2.DispatchResponse(accepted=route_pb2.Accepted(dispatch="r/1", targets=[target]))) == []
    assert (story.name, story.finished) == ("r/1", False)
    story.take(route_pb2.DispatchResponse(summary=route_pb2.Summary()))
    assert story.finished
    assert story.states() == {"RUNNING": 1}


def failing(error: BaseException) -> click.Group:
    program = Program()

    @program.command()
    def fail() -> None:
        raise error

    return program


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (NotFound("X", "no such\nthing"), 6, "error: no such thing\n"),
        (ValueError("boom"), 1, "error: internal: ValueError: boom; OTE_DEBUG=1 shows where\n"),
        (KeyboardInterrupt(), 130, ""),
        (click.UsageError("say how"), 2, "error: say how; see ote-ctl fail --help\n"),
    ],
)
def test_an_error_is_one_line_and_an_exit_code(error: BaseException, code: int, line: str) -> None:
    result = CliRunner(env={"OTE_DEBUG": ""}).invoke(failing(error), ["fail"], prog_name="ote-ctl")
    assert (result.exit_code, result.stderr) == (code, line)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--what"], "error: no such option"),
        (["nonsense"], "error: no such command 'nonsense'; see ote-ctl --help\n"),
        (["aply"], "error: no such command 'aply' (did you mean apply?); see ote-ctl --help\n"),
        (["token", "lst"], "error: no such command 'lst' (did you mean list?); see ote-ctl token --help\n"),
        (["cluster", "get"], "error: missing argument 'NAME'; see ote-ctl cluster get --help\n"),
        (["apply", "--ttl", "x"], "error: invalid value for '--ttl': 'x' is not a duration"),
    ],
)
def test_what_was_typed_wrong_is_one_line_too(arguments: list[str], line: str) -> None:
    result = CliRunner().invoke(cli, arguments, prog_name="ote-ctl")
    assert result.exit_code == 2
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1


def test_a_noun_alone_shows_its_verbs() -> None:
    result = CliRunner().invoke(cli, ["cluster"], prog_name="ote-ctl")
    assert "drain  Move a controller's children away" in result.output


def test_where_a_fault_happened_is_told_on_request() -> None:
    result = CliRunner(env={"OTE_DEBUG": "1"}).invoke(failing(ValueError("boom")), ["fail"])
    assert "Traceback" in result.stderr
