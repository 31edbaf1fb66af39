"""The log: whatever fails or falls back is in the trainer's own log, wherever it happened; and it does not flood."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry

from asyncckpt import AsyncCheckpointer, Budget, MetricsConfig, RetentionPolicy, SavePolicy, events
from asyncckpt.errors import CheckpointNotFoundError, SaveFailed, StorageDenied
from asyncckpt.eventlog import LINES, QUIET, EventLog
from asyncckpt.events import (
    Ahead,
    Amended,
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
    Swept,
    TierDurable,
    TierFailed,
    Weighed,
    WorkerRuns,
)
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import GatedStorage

from .conftest import Make
from .trainings import Recorder, Toy

DENIED = "Permission denied"

ELSEWHERE = {Failed, PreemptionNoticed, PreemptionPlanned, PreemptionEnded, Weighed, Restoring, Ignored, Ahead}
"""Written with the handle, the decision or the measurement that they are of, or where the kind is known."""

NOTHING_WRONG = {
    *(Amended, Deleted, Durable, Expected, Paced, Pruned, Restored, Resumed, Retained, Retried, Skipped, Staged),
    *(Stalled, Superseded, TierDurable, WorkerRuns),
}


class Clock:
    """Stands until it is set."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> EventLog:
    return EventLog(clock)


def lines(caplog: pytest.LogCaptureFixture, of: str = "") -> list[str]:
    """What was written at warning level or above."""
    found = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [line for line in found if of in line]


# -- what is written ---------------------------------------------------------------------------------------


def test_every_event_is_written_or_known_to_be_nothing_that_went_wrong() -> None:
    kinds = {kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)} - {Event}
    assert kinds == {*LINES, *ELSEWHERE, *NOTHING_WRONG}
    assert len(kinds) == len(LINES) + len(ELSEWHERE) + len(NOTHING_WRONG)


ERROR = StorageDenied(13, DENIED)


