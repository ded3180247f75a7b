"""docs/protocol.md says what the code does, where that can be compared."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ote.api.route.v1 import tunnel_pb2
from ote.clustercontroller import bulk, dispatches, lanes, payloads
from ote.clustercontroller.core import credit, questions
from ote.clustercontroller.core.context import CoreSettings, statement
from ote.clustercontroller.core.digest import mark
from ote.clustercontroller.core.entries import ClusterEntry
from ote.clustercontroller.core.messages import ClusterRecord, Facts
from ote.clustercontroller.details import HOME_OF, STATUS_OF
from ote.clustercontroller.settings import Settings
from ote.config.load import load
from ote.pki import new_key, public_key_of, sign_statement, verify_statement
from ote.pki.keys import load_private_key

CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs" / "protocol.md").read_text()
CORE = CHECKOUT / "ote" / "clustercontroller" / "core"
RECORD = ClusterRecord("u" * 32, "edge", "p" * 32, 7, "i1", b"", b"", up=True)


def rows(heading: str) -> list[list[str]]:
    """Cells of the first table after a heading, without the table's head."""
    text = PAGE.split(heading, 1)[1]
    table = re.search(r"^\|.*(?:\n\|.*)+", text, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[0].splitlines()[2:]]


def test_every_item_of_the_tunnel_is_on_the_page() -> None:
    fields = [*tunnel_pb2.UpItem.DESCRIPTOR.fields, *tunnel_pb2.DownItem.DESCRIPTOR.fields]
    items = {field.message_type.name for field in fields if field.message_type is not None}
    assert sorted(item for item in items if not re.search(rf"\b{item}\b", PAGE)) == []


def test_the_lanes_are_those_of_the_code() -> None:
    shown = {row[0]: {word.strip() for word in row[1].split(",")} for row in rows("### Lanes")}
    used: dict[str, set[str]] = {}
    for item, lane in lanes.LANE_OF.items():
        used.setdefault(lane.value, set()).add(item.__name__)
    assert shown == used


def test_every_refusal_has_a_row() -> None:
    code = "\n".join((CORE / name).read_text() for name in ("children.py", "welcoming.py", "controller.py"))
    given = set(re.findall(r'Refused\(\s*"([A-Z_]+)"', code))
    assert given | {"EVICTED"} == {row[0].partition("(")[0] for row in rows("### Why a link is refused")}


def test_every_kind_of_report_has_a_row() -> None:
    kinds = {name.removeprefix("REPORT_KIND_") for name in tunnel_pb2.ReportKind.DESCRIPTOR.values_by_name} - {
        "UNSPECIFIED"
    }
    assert kinds == {row[0] for row in rows("### What a report means")}


def test_the_questions_are_those_that_are_answered() -> None:
    shown = {row[0].strip("`"): row[1] for row in rows("## 9. Questions")}
    assert shown.keys() == questions.ASKED_FROM_BELOW | {dispatches.CANCEL_DISPATCH, STATUS_OF, HOME_OF}
    for method in (dispatches.CANCEL_DISPATCH, STATUS_OF, HOME_OF):
        assert "only from above" in shown[method]


def test_the_signed_bytes_are_those_of_the_page() -> None:
    block = re.search(r"```text\n(ote statement 1.*)\n```", PAGE)
    assert block is not None
    filled = block[1].replace("<uid>", RECORD.uid).replace("<epoch>", str(RECORD.epoch))
    filled = filled.replace("<parent_uid>", RECORD.parent_uid).replace("<instance>", RECORD.instance)
    signed = filled.replace("\\0", "\0").replace("\\n", "\n").encode()
    key = new_key()
    assert verify_statement(public_key_of(key), statement(RECORD), sign_statement(key, statement(RECORD)))
    domain, _, rest = signed.partition(b"\0")
    assert rest == statement(RECORD)
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    by_hand = load_private_key(key).sign(domain + b"\0" + rest, ec.ECDSA(hashes.SHA256()))
    assert verify_statement(public_key_of(key), statement(RECORD), by_hand)


def test_the_digest_of_one_attachment_is_that_of_the_page() -> None:
    assert "`<uid>:<epoch>:<facts version>:<status version>:1`" in PAGE
    entry = ClusterEntry(
        registry=None,  # type: ignore[arg-type]  # not needed for a mark
        uid=RECORD.uid,
        name=RECORD.name,
        parent_uid=RECORD.parent_uid,
        epoch=RECORD.epoch,
        instance=RECORD.instance,
        signature=b"",
        public_key=b"",
        up=True,
        first_seen=1,
        changed_at=0.0,
        heard_at=0.0,
        facts=Facts(version=3),
    )
    expected = hashlib.sha256(f"{RECORD.uid}:7:3:0:1".encode()).digest()[:8]
    assert mark(entry) == int.from_bytes(expected, "big")


def test_the_limits_of_a_frame_are_those_of_the_code() -> None:
    taken = f"{2 * lanes.FRAME_BYTES >> 10} KiB"
    assert f"A frame takes {lanes.FRAME_BYTES >> 10} KiB, or" in PAGE
    within = f"{lanes.QUICK_WITHIN:g} s"
    quick = f"For {within} after the link has carried {lanes.QUICK_BYTES >> 10} KiB within {within}"
    assert f"{quick} a frame takes {lanes.LARGE_FRAME_BYTES >> 10} KiB." in " ".join(PAGE.split())
    assert f"BAD_FRAME for a frame over {taken} that is not one large item" in PAGE
    security = (CHECKOUT / "docs" / "security.md").read_text()
    ours = f"ours take at most {lanes.LARGE_FRAME_BYTES >> 10} KiB"
    assert f"| frame of a tunnel | {taken} ({ours}), or one item of at most " in security


def test_the_numbers_are_those_of_the_code() -> None:
    numbers = {row[0]: row[1] for row in rows("## 10. Numbers")}
    core, settings = CoreSettings(), load(Settings, flags={"data_dir": "x"})
    assert numbers["heartbeat, dead-after"] == f"{settings.heartbeat:.0f} s, {settings.dead_after:.0f} s (settings)"
    assert numbers["admission"] == f"{core.admit_per_second:.0f} hellos a second"
    assert numbers["resend"].startswith(f"{core.resend_base:.0f} s … {core.resend_cap:.0f} s")
    assert numbers["frame, item, lane, all queues"] == (
        f"{lanes.FRAME_BYTES >> 10} … {lanes.LARGE_FRAME_BYTES >> 10} KiB, {lanes.MAX_ITEM >> 10} KiB, "
        f"1 MiB (registry 32 MiB), {lanes.Budget().limit >> 20} MiB"
    )
    assert numbers["piece, chunk, credit, payload"] == (
        f"{bulk.PIECE >> 10} KiB, {credit.CHUNK >> 10} … {credit.LARGEST_CHUNK >> 10} KiB, "
        f"{credit.START >> 10} KiB ({credit.FLOOR >> 10} … {credit.MOST >> 10} KiB), {payloads.MAX_PAYLOAD >> 20} MiB"
    )
    assert numbers["OUTCOME_UNKNOWN without an answer"].startswith(f"{core.unknown_after / 60:.0f} min")
