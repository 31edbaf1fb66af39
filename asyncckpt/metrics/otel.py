"""OpenTelemetry: the same metrics as instruments of a meter, with the names, units and meanings that they have here.

What only grows and what is now are read where they are counted, whenever somebody collects. A histogram cannot be read
so: what is observed is recorded there too. A name loses its ``_total``, which whoever writes it for Prometheus adds.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal
from weakref import WeakKeyDictionary

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation, get_meter_provider
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from asyncckpt.version import __version__

logger = logging.getLogger("asyncckpt")

_UNITS = {"seconds": "s", "bytes": "By", "ratio": "1"}
"""By the last word of a name."""

Source = tuple[Collector, str]
"""Who counts, and the name of the samples there."""


class Bridge:
    """What the checkpointers of this process count, as instruments of one `meter`."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._lock = threading.Lock()
        self._registries: dict[tuple[str, ...], CollectorRegistry] = {}
        self._sources: dict[str, list[Source]] = {}
        self._histograms: dict[str, Histogram] = {}
        self._is_failing = False

    def registry(self, labels: Mapping[str, str]) -> CollectorRegistry:
        """The one of all who have constant labels of these names and no registry of their own."""
        # An instrument is there once in a process, and has to go on after a checkpointer is closed: what it said last
        # is collected then. So it cannot be one for each checkpointer, or there would be more of them for ever.
        with self._lock:
            return self._registries.setdefault(tuple(sorted(labels)), CollectorRegistry())

    def join(self, collectors: Iterable[Collector]) -> None:
        """Have an instrument for each metric of theirs but histograms."""
        for collector in collectors:
            for family in collector.collect():
                for name, sample in _instruments(family):
                    self._observe(name, (collector, sample), family)

    def recorder(
        self, name: str, text: str, buckets: Sequence[float], labels: Mapping[str, str]
    ) -> Callable[[float], None]:
        """What is to be told of each observation of a histogram's series."""
        return functools.partial(self._record, name, text, buckets, dict(labels))

    def _observe(self, name: str, source: Source, family: Metric) -> None:
        with self._lock:
            known = self._sources.get(name)
            if known is not None:
                if source not in known:
                    known.append(source)
                return
            self._sources[name] = [source]
        try:
            made: Any = self._meter.create_observable_gauge
            if family.type != "gauge":
                made = self._meter.create_observable_counter
            made(name, [functools.partial(self._read, name)], _unit(name), family.documentation)
        except Exception as error:  # whatever a provider raises is no reason to stop a training
            self._fail(error)

    def _read(self, name: str, _options: CallbackOptions) -> Iterator[Observation]:
        with self._lock:
            sources = list(self._sources[name])
        for collector, wanted in sources:
            for family in collector.collect():
                for sample in family.samples:
                    if sample.name == wanted:
                        yield Observation(sample.value, sample.labels)

    def _record(self, name: str, text: str, buckets: Sequence[float], labels: dict[str, str], value: float) -> None:
        try:
            histogram = self._histograms.get(name)
            if histogram is None:
                # Made by two threads at once it is the same one: a meter has each name once.
                histogram = self._histograms[name] = self._meter.create_histogram(
                    name, _unit(name), text, explicit_bucket_boundaries_advisory=buckets
                )
            histogram.record(value, labels)
        except Exception as error:  # see above
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if not self._is_failing:
            self._is_failing = True
            logger.warning("OpenTelemetry does not take all metrics: %r; training goes on", error)


def _instruments(family: Metric) -> Sequence[tuple[str, str]]:
    """The names of a family's instruments, each with that of the samples that it shows."""
    match family.type:
        case "counter":
            return [(family.name, f"{family.name}_total")]
        case "gauge":
            return [(family.name, family.name)]
        case "summary":
            return [(name, name) for name in (f"{family.name}_sum", f"{family.name}_count")]
    return []  # histograms are recorded


def _unit(name: str) -> str:
    return _UNITS.get(name.removesuffix("_sum").rpartition("_")[2], "")


_bridges: WeakKeyDictionary[MeterProvider, Bridge] = WeakKeyDictionary()
_of_process: list[Bridge] = []
_lock = threading.Lock()


def bridge(said: Literal[True] | MeterProvider) -> Bridge:
    """That of a provider, or of the one that the process has or will have; the same one each time."""
    current = get_meter_provider()
    provider = current if said is True else said
    with _lock:
        known = _bridges.get(provider)
        # What stands for the process's provider before there is one gives it all instruments then; a second bridge to
        # it would find every name taken.
        if known is None and provider is current and _of_process:
            known = _of_process[0]
        if known is None:
            known = Bridge(provider.get_meter("asyncckpt", __version__))
        _bridges[provider] = known
        if provider is current and not _of_process:
            _of_process.append(known)
        return known
