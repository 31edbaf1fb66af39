"""Metrics of what is there now: the queue, staging memory, the store; and of what went wrong with them."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from prometheus_client import CollectorRegistry, Counter

import asyncckpt
from asyncckpt import AsyncCheckpointer, MetricsConfig, RetentionPolicy, SavePolicy
from asyncckpt.errors import (
    CheckpointCorruptError,
    CheckpointNotFoundError,
    ObjectNotFound,
    OutcomeUnknown,
    SaveFailed,
    StorageDenied,
    StorageError,
    TransientError,
    UnsupportedState,
)
from asyncckpt.events import Damaged, Failed, Leftover, Requested, Retried, Stalled, TierFailed
from asyncckpt.levels import Levels, Memory
from asyncckpt.metrics import Exporter, exporter
from asyncckpt.metrics.backend import backend_of
from asyncckpt.storage import LocalStorage, MemoryStorage
from asyncckpt.tallies import TALLIES
from asyncckpt.testing.slow import PATIENCE, GatedStorage

from .conftest import Make
from .scraping import Samples, scrape, total, value
from .trainings import Recorder, Toy, saved

pytestmark = pytest.mark.executors


def eventually(look: Callable[[], Samples], reached: Callable[[Samples], bool]) -> Samples:
    """Look again and again until what is there is as it should be."""
    deadline = time.monotonic() + PATIENCE
    while not reached(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.001)
    return found


def packs(root: Path) -> int:
    """Bytes of all packs that are on the disk."""
    return sum(path.stat().st_size for path in root.glob("data/*/*.safetensors"))


# -- the queue and its memory --------------------------------------------------------------------


def queue(found: Samples) -> tuple[float, float]:
    return value(found, "asyncckpt_queued_saves"), value(found, "asyncckpt_writing_saves")


def memory(found: Samples) -> tuple[float, float, float]:
    used, free = (value(found, "asyncckpt_staging_bytes", state=state) for state in ("used", "free"))
    return used, free, value(found, "asyncckpt_staging_capacity_bytes")


def test_what_waits_what_is_written_and_the_memory_of_both(store: GatedStorage, executor: str) -> None:
    with AsyncCheckpointer(store, model=Toy(), metrics=0, generations=3, executor=executor) as ckpt:
        found = scrape(ckpt.metrics_port)
        assert (queue(found), memory(found)) == ((0, 0), (0, 0, 0))
        with store.hold("put", "data/*") as gate:
            first = ckpt.save(1)
            gate.wait_reached()
            assert first.id  # a worker process has said that it is begun
            ckpt.save(2)
            ckpt.save(3)
            found = scrape(ckpt.metrics_port)
            assert queue(found) == (2, 1)
            used, free, capacity = memory(found)
            assert used == capacity > 0
            assert free == 0
        ckpt.wait()
        # The copier may let go of the last arena a moment after the worker has.
        found = eventually(lambda: scrape(ckpt.metrics_port), lambda found: memory(found)[0] == 0)
        assert queue(found) == (0, 0)
        assert memory(found) == (0, capacity, capacity)


def test_the_guard_at_the_optimizer_is_no_request() -> None:
    registry = CollectorRegistry()
    counting = Exporter(MetricsConfig(port=None, registry=registry))
    for step, where in ((4, "call"), (5, "call"), (4, "guard")):
        counting.on_event(Stalled(step, 0.001, where))
    assert value(scrape(registry), "asyncckpt_requested_step") == 5


@pytest.mark.executors("thread")
def test_capacity_is_what_the_budget_allows(store: GatedStorage) -> None:
    with AsyncCheckpointer(store, model=Toy(), metrics=0, generations=4, budget=1 << 30) as ckpt:
        ckpt.save(1).wait()
        four = memory(scrape(ckpt.metrics_port))[2]
    budget = int(four / 4 * 2.5)
    with AsyncCheckpointer(store, model=Toy(), metrics=0, generations=4, budget=budget, overwrite=True) as ckpt:
        ckpt.save(1).wait()
        assert memory(scrape(ckpt.metrics_port))[2] == four / 2


def test_a_forgotten_checkpointer_is_not_kept_by_its_metrics() -> None:
    class Source:
        def levels(self) -> Levels:
            return Levels(1, 2, Memory(3, 4, 7))

    registry = CollectorRegistry()
    counting = Exporter(MetricsConfig(port=None, registry=registry))
    source = Source()
    counting.watch(source.levels)
    assert (queue(scrape(registry)), memory(scrape(registry))) == ((1, 2), (3, 4, 7))
    del source
    gc.collect()
    assert (queue(scrape(registry)), memory(scrape(registry))) == ((0, 0), (0, 0, 0))


# -- the store -----------------------------------------------------------------------------------


def test_what_is_retained_counts_a_shared_pack_once(tmp_path: Path, make: Make, registry: CollectorRegistry) -> None:
    root = tmp_path / "run"
    ckpt = make(root, model=Toy(1))
    for step in (1, 2, 3):
        ckpt.save(step).wait()  # the weights are the same: later ones share the first one's pack
    ckpt.wait()
    found = scrape(registry)
    assert value(found, "asyncckpt_retained_checkpoints") == 3
    assert value(found, "asyncckpt_retained_bytes") == packs(root) > 0
    assert value(found, "asyncckpt_bytes_total", direction="written") == packs(root)


def test_what_is_deleted_is_counted_once_it_is(tmp_path: Path, make: Make, registry: CollectorRegistry) -> None:
    root, toy = tmp_path / "run", Toy()
    ckpt = make(root, model=toy, keep=RetentionPolicy(last=1))
    for step, weight in ((1, 1), (2, 1), (3, 2), (4, 3)):  # the second shares the first one's pack
        toy.value = weight
        ckpt.save(step).wait()
    ckpt.close()
    found = scrape(registry)
    written, pruned = (value(found, "asyncckpt_bytes_total", direction=d) for d in ("written", "pruned"))
    assert written - pruned == packs(root) == value(found, "asyncckpt_retained_bytes")
    assert value(found, "asyncckpt_pruned_total", rule="policy") == 3
    assert value(found, "asyncckpt_phase_seconds_count", phase="prune") >= 2


def test_a_deletion_that_fails_counts_no_bytes_but_itself(
    make: Make, store: GatedStorage, registry: CollectorRegistry
) -> None:
    toy = Toy()
    ckpt = make(model=toy, keep=RetentionPolicy(last=1))
    store.fail("delete", "data/*", lambda: StorageDenied(13, "Permission denied"))
    for step in (1, 2, 3):
        toy.value = step
        ckpt.save(step).wait()
    ckpt.close()
    found = scrape(registry)
    assert value(found, "asyncckpt_bytes_total", direction="pruned") == 0
    failed = value(found, "asyncckpt_leftovers_total")
    assert failed == total(found, "asyncckpt_storage_errors_total", reason="denied") > 0


def test_a_resumed_training_shows_what_it_goes_on_from(tmp_path: Path, make: Make, registry: CollectorRegistry) -> None:
    root = tmp_path / "run"
    saved(root, 1, 2, 3)
    ckpt = make(root, model=Toy())
    assert value(scrape(registry), "asyncckpt_durable_timestamp_seconds") == 0
    state = ckpt.resume(which=2)
    found = scrape(registry)
    assert value(found, "asyncckpt_durable_step") == 2
    assert value(found, "asyncckpt_durable_timestamp_seconds") == state.timestamp > 0
    assert value(found, "asyncckpt_retained_checkpoints") == 3
    assert value(found, "asyncckpt_retained_bytes") == packs(root)
    assert value(found, "asyncckpt_requested_step") == 0


def test_a_restore_that_takes_nothing_over_moves_no_durable_step(
    tmp_path: Path, make: Make, registry: CollectorRegistry
) -> None:
    root = tmp_path / "run"
    saved(root, 1, 2)
    make(root, model=Toy()).restore(1)
    assert value(scrape(registry), "asyncckpt_durable_step") == 0
    assert value(scrape(registry), "asyncckpt_restores_total", outcome="restored") == 1


# -- what goes wrong -----------------------------------------------------------------------------


def test_restores_that_fail_are_counted(make: Make, store: GatedStorage, registry: CollectorRegistry) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    with pytest.raises(CheckpointNotFoundError):
        ckpt.restore(7)
    store.fail("get", "data/*", lambda: TransientError(11, "Try again"))
    with pytest.raises(StorageError):
        ckpt.restore("latest")
    with pytest.raises(StorageError):
        ckpt.resume()
    found = scrape(registry)
    assert value(found, "asyncckpt_restores_total", outcome="failed") == 3
    assert value(found, "asyncckpt_restores_total", outcome="restored") == 0
    assert total(found, "asyncckpt_storage_errors_total", reason="transient") == 2
    assert value(found, "asyncckpt_restore_duration_seconds_count") == 0


def _no_pack(root: Path, store: GatedStorage) -> None:
    next(root.glob("data/*-step-3-*/*.safetensors")).unlink()


def _no_manifest(root: Path, store: GatedStorage) -> None:
    next(root.glob("data/*-step-3-*/manifest.json")).unlink()


def _other_bytes(root: Path, store: GatedStorage) -> None:
    pack = next(root.glob("data/*-step-3-*/*.safetensors"))
    pack.write_bytes(bytes(pack.stat().st_size))


def _no_pack_to_read(root: Path, store: GatedStorage) -> None:
    store.fail("get", "data/*-step-3-*.safetensors", lambda: StorageError(5, "Input/output error"))


def _no_manifest_to_read(root: Path, store: GatedStorage) -> None:
    store.fail("get", "data/*-step-3-*/manifest.json", lambda: StorageError(5, "Input/output error"))


KINDS = ("record", "missing", "unreadable", "content")


def test_a_pack_that_cannot_be_read_is_the_stores_failure_too(
    make: Make, store: GatedStorage, registry: CollectorRegistry
) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    store.fail("get", "data/*.safetensors", lambda: StorageError(5, "Input/output error"))
    with pytest.raises(CheckpointCorruptError):
        ckpt.restore("latest")
    assert total(scrape(registry), "asyncckpt_storage_errors_total", reason="other") == 1
    store.heal()
    store.fail("get", "data/*.safetensors", lambda: StorageDenied(13, "Permission denied"))
    with pytest.raises(StorageDenied):
        ckpt.restore("latest")
    assert total(scrape(registry), "asyncckpt_storage_errors_total", reason="denied") == 1


def test_pruning_by_hand_shows_at_once(make: Make, registry: CollectorRegistry, store: GatedStorage) -> None:
    toy = Toy()
    with make(model=toy) as ckpt:
        for step in (1, 2, 3):
            toy.value = step
            ckpt.save(step).wait()
    keeping = make(model=toy, keep=RetentionPolicy(last=1), metrics=MetricsConfig(port=None, registry=registry))
    keeping.resume()
    keeping.prune()
    assert value(scrape(registry), "asyncckpt_retained_checkpoints") == 1
    assert value(scrape(registry), "asyncckpt_pruned_total", rule="policy") == 2


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (_no_pack, "missing"),
        (_no_manifest, "missing"),
        (_other_bytes, "content"),
        (_no_pack_to_read, "unreadable"),
        (_no_manifest_to_read, "unreadable"),
    ],
)
def test_damage_is_counted_by_what_is_wrong(
    tmp_path: Path,
    make: Make,
    registry: CollectorRegistry,
    recorder: Recorder,
    damage: Callable[[Path, GatedStorage], None],
    kind: str,
) -> None:
    saved(tmp_path / "run", 1, 2, 3)
    store = GatedStorage(LocalStorage(tmp_path / "run"))
    damage(tmp_path / "run", store)
    assert make(store, model=Toy()).resume().step == 2
    assert [event.kind for event in recorder.of(Damaged)] == [kind]
    found = scrape(registry)
    counts = {reason: value(found, "asyncckpt_damaged_checkpoints_total", reason=reason) for reason in KINDS}
    assert counts == {reason: int(reason == kind) for reason in KINDS}


def test_a_lost_record_is_counted_as_one(
    tmp_path: Path, make: Make, registry: CollectorRegistry, recorder: Recorder
) -> None:
    root = tmp_path / "run"
    saved(root, 1, 2, 3)
    first = next(path for path in sorted(root.glob("commits/*.json")) if b'"checkpoint"' in path.read_bytes())
    os.truncate(first, 10)
    assert make(root, model=Toy()).resume().step == 3
    assert [(event.step, event.kind) for event in recorder.of(Damaged)] == [(None, "record")]
    assert value(scrape(registry), "asyncckpt_damaged_checkpoints_total", reason="record") == 1


def _caused(cause: BaseException) -> SaveFailed:
    error = SaveFailed("outside")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (StorageDenied(28, "No space left on device"), "full"),
        (StorageDenied(122, "Disk quota exceeded"), "full"),
        (StorageDenied(13, "Permission denied"), "denied"),
        (TransientError(110, "Connection timed out"), "transient"),
        (OutcomeUnknown("who knows"), "unknown"),
        (ObjectNotFound(2, "gone"), "other"),
        (_caused(StorageDenied(13, "Permission denied")), "denied"),
        (_caused(ValueError("no store's")), None),
        (ValueError("no store's"), None),
    ],
)
def test_what_the_store_did_is_counted_by_a_few_reasons(error: BaseException, reason: str | None) -> None:
    registry = CollectorRegistry()
    counting = Exporter(MetricsConfig(port=None, registry=registry))
    counting.on_event(Failed(1, "write", error))
    counting.on_event(Leftover("a hint", error))
    found = scrape(registry)
    counts = {r: total(found, "asyncckpt_storage_errors_total", reason=r) for r in REASONS}
    assert counts == {r: 2 if r == reason else 0 for r in REASONS}


REASONS = ("full", "denied", "transient", "unknown", "other")


# -- the whole -----------------------------------------------------------------------------------


def test_a_process_has_fewer_than_250_series_whatever_happens() -> None:
    registry = CollectorRegistry()
    config = MetricsConfig(port=None, registry=registry, const_labels={"run": "a"})
    with AsyncCheckpointer(MemoryStorage(), model=Toy(), metrics=config) as ckpt:
        ckpt.save(1).wait()
        ckpt.restore("latest")
    for tracker in ("console", "jsonlines", "tensorboard", "wandb", "one of mine", "another of mine"):
        TALLIES.add("tracker_taken", tracker)
    found = scrape(registry)
    assert 100 < len(found) < 250
    assert len([name for name, _ in found if name == "asyncckpt_tracker_calls_total"]) == 15
    assert not [name for name, _ in found if name.endswith("_created")]


def test_the_users_own_metrics_stay_as_they_are() -> None:
    registry = CollectorRegistry()
    Exporter(MetricsConfig(port=None, registry=registry))
    Counter("mine", "The user's own.", registry=registry)
    assert {name for name, _ in scrape(registry) if name.endswith("_created")} == {"mine_created"}


@pytest.mark.parametrize(
    ("url", "backend"),
    [
        ("/data/run", "local"),
        ("runs/first", "local"),
        ("file:///data/run", "local"),
        ("memory://run", "memory"),
        ("s3://bucket/run", "s3"),
        ("S3A://bucket/run", "s3"),
        ("gs://bucket/run", "gcs"),
        ("gcs://bucket/run", "gcs"),
        ("az://container/run", "azure"),
        ("abfs://container/run", "azure"),
        ("sftp://host/run", "other"),
        ("an://odd://name", "other"),
    ],
)
def test_P10_backends_are_words_of_few_whatever_the_url(url: str, backend: str) -> None:
    assert backend_of(url) == backend


def test_P10_run_info_names_the_kind_of_store_and_the_world(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    config = MetricsConfig(port=None, registry=registry, const_labels={"run": "a", "rank": "0"})
    with AsyncCheckpointer(tmp_path, model=Toy(), metrics=config):
        labels = {"backend": "local", "world_size": "1", "run": "a", "rank": "0"}
        assert value(scrape(registry), "asyncckpt_run_info", **labels) == 1


def test_P10_what_a_store_does_wrong_is_counted_under_its_own_kind(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    config = MetricsConfig(port=None, registry=registry)
    counting = exporter(config, LocalStorage(tmp_path), {"mirror": MemoryStorage("copies")}, 1)
    assert counting is not None
    denied = StorageDenied(13, "Permission denied")
    counting.on_event(Failed(1, "write", denied))
    counting.on_event(TierFailed("mirror", 1, denied))
    counting.on_event(Leftover("deletion of dropped checkpoints", denied, "mirror"))
    found = {
        backend: value(scrape(registry), "asyncckpt_storage_errors_total", reason="denied", backend=backend)
        for backend in ("local", "memory")
    }
    assert found == {"local": 1, "memory": 2}
    counting.on_event(Retried("slow_down", 3))
    assert value(scrape(registry), "asyncckpt_storage_retries_total", reason="slow_down", backend="local") == 3


def requested(registry: CollectorRegistry) -> tuple[float, float]:
    """How many saves were asked for and accepted, and how many refused."""
    found = scrape(registry)
    accepted, refused = (value(found, "asyncckpt_save_requests_total", outcome=o) for o in ("accepted", "refused"))
    return accepted, refused


def test_P10_saves_started_completed_failed_and_dropped_add_up(
    make: Make, store: GatedStorage, registry: CollectorRegistry, outcomes: Callable[[str], float]
) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=1))
    with store.hold("put", "data/*") as gate:
        ckpt.step(1)
        gate.wait_reached()
        assert (requested(registry), outcomes("durable")) == ((1, 0), 0)  # under way
        ckpt.step(2)
        ckpt.step(3)  # in place of 2
        ckpt.save(4, on_busy="skip")
    ckpt.wait()
    store.fail("put", "data/*", lambda: StorageDenied(28, "No space left on device"))
    with pytest.raises(SaveFailed):
        ckpt.save(5).wait()
    ended = {outcome: outcomes(outcome) for outcome in ("durable", "failed", "skipped", "superseded")}
    assert ended == {"durable": 2, "failed": 1, "skipped": 1, "superseded": 1}
    assert requested(registry) == (sum(ended.values()), 0)


def test_P10_a_save_that_is_refused_is_counted_told_and_in_the_log(
    make: Make,
    registry: CollectorRegistry,
    recorder: Recorder,
    outcomes: Callable[[str], float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    toy = Toy()
    ckpt = make(model=toy)
    toy.register_buffer("odd", torch.ones(2).to_sparse())
    with pytest.raises(UnsupportedState) as raised:
        ckpt.save(1)
    with pytest.raises(ValueError, match="negative"):
        ckpt.save(-1)
    assert requested(registry) == (0, 2)
    assert sum(map(outcomes, ("durable", "failed", "skipped", "superseded"))) == 0
    assert [(event.step, event.error is raised.value) for event in recorder.of(Requested)] == [(1, True), (-1, False)]
    assert f"the save of step 1 was refused: {raised.value}" in caplog.text


def test_build_info_names_the_versions() -> None:
    registry = CollectorRegistry()
    Exporter(MetricsConfig(port=None, registry=registry))
    versions = {
        "version": asyncckpt.__version__,
        "torch": importlib.metadata.version("torch"),  # torch itself may add what it was built for
        "python": platform.python_version(),
    }
    assert value(scrape(registry), "asyncckpt_build_info", **versions) == 1
