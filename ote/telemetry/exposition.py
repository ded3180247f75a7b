"""The text of metrics for Prometheus; the only module that knows prometheus_client.

Not here: the numbers (`metrics`). The one idea: a process that nobody may scrape never loads this, and
saves 1.6 MB.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ote.telemetry.catalog import Kind
from ote.telemetry.metrics import Metrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def text_of(metrics: Metrics) -> bytes:
    """All metrics as they were set last."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(metrics))
    if metrics.process:
        ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Families(Collector):
    """What prometheus_client asks for."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Family]:
        for metric, numbers in self._metrics.numbers():
            make = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
            family = make(metric.name, metric.help, labels=metric.labels)
            for labels, number in numbers.items():
                family.add_metric(labels, number.value)
            yield family
        for metric, distributions in self._metrics.distributions():
            histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
            bounds = [*map(str, metric.buckets), "+Inf"]
            for labels, distribution in distributions.items():
                counts = accumulate(distribution.counts)
                histogram.add_metric(labels, list(zip(bounds, counts, strict=True)), distribution.sum)
            yield histogram
