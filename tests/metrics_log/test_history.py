"""D21: what a log says when it is read, after crashes and resumptions too."""

from __future__ import annotations

import logging
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from asyncckpt import AsyncCheckpointer
from asyncckpt.errors import StorageError, TransientError
from asyncckpt.metrics_log import MetricsLog, read_checkpoints, read_metrics
from asyncckpt.storage import MemoryStorage, Storage
from asyncckpt.testing.slow import GatedStorage

from .conftest import Open


def test_D21_an_absent_log_is_an_empty_history_and_reading_creates_nothing(tmp_path: Path, place: Storage) -> None:
    for folder in (place, tmp_path / "nowhere"):
        history = read_metrics(folder)
        assert (history.rows, history.latest_step, history.summary(), history.bad) == ((), 0, {}, 0)
    assert list(tmp_path.iterdir()) == []


def test_D21_the_summary_has_every_metric(start: Open) -> None:
    log = start()
    for step, loss in ((0, 4.0), (10, 1.0), (20, math.nan), (30, 2.5)):
        log.log(step, {"loss": loss, "lr": 0.1} if step else {"loss": loss})
    log.log(40, {"huge": 1.7e308, "bad": math.inf, "end": 1.0})
    log.log(50, {"huge": 1.7e308, "none": None, "end": math.nan})
    history = log.history()
    assert (history.first_step, history.latest_step, history.total_steps) == (0, 50, 6)
    loss, huge, bad = (history.summary()[name] for name in ("loss", "huge", "bad"))
    assert (loss.min, loss.max, loss.mean, loss.final, loss.count, loss.not_finite) == (1.0, 4.0, 2.5, 2.5, 4, 1)
    assert (huge.mean, huge.final) == (1.7e308, 1.7e308)
    assert (math.isnan(bad.min), bad.final, bad.not_finite) == (True, math.inf, 1)
    assert math.isnan(history.summary()["end"].final), "the last value, whatever it is"
    assert list(history.summary()) == ["loss", "lr", "huge", "bad", "end"]
    assert history.series("lr") == ([10, 20, 30], [0.1, 0.1, 0.1])
    assert history.series("absent") == ([], [])


def test_D21_a_torn_last_row_takes_no_other_with_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "metrics.jsonl"
    with MetricsLog(tmp_path) as log:
        log.log(1, {"loss": 1.0})
        log.log(2, {"loss": 2.0})
    file.write_bytes(file.read_bytes()[:-9])
    history = read_metrics(tmp_path)
    assert ([row.step for row in history.rows], history.bad) == ([1], 1)
    assert "metrics.jsonl, line 2" in caplog.text
    with MetricsLog(tmp_path) as log:
        log.log(3, {"loss": 3.0})
    assert "half a row at its end, which is cut off" in caplog.text
    history = read_metrics(tmp_path)
    assert ([row.step for row in history.rows], history.bad) == ([1, 3], 0)


