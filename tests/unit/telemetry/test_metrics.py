"""Metrics: nothing is counted that the catalog does not have."""

from __future__ import annotations

import re

import pytest

from ote.telemetry.catalog import CATALOG, Kind
from ote.telemetry.exposition import text_of
from ote.telemetry.metrics import Metrics


def test_every_metric_of_the_catalog_is_made_and_shown() -> None:
    text = text_of(Metrics()).decode()
    for metric in CATALOG:
        assert f"# HELP {metric.name} " in text
    assert "process_resident_memory_bytes" in text


def test_names_and_help_follow_the_rules() -> None:
    names = [metric.name for metric in CATALOG]
    assert len(names) == len(set(names))
    for metric in CATALOG:
        assert re.fullmatch(r"ote_[a-z]+(_[a-z]+)+", metric.name)
        assert (metric.kind is Kind.COUNTER) == metric.name.endswith("_total")
        assert (metric.kind is Kind.HISTOGRAM) == bool(metric.buckets)
        assert metric.help.endswith(".")
        assert bool(metric.labels) == bool(metric.values), f"{metric.name}: labels say what their values are"
        assert "cluster" not in metric.labels, "series must not grow with the tree"


def test_two_processes_in_one_test_do_not_share_numbers() -> None:
    one, other = Metrics(process=False), Metrics(process=False)
    one.counter("ote_dispatch_settled_total", "SUCCEEDED").value += 3
    assert 'ote_dispatch_settled_total{state="SUCCEEDED"} 3.0' in text_of(one).decode()
    assert "SUCCEEDED" not in text_of(other).decode()


def test_what_is_not_in_the_catalog_cannot_be_counted() -> None:
    metrics = Metrics(process=False)
    with pytest.raises(KeyError):
        metrics.counter("ote_surprise_total")
    with pytest.raises(ValueError, match="label"):
        metrics.gauge("ote_registry_clusters", "ONLINE", "more")


def test_gauges_and_histograms_show_what_was_observed() -> None:
    metrics = Metrics(process=False)
    metrics.gauge("ote_registry_clusters", "ONLINE").set(7)
    metrics.histogram("ote_dispatch_latency_seconds").observe(0.003)
    text = text_of(metrics).decode()
    assert 'ote_registry_clusters{state="ONLINE"} 7.0' in text
    assert 'ote_dispatch_latency_seconds_bucket{le="0.0025"} 0.0' in text
    assert 'ote_dispatch_latency_seconds_bucket{le="0.005"} 1.0' in text


def test_methods_that_nobody_knows_share_one_label() -> None:
    metrics = Metrics(process=False)
    observe = metrics.rpc_observer(["/a.B/Get"])
    observe("/a.B/Get", "OK", 0.01)
    observe("/a.B/Get", "OK", 0.01)
    for i in range(100):
        observe(f"/evil/{i}", "UNIMPLEMENTED", 0.01)
    text = text_of(metrics).decode()
    assert 'ote_rpc_handled_total{code="OK",method="a.B/Get"} 2.0' in text
    assert 'ote_rpc_handled_total{code="UNIMPLEMENTED",method="other"} 100.0' in text
    assert "evil" not in text
