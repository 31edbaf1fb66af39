"""Exporter: the listener that counts events, and serves what it has counted for Prometheus to scrape.

Every checkpointer has a registry of its own unless it is given one, so that two in one process cannot collide.
A port that is taken is a warning, never an error of the training.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakMethod

from prometheus_client import CollectorRegistry, start_http_server

from asyncckpt.errors import Fenced, OutcomeUnknown, StorageDenied, StorageError, TransientError
from asyncckpt.events import (
    HOME,
    Ahead,
    Damaged,
    Deleted,
    Durable,
    Event,
    Expected,
    Failed,
    Fallback,
    Ignored,
    Leftover,
    OverBudget,
    Paced,
    PreemptionEnded,
    PreemptionNoticed,
    PreemptionPlanned,
    Pruned,
    Requested,
    Restored,
    RestoreFailed,
    Restoring,
    Resumed,
    Retained,
    Retried,
    Shortage,
    Skipped,
    Staged,
    Stalled,
    Superseded,
    TierDurable,
    TierFailed,
    WorkerRuns,
)
from asyncckpt.levels import Levels
from asyncckpt.metrics.backend import OTHER, backend_of
from asyncckpt.metrics.config import MetricsConfig, configured
from asyncckpt.metrics.instruments import Instruments
from asyncckpt.metrics.process import measured_in
from asyncckpt.metrics.reporting import Reporter, reporter
from asyncckpt.storage.base import Storage

if TYPE_CHECKING:
    from asyncckpt.metrics.otel import Bridge

logger = logging.getLogger("asyncckpt")


class Exporter:
    """Counts events; `port` is where they can be scraped, or None before `serve`, and where it cannot be had."""

    def __init__(self, config: MetricsConfig, *, backend: str = OTHER, world: int = 1) -> None:
        labels, beside = config.const_labels, _bridge(config)
        self.registry = config.registry or (CollectorRegistry() if beside is None else beside.registry(labels))
        self.port: int | None = None
        self._config = config
        self._metrics = Instruments(self.registry, labels, backend, world, beside)
        self._metrics.began.set(time.time())
        of_process = measured_in(self.registry, labels)
        if beside is not None:
            beside.join([*self._metrics.metrics, of_process])
        self._server: Any = None
        self._reporter: Reporter | None = None

    def serve(self) -> None:
        """Have them scraped, and reported, where the configuration says, if anywhere."""
        self._reporter = reporter(self.registry, self._config)
        port, addr = self._config.own_port, self._config.addr
        if port is None:
            return
        try:
            self._server, self._thread = start_http_server(port, addr, self.registry)
        except (OSError, OverflowError) as error:
            logger.warning("metrics are not served: %s:%s is not to be had (%s); training goes on", addr, port, error)
            return
        self.port = self._server.server_port

    def watch(self, levels: Callable[[], Levels]) -> None:
        """Ask the method `levels` at every scrape, for as long as its object lives."""
        # Weak, or the server's thread would keep a forgotten checkpointer with all its staging memory.
        alive = WeakMethod(levels)

        def now() -> Levels:
            method = alive()
            return method() if method is not None else Levels()

        self._metrics.queued.set_function(lambda: now().queued)
        self._metrics.writing.set_function(lambda: now().writing)
        self._metrics.memory["used"].set_function(lambda: now().memory.used)
        self._metrics.memory["free"].set_function(lambda: now().memory.free)
        self._metrics.capacity.set_function(lambda: now().memory.capacity)
        self._metrics.heard.set_function(lambda: now().heard)

    def begin_tier(self, tier: str, backend: str = OTHER) -> None:
        """There is a tier of that name beside home."""
        self._metrics.begin_tier(tier, backend)

    def on_event(self, event: Event) -> None:
        """Count one event; what is pruned and retained is home's."""
        handler = _HANDLERS.get(type(event))
        if handler is not None and not (isinstance(event, Deleted | Pruned | Retained) and event.tier != HOME):
            handler(self, event)

    def close(self, timeout: float) -> None:
        """Stop serving, and report a last time, for which `timeout` seconds are waited."""
        self._metrics.ended.set(time.time())
        if self._reporter is not None:
            self._reporter.close(timeout)
            self._reporter = None
        if self._server is not None:
            with suppress(OSError):  # elsewhere than on Linux; then the server looks twice a second
                self._server.socket.shutdown(socket.SHUT_RD)  # it wakes up, and sees that it is to end
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None

    def _requested(self, event: Requested) -> None:
        self._metrics.requests["accepted" if event.error is None else "refused"].inc()

    def _stalled(self, event: Stalled) -> None:
        self._metrics.stall[event.where].observe(event.seconds)
        if event.where == "call":
            self._metrics.requested.set(event.step)

    def _staged(self, event: Staged) -> None:
        self._metrics.stage.observe(event.seconds)
        self._metrics.bytes["staged"].inc(event.bytes)

    def _durable(self, event: Durable) -> None:
        self._metrics.saves["durable"].inc()
        self._metrics.bytes["written"].inc(event.written)
        self._metrics.duration.observe(event.seconds)
        for phase, seconds in event.phases.items():
            self._metrics.phases[phase].observe(seconds)
        self._newest(event.step, event.created)

    def _newest(self, step: int, time: float) -> None:
        self._metrics.step.set(step)
        self._metrics.time.set(time)
        self._metrics.tier_step[HOME].set(step)
        self._metrics.tier_time[HOME].set(time)

    def _tier_durable(self, event: TierDurable) -> None:
        self._metrics.tier_step[event.tier].set(event.step)
        self._metrics.tier_time[event.tier].set(event.created)
        self._metrics.tier_bytes[event.tier].inc(event.written)

    def _tier_failed(self, event: TierFailed) -> None:
        self._metrics.tier_failures[event.tier].inc()
        self._count(event.error, event.tier)

    def _ahead(self, event: Ahead) -> None:
        self._metrics.ahead.set(event.checkpoints)
        self._metrics.ahead_bytes.set(event.bytes)
        self._metrics.given_up.inc(event.given_up)

    def _failed(self, event: Failed) -> None:
        self._metrics.saves["failed"].inc()
        self._metrics.failures[event.phase].inc()
        if isinstance(event.error, Fenced):
            self._metrics.fenced.set(1)
        self._count(event.error)

    def _skipped(self, event: Skipped) -> None:
        self._metrics.saves["skipped"].inc()

    def _superseded(self, event: Superseded) -> None:
        self._metrics.saves["superseded"].inc()

    def _pruned(self, event: Pruned) -> None:
        self._metrics.pruned[event.rule].inc()

    def _retained(self, event: Retained) -> None:
        self._metrics.checkpoints.set(event.checkpoints)
        self._metrics.retained.set(event.bytes)

    def _deleted(self, event: Deleted) -> None:
        self._metrics.bytes["pruned"].inc(event.bytes)
        self._metrics.phases["prune"].observe(event.seconds)

    def _restoring(self, event: Restoring) -> None:
        self._metrics.restoring.set(event.done / event.total)

    def _restored(self, event: Restored) -> None:
        self._metrics.restoring.set(1)
        self._metrics.restores["restored"].inc()
        self._metrics.restore.observe(event.seconds)
        self._metrics.bytes["read"].inc(event.bytes)

    def _restore_failed(self, event: RestoreFailed) -> None:
        self._metrics.restores["failed"].inc()
        self._count(event.error)

    def _resumed(self, event: Resumed) -> None:
        self._newest(event.step, event.created)

    def _damaged(self, event: Damaged) -> None:
        self._metrics.damaged[event.kind].inc()

    def _fallback(self, event: Fallback) -> None:
        self._metrics.fallbacks[event.feature].set(1)

    def _worker_runs(self, event: WorkerRuns) -> None:
        self._metrics.starts.inc()
        self._metrics.start.set(event.seconds)
        self._metrics.nice.set(event.nice)
        self._metrics.cores["used"].set(len(event.cpus))
        self._metrics.cores["spared"].set(len(event.spared))

    def _ignored(self, event: Ignored) -> None:
        self._metrics.ignored[event.why].inc()

    def _shortage(self, event: Shortage) -> None:
        self._metrics.shortages[event.resource].set(1)

    def _over_budget(self, event: OverBudget) -> None:
        self._metrics.over_budget["skipped" if event.dropped else "held"].inc()

    def _paced(self, event: Paced) -> None:
        self._metrics.steps["no"].set(event.usual)
        self._metrics.steps["yes"].set(event.taken)
        self._metrics.slowdown.set(event.slowdown)
        self._metrics.target.set(event.target)
        self._metrics.share.set(event.share)

    def _expected(self, event: Expected) -> None:
        self._metrics.expected.set(event.seconds)

    def _noticed(self, event: PreemptionNoticed) -> None:
        self._metrics.notices[event.source].inc()
        self._metrics.left.set(event.seconds)

    def _planned(self, event: PreemptionPlanned) -> None:
        self._metrics.decisions[event.decision].inc()
        self._metrics.left.set(event.seconds)

    def _ended(self, event: PreemptionEnded) -> None:
        self._metrics.outcomes[event.outcome].inc()
        self._metrics.left.set(event.seconds)

    def _retried(self, event: Retried) -> None:
        self._metrics.retries[event.reason].inc(event.count)

    def _leftover(self, event: Leftover) -> None:
        self._metrics.leftovers.inc()
        self._count(event.error, event.tier)

    def _count(self, error: BaseException, tier: str = HOME) -> None:
        """Count what the store of a tier had to do with `error`."""
        cause = error if isinstance(error, StorageError) else error.__cause__
        if isinstance(cause, StorageError):
            self._metrics.errors[tier][_reason(cause)].inc()


