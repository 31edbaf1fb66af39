"""B21b: TensorBoard's event files, read back by TensorBoard."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncckpt.events import Durable, Resumed
from asyncckpt.trackers import TensorBoardTracker, Trackers, WandbTracker

from .stub import Wandb

pytest.importorskip("tensorboard")


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def tags(folder: Path) -> set[str]:
    """All that event files have a record of, also what no page shows."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    return {
        value.tag
        for path in folder.iterdir()
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
    }


def test_B21b_metrics_are_scalars_and_the_configuration_is_text(tmp_path: Path) -> None:
    with Trackers(TensorBoardTracker(tmp_path / "board"), config={"model": {"d": 512}, "token": "t"}) as trackers:
        for step in (1, 2, 3):
            trackers.log(step, {"train/loss": 1 / step, "count": 2**40, "none": None})
        trackers.log(4, {"train/loss": math.nan})
        trackers.on_event(Durable(3, 1, 100, 0.5, 0.0, written=50))
    loss = scalars(tmp_path / "board", "train/loss")
    assert [step for step, _ in loss] == [1, 2, 3, 4]
    assert [value for _, value in loss[:3]] == pytest.approx([1, 1 / 2, 1 / 3])
    assert math.isnan(loss[3][1])
    assert scalars(tmp_path / "board", "count")[0] == (1, float(2**40))
    assert scalars(tmp_path / "board", "asyncckpt/save_seconds") == [(3, 0.5)]
    assert scalars(tmp_path / "board", "asyncckpt/written_bytes") == [(3, 50.0)]
    (text,) = read(tmp_path / "board").Tensors("config")
    shown = text.tensor_proto.string_val[0].decode().removeprefix("```json\n").removesuffix("\n```")
    assert json.loads(shown) == {"model": {"d": 512}, "token": "***"}
    assert "none" not in tags(tmp_path / "board")


def test_B21b_after_a_resume_no_step_is_there_twice(tmp_path: Path) -> None:
    with Trackers(TensorBoardTracker(tmp_path)) as trackers:
        for step in range(1, 6):
            trackers.log(step, {"loss": float(step)})
    with Trackers(TensorBoardTracker(tmp_path)) as trackers:
        trackers.on_event(Resumed(3, 1, 0.0))
        trackers.log(4, {"loss": 40.0})
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


def test_B21b_a_row_is_on_disk_once_it_was_taken(tmp_path: Path) -> None:
    """So that a kill loses none of it. Of many rows a thread that still writes them would not be done."""
    tracker = TensorBoardTracker(tmp_path / "board")
    tracker.open({})
    for step in range(50):
        tracker.log(step, {"loss": 0.5})
    shutil.copytree(tmp_path / "board", tmp_path / "killed")
    assert scalars(tmp_path / "killed", "loss") == [(step, 0.5) for step in range(50)]
    tracker.close()


def test_B21b_tensorboard_and_wandb_may_be_on_at_once(tmp_path: Path, wandb: Wandb) -> None:
    with Trackers(TensorBoardTracker(tmp_path), WandbTracker("run_001")) as trackers:
        trackers.log(1, {"loss": 0.5})
    assert scalars(tmp_path, "loss") == [(1, 0.5)]
    assert [row["loss"] for row in wandb.begun[0].rows if "loss" in row] == [0.5]


def test_B21b_without_the_package_it_is_left_out_and_the_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with Trackers(TensorBoardTracker(tmp_path)) as trackers:
        trackers.log(1, {"loss": 1.0})
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("tensorboard is not used: TensorBoard needs tensorboard")
    assert "pip install 'asyncckpt[tensorboard]'" in said


def test_B21b_a_folder_that_cannot_be_written_stops_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "board").write_text("in the way")
    with Trackers(TensorBoardTracker(tmp_path / "board")) as trackers:
        trackers.log(1, {"loss": 1.0})
    assert [record.getMessage()[:27] for record in caplog.records] == ["tensorboard is not used: [E"]
