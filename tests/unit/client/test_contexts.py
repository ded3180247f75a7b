from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ote.client.contexts import (
    Context,
    Contexts,
    Entry,
    add_entries,
    config_path,
    load_contexts,
    parse_contexts,
    save_contexts,
    write_context_file,
)
from ote.model.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from ote.pki import Authority

PEM = "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n"
ROOT = Context("root", (Entry("10.0.0.1:8287", "root.ote"),), PEM, PEM, "key\n")
OTHER = Context("root", (Entry("10.9.0.1:8287", "root.ote"),), "another tree", "cert", "key")


def test_what_is_written_is_read_back_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "admin.yaml"
    write_context_file(path, ROOT)
    assert load_contexts(path) == Contexts("root", (ROOT,))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["admin.yaml"]


def test_certificates_are_blocks_that_people_can_read() -> None:
    assert "  ca: |\n    -----BEGIN CERTIFICATE-----\n    abc\n" in ROOT.to_yaml()


def test_a_context_never_prints_its_key() -> None:
    assert "key" not in repr(ROOT)


def test_the_current_context_is_meant_unless_another_is_named() -> None:
    edge = Context("edge")
    contexts = Contexts("root", (ROOT, edge))
    assert contexts.get() is ROOT
    assert contexts.get("edge") is edge
    assert contexts.use("edge").get() is edge
    assert Contexts("", (edge,)).get() is edge
    for others, name in ((contexts, "x"), (Contexts("", (ROOT, edge)), ""), (Contexts(), "")):
        with pytest.raises(NotFound):
            others.get(name)


def test_the_same_tree_brings_its_entries_and_fresh_certificates_along() -> None:
    fresh = Context("root", (Entry("10.0.0.2:8287", "east.ote"),), PEM, "fresh", "fresh")
    merged, added = Contexts("root", (ROOT,)).merge([fresh])
    assert added == [Context("root", (*ROOT.entries, *fresh.entries), PEM, "fresh", "fresh")]
    assert merged == Contexts("root", tuple(added))


def test_another_tree_of_the_same_name_gets_a_number() -> None:
    merged, added = Contexts().merge([ROOT, OTHER])
    assert [one.name for one in added] == ["root", "root-2"]
    assert merged.current == "root"
    again, added = merged.merge([OTHER])
    assert (again, [one.name for one in added]) == (merged, ["root-2"])
    assert Contexts().merge([]) == (Contexts(), [])


def test_another_person_of_the_same_tree_does_not_take_the_place_of_the_first() -> None:
    tree = Authority.create_root("11" * 16)
    admin, viewer, successor = (
        Context("root", (Entry("10.0.0.1:8287", "root.ote"),), PEM, tree.issue_person(*who, 60.0)[0].decode(), "key")
        for who in (("admin", "a1"), ("viewer", "a1"), ("admin", "a2"))
    )
    contexts = Contexts("root", (admin,))
    assert contexts.merge([admin]) == (contexts, [admin])
    for other, told in ((viewer, "viewer a1"), (successor, "admin a2")):
        with pytest.raises(AlreadyExists, match=f"is that of admin a1, not of {told}: --name keeps both"):
            contexts.merge([other])
        assert contexts.merge([other], replace=True) == (Contexts("root", (other,)), [other])


def test_an_entry_of_a_known_address_takes_the_place_of_the_old() -> None:
    entries = [Entry("10.0.0.1:8287", "renamed.ote"), Entry("10.0.0.3:8287")]
    assert add_entries(ROOT, entries).entries == tuple(entries)


def test_the_flag_wins_over_the_environment_and_that_over_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.delenv("OTE_CONFIG", raising=False)
    assert config_path(None) == Path("/home/x/.config/ote/config.yaml")
    monkeypatch.setenv("OTE_CONFIG", "/env.yaml")
    assert config_path(None) == Path("/env.yaml")
    assert config_path("/flag.yaml") == Path("/flag.yaml")


def test_an_absent_file_is_empty(tmp_path: Path) -> None:
    assert load_contexts(tmp_path / "none.yaml") == Contexts()
    assert parse_contexts("", "x") == Contexts()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "x is not YAML: line 1: "),
        ("\x00", "x is not YAML: "),
        ("contexts: 5", "x is not a contexts file: Expected `array`"),
        ("curent: root", "x is not a contexts file: Object contains unknown field `curent`"),
        ("contexts: [{name: a}, {name: a}]", "x has the context a twice"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_contexts(text, "x")
    assert caught.value.message.startswith(message)


def test_a_file_that_cannot_be_read_or_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cannot read"):
        load_contexts(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(FailedPrecondition, match="cannot write"):
        save_contexts(tmp_path / "file" / "config.yaml", Contexts())
    (tmp_path / "folder").mkdir()
    with pytest.raises(FailedPrecondition, match="cannot write"):
        save_contexts(tmp_path / "folder", Contexts())
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
