"""Settings: which source wins, and what is said about wrong ones."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
import yaml
from msgspec import Meta

from ote.config.load import effective, load
from ote.config.render import render_markdown, render_yaml
from ote.config.settings import BaseSettings, Duration, DurationOrNever, HostPort, Secret, describe
from ote.model.errors import InvalidArgument


class Settings(BaseSettings, frozen=True, kw_only=True):
    name: Annotated[str, Meta(description="The cluster's name.")]
    heartbeat: Annotated[Duration, Meta(description="Time between heartbeats.")] = 2.0
    dead_after: Annotated[Duration, Meta(description="Silence after which the parent is lost.")] = 5.0
    leave_after: Annotated[DurationOrNever, Meta(description="When a cut-off parent is left.")] = 30.0
    listen: Annotated[HostPort, Meta(description="Where to listen.")] = "127.0.0.1:8287"
    advertise: Annotated[HostPort | None, Meta(description="Where others dial.")] = None
    tags: Annotated[tuple[str, ...], Meta(description="Tags.", extra={"flag": "tag"})] = ()
    labels: Annotated[dict[str, str], Meta(description="Labels.", extra={"flag": "label"})] = msgspec.field(
        default_factory=dict
    )
    data_dir: Annotated[Path, Meta(description="Where state is kept.")] = Path("/var/lib/ote")
    join_token: Annotated[Secret | None, Meta(description="Token.")] = None
    log_format: Annotated[Literal["auto", "json", "plain"], Meta(description="Form of | logs.")] = "auto"
    children: Annotated[int, Meta(description="Most children.", ge=1)] = 1000
    drain: Annotated[bool, Meta(description="Drain first.")] = False
    ratio: Annotated[float, Meta(description="Some ratio.", le=1)] = 0.5

    def __post_init__(self) -> None:
        if self.dead_after <= self.heartbeat:
            raise ValueError("dead_after has to be longer than heartbeat")


def refused(reason: str, **sources: object) -> str:
    with pytest.raises(InvalidArgument) as caught:
        load(Settings, **sources)  # type: ignore[arg-type]
    assert caught.value.reason == reason
    return str(caught.value)


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return file


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = written(tmp_path, "name: file\nheartbeat: 1s\ndead_after: 10s\nchildren: 5\n")
    env = {"OTE_NAME": "env", "OTE_HEARTBEAT": "3s", "HOME": "/x", "OTE_CONFIG": "elsewhere"}
    found = load(Settings, file=file, env=env, flags={"name": "flag", "listen": None, "tags": ()})
    assert (found.name, found.heartbeat, found.dead_after, found.children) == ("flag", 3.0, 10.0, 5)
    assert (found.listen, found.tags, found.drain) == ("127.0.0.1:8287", (), False)


def test_every_kind_is_read_from_text() -> None:
    env = {
        "OTE_NAME": "n",
        "OTE_LEAVE_AFTER": "never",
        "OTE_ADVERTISE": "[::1]:80",
        "OTE_TAGS": "gpu, big,",
        "OTE_LABELS": "region=eu,tier=gold",
        "OTE_DATA_DIR": "/data",
        "OTE_LOG_FORMAT": "json",
        "OTE_CHILDREN": "7",
        "OTE_DRAIN": "yes",
        "OTE_RATIO": "0.25",
        "OTE_JOIN_TOKEN": "ote1.abc",
    }
    found = load(Settings, env=env)
    assert found.leave_after == math.inf
    assert (found.advertise, found.tags, found.labels) == ("[::1]:80", ("gpu", "big"), {"region": "eu", "tier": "gold"})
    assert (found.data_dir, found.log_format, found.children) == (Path("/data"), "json", 7)
    assert (found.drain, found.ratio, found.join_token) == (True, 0.25, "ote1.abc")


def test_every_kind_is_read_from_a_file_and_from_flags(tmp_path: Path) -> None:
    text = "name: 12\nheartbeat: 1\ntags: [a, b]\nlabels: {region: eu}\ndrain: true\nratio: 1\nadvertise: ''\n"
    found = load(Settings, file=written(tmp_path, text))
    assert (found.name, found.heartbeat, found.tags, found.labels) == ("12", 1.0, ("a", "b"), {"region": "eu"})
    assert (found.drain, found.ratio, found.advertise) == (True, 1.0, None)
    flags = {"name": "n", "tags": ("a",), "labels": ("k=v",), "data_dir": Path("/d"), "drain": True, "children": 3}
    given = load(Settings, flags=flags)
    assert (given.tags, given.labels, given.data_dir, given.drain, given.children) == (
        ("a",),
        {"k": "v"},
        Path("/d"),
        True,
        3,
    )


def test_a_list_is_taken_with_commas_repeated_and_both(tmp_path: Path) -> None:
    wanted = (("a", "b", "c"), {"region": "eu", "tier": "gold"})
    flags = {"name": "n", "tags": ("a,b", "c"), "labels": ("region=eu, tier=gold",)}
    given = load(Settings, flags=flags)
    read = load(Settings, file=written(tmp_path, "name: n\ntags: ['a,b', c]\nlabels: 'region=eu,tier=gold'\n"))
    assert (given.tags, given.labels) == (read.tags, read.labels) == wanted
    assert "given twice" in refused("INVALID_SETTING", flags=flags | {"labels": ("a=1,a=2",)})
    assert "write KEY=VALUE" in refused("INVALID_SETTING", flags=flags | {"labels": ("a=1,b",)})


def test_a_misspelt_key_stops_the_start_with_a_suggestion(tmp_path: Path) -> None:
    file = written(tmp_path, "name: n\ndead-after: 5s\n")
    assert "did you mean dead_after?" in refused("UNKNOWN_SETTING", file=file)
    assert "did you mean OTE_DEAD_AFTER?" in refused("UNKNOWN_SETTING", env={"OTE_DEAD_AFTR": "5s"})
    assert "did you mean" not in refused("UNKNOWN_SETTING", flags={"zzzzzz": "1"})
    assert load(Settings, env={"OTE_NAME": "n", "OTE_REAL": "1"}).name == "n"


def test_what_is_missing_is_named_with_every_way_to_give_it() -> None:
    assert refused("MISSING_SETTING") == "required: --name (or OTE_NAME, or name in the file)"


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("heartbeat", "5x", "is not a duration"),
        ("heartbeat", "never", "is not a duration"),
        ("heartbeat", {"a": 1}, "is not a duration: write 500ms, 2s"),
        ("heartbeat", True, "is not a duration: write 500ms, 2s"),
        ("heartbeat", -1, ">= 0"),
        ("listen", "nonsense", "write HOST:PORT"),
        ("log_format", "jsn", "did you mean json?"),
        ("children", "0", ">= 1"),
        ("children", "many", "is not a whole number"),
        ("children", [1], "int"),
        ("ratio", "x", "is not a number"),
        ("drain", "maybe", "neither true nor false"),
        ("labels", ["a"], "write KEY=VALUE"),
        ("labels", {"a": 1}, "str"),
        ("tags", [1], "list of texts"),
        ("name", {"a": 1}, "str"),
        ("join_token", "@/does/not/exist", "cannot read"),
    ],
)
def test_a_wrong_value_is_named_with_its_source(name: str, value: object, complaint: str) -> None:
    text = refused("INVALID_SETTING", flags={"name": "n", name: value})
    flag = {"labels": "label", "tags": "tag"}.get(name, name.replace("_", "-"))
    assert text.startswith(f"setting {name} (from --{flag}): ")
    assert complaint in text


def test_settings_that_contradict_each_other_are_refused() -> None:
    assert "longer than heartbeat" in refused("INVALID_SETTING", flags={"name": "n", "heartbeat": "9s"})


@pytest.mark.parametrize(
    "text", ["- a\n", "1: 2\n", "a: [\n", "\x00", "x: &a [1]\ny: *a\n", "a: b: c\n", "?" * 3000, "# " + "x" * (1 << 20)]
)
def test_what_is_no_settings_file_is_told_so(tmp_path: Path, text: str) -> None:
    assert "config.yaml" in refused("INVALID_FILE", file=written(tmp_path, text))


def test_a_file_that_is_not_there_or_not_text_is_told_so(tmp_path: Path) -> None:
    assert "No such file" in refused("INVALID_FILE", file=tmp_path / "none.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\xfa")
    refused("INVALID_FILE", file=tmp_path / "b.yaml")


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load(Settings, file=written(tmp_path, "# nothing\n"), flags={"name": "n"}) == Settings(name="n")


def test_a_secret_may_come_from_a_file_and_is_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("ote1.secret\n")
    found = load(Settings, flags={"name": "n", "join_token": f"@{file}"})
    assert found.join_token == "ote1.secret"
    shown = effective(found)
    assert shown["join_token"] == "***"
    assert "secret" not in str(shown)
    assert effective(Settings(name="n"))["join_token"] == ""


def test_the_effective_settings_are_shown_as_people_write_them() -> None:
    shown = effective(Settings(name="n", leave_after=math.inf, tags=("a",), labels={"k": "v"}))
    assert (shown["dead_after"], shown["leave_after"], shown["tags"], shown["labels"]) == (
        "5s",
        "never",
        ["a"],
        {"k": "v"},
    )
    assert list(shown) == [option.name for option in describe(Settings)]


def test_each_setting_describes_itself() -> None:
    options = {option.name: option for option in describe(Settings)}
    assert all(option.doc for option in options.values())
    assert (options["name"].required, options["dead_after"].default) == (True, 5.0)
    assert (options["tags"].flag, options["tags"].repeated, options["labels"].metavar) == ("tag", True, "K=V")
    assert (options["join_token"].secret, options["log_format"].choices) == (True, ("auto", "json", "plain"))
    assert (options["drain"].metavar, options["log_format"].metavar) == ("", "auto|json|plain")
    assert (options["data_dir"].flag, options["data_dir"].env, options["data_dir"].kind) == (
        "data-dir",
        "OTE_DATA_DIR",
        "path",
    )


def test_a_field_of_a_type_that_cannot_be_written_is_a_mistake_of_the_program() -> None:
    class Odd(BaseSettings, frozen=True, kw_only=True):
        when: Annotated[frozenset[int], Meta(description="x")] = frozenset()

    with pytest.raises(TypeError, match="when"):
        describe(Odd)


def test_the_file_written_for_people_changes_nothing_and_loads_when_uncommented(tmp_path: Path) -> None:
    text = render_yaml(Settings)
    assert yaml.safe_load(text) is None
    keys = {option.name for option in describe(Settings)}
    lines = [line[2:] for line in text.splitlines() if line[2:].partition(":")[0] in keys]
    assert len(lines) == len(keys)
    file = written(tmp_path, "\n".join(lines))
    assert load(Settings, file=file, flags={"name": "n"}) == Settings(name="n")


def test_the_table_for_people_has_a_row_for_each_setting() -> None:
    rows = render_markdown(Settings).splitlines()
    assert len(rows) == 2 + len(describe(Settings))
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)
    assert "`--tag TEXT` …" in render_markdown(Settings)
