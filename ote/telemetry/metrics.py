"""Objects for the metrics of the catalog, on a registry of one's own.

Not here: names and meanings (`catalog`). The one idea: a metric is asked for by its name in the catalog, so that
nothing can be counted that is not documented; a process has a Metrics object, not a global.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from ote.telemetry.catalog import CATALOG, Kind, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_OTHER = "other"


class Metrics:
    """The metrics of one process.

    catalog: what to make. process: also the process's memory, CPU and files. Asking for a name that the catalog does
    not have, or with other labels, raises KeyError or ValueError.
    """

    def __init__(self, catalog: Iterable[Metric] = CATALOG, *, process: bool = True) -> None:
        self.registry = CollectorRegistry()
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        for metric in catalog:
            self._make(metric)
        if process:
            ProcessCollector(registry=self.registry)
        self._rpc_handled: dict[tuple[str, str], Counter] = {}
        self._rpc_seconds: dict[str, Histogram] = {}

    def counter(self, name: str, *labels: str) -> Counter:
        """The counter with these label values; keep it where it is used often."""
        found = self._counters[name]
        return found.labels(*labels) if labels else found

    def gauge(self, name: str, *labels: str) -> Gauge:
        """The gauge with these label values."""
        found = self._gauges[name]
        return found.labels(*labels) if labels else found

    def histogram(self, name: str, *labels: str) -> Histogram:
        """The histogram with these label values."""
        found = self._histograms[name]
        return found.labels(*labels) if labels else found

    def rpc_observer(self, methods: Iterable[str]) -> Callable[[str, str, float], None]:
        """For `ote.rpc.calllog.LogInterceptor`. methods: full names of those with a label of their own."""
        known = frozenset(methods)

        def observe(method: str, code: str, seconds: float) -> None:
            label = method.removeprefix("/") if method in known else _OTHER
            handled = self._rpc_handled.get((label, code))
            if handled is None:
                handled = self._rpc_handled[label, code] = self.counter("ote_rpc_handled_total", label, code)
            handled.inc()
            timed = self._rpc_seconds.get(label)
            if timed is None:
                timed = self._rpc_seconds[label] = self.histogram("ote_rpc_seconds", label)
            timed.observe(seconds)

        return observe

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _make(self, metric: Metric) -> None:
        if metric.kind is Kind.COUNTER:
            self._counters[metric.name] = Counter(metric.name, metric.help, metric.labels, registry=self.registry)
        elif metric.kind is Kind.GAUGE:
            self._gauges[metric.name] = Gauge(metric.name, metric.help, metric.labels, registry=self.registry)
        else:
            self._histograms[metric.name] = Histogram(
                metric.name, metric.help, metric.labels, buckets=metric.buckets, registry=self.registry
            )
