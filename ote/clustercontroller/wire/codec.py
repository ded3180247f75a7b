"""Translates the core's messages to and from `tunnel.proto`. Nothing is decided here.

`write_up`, `write_down` serialise an item as it stands in a frame: what is queued has a known size, and frames are
joined without touching their items again. `decode_up`, `decode_down` make a message of a protobuf item, and None of one
that this version does not know, which a receiver ignores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Generic, TypeVar

from ote.api.command.v1 import command_pb2
from ote.api.route.v1 import tunnel_pb2 as pb
from ote.clustercontroller.core import messages as m
from ote.clustercontroller.wire.totals import decode_totals, encode_totals

T = TypeVar("T")

# --- parts --------------------------------------------------------------------------------------------------------


def _standing(value: m.Standing) -> pb.Standing:
    return pb.Standing(beat=value.beat, depth=value.depth)


def _from_standing(value: pb.Standing) -> m.Standing:
    return m.Standing(value.beat, value.depth)


def _path(steps: list[m.PathStep]) -> list[pb.PathStep]:
    return [pb.PathStep(name=step.name, uid=step.uid) for step in steps]


def _from_path(steps: Any) -> list[m.PathStep]:
    return [m.PathStep(step.name, step.uid) for step in steps]


def _alternate(value: m.Alternate | None) -> pb.Alternate | None:
    return None if value is None else pb.Alternate(name=value.name, uid=value.uid, address=value.address)


def _from_alternate(value: pb.Alternate) -> m.Alternate:
    return m.Alternate(value.name, value.uid, value.address)


def _digest(value: m.Digest) -> pb.Digest:
    return pb.Digest(count=value.count, sum=value.sum)


def _from_digest(value: pb.Digest) -> m.Digest:
    return m.Digest(value.count, value.sum)


def encode_payload(value: m.Payload) -> command_pb2.PayloadRef:
    """A payload's name as RouteService and ShimService carry it."""
    return command_pb2.PayloadRef(sha256=value.sha256, size=value.size, pieces=value.pieces)


def decode_payload(value: command_pb2.PayloadRef) -> m.Payload:
    """The reverse of `encode_payload`."""
    return m.Payload(value.sha256, value.size, list(value.pieces))


def _facts(value: m.Facts | None) -> pb.Facts | None:
    if value is None:
        return None
    return pb.Facts(
        version=value.version,
        labels=value.labels,
        tags=value.tags,
        configured_parent=value.configured_parent,
        advertise=value.advertise,
        draining=value.draining,
        shim_kind=value.shim_kind,
        shim_name=value.shim_name,
        shim_version=value.shim_version,
        capabilities=value.capabilities,
        software=value.software,
        journal_id=value.journal_id,
        changed=value.changed,
        draining_since_ms=value.draining_since_ms,
        shim_silent_since_ms=value.shim_silent_since_ms,
        clones=value.clones,
    )


def _from_facts(value: pb.Facts) -> m.Facts:
    return m.Facts(
        version=value.version,
        labels=dict(value.labels),
        tags=list(value.tags),
        configured_parent=value.configured_parent,
        advertise=value.advertise,
        draining=value.draining,
        shim_kind=value.shim_kind,
        shim_name=value.shim_name,
        shim_version=value.shim_version,
        capabilities=list(value.capabilities),
        software=value.software,
        journal_id=value.journal_id,
        changed=list(value.changed),
        draining_since_ms=value.draining_since_ms,
        shim_silent_since_ms=value.shim_silent_since_ms,
        clones=tuple(value.clones),
    )


def _status(value: m.Status | None) -> pb.Status | None:
    if value is None:
        return None
    return pb.Status(version=value.version, cluster_status=value.cluster_status, totals=encode_totals(value.totals))


def _from_status(value: pb.Status) -> m.Status:
    return m.Status(value.version, value.cluster_status, decode_totals(value.totals))


def _record(value: m.ClusterRecord) -> pb.ClusterRecord:
    return pb.ClusterRecord(
        uid=value.uid,
        name=value.name,
        parent_uid=value.parent_uid,
        epoch=value.epoch,
        instance=value.instance,
        signature=value.signature,
        public_key=value.public_key,
        up=value.up,
        silent_ms=value.silent_ms,
        facts=_facts(value.facts),
        status=_status(value.status),
    )