def _bridge(config: MetricsConfig) -> Bridge | None:
    """The one that `config` asks for, if it is to be had."""
    if not config.otel:
        return None
    try:
        from asyncckpt.metrics.otel import bridge

        return bridge(config.otel)
    except ImportError as error:
        logger.warning("OpenTelemetry has no metrics (%s): pip install 'asyncckpt[otel]'; training goes on", error)
    except Exception as error:  # whatever a provider raises is no reason to stop a training
        logger.warning("OpenTelemetry has no metrics: %r; training goes on", error)
    return None


def _reason(error: StorageError) -> str:
    match error:
        case StorageDenied(errno=errno.ENOSPC | errno.EDQUOT):
            return "full"
        case StorageDenied():
            return "denied"
        case TransientError():
            return "transient"
        case OutcomeUnknown():
            return "unknown"
    return "other"


_HANDLERS: Mapping[type[Event], Any] = {
    Requested: Exporter._requested,
    Stalled: Exporter._stalled,
    Staged: Exporter._staged,
    Durable: Exporter._durable,
    Failed: Exporter._failed,
    Skipped: Exporter._skipped,
    Superseded: Exporter._superseded,
    Pruned: Exporter._pruned,
    Retained: Exporter._retained,
    Deleted: Exporter._deleted,
    Restoring: Exporter._restoring,
    Restored: Exporter._restored,
    RestoreFailed: Exporter._restore_failed,
    Resumed: Exporter._resumed,
    Damaged: Exporter._damaged,
    Fallback: Exporter._fallback,
    Ignored: Exporter._ignored,
    WorkerRuns: Exporter._worker_runs,
    Shortage: Exporter._shortage,
    OverBudget: Exporter._over_budget,
    Paced: Exporter._paced,
    Expected: Exporter._expected,
    PreemptionNoticed: Exporter._noticed,
    PreemptionPlanned: Exporter._planned,
    PreemptionEnded: Exporter._ended,
    Leftover: Exporter._leftover,
    Retried: Exporter._retried,
    TierDurable: Exporter._tier_durable,
    TierFailed: Exporter._tier_failed,
    Ahead: Exporter._ahead,
}


def exporter(
    metrics: int | MetricsConfig | None, home: Storage, tiers: Mapping[str, Storage], world: int
) -> Exporter | None:
    """The exporter that ``metrics=`` and the environment ask for, or None; `tiers` are those beside `home`."""
    config = configured(metrics)
    if config is None:
        return None
    made = Exporter(config, backend=backend_of(home.url), world=world)
    for tier, storage in tiers.items():
        made.begin_tier(tier, backend_of(storage.url))
    return made
