"""Metrics: what a Prometheus server would scrape, and that serving them never gets in the way of training."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from asyncckpt import AsyncCheckpointer, MetricsConfig, RetentionPolicy, SavePolicy
from asyncckpt.errors import SaveFailed, StorageDenied
from asyncckpt.events import Durable, Retained
from asyncckpt.storage import MemoryStorage
from asyncckpt.testing.slow import PATIENCE, GatedStorage

from .scraping import scrape, total, value
from .trainings import ONE_GENERATION, Recorder, Toy, Training


def test_a_scrape_tells_what_happened_to_saves(store: GatedStorage) -> None:
    training = Training()
    parts = {"model": training.model, "optimizer": training.optimizer}
    recorder = Recorder()
    with AsyncCheckpointer(store, **parts, metrics=0, keep=RetentionPolicy(last=2), listeners=[recorder]) as ckpt:
        for step in (1, 2, 3):
            training.step()
            info = ckpt.save(step).wait()
        store.fail("put", "data/*", lambda: StorageDenied(28, "No space left on device"), times=1)
        with pytest.raises(SaveFailed):
            ckpt.save(4).wait()
        ckpt.restore("latest")
        found = scrape(ckpt.metrics_port)
    durable = recorder.of(Durable)
    outcomes = {o: value(found, "asyncckpt_saves_total", outcome=o) for o in ("durable", "failed", "skipped")}
    assert outcomes == {"durable": 3, "failed": 1, "skipped": 0}
    assert value(found, "asyncckpt_saves_total", outcome="superseded") == 0
    assert value(found, "asyncckpt_save_failures_total", phase="write") == 1
    assert value(found, "asyncckpt_durable_step") == 3
    assert value(found, "asyncckpt_durable_timestamp_seconds") >= info.created
    assert value(found, "asyncckpt_stall_seconds_count", where="call") == 4
    assert value(found, "asyncckpt_stall_seconds_count", where="guard") >= 1
    assert value(found, "asyncckpt_stage_seconds_count") >= 3
    assert value(found, "asyncckpt_save_duration_seconds_count") == 3
    assert value(found, "asyncckpt_bytes_total", direction="written") == sum(event.written for event in durable) > 0
    assert value(found, "asyncckpt_bytes_total", direction="staged") >= 3 * info.size
    assert value(found, "asyncckpt_bytes_total", direction="read") > 0
    assert value(found, "asyncckpt_pruned_total", rule="policy") == 1
    assert value(found, "asyncckpt_requested_step") == 4
    assert value(found, "asyncckpt_retained_checkpoints") == 2
    assert value(found, "asyncckpt_retained_bytes") == recorder.of(Retained)[-1].bytes > 0
    assert value(found, "asyncckpt_restores_total", outcome="restored") == 1
    assert value(found, "asyncckpt_restores_total", outcome="failed") == 0
    assert value(found, "asyncckpt_restore_duration_seconds_count") == 1
    assert value(found, "asyncckpt_restore_progress_ratio") == 1
    assert total(found, "asyncckpt_storage_errors_total", reason="full") == 1
    for phase in ("open", "write", "stage", "report", "commit"):
        assert value(found, "asyncckpt_phase_seconds_count", phase=phase) == 3
        seconds = sum(event.phases[phase] for event in durable)
        assert value(found, "asyncckpt_phase_seconds_sum", phase=phase) == pytest.approx(seconds)
    for kind in ("record", "missing", "unreadable", "content"):
        assert value(found, "asyncckpt_damaged_checkpoints_total", reason=kind) == 0


def test_names_say_their_unit_and_labels_are_few() -> None:
    with AsyncCheckpointer(MemoryStorage(), model=Toy(), metrics=0) as ckpt:
        found = scrape(ckpt.metrics_port)
    names = {name for name, _ in found}
    assert all(name.startswith("asyncckpt_") for name in names)
    known = {"outcome", "phase", "where", "le", "direction", "state", "reason", "rule", "resource", "saving", "tier"}
    known |= {"version", "torch", "python", "backend", "world_size", "tracker", "operation"}
    assert {label for _, labels in found for label, _ in labels} <= known
    assert not [name for name in names if re.search(r"_(ms|millis|mb|minutes)(_|$)", name)]


def test_no_port_is_opened_unless_asked_for(store: GatedStorage) -> None:
    opened: list[str] = []
    watching = True

    def hook(event: str, arguments: object) -> None:
        if watching and event == "socket.bind":
            opened.append(event)

    sys.addaudithook(hook)
    with AsyncCheckpointer(store, model=Toy()) as ckpt:
        ckpt.save(1).wait()
        assert ckpt.metrics_port is None
    assert opened == []
    with AsyncCheckpointer(MemoryStorage(), model=Toy(), metrics=0) as ckpt:
        assert ckpt.metrics_port > 0
    watching = False
    assert opened == ["socket.bind"]


def test_two_checkpointers_do_not_collide(tmp_path: Path) -> None:
    one = AsyncCheckpointer(MemoryStorage(f"{tmp_path}-1"), model=Toy(), metrics=0)
    two = AsyncCheckpointer(MemoryStorage(f"{tmp_path}-2"), model=Toy(), metrics=0)
    with one, two:
        one.save(1).wait()
        assert one.metrics_port != two.metrics_port
        durable = [value(scrape(c.metrics_port), "asyncckpt_saves_total", outcome="durable") for c in (one, two)]
        assert durable == [1, 0]


def test_the_port_is_free_again_after_close(store: GatedStorage) -> None:
    with AsyncCheckpointer(store, model=Toy(), metrics=0) as ckpt:
        port = ckpt.metrics_port
    with AsyncCheckpointer(store, model=Toy(), metrics=port) as ckpt:
        assert ckpt.metrics_port == port
        assert value(scrape(port), "asyncckpt_saves_total", outcome="durable") == 0


def test_a_second_checkpointer_of_a_root_has_the_port_of_the_first(store: GatedStorage) -> None:
    first = AsyncCheckpointer(store, model=Toy(), metrics=0)
    first.save(1).wait()
    port = first.metrics_port
    with AsyncCheckpointer(store, model=Toy(), metrics=port) as second:
        second.resume()
        assert second.metrics_port == port
        assert value(scrape(port), "asyncckpt_saves_total", outcome="durable") == 0


@pytest.mark.parametrize("port", ["taken", 1 << 17], ids=["taken", "no port"])
def test_a_port_that_cannot_be_had_is_a_warning_and_training_goes_on(
    store: GatedStorage, caplog: pytest.LogCaptureFixture, port: object
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1] if port == "taken" else port
        with AsyncCheckpointer(store, model=Toy(), metrics=number) as ckpt:
            assert ckpt.metrics_port is None
            assert ckpt.save(1).wait().step == 1
    (record,) = [record for record in caplog.records if "metrics are not served" in record.getMessage()]
    assert record.levelname == "WARNING"
    assert str(number) in record.getMessage()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux answers on all of 127/8")
def test_only_the_loopback_interface_is_served_unless_told_otherwise(store: GatedStorage) -> None:
    with AsyncCheckpointer(store, model=Toy(), metrics=0) as ckpt, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", ckpt.metrics_port), timeout=PATIENCE)
    with AsyncCheckpointer(store, model=Toy(), metrics=MetricsConfig(addr="0.0.0.0")) as ckpt:  # noqa: S104
        socket.create_connection(("127.0.0.2", ckpt.metrics_port), timeout=PATIENCE).close()


def test_const_labels_are_on_every_metric(store: GatedStorage) -> None:
    config = MetricsConfig(const_labels={"job": "run-42"})
    with AsyncCheckpointer(store, model=Toy(), metrics=config) as ckpt:
        ckpt.save(1).wait()
        found = scrape(ckpt.metrics_port)
    assert value(found, "asyncckpt_saves_total", outcome="durable", job="run-42") == 1
    assert value(found, "asyncckpt_durable_step", job="run-42") == 1
    # Those of the process are no checkpointer's: see `asyncckpt.metrics.process`.
    of_the_process = re.compile(r"asyncckpt_(tracker|discovery|json|file_errors)")
    assert all(("job", "run-42") in labels for name, labels in found if not of_the_process.match(name))


def test_a_registry_of_ones_own_is_filled_without_a_port(store: GatedStorage) -> None:
    registry = CollectorRegistry()
    with AsyncCheckpointer(store, model=Toy(), metrics=MetricsConfig(port=None, registry=registry)) as ckpt:
        ckpt.save(1).wait()
        assert ckpt.metrics_port is None
    assert registry.get_sample_value("asyncckpt_saves_total", {"outcome": "durable"}) == 1


def test_checkpointers_one_after_the_other_and_side_by_side_share_a_registry(tmp_path: Path) -> None:
    registry = CollectorRegistry()

    def made(name: str, root: str) -> AsyncCheckpointer:
        config = MetricsConfig(port=None, registry=registry, const_labels={"run": name})
        return AsyncCheckpointer(MemoryStorage(f"{tmp_path}-{root}"), model=Toy(), metrics=config)

    for name in ("a", "b"):
        with made("first", name) as ckpt:
            ckpt.save(1).wait()
    with made("first", "c") as one, made("second", "d") as two:
        one.save(1).wait()
        two.save(1).wait()
    counts = [
        registry.get_sample_value("asyncckpt_saves_total", {"outcome": "durable", "run": name})
        for name in ("first", "second")
    ]
    assert counts == [3, 1]


def test_labels_of_a_shared_registry_may_come_in_any_order_and_have_to_be_the_same(tmp_path: Path) -> None:
    registry = CollectorRegistry()

    def made(root: str, **labels: str) -> AsyncCheckpointer:
        config = MetricsConfig(port=None, registry=registry, const_labels=labels)
        return AsyncCheckpointer(MemoryStorage(f"{tmp_path}-{root}"), model=Toy(), metrics=config)

    with made("a", run="1", host="x") as one, made("b", host="y", run="2") as two:
        one.save(1).wait()
        two.save(1).wait()
    durable = {"outcome": "durable", "run": "2", "host": "y"}
    assert registry.get_sample_value("asyncckpt_saves_total", durable) == 1
    with pytest.raises(ValueError, match=r"const_labels \['run'\]: another checkpointer has .* \['host', 'run'"):
        made("c", run="3")
    with pytest.raises(ValueError, match=r"asyncckpt_\w+ has a label of that name, use another"):
        AsyncCheckpointer(MemoryStorage(), model=Toy(), metrics=MetricsConfig(const_labels={"outcome": "good"}))


def test_metrics_tell_of_skipped_and_superseded_saves_and_of_a_smaller_budget(store: GatedStorage) -> None:
    registry = CollectorRegistry()
    options = {"save": SavePolicy(every_steps=1), "metrics": MetricsConfig(port=None, registry=registry)}
    with AsyncCheckpointer(store, model=Toy(), budget=ONE_GENERATION, **options) as ckpt:
        with store.hold("put", "data/*") as gate:
            ckpt.step(1)
            gate.wait_reached()
            ckpt.step(2)
        ckpt.wait()
    assert registry.get_sample_value("asyncckpt_saves_total", {"outcome": "skipped"}) == 1
    assert registry.get_sample_value("asyncckpt_fallback", {"feature": "generations"}) == 1
