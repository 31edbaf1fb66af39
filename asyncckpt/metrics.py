"""Metrics: the Prometheus exporter, which is one listener and nothing the core knows of.

Every checkpointer has a registry of its own unless it is given one, so that two in one process cannot collide.
The port is served on loopback unless told otherwise; one that is taken is a warning, never an error of the training.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from asyncckpt.events import (
    Damaged,
    Durable,
    Event,
    Failed,
    Fallback,
    Pruned,
    Restored,
    Skipped,
    Staged,
    Stalled,
    Superseded,
)

logger = logging.getLogger("asyncckpt")

STALL_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SAVE_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


_M = TypeVar("_M", Counter, Gauge, Histogram)

_shared: WeakKeyDictionary[CollectorRegistry, dict[tuple[str, tuple[str, ...]], Any]] = WeakKeyDictionary()
"""The metrics in registries that users gave: a registry takes each name once, and several checkpointers share it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsConfig:
    """Where metrics are served: `port` 0 takes a free one; None serves nothing and only fills `registry`."""

    port: int | None = 0
    addr: str = "127.0.0.1"
    registry: CollectorRegistry | None = None
    const_labels: Mapping[str, str] = field(default_factory=dict)


class Exporter:
    """Counts events; `port` is where they can be scraped, or None."""

    def __init__(self, config: MetricsConfig) -> None:
        self.registry = config.registry or CollectorRegistry()
        self._known = {} if config.registry is None else _shared.setdefault(config.registry, {})
        self.port: int | None = None
        self._labels = dict(config.const_labels)
        self._server: Any = None
        self._make()
        if config.port is not None:
            self._serve(config.port, config.addr)

    def _make(self) -> None:
        self.saves = self._counter("asyncckpt_saves", "Saves by how they ended.", "outcome")
        self.failures = self._counter("asyncckpt_save_failures", "Failed saves by phase.", "phase")
        self.stall = self._histogram(
            "asyncckpt_stall_seconds", "Time the training thread was held, by where.", STALL_BUCKETS, "where"
        )
        self.stage = self._histogram(
            "asyncckpt_stage_seconds", "From the save call to a complete snapshot.", SAVE_BUCKETS
        )
        self.duration = self._histogram(
            "asyncckpt_save_duration_seconds", "From the save call to durable.", SAVE_BUCKETS
        )
        self.bytes = self._counter("asyncckpt_bytes", "Bytes of state by direction.", "direction")
        self.step = self._gauge("asyncckpt_durable_step", "Step of the newest durable checkpoint.")
        self.time = self._gauge(
            "asyncckpt_durable_timestamp_seconds", "When the newest checkpoint became durable, Unix time."
        )
        self.pruned = self._counter("asyncckpt_pruned", "Checkpoints dropped by retention.")
        self.restores = self._counter("asyncckpt_restores", "Checkpoints restored.")
        self.damaged = self._counter("asyncckpt_damaged_checkpoints", "Listed checkpoints found damaged.")
        self.fallbacks = self._gauge("asyncckpt_fallback", "1 for what runs slower or weaker.", "feature")
        for outcome in ("durable", "failed", "skipped", "superseded"):
            self._of(self.saves, outcome=outcome)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return self._metric(Counter, name, text, labels)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return self._metric(Gauge, name, text, labels)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return self._metric(Histogram, name, text, labels, buckets=buckets)

    def _metric(self, kind: type[_M], name: str, text: str, labels: tuple[str, ...], **options: Any) -> _M:
        names = (*self._labels, *labels)
        if (name, names) not in self._known:
            self._known[name, names] = kind(name, text, names, registry=self.registry, **options)
        return cast(_M, self._known[name, names])

    def _of(self, metric: Any, **labels: str) -> Any:
        both = {**self._labels, **labels}
        return metric.labels(**both) if both else metric

    def _serve(self, port: int, addr: str) -> None:
        try:
            self._server, self._thread = start_http_server(port, addr, self.registry)
        except (OSError, OverflowError) as error:
            logger.warning("metrics are not served: %s:%s is not to be had (%s); training goes on", addr, port, error)
            return
        self.port = self._server.server_port

    def on_event(self, event: Event) -> None:
        """Count one event."""
        handler = _HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None

    def _durable(self, event: Durable) -> None:
        self._of(self.saves, outcome="durable").inc()
        self._of(self.bytes, direction="written").inc(event.written)
        self._of(self.duration).observe(event.seconds)
        self._of(self.step).set(event.step)
        self._of(self.time).set(event.created)

    def _failed(self, event: Failed) -> None:
        self._of(self.saves, outcome="failed").inc()
        self._of(self.failures, phase=event.phase).inc()

    def _skipped(self, event: Skipped) -> None:
        self._of(self.saves, outcome="skipped").inc()

    def _superseded(self, event: Superseded) -> None:
        self._of(self.saves, outcome="superseded").inc()

    def _stalled(self, event: Stalled) -> None:
        self._of(self.stall, where=event.where).observe(event.seconds)

    def _staged(self, event: Staged) -> None:
        self._of(self.stage).observe(event.seconds)
        self._of(self.bytes, direction="staged").inc(event.bytes)

    def _pruned(self, event: Pruned) -> None:
        self._of(self.pruned).inc()

    def _restored(self, event: Restored) -> None:
        self._of(self.restores).inc()
        self._of(self.bytes, direction="read").inc(event.bytes)

    def _damaged(self, event: Damaged) -> None:
        self._of(self.damaged).inc()

    def _fallback(self, event: Fallback) -> None:
        self._of(self.fallbacks, feature=event.feature).set(1)


_HANDLERS: Mapping[type[Event], Any] = {
    Durable: Exporter._durable,
    Failed: Exporter._failed,
    Skipped: Exporter._skipped,
    Superseded: Exporter._superseded,
    Stalled: Exporter._stalled,
    Staged: Exporter._staged,
    Pruned: Exporter._pruned,
    Restored: Exporter._restored,
    Damaged: Exporter._damaged,
    Fallback: Exporter._fallback,
}


def exporter(metrics: int | MetricsConfig | None) -> Exporter | None:
    """The exporter that ``metrics=`` asks for, or None."""
    if metrics is None:
        return None
    return Exporter(MetricsConfig(port=metrics) if isinstance(metrics, int) else metrics)
