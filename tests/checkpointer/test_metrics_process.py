"""A15: what is measured beside checkpoints: trackers, looking for others' checkpoints, JSON files, permissions."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from asyncckpt import MetricsConfig
from asyncckpt.errors import CheckpointCorruptError
from asyncckpt.metrics import Exporter
from asyncckpt.run import (
    ensure_directories_exist,
    find_latest_checkpoint,
    load_config_from_json,
    save_config_to_json,
)
from asyncckpt.tallies import Tallies
from asyncckpt.trackers import Trackers, initialize_wandb
from tests.trackers.stub import Wandb

from .scraping import scrape

Counts = Callable[[], dict[str, float]]


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    """What is counted from now on, by name and labels, and not 0."""
    fresh = Tallies()
    for module in [module for name, module in sys.modules.items() if name.startswith("asyncckpt.")]:
        if hasattr(module, "TALLIES"):
            monkeypatch.setattr(module, "TALLIES", fresh)
    registry = CollectorRegistry()
    Exporter(MetricsConfig(port=None, registry=registry))
    families = ("asyncckpt_tracker", "asyncckpt_discovery", "asyncckpt_json", "asyncckpt_file")

    def now() -> dict[str, float]:
        found = {
            " ".join([name.removeprefix("asyncckpt_"), *(value for _, value in sorted(labels))]): number
            for (name, labels), number in scrape(registry).items()
            if name.startswith(families)
        }
        return {name: number for name, number in found.items() if number}

    return now


class Mine:
    """A tracker that does what it is told to."""

    def __init__(self, name: str, *fails: str, is_immediate: bool = True) -> None:
        self.name = name
        self.fails = fails
        self.is_immediate = is_immediate

    def __getattr__(self, call: str) -> Any:
        def act(*_: object) -> None:
            if call in self.fails:
                raise OSError(errno.ENETUNREACH, "no network")

        return act


def test_a15_how_often_each_tracker_took_failed_and_lost(counts: Counts) -> None:
    with Trackers(Mine("wandb", "log"), Mine("console"), Mine("run_7"), Mine("run_8", "open")) as trackers:
        for step in range(1, 4):
            trackers.log(step, {"loss": 0.5})
    assert counts() == {
        "tracker_calls_total taken wandb": 1,  # its beginning
        "tracker_calls_total failed wandb": 3,
        "tracker_calls_total taken console": 4,
        "tracker_calls_total taken other": 4,  # names of a user's own are no labels
        "tracker_calls_total failed other": 1,
        "tracker_calls_total lost other": 3,
    }


def test_a15_so_it_is_with_those_that_have_a_thread(counts: Counts) -> None:
    called = [Mine("wandb", "open", is_immediate=False), Mine("tensorboard", "log", is_immediate=False)]
    with Trackers(*called) as trackers:
        for step in range(1, 4):
            trackers.log(step, {"loss": 0.5})
    trackers.log(4, {"loss": 0.5})  # after the end
    assert counts() == {
        "tracker_calls_total failed wandb": 1,
        "tracker_calls_total lost wandb": 4,
        "tracker_calls_total taken tensorboard": 1,
        "tracker_calls_total failed tensorboard": 3,
        "tracker_calls_total lost tensorboard": 1,
    }


def test_a15_whether_wandb_was_to_be_had(counts: Counts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert not initialize_wandb("one", tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", Wandb())
    assert initialize_wandb("one", tmp_path)
    assert counts() == {"tracker_calls_total failed wandb": 1, "tracker_calls_total taken wandb": 1}


def test_a15_how_long_it_took_to_find_the_latest_of_how_many(counts: Counts, tmp_path: Path) -> None:
    for step in range(3):
        (tmp_path / f"step{step}.pt").write_bytes(b"\x80")
    assert find_latest_checkpoint(tmp_path) == str(tmp_path / "step2.pt")
    assert find_latest_checkpoint(tmp_path / "absent") is None
    found = counts()
    assert found.pop("discovery_seconds_sum") > 0
    assert found == {"discovery_seconds_count": 2, "discovery_files_total": 3}


@pytest.mark.parametrize("name", ["config.json", "config.json.zst"])
def test_a15_how_long_json_took_and_how_large_it_was(counts: Counts, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert save_config_to_json({"lr": [1e-3] * 100}, path)
    assert load_config_from_json(path) == {"lr": [1e-3] * 100}
    found = counts()
    assert found.pop("json_seconds_sum read") > 0
    assert found.pop("json_seconds_sum write") > 0
    size = path.stat().st_size
    assert found == {
        "json_seconds_count read": 1,
        "json_seconds_count write": 1,
        "json_bytes_total read": size,
        "json_bytes_total write": size,
    }


def test_a15_what_could_not_be_had_and_why(counts: Counts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        ensure_directories_exist(tmp_path / "file" / "below")
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(CheckpointCorruptError):
        load_config_from_json(tmp_path / "damaged.json")

    def fails(number: int) -> Callable[..., None]:
        def fail(*_: object, **named: object) -> None:
            raise OSError(number, "not to be had")

        return fail

    monkeypatch.setattr("os.fsync", fails(errno.ENOSPC))
    assert not save_config_to_json({}, tmp_path / "config.json")
    with monkeypatch.context() as unreadable:
        (tmp_path / "step1.pt").touch()
        unreadable.setattr("zipfile.is_zipfile", fails(errno.EIO))
        assert find_latest_checkpoint(tmp_path) is None
    monkeypatch.setattr("os.scandir", fails(errno.EACCES))
    with pytest.raises(PermissionError):
        find_latest_checkpoint(tmp_path)
    monkeypatch.setattr("os.mkdir", fails(errno.EACCES))
    with pytest.raises(PermissionError, match="this user may not write in"):
        ensure_directories_exist(tmp_path / "new")
    errors = {name: number for name, number in counts().items() if name.startswith("file_errors")}
    assert errors == {"file_errors_total other": 3, "file_errors_total full": 1, "file_errors_total denied": 2}


def test_a15_reasons_are_told_by_what_the_system_says(counts: Counts) -> None:
    from asyncckpt.tallies import TALLIES

    for number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO):
        TALLIES.error(OSError(number, "it"))
    TALLIES.error(ValueError())
    assert counts() == {"file_errors_total denied": 3, "file_errors_total full": 2, "file_errors_total other": 2}


def process_labels(registry: CollectorRegistry) -> set[tuple[tuple[str, str], ...]]:
    """The labels that the process's metrics have, but for their own."""
    own = {"tracker", "outcome", "operation", "reason"}
    families = ("asyncckpt_tracker", "asyncckpt_discovery", "asyncckpt_json", "asyncckpt_file")
    return {
        tuple(sorted((name, value) for name, value in labels if name not in own))
        for name, labels in scrape(registry)
        if name.startswith(families)
    }