def _from_record(value: pb.ClusterRecord) -> m.ClusterRecord:
    return m.ClusterRecord(
        uid=value.uid,
        name=value.name,
        parent_uid=value.parent_uid,
        epoch=value.epoch,
        instance=value.instance,
        signature=value.signature,
        public_key=value.public_key,
        up=value.up,
        silent_ms=value.silent_ms,
        facts=_from_facts(value.facts) if value.HasField("facts") else None,
        status=_from_status(value.status) if value.HasField("status") else None,
    )


def _target(value: m.DeliveryTarget, make: Callable[..., pb.DeliveryTarget] = pb.DeliveryTarget) -> pb.DeliveryTarget:
    return make(
        uid=value.uid,
        journal_id=value.journal_id,
        seq=value.seq,
        after=value.after,
        attempt=value.attempt,
        known=value.known,
        after_ended=value.after_ended,
    )


def _from_target(value: pb.DeliveryTarget) -> m.DeliveryTarget:
    return m.DeliveryTarget(
        value.uid, value.journal_id, value.seq, value.after, value.attempt, value.known, value.after_ended
    )


class Sealed(Generic[T]):
    """The items of a protobuf message that came, translated only where they are read."""

    __slots__ = ("_open", "message")

    def __init__(self, message: Any, open_one: Callable[[Any], T | None]) -> None:
        self.message = message
        self._open = open_one

    def __iter__(self) -> Iterator[T]:
        for item in self.message.items:
            if (opened := self._open(item)) is not None:
                yield opened

    def __len__(self) -> int:
        return len(self.message.items)


# --- items: core to protobuf --------------------------------------------------------------------------------------


def _hello(v: m.Hello) -> pb.Hello:
    return pb.Hello(
        protocol_versions=v.protocol_versions,
        name=v.name,
        uid=v.uid,
        instance=v.instance,
        epoch=v.epoch,
        best=None if v.best is None else _standing(v.best),
        software=v.software,
        evictions_digest=v.evictions_digest,
        last_resort=v.last_resort,
    )


def _welcome(v: m.Welcome) -> pb.Welcome:
    return pb.Welcome(
        protocol_version=v.protocol_version,
        name=v.name,
        uid=v.uid,
        instance=v.instance,
        standing=_standing(v.standing),
        connected=v.connected,
        path=_path(v.path),
        heartbeat_ms=v.heartbeat_ms,
        dead_after_ms=v.dead_after_ms,
        known_epoch=v.known_epoch,
        draining=v.draining,
        evictions_digest=v.evictions_digest,
    )


def _beat(v: m.Beat) -> pb.Beat:
    return pb.Beat(
        standing=_standing(v.standing),
        silence_ms=v.silence_ms,
        path=_path(v.path),
        draining=v.draining,
    )


def _alternates(v: m.Alternates) -> pb.Alternates:
    return pb.Alternates(
        uncles=[pb.Alternate(name=a.name, uid=a.uid, address=a.address) for a in v.uncles],
        grandparent=_alternate(v.grandparent),
        siblings=[pb.Alternate(name=a.name, uid=a.uid, address=a.address) for a in v.siblings],
        parent=_alternate(v.parent),
    )


def _deliver(v: m.Deliver, make: Callable[..., pb.Deliver] = pb.Deliver) -> pb.Deliver:
    item = make(
        origin_uid=v.origin_uid,
        origin_name=v.origin_name,
        incarnation=v.incarnation,
        dispatch_id=v.dispatch_id,
        command=v.command,
        change=v.change,
        ttl_ms=v.ttl_ms,
        timeout_ms=v.timeout_ms,
        hop_limit=v.hop_limit,
        inline=v.inline or b"",
    )
    if v.payload is not None:
        item.payload.CopyFrom(encode_payload(v.payload))
    for target in v.targets:
        _target(target, item.targets.add)
    return item


