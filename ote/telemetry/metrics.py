"""The numbers of one process, by the names of the catalog.

Not here: names and meanings (`catalog`), when they change, their text (`exposition`). The one idea: a metric is asked
for by its name in the catalog, so that nothing can be counted that is not documented. A number is a plain object of the
loop's thread, without a lock, so that it may be counted where every message passes; what is cheaper to read than to
count is set just before the text is made (`before_scrape`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

from ote.telemetry.catalog import CATALOG, Kind, Metric

_OTHER = "other"


class Number:
    """A counter or a gauge with its label values."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        """To a value that is kept elsewhere; that of a counter never falls."""
        self.value = value


class Distribution:
    """A histogram with its label values."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Metrics:
    """The metrics of one process.

    catalog: what there is. process: also the process's memory, CPU and files. Asking for a name that the catalog does
    not have, or of another kind, or with other labels, raises KeyError or ValueError.
    """

    def __init__(self, catalog: Iterable[Metric] = CATALOG, *, process: bool = True) -> None:
        self._metrics = {metric.name: metric for metric in catalog}
        self._numbers: dict[str, dict[tuple[str, ...], Number]] = {}
        self._distributions: dict[str, dict[tuple[str, ...], Distribution]] = {}
        for metric in self._metrics.values():
            if metric.kind is Kind.HISTOGRAM:
                self._distributions[metric.name] = {}
            else:
                self._numbers[metric.name] = {}
        self._before: list[Callable[[], Awaitable[None]]] = []
        self.process = process

    def counter(self, name: str, *labels: str) -> Number:
        """The counter with these label values; keep it where it is used often."""
        return self._number(name, labels, Kind.COUNTER)

    def gauge(self, name: str, *labels: str) -> Number:
        """The gauge with these label values."""
        return self._number(name, labels, Kind.GAUGE)

    def histogram(self, name: str, *labels: str) -> Distribution:
        """The histogram with these label values."""
        of_name = self._distributions[name]
        found = of_name.get(labels)
        if found is None:
            found = of_name[labels] = Distribution(self._checked(name, labels, Kind.HISTOGRAM).buckets)
        return found

    def count(self, name: str, labels: tuple[str, ...], value: float) -> None:
        """Add to a counter, or observe a value of a histogram."""
        if name in self._distributions:
            self.histogram(name, *labels).observe(value)
        else:
            self.counter(name, *labels).value += value

    def rpc_observer(self, methods: Iterable[str]) -> Callable[[str, str, float], None]:
        """For `ote.rpc.calllog.LogInterceptor`. methods: full names of those with a label of their own."""
        known = frozenset(methods)

        def observe(method: str, code: str, seconds: float) -> None:
            label = method.removeprefix("/") if method in known else _OTHER
            self.counter("ote_rpc_handled_total", label, code).value += 1
            self.histogram("ote_rpc_seconds", label).observe(seconds)

        return observe

    def before_scrape(self, prepare: Callable[[], Awaitable[None]]) -> None:
        """Have this run before each scrape, to set what is read and not counted. It must leave the loop room."""
        self._before.append(prepare)

    async def prepare(self) -> None:
        """Set what is read and not counted; before each scrape."""
        for prepare in self._before:
            await prepare()

    def numbers(self) -> Iterator[tuple[Metric, Mapping[tuple[str, ...], Number]]]:
        """Counters and gauges of the catalog, with those that were asked for, by label values."""
        for name, numbers in self._numbers.items():
            yield self._metrics[name], numbers

    def distributions(self) -> Iterator[tuple[Metric, Mapping[tuple[str, ...], Distribution]]]:
        """The same of histograms."""
        for name, distributions in self._distributions.items():
            yield self._metrics[name], distributions

    def _number(self, name: str, labels: tuple[str, ...], kind: Kind) -> Number:
        of_name = self._numbers[name]
        found = of_name.get(labels)
        if found is None:
            self._checked(name, labels, kind)
            found = of_name[labels] = Number()
        return found

    def _checked(self, name: str, labels: tuple[str, ...], kind: Kind) -> Metric:
        metric = self._metrics[name]
        if metric.kind is not kind:
            raise ValueError(f"{name} is a {metric.kind}, not a {kind}")
        if len(labels) != len(metric.labels):
            raise ValueError(f"{name} has the labels {metric.labels}, not {len(labels)} of them")
        return metric
