"""The catalog of all metrics, as data: docs/metrics.md is generated from it, `metrics` makes the objects.

Not here: when they change. The one idea: labels are few and closed, and no label is ever a cluster's name, so that the
number of series does not grow with the tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a metric does."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. name: with its unit, counters end in _total. labels: their names, values are in `values`."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    values: str = ""
    buckets: tuple[float, ...] = ()


_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_ATTACH = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)

_QUEUES = "lane: session, dispatch, result, question, registry"
_STATES = "state: SUCCEEDED, FAILED, EXPIRED, CANCELLED, UNREACHABLE, OUTCOME_UNKNOWN"

CATALOG: tuple[Metric, ...] = (
    Metric(
        "ote_tunnel_sessions",
        Kind.GAUGE,
        "Tunnels with an attachment, by where they lead: one up to the parent at most, any number down to children.",
        ("direction",),
        "direction: up, down",
    ),
    Metric(
        "ote_tunnel_sent_bytes_total",
        Kind.COUNTER,
        "Bytes of messages sent on tunnels, before HTTP/2 and TLS.",
        ("lane",),
        "lane: beat, session, dispatch, result, question, registry, bulk (pieces and outputs, on streams of their own)",
    ),
    Metric(
        "ote_tunnel_received_bytes_total",
        Kind.COUNTER,
        "Bytes of messages received on tunnels, before HTTP/2 and TLS.",
        ("stream",),
        "stream: tunnel, bulk (pieces and outputs, on streams of their own)",
    ),
    Metric(
        "ote_tunnel_frames_total",
        Kind.COUNTER,
        "Frames sent or received on tunnels; bytes through frames is how full they are.",
        ("direction",),
        "direction: sent, received",
    ),
    Metric("ote_tunnel_queue_bytes", Kind.GAUGE, "Bytes that wait to be written, all tunnels.", ("lane",), _QUEUES),
    Metric(
        "ote_tunnel_refused_total",
        Kind.COUNTER,
        "Messages that a full queue refused; their ends send them again.",
        ("lane",),
        "lane: dispatch, result, question, registry",
    ),
    Metric("ote_tunnel_bulk_streams", Kind.GAUGE, "Bulk streams that are open (pieces, outputs)."),
    Metric("ote_tunnel_bulk_credit_bytes", Kind.GAUGE, "Bytes of bulk that may be under way to and from the parent."),
    Metric(
        "ote_tunnel_bulk_round_trip_seconds",
        Kind.GAUGE,
        "Round trip to the parent and back on the tunnel, measured while bulk runs.",
    ),
    Metric("ote_dispatch_accepted_total", Kind.COUNTER, "Dispatches accepted here as their origin."),
    Metric("ote_dispatch_targets_total", Kind.COUNTER, "Targets of dispatches accepted here."),
    Metric(
        "ote_dispatch_settled_total",
        Kind.COUNTER,
        "Targets that reached a final state at this origin.",
        ("state",),
        _STATES,
    ),
    Metric("ote_dispatch_unsettled", Kind.GAUGE, "Targets of this origin that are not final."),
    Metric(
        "ote_dispatch_oldest_unsettled_seconds",
        Kind.GAUGE,
        "Age of the oldest target that is not final; 0 without one.",
    ),
    Metric(
        "ote_dispatch_latency_seconds",
        Kind.HISTOGRAM,
        "From accepted to final, for each target at its origin that was not unreachable from the start.",
        buckets=_LATENCY,
    ),
    Metric(
        "ote_dispatch_resends_total",
        Kind.COUNTER,
        "Messages sent again by an end: commands by the origin (each target counts), results by the target.",
        ("what",),
        "what: command, result",
    ),
    Metric("ote_dispatch_piece_cache_bytes", Kind.GAUGE, "Bytes of payload pieces in memory, kept or on their way."),
    Metric(
        "ote_dispatch_unused_payload_bytes",
        Kind.GAUGE,
        "Bytes of payloads on disk, or being put, that no dispatch names (yet): 512 MiB at most.",
    ),
    Metric(
        "ote_registry_clusters",
        Kind.GAUGE,
        "Members of the subtree, this one included.",
        ("state",),
        "state: ONLINE, OFFLINE, AWAY, NAME_CONFLICT",
    ),
    Metric(
        "ote_registry_news_total",
        Kind.COUNTER,
        "Records told by children that brought something new, or were refused (older, not below them, signature).",
        ("outcome",),
        "outcome: taken, refused",
    ),
    Metric("ote_registry_resyncs_total", Kind.COUNTER, "Full accounts asked of children because digests differed."),
    Metric("ote_registry_watchers", Kind.GAUGE, "Watches of clusters and dispatches that are open."),
    Metric(
        "ote_failover_parent_losses_total",
        Kind.COUNTER,
        "Times that the parent was lost.",
        ("cause",),
        "cause: closed (the stream ended), silent (nothing was heard, on either side), refused (by the parent), "
        "ring (its path led through this cluster)",
    ),
    Metric(
        "ote_failover_attaches_total",
        Kind.COUNTER,
        "Times that this cluster attached to a parent, also to the same one anew (after renewing its certificate).",
        ("class",),
        "class: home, same (as before), parent_sibling, grandparent, own_sibling, other",
    ),
    Metric(
        "ote_failover_attach_seconds",
        Kind.HISTOGRAM,
        "From the loss of a parent to the next attachment; moves without a loss are not in it.",
        buckets=_ATTACH,
    ),
    Metric(
        "ote_failover_beat_age_seconds",
        Kind.GAUGE,
        "Seconds since the root's beat grew here; 0 at the root, and before the first parent.",
    ),
    Metric("ote_failover_depth", Kind.GAUGE, "Hops to the root by the last beat."),
    Metric(
        "ote_shim_executions_total",
        Kind.COUNTER,
        "Calls of the shim that ended, for changes and reads.",
        ("command", "outcome"),
        "command: kind of the command (apply, delete, get, …) · "
        "outcome: succeeded, failed, cancelled, lost (the call broke; a change is asked for again if that is safe)",
    ),
    Metric(
        "ote_shim_execution_seconds",
        Kind.HISTOGRAM,
        "How long calls of the shim took that ended with a result.",
        buckets=_LATENCY,
    ),
    Metric("ote_shim_restarts_total", Kind.COUNTER, "Times that the shim came back as another instance."),
    Metric("ote_shim_connected", Kind.GAUGE, "1 while the shim answers, else 0."),
    Metric(
        "ote_rpc_handled_total",
        Kind.COUNTER,
        "RPCs that ended, by full method name without its leading slash.",
        ("method", "code"),
        "method: every method of the policy, `other` for the rest · code: name of the gRPC status",
    ),
    Metric(
        "ote_rpc_seconds",
        Kind.HISTOGRAM,
        "How long RPCs took, streams included.",
        ("method",),
        "method: as above",
        _LATENCY,
    ),
    Metric("ote_trust_enrolments_total", Kind.COUNTER, "Clusters taken in with tokens of this controller."),
    Metric("ote_trust_renewals_total", Kind.COUNTER, "Certificates renewed for members."),
    Metric(
        "ote_trust_refusals_total",
        Kind.COUNTER,
        "Enrolments and renewals refused, or failed, at this controller.",
        ("reason",),
        "reason: the error's reason, in lower case",
    ),
    Metric(
        "ote_trust_certificate_expiry_seconds",
        Kind.GAUGE,
        "End of the certificate that this cluster shows, seconds since 1970.",
    ),
    Metric("ote_trust_evicted", Kind.GAUGE, "Size of the set of evicted members."),
)
"""Every metric of every OTE process."""