def _deliveries(v: m.Deliveries) -> pb.Deliveries:
    if isinstance(v.items, Sealed):
        sealed: pb.Deliveries = v.items.message
        sealed.hop_limit = v.hop_limit
        return sealed
    item = pb.Deliveries(target_uid=v.target_uid, hop_limit=v.hop_limit)
    for deliver in v.items:
        _deliver(deliver, item.items.add)
    return item


def _revoke(v: m.Revoke) -> pb.Revoke:
    return pb.Revoke(
        origin_uid=v.origin_uid,
        incarnation=v.incarnation,
        dispatch_id=v.dispatch_id,
        expired=v.expired,
        hop_limit=v.hop_limit,
        targets=[_target(target) for target in v.targets],
    )


def _report(v: m.Report, make: Callable[..., pb.Report] = pb.Report) -> pb.Report:
    return make(
        origin_uid=v.origin_uid,
        incarnation=v.incarnation,
        dispatch_id=v.dispatch_id,
        target_uid=v.target_uid,
        kind=_KIND_NUMBER[v.kind],
        attempt=v.attempt,
        journal_id=v.journal_id,
        journal_number=v.journal_number,
        highest_seq=v.highest_seq,
        state=_STATE_NUMBER[v.state],
        body=v.body,
        retry_after_ms=v.retry_after_ms,
        hop_limit=v.hop_limit,
        output_bytes=v.output_bytes,
    )


def _reports(v: m.Reports) -> pb.Reports:
    if isinstance(v.items, Sealed):
        sealed: pb.Reports = v.items.message
        sealed.hop_limit = v.hop_limit
        return sealed
    item = pb.Reports(origin_uid=v.origin_uid, target_uid=v.target_uid, hop_limit=v.hop_limit)
    for report in v.items:
        _report(report, item.items.add)
    return item


def _ack(v: m.Ack) -> pb.Ack:
    return pb.Ack(
        origin_uid=v.origin_uid, target_uids=v.target_uids, dispatch_ids=v.dispatch_ids, hop_limit=v.hop_limit
    )


def _call(v: m.Call) -> pb.Call:
    return pb.Call(id=v.id, from_uid=v.from_uid, to_uid=v.to_uid, method=v.method, body=v.body, hop_limit=v.hop_limit)


def _reply(v: m.Reply) -> pb.Reply:
    return pb.Reply(
        id=v.id,
        to_uid=v.to_uid,
        code=v.code,
        reason=v.reason,
        message=v.message,
        body=v.body,
        hop_limit=v.hop_limit,
    )


_KINDS = (m.RECEIVED, m.PROGRESS, m.RESULT, m.NO_ROUTE, m.BUSY, m.JOURNAL_CHANGED, m.FORGOTTEN)
_KIND_NUMBER = {kind: pb.ReportKind.Value(f"REPORT_KIND_{kind}") for kind in _KINDS}
_KIND_NAME = {number: kind for kind, number in _KIND_NUMBER.items()}
_STATES = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED", "OUTCOME_UNKNOWN")
_STATE_NUMBER = {state: pb.ReportState.Value(f"REPORT_STATE_{state}") for state in _STATES}
_STATE_NUMBER[""] = pb.REPORT_STATE_UNSPECIFIED
_STATE_NAME = {number: state for state, number in _STATE_NUMBER.items()}

_ENCODERS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    m.Hello: ("hello", _hello),
    m.Welcome: ("welcome", _welcome),
    m.Refused: (
        "refused",
        lambda v: pb.Refused(reason=v.reason, message=v.message, retry_after_ms=v.retry_after_ms, epoch=v.epoch),
    ),
    m.Attach: ("attach", lambda v: pb.Attach(record=_record(v.record), digest=_digest(v.digest))),
    m.Attached: ("attached", lambda v: pb.Attached(epoch=v.epoch)),
    m.Heartbeat: ("heartbeat", lambda v: pb.Heartbeat(silence_ms=v.silence_ms, digest=_digest(v.digest))),
    m.Beat: ("beat", _beat),
    m.Goodbye: ("goodbye", lambda v: pb.Goodbye(epoch=v.epoch, next_epoch=v.next_epoch)),
    m.Drained: ("drained", lambda v: pb.Drained()),
    m.Alternates: ("alternates", _alternates),
    m.News: (
        "news",
        lambda v: pb.News(
            records=[_record(record) for record in v.records],
            full_begin=v.full_begin,
            full_end=v.full_end,
            part=v.part,
        ),
    ),
    m.Resync: ("resync", lambda v: pb.Resync()),
    m.Away: ("away", lambda v: pb.Away(uid=v.uid, epoch=v.epoch, parent=v.parent, instance=v.instance)),
    m.Evictions: ("evictions", lambda v: pb.Evictions(uids=v.uids)),
    m.Deliver: ("deliver", _deliver),
    m.Deliveries: ("deliveries", _deliveries),
    m.Revoke: ("revoke", _revoke),
    m.Report: ("report", _report),
    m.Reports: ("reports", _reports),
    m.Ack: ("ack", _ack),
    m.Call: ("call", _call),
    m.Reply: ("reply", _reply),
}


