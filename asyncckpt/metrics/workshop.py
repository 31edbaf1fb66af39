"""Workshop: makes metrics in one registry, with their children bound once; several checkpointers may share it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.registry import Collector

_C = TypeVar("_C")
_M = TypeVar("_M", Counter, Gauge, "_Histogram")


def _without_created(metrics: Iterable[Metric]) -> Iterable[Metric]:
    """Without the time at which each series began, which nobody asks for and which would double them.

    prometheus_client can only leave it out for the whole process, and that is the user's to decide.
    """
    for metric in metrics:
        metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
        yield metric


class _Counter(Counter):
    def collect(self) -> Iterable[Metric]:
        return _without_created(super().collect())


class _Histogram(Histogram):
    record: Callable[[float], None] | None = None
    """Who else is told of each observation."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        super().observe(amount, exemplar)
        if self.record is not None:
            self.record(amount)

    def collect(self) -> Iterable[Metric]:
        return _without_created(super().collect())


class _LateGauge(Gauge):
    """Without a series until its value is known: it is NaN before, which would make a sum or an alert of it NaN."""

    def collect(self) -> Iterable[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not math.isnan(sample.value)]
            yield metric


class Beside(Protocol):
    """Where histograms are kept a second time."""

    def recorder(
        self, name: str, text: str, buckets: Sequence[float], labels: Mapping[str, str]
    ) -> Callable[[float], None]:
        """What is to be told of each observation of one series."""
        ...


class Children(dict[str, _C]):
    """A metric's children by the value of its label; the `values` that are known are there from the start, as 0."""

    def __init__(self, bind: Callable[[str], _C], values: Iterable[str]) -> None:
        super().__init__((value, bind(value)) for value in values)
        self._bind = bind

    def __missing__(self, value: str) -> _C:
        child = self[value] = self._bind(value)
        return child


_shared: WeakKeyDictionary[CollectorRegistry, dict[tuple[str, tuple[str, ...]], Any]] = WeakKeyDictionary()
"""The metrics in registries that users gave: a registry takes each name once, and several checkpointers share it."""


class Workshop:
    """Makes metrics in one registry, each with the same constant labels; those that are there already are shared."""

    def __init__(self, registry: CollectorRegistry, labels: Mapping[str, str], beside: Beside | None) -> None:
        self._registry = registry
        self._beside = beside
        self._labels = dict(sorted(labels.items()))
        self._known = _shared.setdefault(registry, {})

    def counter(self, name: str, text: str) -> Counter:
        return self._bound(self._metric(_Counter, name, text))

    def counters(self, name: str, text: str, label: str, *values: str, **fixed: str) -> Children[Counter]:
        metric = self._metric(_Counter, name, text, label, *fixed)
        return Children(lambda value: self._bound(metric, **{label: value}, **fixed), values)

    def gauge(self, name: str, text: str) -> Gauge:
        return self._bound(self._metric(Gauge, name, text))

    def late_gauge(self, name: str, text: str) -> Gauge:
        gauge = self._bound(self._metric(_LateGauge, name, text))
        gauge.set(math.nan)
        return gauge

    def gauges(self, name: str, text: str, label: str, *values: str) -> Children[Gauge]:
        metric = self._metric(Gauge, name, text, label)
        return Children(lambda value: self._bound(metric, **{label: value}), values)

    def histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return self._recorded(self._metric(_Histogram, name, text, buckets=buckets), name, text, buckets)

    def histograms(
        self, name: str, text: str, buckets: tuple[float, ...], label: str, *values: str
    ) -> Children[Histogram]:
        metric = self._metric(_Histogram, name, text, label, buckets=buckets)
        return Children(lambda value: self._recorded(metric, name, text, buckets, **{label: value}), values)

    def one(self, name: str, text: str, **labels: str) -> None:
        """A metric that is always 1, and says something by its labels."""
        self._bound(self._metric(Gauge, name, text, *labels), **labels).set(1)

    def _metric(self, kind: type[_M], name: str, text: str, *labels: str, **options: Any) -> _M:
        names = (*self._labels, *labels)
        if len(set(names)) < len(names):
            raise ValueError(f"const_labels {sorted(self._labels)}: {name} has a label of that name, use another")
        if (name, names) not in self._known:
            self._check_alone(name)
            self._known[name, names] = kind(name, text, names, registry=self._registry, **options)
        return cast(_M, self._known[name, names])

    def _check_alone(self, name: str) -> None:
        for other, names in self._known:
            if other == name:
                raise ValueError(
                    f"const_labels {sorted(self._labels)}: another checkpointer has {name} in this registry, with "
                    f"labels {list(names)}: give all that share a registry const_labels of the same names"
                )

    @property
    def metrics(self) -> Iterable[Collector]:
        """All of them in this registry, of others with the same constant labels too."""
        return list(self._known.values())

    def _recorded(
        self, metric: _Histogram, name: str, text: str, buckets: tuple[float, ...], **labels: str
    ) -> _Histogram:
        child = self._bound(metric, **labels)
        if self._beside is not None:
            child.record = self._beside.recorder(name, text, buckets, {**self._labels, **labels})
        return child

    def _bound(self, metric: _M, **labels: str) -> _M:
        values = {**self._labels, **labels}
        return metric.labels(**values) if values else metric
