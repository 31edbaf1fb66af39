"""Instruments: every metric there is, by name. Units are in the names.

Labels have few values, all known here or fixed in the code that names them: never a step, a path or a message.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.registry import Collector

from asyncckpt.events import HOME
from asyncckpt.format.record import RULES
from asyncckpt.metrics.backend import OTHER
from asyncckpt.metrics.workshop import Beside, Children, Workshop

STALL = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""Milliseconds: what the training thread is held."""
STAGE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""From milliseconds: copies in memory."""
SAVE = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
"""Up to half an hour: whole saves, and restores."""
PHASE = (0.01, 0.1, 1, 10, 60, 600)
"""One for each power of ten, since there is a histogram for each phase."""


class Instruments:
    """The metrics of one checkpointer in `registry`, with `labels` on each; home is a store of that `backend`.

    Histograms are kept `beside` too, if that is given.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        labels: Mapping[str, str],
        backend: str,
        world: int,
        beside: Beside | None = None,
    ) -> None:
        self._made = made = Workshop(registry, labels, beside)
        self._saves(made)
        self._newest(made)
        self._queue(made)
        self._interference(made)
        self._store(made, backend)
        self._tiers(made)
        self._restores(made)
        self._preemptions(made)
        made.one("asyncckpt_build_info", "Versions, as labels; always 1.", **_build())
        made.one(
            "asyncckpt_run_info", "Where is saved, and by how many; always 1.", backend=backend, world_size=str(world)
        )

    @property
    def metrics(self) -> Iterable[Collector]:
        """All of them."""
        return self._made.metrics

    def _saves(self, made: Workshop) -> None:
        self.requests = made.counters(
            "asyncckpt_save_requests_total",
            "Saves asked for: accepted, and so ended as one of asyncckpt_saves_total or to end so; or refused.",
            "outcome",
            *("accepted", "refused"),
        )
        self.saves = made.counters(
            "asyncckpt_saves_total",
            "Saves by how they ended.",
            "outcome",
            *("durable", "failed", "skipped", "superseded"),
        )
        self.failures = made.counters(
            "asyncckpt_save_failures_total",
            "Failed saves by phase.",
            "phase",
            *("open", "stage", "write", "report", "commit", "worker"),
        )
        self.stall = made.histograms(
            "asyncckpt_stall_seconds",
            "Time the training thread was held: in each save call, and at the optimizer while copies were under way.",
            STALL,
            "where",
            *("call", "guard"),
        )
        self.stage = made.histogram("asyncckpt_stage_seconds", "From the save call to a complete snapshot.", STAGE)
        self.duration = made.histogram("asyncckpt_save_duration_seconds", "From the save call to durable.", SAVE)
        self.phases = made.histograms(
            "asyncckpt_phase_seconds",
            "Time the worker spent in each phase of a durable save, and deleting what retention dropped.",
            PHASE,
            "phase",
            *("open", "write", "queue", "stage", "report", "commit", "prune"),
        )
        self.bytes = made.counters(
            "asyncckpt_bytes_total",
            "Bytes copied into snapshots, written in packs, read by restores, and deleted in packs.",
            "direction",
            *("staged", "written", "read", "pruned"),
        )

    def _newest(self, made: Workshop) -> None:
        self.began = made.gauge("asyncckpt_start_timestamp_seconds", "When this checkpointer was made, Unix time.")
        self.ended = made.gauge(
            "asyncckpt_end_timestamp_seconds", "When it was closed, Unix time; 0 until then, and where it never was."
        )
        self.fenced = made.gauge(
            "asyncckpt_fenced",
            "1 once a save has failed since another process has taken the run: every later one will.",
        )
        self.requested = made.gauge("asyncckpt_requested_step", "Step of the newest save call.")
        self.step = made.gauge("asyncckpt_durable_step", "Step of the newest durable checkpoint; 0 before the first.")
        self.time = made.gauge(
            "asyncckpt_durable_timestamp_seconds",
            "When the newest checkpoint became durable (when it was saved, after a resume), Unix time; 0 before.",
        )

        self.expected = made.late_gauge(
            "asyncckpt_expected_interval_seconds",
            "Seconds that usually lie between two periodic saves; not there before that is known.",
        )

    def _queue(self, made: Workshop) -> None:
        self.queued = made.gauge("asyncckpt_queued_saves", "Saves whose writing has not begun.")
        self.writing = made.gauge("asyncckpt_writing_saves", "Saves that are being written.")
        self.memory = made.gauges(
            "asyncckpt_staging_bytes", "Staging memory, by what it is for now.", "state", "used", "free"
        )
        self.capacity = made.gauge(
            "asyncckpt_staging_capacity_bytes", "Staging memory that may be in use at once; 0 before the first save."
        )

        self.heard = made.gauge(
            "asyncckpt_worker_heartbeat_timestamp_seconds",
            "When the worker process gave its last sign of life, Unix time; 0 without one.",
        )
        self.starts = made.counter(
            "asyncckpt_worker_starts_total", "Worker processes that were started: one, and one for each that died."
        )
        self.start = made.gauge("asyncckpt_worker_start_seconds", "How long the last one took to run; 0 without one.")
        self.nice = made.gauge("asyncckpt_worker_nice", "The nice value that it has.")
        self.cores = made.gauges(
            "asyncckpt_worker_cores",
            "Logical cores of this process that it may use, and that it leaves to training; 0 without one.",
            "state",
            *("used", "spared"),
        )
        self.ignored = made.counters(
            "asyncckpt_worker_ignored_messages_total",
            "Messages between trainer and worker process that were left out; late ones are no fault.",
            "reason",
            *("unknown", "malformed", "late"),
        )

    def _interference(self, made: Workshop) -> None:
        self.over_budget = made.counters(
            "asyncckpt_over_budget_total",
            "Saves that held training for longer than Budget(stall_ms=) allows: given up, or held all the same.",
            "outcome",
            *("skipped", "held"),
        )
        self.steps = made.gauges(
            "asyncckpt_step_seconds",
            "How long a training step takes, by whether a save is in flight; 0 until that is known.",
            "saving",
            *("no", "yes"),
        )
        self.slowdown = made.gauge(
            "asyncckpt_slowdown_ratio", "How much longer a step takes with a save in flight, as a part of one without."
        )
        self.target = made.gauge("asyncckpt_slowdown_target_ratio", "Most that this may be, Budget(slowdown=).")
        self.share = made.gauge("asyncckpt_pace_ratio", "Share of its time that background work takes.")
        self.share.set(1)

    def _store(self, made: Workshop, backend: str) -> None:
        self.checkpoints = made.gauge("asyncckpt_retained_checkpoints", "Checkpoints in the catalog (rank 0).")
        self.retained = made.gauge("asyncckpt_retained_bytes", "Bytes in packs of the catalog, each once (rank 0).")
        self.pruned = made.counters(
            "asyncckpt_pruned_total",
            "Checkpoints dropped from the catalog, by what dropped them.",
            "rule",
            *RULES,
        )
        self.errors = Children(lambda tier: self._errors(made, OTHER), ())
        """By tier."""
        self.errors[HOME] = self._errors(made, backend)
        self.leftovers = made.counter(
            "asyncckpt_leftovers_total", "Hints and cleaning that failed after a commit: harmless, done later."
        )
        self.retries = made.counters(
            "asyncckpt_storage_retries_total",
            "Requests to an object store that were made again, by what had failed.",
            "reason",  # none before there is one: local disks have none
            backend=backend,
        )
        self.fallbacks = made.gauges("asyncckpt_fallback", "1 for what runs slower or weaker.", "feature")
        self.shortages = made.gauges(
            "asyncckpt_shortage",
            "1 for what the first save was about to need and was not there.",
            "resource",
            *("memory", "memlock", "disk", "store"),
        )

    def _errors(self, made: Workshop, backend: str) -> Children[Counter]:
        return made.counters(
            "asyncckpt_storage_errors_total",
            "Saves, restores and cleaning that failed since the store did, by reason.",
            "reason",
            *("full", "denied", "transient", "unknown", "other"),
            backend=backend,
        )

    def _tiers(self, made: Workshop) -> None:
        # Beside asyncckpt_durable_*, not a label on them: those are compared with asyncckpt_expected_interval_seconds.
        self.tier_step = made.gauges(
            "asyncckpt_tier_durable_step",
            "Step of the newest checkpoint that is durable in each tier; 0 before the first.",
            "tier",
            HOME,
        )
        self.tier_time = made.gauges(
            "asyncckpt_tier_durable_timestamp_seconds",
            "When that became durable there (when it was saved, after a resume), Unix time; 0 before the first.",
            "tier",
            HOME,
        )
        self.tier_bytes = made.counters(
            "asyncckpt_tier_written_bytes_total", "Bytes that were put into another tier than home.", "tier"
        )
        self.tier_failures = made.counters(
            "asyncckpt_tier_failures_total", "What was to be kept in another tier than home, and failed.", "tier"
        )

        self.ahead = made.gauge(
            "asyncckpt_local_ahead_checkpoints", "Checkpoints on the local tier that the root has not got."
        )
        self.ahead_bytes = made.gauge("asyncckpt_local_ahead_bytes", "Bytes of their packs.")
        self.given_up = made.counter(
            "asyncckpt_local_given_up_total",
            "Checkpoints dropped from the local tier for want of room, although the root had not got them.",
        )

    def begin_tier(self, tier: str, backend: str) -> None:
        """A tier beside home is to be had: its series are there, as 0, so that one that never works is seen."""
        self.errors[tier] = self._errors(self._made, backend)
        for metric in (self.tier_step, self.tier_time, self.tier_bytes, self.tier_failures):
            _ = metric[tier]

    def _restores(self, made: Workshop) -> None:
        self.restores = made.counters(
            "asyncckpt_restores_total", "Restores by how they ended.", "outcome", "restored", "failed"
        )
        self.restoring = made.gauge(
            "asyncckpt_restore_progress_ratio", "How far the newest restore is: 0 before any, 1 once it is over."
        )
        self.restore = made.histogram(
            "asyncckpt_restore_duration_seconds", "Time to read and check a checkpoint that was restored.", SAVE
        )
        self.damaged = made.counters(
            "asyncckpt_damaged_checkpoints_total",
            "Listed checkpoints found damaged, by how.",
            "reason",
            *("record", "missing", "unreadable", "content"),
        )

    def _preemptions(self, made: Workshop) -> None:
        # Not there before they are needed: most processes are never told, and the others end.
        self.notices = made.counters(
            "asyncckpt_preemption_notices_total", "Notices that the process will be killed, by who gave them.", "source"
        )
        self.decisions = made.counters(
            "asyncckpt_preemption_decisions_total",
            "What was decided to do about a notice.",
            "decision",
        )
        self.outcomes = made.counters(
            "asyncckpt_preemption_outcomes_total",
            "What came of that.",
            "outcome",
        )
        self.left = made.gauge(
            "asyncckpt_preemption_left_seconds",
            "Seconds left before the kill when a notice was last acted on, decided on, or done with; 0 before that.",
        )


@functools.cache
def _build() -> Mapping[str, str]:
    return {"version": _version("asyncckpt"), "torch": _version("torch"), "python": platform.python_version()}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # on the path without having been installed
        return "unknown"