def _frame_tags(item: Any) -> dict[str, bytes]:
    """The tag of each kind of item: its field's number, and that bytes with their length follow."""
    return {field.name: _varint(field.number << 3 | 2) for field in item.DESCRIPTOR.fields}


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


_ITEM = _varint(1 << 3 | 2)
_VARINTS = [_varint(number) for number in range(1 << 14)]


def field_of(number: int, content: bytes) -> bytes:
    """A field of a message as it is serialised: a string, bytes, or a message that is."""
    size = len(content)
    return _VARINTS[number << 3 | 2] + (_VARINTS[size] if size < len(_VARINTS) else _varint(size)) + content


_UP_TAGS = _frame_tags(pb.UpItem)
_DOWN_TAGS = _frame_tags(pb.DownItem)


_SILENCE = _varint(pb.Beat.SILENCE_MS_FIELD_NUMBER << 3)


@lru_cache(maxsize=4)
def _beat_for_all(beat: int, depth: int, draining: bool) -> bytes:
    """What the beats of all children have in common as long as no path is told."""
    whole: bytes = pb.Beat(standing=pb.Standing(beat=beat, depth=depth), draining=draining).SerializeToString()
    return whole


def _beat_body(v: m.Beat) -> bytes:
    if v.path:
        whole: bytes = _beat(v).SerializeToString()
        return whole
    common = _beat_for_all(v.standing.beat, v.standing.depth, v.draining)
    return b"".join((common, _SILENCE, _varint(v.silence_ms)))


def _write(item: Any, tags: dict[str, bytes]) -> bytes:
    name, encode = _ENCODERS[type(item)]
    body: bytes = _beat_body(item) if type(item) is m.Beat else encode(item).SerializeToString()
    size = len(body)
    head = tags[name] + (_VARINTS[size] if size < len(_VARINTS) else _varint(size))
    size += len(head)
    return b"".join((_ITEM, _VARINTS[size] if size < len(_VARINTS) else _varint(size), head, body))


def write_up(item: m.UpItem) -> bytes:
    """What a child sends, as the bytes it takes in a ConnectRequest: those of several make a frame."""
    return _write(item, _UP_TAGS)


def write_down(item: m.DownItem) -> bytes:
    """What a parent sends, as the bytes it takes in a ConnectResponse: those of several make a frame."""
    return _write(item, _DOWN_TAGS)


# --- items: protobuf to core --------------------------------------------------------------------------------------


def _from_hello(v: pb.Hello) -> m.Hello:
    return m.Hello(
        name=v.name,
        uid=v.uid,
        instance=v.instance,
        epoch=v.epoch,
        best=_from_standing(v.best) if v.HasField("best") else None,
        software=v.software,
        evictions_digest=v.evictions_digest,
        last_resort=v.last_resort,
        protocol_versions=list(v.protocol_versions),
    )


def _from_welcome(v: pb.Welcome) -> m.Welcome:
    return m.Welcome(
        name=v.name,
        uid=v.uid,
        instance=v.instance,
        standing=_from_standing(v.standing),
        connected=v.connected,
        path=_from_path(v.path),
        heartbeat_ms=v.heartbeat_ms,
        dead_after_ms=v.dead_after_ms,
        known_epoch=v.known_epoch,
        draining=v.draining,
        evictions_digest=v.evictions_digest,
        protocol_version=v.protocol_version,
    )