@pytest.mark.parametrize(
    ("event", "level", "line"),
    [
        (Fallback("executor", "no Linux"), "WARNING", "fallback, executor: no Linux"),
        (
            Leftover("the start's sweep", ERROR),
            "WARNING",
            f"left undone, which harms no checkpoint: the start's sweep: {ERROR}",
        ),
        (
            Leftover("the start's sweep", TimeoutError(), "mirror"),
            "WARNING",
            "left undone in the mirror tier, which harms no checkpoint: the start's sweep: TimeoutError",
        ),
        (
            TierFailed("local", 7, ERROR),
            "WARNING",
            f"the local tier does not have step 7 (the root has its own; it is tried again): {ERROR}",
        ),
        (
            TierFailed("mirror", None, ERROR, is_final=True),
            "WARNING",
            f"the mirror tier is not to be had (nothing more is put there): {ERROR}",
        ),
        (
            Damaged(3, 2, "a digest differs", "content"),
            "ERROR",
            "a listed checkpoint (step 3) is damaged and is left as it is: a digest differs",
        ),
        (
            Damaged(3, 2, "a digest differs", "content", "local"),
            "ERROR",
            "a listed checkpoint of the local tier (step 3) is damaged and is left as it is: a digest differs",
        ),
        (RestoreFailed(ERROR), "ERROR", f"a resume or restore has failed: {ERROR}"),
        (Requested(2, ERROR), "ERROR", f"the save of step 2 was refused: {ERROR}"),
        (
            Swept(3, unfinished=("step 7 of incarnation 2", "step 8 of incarnation 2")),
            "WARNING",
            "an earlier training had begun saves that were never committed, and are lost: step 7 of incarnation 2, "
            "step 8 of incarnation 2",
        ),
        (Shortage("disk", "make room"), "WARNING", "make room"),
        (
            OverBudget(4, 0.25, 0.1, dropped=True),
            "WARNING",
            "the save of step 4 held training for 250 ms, and Budget(stall_ms=100) allows no more: it was given up",
        ),
        (
            OverBudget(4, 0.25, 0.1, dropped=False),
            "WARNING",
            "the save of step 4 held training for 250 ms, and Budget(stall_ms=100) allows no more: it was made all "
            "the same",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Event) else "",
)
def test_a_line_says_what_happened(
    log: EventLog, caplog: pytest.LogCaptureFixture, event: Event, level: str, line: str
) -> None:
    log.on_event(event)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [(level, line)]


def test_what_is_nothing_wrong_is_not_written(log: EventLog, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for event in (
        Requested(1),
        Stalled(1, 0.1, "call"),
        Skipped(1),
        Superseded(1, 2),
        Swept(3),
        Swept(3, "mirror", ("step 7",)),
    ):
        log.on_event(event)
    here = threading.get_ident()  # in other threads, which other tests have left, event loops may begin and say so
    assert [record for record in caplog.records if record.thread == here] == []


# -- how often ---------------------------------------------------------------------------------------------


def test_the_same_again_is_counted_and_written_after_a_while(
    log: EventLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    hint = Leftover("the hints latest and best", ERROR)
    for _ in range(5):
        log.on_event(hint)
    assert len(lines(caplog)) == 1
    clock.now = QUIET - 1
    log.on_event(hint)
    assert len(lines(caplog)) == 1
    clock.now = QUIET
    log.on_event(hint)
    log.on_event(hint)
    assert len(lines(caplog)) == 2
    assert lines(caplog)[1].endswith(f"{DENIED} (5 more like that since the last such line)")


def test_what_differs_only_in_a_key_is_the_same(log: EventLog, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(100):
        log.on_event(Leftover(f"the failed attempt in data/{number:08d}-step-1-i1-aa", ERROR))
        log.on_event(Leftover(f"data/odd-{number} is not ours to place", ERROR))
    assert len(lines(caplog)) == 2


def test_what_somebody_has_to_know_of_each_is_written_of_each(log: EventLog, caplog: pytest.LogCaptureFixture) -> None:
    told: list[Event] = [
        *(TierFailed("local", step, ERROR) for step in (1, 2)),
        *(Leftover(f"the late metrics of step {step}", ERROR) for step in (1, 2)),
        *(Damaged(step, step, "lost", "missing") for step in (1, 2)),
        *(Damaged(1, 1, "lost", "missing", tier) for tier in ("local", "mirror")),
        *(Fallback("executor", reason) for reason in ("one", "two")),
        *(Fallback(feature, "one") for feature in ("generations", "pinned memory")),
    ]
    for event in [*told, *told]:
        log.on_event(event)
    assert len(lines(caplog)) == len(told)


def test_what_was_written_long_ago_is_forgotten(log: EventLog, clock: Clock) -> None:
    for number in range(10_000):
        clock.now = float(number)
        log.on_event(TierFailed("mirror", number, ERROR))
    assert len(log._written) <= 1000


# -- on real checkpointers ---------------------------------------------------------------------------------


@pytest.mark.executors
def test_P9_a_deletion_that_fails_is_a_warning_and_a_metric_and_harms_no_save(
    make: Make,
    store: GatedStorage,
    recorder: Recorder,
    registry: CollectorRegistry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    toy = Toy()
    ckpt = make(model=toy, keep=RetentionPolicy(last=1))
    store.fail("delete", "data/*", lambda: StorageDenied(13, DENIED))
    for step in (1, 2, 3, 4):
        toy.value = step
        assert ckpt.save(step).wait().step == step
    ckpt.close()
    left = len(recorder.of(Leftover))
    assert left > 1
    assert registry.get_sample_value("asyncckpt_leftovers_total") == left
    (line,) = lines(caplog, "deletion of dropped checkpoints")
    assert line.endswith(DENIED)


def test_a_fallback_is_in_the_log_an_event_and_a_metric(caplog: pytest.LogCaptureFixture) -> None:
    recorder, registry = Recorder(), CollectorRegistry()
    config = MetricsConfig(port=None, registry=registry)
    options = {"executor": "process", "listeners": [recorder], "metrics": config}
    with AsyncCheckpointer(MemoryStorage(), model=Toy(), **options) as ckpt:
        ckpt.save(1).wait()
    (event,) = recorder.of(Fallback)
    assert lines(caplog) == [f"fallback, executor: {event.reason}"]
    assert registry.get_sample_value("asyncckpt_fallback", {"feature": "executor"}) == 1


@pytest.mark.executors
def test_a_restore_that_fails_is_in_the_log(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    ckpt = make(model=Toy())
    with pytest.raises(CheckpointNotFoundError) as raised:
        ckpt.restore(7)
    assert lines(caplog) == [f"a resume or restore has failed: {raised.value}"]


def test_a_save_that_fails_is_in_the_log_once(
    make: Make, store: GatedStorage, caplog: pytest.LogCaptureFixture
) -> None:
    ckpt = make(model=Toy())
    store.fail("put", "data/*", lambda: StorageDenied(28, "No space left on device"))
    with pytest.raises(SaveFailed):
        ckpt.save(1).wait()
    assert len(lines(caplog, "No space left")) == 1


def test_a_save_over_its_budget_is_in_the_log(
    make: Make, store: GatedStorage, caplog: pytest.LogCaptureFixture
) -> None:
    ckpt = make(
        model=torch.nn.Linear(2, 2), save=SavePolicy(every_steps=1), budget=Budget(stall_ms=1e-9), on_busy="wait"
    )
    ckpt.step(1)
    ckpt.wait()
    assert len(lines(caplog, "Budget(stall_ms=1e-09) allows no more")) == 1


@pytest.mark.executors
def test_a_tier_that_fails_is_in_the_trainers_log_wherever_saves_are_written(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "mirror"
    blocked.write_text("no folder")
    ckpt = make(tmp_path / "run", model=Toy(), mirror=blocked)
    ckpt.save(1).wait()
    ckpt.close()
    assert len(lines(caplog, "the mirror tier does not have step 1")) == 1
