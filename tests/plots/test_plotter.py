"""D22: pictures are drawn beside a training, and nothing about them can harm it."""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from asyncckpt.errors import StorageDenied
from asyncckpt.events import Durable
from asyncckpt.metrics_log import History, Row, history, timeline
from asyncckpt.metrics_log.history import history_of
from asyncckpt.metrics_log.rows import iso
from asyncckpt.plots import Plotter, plotter
from asyncckpt.storage import LocalStorage, MemoryStorage
from asyncckpt.testing.slow import GatedStorage
from asyncckpt.trackers import JsonLinesTracker, Trackers

from .test_pictures import WaveModel

HISTORY = history_of(Row(step, iso(step), {"loss": 1 / step}) for step in range(1, 5))

pytest.importorskip("matplotlib")


def names(folder: Path) -> list[str]:
    return sorted(re.sub(r"\d{8}_\d{6}\.png", "TIME.png", path.name) for path in folder.iterdir())


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_D22_pictures_are_due_at_each_multiple_but_not_at_0(tmp_path: Path) -> None:
    with Plotter(tmp_path / "plots", every=100) as made:
        assert [step for step in range(0, 301, 50) if made.is_due(step)] == [100, 200, 300]
    assert Plotter(tmp_path).every == 1000
    assert not (tmp_path / "plots").exists()
    with pytest.raises(ValueError, match="every=0"):
        Plotter(tmp_path, every=0)


def test_D22_every_kind_is_there_with_its_step_and_its_time(tmp_path: Path) -> None:
    model = WaveModel()
    optimizer = torch.optim.AdamW(model.parameters())
    with Plotter(tmp_path / "plots") as made:
        made.training(1000, HISTORY)
        made.model(1000, model)
        made.optimizer(1000, optimizer)
        made.checkpoints(1000, [])
        made.compare(1000, {"one": HISTORY, "two": History()})
    kinds = ["checkpoints", "comparison", *(f"model_{name}" for name in (
        "frequencies", "harmonics", "interference", "packets", "phases", "weights",
    )), "optimizer", "training"]  # fmt: skip
    assert names(tmp_path / "plots") == [f"{kind}_step_000001000_TIME.png" for kind in kinds]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "plots").iterdir())
    assert (made.drawn, made.failed, made.left_out) == (10, 0, 0)


