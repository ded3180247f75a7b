"""How large, and of what form, the words of a peer may be; looked at before the core sees them.

Not here: what they mean, and whether they are true (the core). The one idea: no controller passes on what the next one
would refuse, so whoever sends such a thing made it, and its own tunnel ends, nobody else's.
"""

from __future__ import annotations

from ote.api.route.v1 import tunnel_pb2
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.core.clones import MOST_CLONES
from ote.clustercontroller.lanes import FRAME_BYTES, MAX_ITEM
from ote.model.errors import InvalidArgument
from ote.model.names import is_name, is_uid

MAX_RECORD = 256 * 1024
"""Bytes of what one cluster says of itself."""

_MAX_WORD = 256
_MAX_KEY = 1024
_MAX_ACKED = 256
"""Dispatches in one Ack: hops copy all of them for each part of its targets."""
_LONGEST_ID = 64
_SLACK = 2 * FRAME_BYTES

Frame = tunnel_pb2.ConnectRequest | tunnel_pb2.ConnectResponse


def check_frame(frame: Frame, size: int) -> None:
    """A frame is small, or holds one large item. Errors: InvalidArgument (BAD_FRAME)."""
    if size <= _SLACK:
        return
    largest = max((item.ByteSize() for item in frame.items), default=0)
    if largest > MAX_ITEM or size - largest > _SLACK:
        raise _bad(f"a frame of {size} bytes: it takes {FRAME_BYTES}, or one item of at most {MAX_ITEM}")


def check_item(item: m.Item) -> None:
    """Names, ids and sizes in what a peer says of clusters. Errors: InvalidArgument (BAD_FRAME)."""
    if isinstance(item, m.News):
        for record in item.records:
            _check_record(record)
    elif isinstance(item, m.Attach):
        _check_record(item.record)
    elif isinstance(item, m.Hello):
        _check_words(item.name, item.uid, item.instance, item.software)
        if len(item.evictions_digest) > _MAX_WORD or len(item.protocol_versions) > _MAX_WORD:
            raise _bad("a hello that is too large")
    elif isinstance(item, m.Ack):
        if len(item.dispatch_ids) > _MAX_ACKED or any(len(some) > _LONGEST_ID for some in item.dispatch_ids):
            raise _bad(f"an ack of more than {_MAX_ACKED} dispatches, or of an id that is too long")
    elif isinstance(item, m.Evictions) and not all(is_uid(uid) for uid in item.uids):
        raise _bad("the uid of an eviction is not 32 hexadecimal digits")


def _check_record(record: m.ClusterRecord) -> None:
    if not is_name(record.name) or not is_uid(record.uid) or not (record.parent_uid == "" or is_uid(record.parent_uid)):
        raise _bad(f"{record.name[:80]!r} ({record.uid[:40]!r}) cannot be a cluster")
    _check_words(record.instance)
    if len(record.signature) > _MAX_KEY or len(record.public_key) > _MAX_KEY:
        raise _bad("a key or signature that is too large")
    facts = record.facts
    size = 0
    if facts is not None:
        words = [*facts.labels, *facts.labels.values(), *facts.tags, *facts.capabilities, *facts.changed]
        words += [facts.configured_parent, facts.advertise, facts.shim_kind, facts.shim_name, facts.shim_version]
        _check_words(facts.software, facts.journal_id, *words, limit=2 * _MAX_WORD)
        size += sum(map(len, words))
        if len(facts.clones) > MOST_CLONES or not all(map(is_name, facts.clones)):
            raise _bad(f"clones below {record.name} that cannot be")
    if record.status is not None:
        size += len(record.status.cluster_status)
        totals = record.status.totals
        _check_words(*totals.workloads)
        if len(totals.workloads) > _MAX_WORD or len(totals.unwell) > _MAX_WORD or not all(map(is_name, totals.unwell)):
            raise _bad(f"sums of {record.name} that cannot be")
    if size > MAX_RECORD:
        raise _bad(f"what {record.name} says of itself is over {MAX_RECORD} bytes")


def _check_words(*words: str, limit: int = _MAX_WORD) -> None:
    for word in words:
        if len(word) > limit or not word.isprintable():
            raise _bad(f"{word[:40]!r} is too long, or not to be printed")


def _bad(message: str) -> InvalidArgument:
    return InvalidArgument("BAD_FRAME", message)