def test_D21_a_torn_row_longer_than_a_block_is_cut_off_whole(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        log.log(1, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step":2,' + b"x" * 200_000)
    with MetricsLog(tmp_path) as log:
        log.log(3, {"loss": 3.0})
    history = read_metrics(tmp_path)
    assert ([row.step for row in history.rows], history.bad) == ([1, 3], 0)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[1]",
        b"\xff\xfe",
        b'{"loss": 1.0}',
        b'{"step": 1.5, "timestamp": "x"}',
        b'{"step":1,"timestamp":"x","l":NaN}',
    ],
    ids=["empty", "no object", "no text", "no step", "half a step", "bare NaN"],
)
def test_D21_lines_that_are_no_rows_are_skipped_counted_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line: bytes
) -> None:
    with MetricsLog(tmp_path) as log:
        log.log(1, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(line + b"\n" + line + b"\n")
    with MetricsLog(tmp_path) as log:
        log.log(2, {"loss": 2.0})
    history = read_metrics(tmp_path)
    assert ([row.step for row in history.rows], history.bad) == ([1, 2], 2)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_D21_rows_after_the_resumed_step_are_superseded_and_still_there(start: Open, place: Storage) -> None:
    log = start()
    for step in range(0, 60, 10):
        log.log(step, {"loss": 1.0 + step})
    log.close()
    again = start(place)
    again.resumed(30)
    for step in (40, 50):
        again.log(step, {"loss": 2.0 + step})
    history = again.history()
    assert history.series("loss") == ([0, 10, 20, 30, 40, 50], [1.0, 11.0, 21.0, 31.0, 42.0, 52.0])
    assert [(row.step, row.metrics["loss"]) for row in history.superseded] == [(40, 41.0), (50, 51.0)]
    assert history.resumed == (30,)
    assert history.summary()["loss"].count == 6
    again.resumed(10)
    history = again.history()
    assert (history.latest_step, history.total_steps, history.resumed) == (10, 2, (30, 10))
    assert len(history.superseded) == 6


def test_D21_the_latest_step_of_a_training_that_went_back_is_where_it_stands(start: Open) -> None:
    log = start()
    for step in range(100):
        log.log(step, {"loss": 1.0})
    log.resumed(40)
    log.log(41, {"loss": 1.0})
    assert log.history().latest_step == 41


def test_D21_a_step_logged_twice_counts_once_and_the_later_value_does(start: Open) -> None:
    log = start()
    log.log(1, {"loss": 5.0})
    log.log(1, {"val_loss": 4.0})
    log.log(1, {"loss": 3.0})
    log.log(0, {"loss": 6.0})  # an older step may come late, and series rise all the same
    history = log.history()
    assert (history.series("loss"), history.total_steps) == (([0, 1], [6.0, 3.0]), 2)
    assert (history.summary()["loss"].count, history.summary()["val_loss"].final) == (2, 4.0)


def test_D21_a_checkpointer_tells_the_log_where_training_goes_on(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    with (
        MetricsLog(tmp_path / "logs") as log,
        AsyncCheckpointer(tmp_path / "run", model=model, listeners=[log]) as ckpt,
    ):
        for step in range(1, 6):
            log.log(step, {"loss": float(step)})
            if step == 3:
                ckpt.save(step).wait()
    with (
        MetricsLog(tmp_path / "logs") as log,
        AsyncCheckpointer(tmp_path / "run", model=model, listeners=[log]) as ckpt,
    ):
        state = ckpt.resume()
        assert state is not None
        assert log.history().latest_step == state.step == 3
        log.log(4, {"loss": 40.0})
    history = read_metrics(tmp_path / "logs")
    assert history.series("loss")[1] == [1.0, 2.0, 3.0, 40.0]
    assert [row.step for row in history.superseded] == [4, 5]


LEFT = """
import os, sys
from asyncckpt.metrics_log import MetricsLog
from asyncckpt.storage import LocalStorage

class Bucket:
    '''A store that is on this disk, and no LocalStorage.'''
    def __init__(self, inner): self._inner = inner
    def __getattr__(self, name): return getattr(self._inner, name)

log = MetricsLog(Bucket(LocalStorage(sys.argv[1])))
for step in map(int, sys.argv[3:]):
    log.log(step, {"loss": float(step)})
if sys.argv[2] == "killed":
    os._exit(1)
if sys.argv[2] == "close":
    log.close()
"""


def test_D21_what_a_killed_process_had_not_brought_to_the_store_the_next_one_brings(
    tmp_path: Path, caches: Path
) -> None:
    def train(end: str, *steps: int) -> int:
        command = [sys.executable, "-W", "error", "-c", LEFT, tmp_path / "bucket", end, *map(str, steps)]
        return subprocess.run(command, check=False, timeout=120).returncode

    assert train("killed", 1, 2) == 1
    assert read_metrics(tmp_path / "bucket").rows == ()
    assert len(list(caches.rglob("*.jsonl"))) == 1
    assert train("close", 3) == 0
    assert [row.step for row in read_metrics(tmp_path / "bucket").rows] == [1, 2, 3]
    assert list(caches.rglob("*.jsonl")) == []
    assert train("left to the end of the process", 4) == 0
    assert [row.step for row in read_metrics(tmp_path / "bucket").rows] == [1, 2, 3, 4]


def test_D21_a_store_that_is_away_is_tried_again_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = GatedStorage(MemoryStorage(str(tmp_path)))
    log = MetricsLog(store)
    away = TransientError(110, "no answer")
    store.fail("put", "metrics*", lambda: away)
    for step in (1, 2, 3):
        log.log(step, {"loss": 1.0})
        assert not log.flush(60)
    store.heal()
    assert log.flush(60)
    assert [row.step for row in read_metrics(store).rows] == [1, 2, 3]
    log.close()
    assert caplog.text.count("not safe yet") == 1


def test_D21_a_log_that_cannot_be_read_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(StorageError):
        read_metrics(tmp_path)
    store = GatedStorage(MemoryStorage(str(tmp_path)))
    with MetricsLog(store) as log:
        log.log(1, {"loss": 1.0})
    store.fail("get", "metrics*", lambda: TransientError(110, "no answer"))
    with pytest.raises(TransientError):
        read_metrics(store)


def test_D21_the_checkpoint_log_knows_what_became_of_every_save(tmp_path: Path) -> None:
    from asyncckpt import RetentionPolicy
    from asyncckpt.metrics_log import CheckpointLog

    log = CheckpointLog(tmp_path / "logs")
    model = torch.nn.Linear(2, 2)
    with AsyncCheckpointer(tmp_path / "run", model=model, keep=RetentionPolicy(last=1), listeners=[log]) as ckpt:
        for step in (1, 2):
            ckpt.save(step).wait()
    log.close()
    rows = read_checkpoints(tmp_path / "logs")
    assert sorted((row.event, row.step) for row in rows) == [("durable", 1), ("durable", 2), ("pruned", 1)]
    durable = next(row for row in rows if row.event == "durable")
    assert set(durable.metrics) - {"stalled"} == {"seq", "bytes", "written", "seconds", "created"}
    assert durable.metrics["seconds"] > 0
    pruned = next(row for row in rows if row.event == "pruned")
    assert (pruned.metrics["seq"], pruned.metrics["rule"]) == (1, "policy")


def test_D21_the_checkpoint_log_knows_how_long_training_stood_still_for_a_save(tmp_path: Path) -> None:
    from asyncckpt.events import Durable, Pruned, Stalled
    from asyncckpt.metrics_log import CheckpointLog

    log = CheckpointLog(tmp_path)
    for step in range(100):  # that come to nothing, and are forgotten
        log.on_event(Stalled(step, 1.0, "call"))
    for event in (Stalled(100, 0.25, "call"), Stalled(100, 0.5, "guard"), Durable(100, 1, 8, 1.0, 1.0)):
        log.on_event(event)
    log.on_event(Durable(1, 2, 8, 1.0, 1.0))
    log.on_event(Pruned(1, 2, "more than 1 newer", "policy", "mirror"))  # the mirror's own, which is not the training's
    log.close()
    assert [row.metrics.get("stalled") for row in read_checkpoints(tmp_path)] == [0.75, None]