def test_D22_what_was_logged_is_read_by_the_thread_that_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the training, which would wait for the whole of a long log, and for its store."""
    with Trackers(JsonLinesTracker(tmp_path / "logs")) as log:
        log.log(1, {"loss": 0.5})
        log.on_event(Durable(1, 1, 10, 0.5, 0.0))
    readers: list[threading.Thread] = []
    drawn: list[Any] = []

    def reading(*given: Any, **named: Any) -> Any:
        readers.append(threading.current_thread())
        return read(*given, **named)

    read = history.rows_of
    monkeypatch.setattr(history, "rows_of", reading)
    monkeypatch.setattr(timeline, "rows_of", reading)
    monkeypatch.setattr(plotter, "training_curves", lambda given, title: drawn.append(given) or b"a picture")
    monkeypatch.setattr(plotter, "comparison", lambda given: drawn.append(given) or b"a picture")
    monkeypatch.setattr(plotter, "checkpoint_timeline", lambda given: drawn.append(given) or b"a picture")

    def gives() -> History:
        readers.append(threading.current_thread())
        return HISTORY

    with Plotter(tmp_path / "plots") as made:
        made.training(1, tmp_path / "logs")
        made.training(2, LocalStorage(tmp_path / "logs"))
        made.training(3, gives)
        made.compare(4, {"one": str(tmp_path / "logs"), "two": gives, "three": HISTORY})
        made.checkpoints(5, str(tmp_path / "logs"))
        made.checkpoints(6, list)
    assert [given.series("loss") for given in drawn[:2]] == [([1], [0.5])] * 2
    assert drawn[2] is HISTORY
    assert [each.latest_step for each in drawn[3].values()] == [1, 4, 4]
    assert [[row.event for row in rows] for rows in drawn[4:]] == [["durable"], []]
    assert len(readers) == 6
    assert threading.main_thread() not in readers
    assert made.failed == 0


def test_D22_a_log_that_cannot_be_read_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()

    def fails() -> History:
        raise OSError(5, "the disk is gone")

    with Plotter(tmp_path / "plots") as made:
        made.training(1, tmp_path / "absent")  # a log that nobody has begun
        made.compare(1, {"one": fails})
        made.checkpoints(1, tmp_path / "file")
    assert (made.drawn, made.failed) == (1, 2)
    assert "the picture 'comparison' was not drawn: [Errno 5] the disk is gone; training goes on" in said(caplog)


def test_D22_a_store_gets_them_too() -> None:
    store = MemoryStorage("plots")
    with Plotter(store) as made:
        made.training(5, HISTORY)
    (name,) = store._objects
    assert re.fullmatch(r"training_step_000000005_\d{8}_\d{6}\.png", name)


def test_D22_a_picture_shows_the_weights_of_its_step_though_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    seen: list[Any] = []
    threads: list[threading.Thread] = []

    def draw(state: dict[str, Any], title: str) -> bytes:
        gate.wait()
        seen.append(state)
        threads.append(threading.current_thread())
        return b"a picture"

    monkeypatch.setattr(plotter, "weight_histograms", draw)
    monkeypatch.setattr(plotter, "optimizer_histograms", draw)
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    momentum = optimizer.state_dict()["state"][0]["momentum_buffer"].clone()
    with Plotter(tmp_path) as made:
        made.model(1, model)
        made.optimizer(1, optimizer)
        optimizer.step()
        model.weight.data.fill_(9)
        gate.set()
    assert {name: value.tolist() for name, value in seen[0].items()} == {
        name: value.tolist() for name, value in before.items()
    }
    assert torch.equal(seen[1]["state"][0]["momentum_buffer"], momentum)
    assert threading.main_thread() not in threads


def test_D22_of_large_tensors_evenly_spread_values_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    from asyncckpt.plots import sampling

    monkeypatch.setattr(sampling, "BUDGET", 2000)
    monkeypatch.setattr(sampling, "LEAST", 100)
    copied = sampling.sampled({"large": torch.arange(10_000.0), "small": torch.arange(10.0)})
    assert copied["large"].tolist() == list(range(0, 10_000, 10))
    assert copied["small"].tolist() == list(range(10))


def test_D22_without_matplotlib_one_line_names_the_extra_and_nothing_else_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    made = Plotter(tmp_path / "plots")
    for step in range(1, 5):
        made.training(step, HISTORY)
        made.model(step, nn.Linear(2, 2))
    assert made.close()
    (line,) = said(caplog)
    assert line.startswith("pictures are not drawn: plots need matplotlib")
    assert line.endswith("pip install 'asyncckpt[plots]'; training goes on")
    assert (made.drawn, made.failed) == (0, 1)
    assert not (tmp_path / "plots").exists()


def test_D22_a_drawing_that_fails_is_said_once_and_the_next_kind_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(history: History, title: str) -> bytes:
        raise MemoryError("no room\nfor a picture")

    monkeypatch.setattr(plotter, "training_curves", broken)
    with Plotter(tmp_path) as made:
        for step in range(1, 6):
            made.training(step, HISTORY)
        made.checkpoints(6, [])
    assert said(caplog) == ["the picture 'training' was not drawn: no room; training goes on"]
    assert (made.failed, made.drawn) == (5, 1)


class Odd(nn.Module):
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("sharded")


def test_D22_a_model_that_cannot_be_read_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Plotter(tmp_path) as made:
        made.model(1, Odd())
        made.optimizer(1, object())
    assert made.failed == 2
    assert said(caplog)[0] == "the picture 'model' was not drawn: sharded; training goes on"


def test_D22_a_store_that_refuses_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    store = GatedStorage(MemoryStorage("refuses"))
    store.fail("put", "*", lambda: StorageDenied(28, "no space left"))
    with Plotter(store) as made:
        for step in range(1, 4):
            made.training(step, HISTORY)
    assert made.failed == 3
    assert said(caplog) == ["the picture 'training' was not drawn: [Errno 28] no space left; training goes on"]


def test_D22_of_more_pictures_than_may_wait_the_oldest_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plotter, "training_curves", lambda history, title: b"a picture")
    memory = MemoryStorage("many")
    store = GatedStorage(memory)
    made = Plotter(store)
    with store.hold("put", "*") as gate:
        made.training(1, HISTORY)
        gate.wait_reached()
        for step in range(2, 20):
            made.training(step, HISTORY)
    assert made.close()
    assert sorted(int(name.split("_")[2]) for name in memory._objects) == [1, *range(4, 20)]
    assert (made.drawn, made.left_out) == (17, 2)


def test_D22_a_store_that_hangs_holds_up_no_training_and_closing_gives_up(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plotter, "training_curves", lambda history, title: b"a picture")
    store = GatedStorage(MemoryStorage("hangs"))
    made = Plotter(store)
    with store.hold("put", "*") as gate:
        made.training(1, HISTORY)
        gate.wait_reached()
        for step in range(2, 20):
            made.training(step, HISTORY)
        assert made.left_out == 2
        assert made.close(timeout=0.0) is False
        made.training(20, HISTORY)
    assert said(caplog) == [
        "pictures are wanted faster than they are drawn: the oldest are left out",
        "17 pictures were not drawn within 0 s, and are given up",
    ]
    for thread in threading.enumerate():
        if thread.name == "asyncckpt-plots":
            thread.join(60)
    assert made.close()