def _from_alternates(v: pb.Alternates) -> m.Alternates:
    return m.Alternates(
        uncles=[_from_alternate(a) for a in v.uncles],
        grandparent=_from_alternate(v.grandparent) if v.HasField("grandparent") else None,
        siblings=[_from_alternate(a) for a in v.siblings],
        parent=_from_alternate(v.parent) if v.HasField("parent") else None,
    )


def _from_deliver(v: pb.Deliver) -> m.Deliver:
    has_payload = v.HasField("payload")
    return m.Deliver(
        origin_uid=v.origin_uid,
        origin_name=v.origin_name,
        incarnation=v.incarnation,
        dispatch_id=v.dispatch_id,
        command=v.command,
        change=v.change,
        inline=None if has_payload else v.inline,
        payload=decode_payload(v.payload) if has_payload else None,
        ttl_ms=v.ttl_ms,
        timeout_ms=v.timeout_ms,
        hop_limit=v.hop_limit,
        targets=[_from_target(target) for target in v.targets],
    )


def _from_report(v: pb.Report) -> m.Report | None:
    kind = _KIND_NAME.get(v.kind)
    state = _STATE_NAME.get(v.state)
    if kind is None or state is None:
        return None
    return m.Report(
        v.origin_uid,
        v.incarnation,
        v.dispatch_id,
        v.target_uid,
        kind,
        v.attempt,
        v.journal_id,
        v.journal_number,
        v.highest_seq,
        state,
        v.body,
        v.retry_after_ms,
        v.hop_limit,
        v.output_bytes,
    )


_DECODERS: dict[str, Callable[[Any], Any]] = {
    "hello": _from_hello,
    "welcome": _from_welcome,
    "refused": lambda v: m.Refused(v.reason, v.message, v.retry_after_ms, v.epoch),
    "attach": lambda v: m.Attach(_from_record(v.record), _from_digest(v.digest)),
    "attached": lambda v: m.Attached(v.epoch),
    "heartbeat": lambda v: m.Heartbeat(v.silence_ms, _from_digest(v.digest)),
    "beat": lambda v: m.Beat(_from_standing(v.standing), v.silence_ms, _from_path(v.path), v.draining),
    "goodbye": lambda v: m.Goodbye(v.epoch, v.next_epoch),
    "drained": lambda v: m.Drained(),
    "alternates": _from_alternates,
    "news": lambda v: m.News([_from_record(record) for record in v.records], v.full_begin, v.full_end, v.part),
    "resync": lambda v: m.Resync(),
    "away": lambda v: m.Away(v.uid, v.epoch, v.parent, v.instance),
    "evictions": lambda v: m.Evictions(list(v.uids)),
    "deliver": _from_deliver,
    "deliveries": lambda v: m.Deliveries(v.target_uid, v.hop_limit, Sealed(v, _from_deliver)),
    "revoke": lambda v: m.Revoke(
        v.origin_uid, v.incarnation, v.dispatch_id, v.expired, v.hop_limit, [_from_target(t) for t in v.targets]
    ),
    "report": _from_report,
    "reports": lambda v: m.Reports(v.origin_uid, v.target_uid, v.hop_limit, Sealed(v, _from_report)),
    "ack": lambda v: m.Ack(v.origin_uid, list(v.target_uids), list(v.dispatch_ids), v.hop_limit),
    "call": lambda v: m.Call(v.id, v.from_uid, v.to_uid, v.method, v.body, v.hop_limit),
    "reply": lambda v: m.Reply(v.id, v.to_uid, v.code, v.reason, v.message, v.body, v.hop_limit),
}


def _decode(item: pb.UpItem | pb.DownItem) -> Any:
    name = item.WhichOneof("item")
    return None if name is None else _DECODERS[name](getattr(item, name))


def decode_up(item: pb.UpItem) -> m.UpItem | None:
    """What a child said; None when this version does not know it."""
    message: m.UpItem | None = _decode(item)
    return message


def decode_down(item: pb.DownItem) -> m.DownItem | None:
    """What a parent said; None when this version does not know it."""
    message: m.DownItem | None = _decode(item)
    return message
