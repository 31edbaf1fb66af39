"""Process: metrics of what this process did beside its checkpoints, as it is at each scrape.

They are no checkpointer's: each registry has them once, with the constant labels on which all that share it agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, SummaryMetricFamily
from prometheus_client.registry import Collector

from asyncckpt.tallies import TALLIES, Tallies, What

_OURS = ("console", "jsonlines", "tensorboard", "wandb")
_OUTCOMES: tuple[What, ...] = ("tracker_taken", "tracker_failed", "tracker_lost")
_LABELS = {"tracker", "outcome", "operation", "reason"}


class ProcessMetrics(Collector):
    """What `tallies` have counted, with constant `labels` on each metric."""

    def __init__(self, tallies: Tallies, labels: Mapping[str, str]) -> None:
        self._tallies = tallies
        self._labels = dict(labels)

    def share(self, labels: Mapping[str, str]) -> None:
        """Somebody else in the registry has those `labels`: what differs is not the process's."""
        # A series for each would have a sum over them count the process more than once.
        self._labels = {name: value for name, value in self._labels.items() if labels.get(name) == value}

    def collect(self) -> Iterator[Metric]:
        """Every metric, in one order."""
        yield self._trackers()
        yield from self._discovery()
        yield from self._json()
        yield self._errors()

    def _trackers(self) -> Metric:
        text = "Calls to trackers: those they took, those that failed, and those that never reached them."
        family = CounterMetricFamily("asyncckpt_tracker_calls", text, labels=[*self._labels, "tracker", "outcome"])
        of = self._tallies.of
        found = {name for outcome in _OUTCOMES for name in self._tallies.labels(outcome)}
        sums = {name: [of(outcome, name) for outcome in _OUTCOMES] for name in found}
        # A user's own tracker may be called after its run, and a label has few values.
        others = [sums.pop(name) for name in found if name not in _OURS]
        if others:
            sums["other"] = [sum(each) for each in zip(*others, strict=True)]
        for name in sorted(sums):
            for outcome, count in zip(_OUTCOMES, sums[name], strict=True):
                family.add_metric([*self._labels.values(), name, outcome.removeprefix("tracker_")], count)
        return family

    def _discovery(self) -> Iterator[Metric]:
        of, names, values = self._tallies.of, list(self._labels), list(self._labels.values())
        text = "Time find_latest_checkpoint took."
        seconds = SummaryMetricFamily("asyncckpt_discovery_seconds", text, labels=names)
        seconds.add_metric(values, int(of("discoveries")), of("discovery_seconds"))
        yield seconds
        text = "Files that find_latest_checkpoint found."
        files = CounterMetricFamily("asyncckpt_discovery_files", text, labels=names)
        files.add_metric(values, of("discovery_files"))
        yield files

    def _json(self) -> Iterator[Metric]:
        of, names, values = self._tallies.of, [*self._labels, "operation"], list(self._labels.values())
        text = "Time to write and to read configurations in JSON files of their own."
        seconds = SummaryMetricFamily("asyncckpt_json_seconds", text, labels=names)
        size = CounterMetricFamily("asyncckpt_json_bytes", "Bytes of those files.", labels=names)
        for operation in ("read", "write"):
            seconds.add_metric([*values, operation], int(of("json_files", operation)), of("json_seconds", operation))
            size.add_metric([*values, operation], of("json_bytes", operation))
        yield seconds
        yield size

    def _errors(self) -> Metric:
        text = "Folders and files of configurations and of others' checkpoints that could not be had, by reason."
        family = CounterMetricFamily("asyncckpt_file_errors", text, labels=[*self._labels, "reason"])
        for reason in ("denied", "full", "other"):
            family.add_metric([*self._labels.values(), reason], self._tallies.of("errors", reason))
        return family


_having: WeakKeyDictionary[CollectorRegistry, ProcessMetrics] = WeakKeyDictionary()


def measured_in(registry: CollectorRegistry, labels: Mapping[str, str]) -> ProcessMetrics:
    """Have them in `registry`, for one more whose constant `labels` are those.

    Raises `ValueError` where they are called as labels here.
    """
    if taken := sorted(_LABELS & {*labels}):
        raise ValueError(f"const_labels {sorted(labels)}: metrics of the process have a {taken[0]}, use another")
    if registry in _having:
        _having[registry].share(labels)
    else:
        registry.register(metrics := ProcessMetrics(TALLIES, labels))
        _having[registry] = metrics
    return _having[registry]