def test_a15_constant_labels_are_on_what_the_process_did_too(tmp_path: Path) -> None:
    registry, labels = CollectorRegistry(), {"run": "a", "cluster": "one"}
    save_config_to_json({}, tmp_path / "config.json")
    with Trackers(Mine("console")) as trackers:
        trackers.log(1, {"loss": 0.5})
    Exporter(MetricsConfig(port=None, registry=registry, const_labels=labels))
    assert process_labels(registry) == {(("cluster", "one"), ("run", "a"))}
    families = {name.split("_")[1] for name, _ in scrape(registry)}
    assert {"tracker", "discovery", "json", "file"} <= families


@pytest.mark.parametrize("name", ["tracker", "outcome", "operation", "reason"])
def test_a15_a_constant_label_that_is_one_of_theirs_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"const_labels .*{name}.* use another"):
        Exporter(MetricsConfig(port=None, const_labels={name: "x"}))


def test_a15_a_registry_that_several_share_has_them_once_with_the_labels_that_all_have() -> None:
    registry = CollectorRegistry()
    for name in ("a", "b"):
        Exporter(MetricsConfig(port=None, registry=registry, const_labels={"run": name, "cluster": "one"}))
    found = [labels for name, labels in scrape(registry) if name == "asyncckpt_discovery_files_total"]
    assert found == [frozenset({("cluster", "one")})]
    assert process_labels(registry) == {(("cluster", "one"),)}
