"""A run's trackers: told its configuration and its saves, closed with it, and W&B's run written down (B7, B8, A25)."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from asyncckpt import AsyncCheckpointer, CheckpointInfo
from asyncckpt.metrics_log import read_checkpoints, read_metrics
from asyncckpt.testing.slow import PATIENCE
from asyncckpt.trackers import JsonLinesTracker, WandbTracker
from asyncckpt.trackers.lane import _Item
from tests.trackers.stub import Wandb

from .conftest import SOURCE, Place, Train

CONFIG = {"lr": 1e-3, "wandb": {"apiKey": "s3cr3t"}, "model": {"d_model": 8}}


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wandb]:
    """A stand-in for the package."""
    made = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", made)
    yield made
    for thread in threading.enumerate():
        if thread.name == "asyncckpt-wandb":
            thread.join(PATIENCE)  # given up, it goes on, and the next test would hear that this is gone
            assert not thread.is_alive()


def test_b7_trackers_of_a_run_have_its_whole_configuration_masked(folder: Place, wandb: Wandb) -> None:
    with folder.open(config=CONFIG) as run:
        run.trackers(WandbTracker())
    assert wandb.begun[0].config == {"lr": 1e-3, "wandb": {"apiKey": "***"}, "model": {"d_model": 8}}
    assert wandb.begun[0].finished == 1  # closed with the run


def test_b8_the_run_that_our_own_tracker_begins_is_written_down(folder: Place, wandb: Wandb) -> None:
    """It begins in a thread, after the checkpointer was made, and has ended before the run is closed."""
    wandb.gate = threading.Event()
    with folder.open() as run:
        trackers = run.trackers(WandbTracker())
        with AsyncCheckpointer(run, model=nn.Linear(2, 2)) as ckpt:
            ckpt.save(7).wait()
            assert folder.read("wandb_info.json") is None
            wandb.gate.set()
        assert trackers.close(60)
        assert wandb.run is None
        assert json.loads(folder.read("wandb_info.json") or b"")["run_id"] == run.id
    begun = wandb.begun[0]
    assert (begun.id, begun.arguments["name"], begun.arguments["resume"]) == (run.id, run.id, "allow")
    ((artifact, aliases),) = begun.artifacts
    assert artifact.references[0][0].startswith(Path(folder.root).as_uri())
    assert aliases == ["step-7", "latest"]


def test_b8_a_resumed_run_goes_on_in_the_same_run_of_wandb(somewhere: Place, wandb: Wandb) -> None:
    for _ in range(2):
        with somewhere.open(mode="auto") as run:
            run.trackers(WandbTracker(project="mine")).log(1, {"loss": 0.5})
    assert [begun.id for begun in wandb.begun] == [run.id, run.id]
    assert "earlier" not in json.loads(somewhere.read("wandb_info.json") or b"")


def test_a10_runs_beside_each_other_have_a_run_of_wandb_each(tmp_path: Path, wandb: Wandb) -> None:
    places = [Place(str(tmp_path / name)) for name in ("one", "two")]
    runs = [place.open() for place in places]
    for number, run in enumerate(runs):
        trackers, done = run.trackers(WandbTracker()), threading.Event()
        trackers.log(1, {"loss": float(number)})
        trackers._lanes[0]._pass_on(_Item("row", done.set))
        assert done.wait(PATIENCE)
        with AsyncCheckpointer(run, model=nn.Linear(2, 2), executor="thread") as ckpt:
            ckpt.save(1).wait()
    assert wandb.run is wandb.begun[0]
    for run in reversed(runs):
        run.close()
    assert [begun.id for begun in wandb.begun] == [run.id for run in runs]
    assert [[row["loss"] for row in begun.rows if "loss" in row] for begun in wandb.begun] == [[0.0], [1.0]]
    for place, run, begun in zip(places, runs, wandb.begun, strict=True):
        said = json.loads(place.read("wandb_info.json") or b"")
        assert (said["run_id"], "earlier" in said) == (run.id, False), "of this run alone"
        assert begun.artifacts[0][0].references[0][0].startswith(Path(place.root).as_uri())


def test_a_tracker_keeps_the_id_and_the_root_that_it_was_given(folder: Place, wandb: Wandb) -> None:
    with folder.open() as run:
        run.trackers(WandbTracker("mine", name="Mine"))
    assert (wandb.begun[0].id, wandb.begun[0].arguments["name"]) == ("mine", "Mine")
    assert json.loads(folder.read("wandb_info.json") or b"")["run_id"] == "mine"


def test_a_checkpointer_tells_them_once_whether_or_not_they_are_among_its_listeners(folder: Place) -> None:
    with folder.open() as run:
        trackers = run.trackers(JsonLinesTracker(f"{run.url}/logs"))
        with AsyncCheckpointer(run, model=nn.Linear(2, 2), listeners=[trackers]) as ckpt:
            ckpt.save(1).wait()
            trackers.log(1, {"loss": 1.0})
        with pytest.raises(ValueError, match="call trackers\\(\\) before"):
            run.trackers(JsonLinesTracker(f"{run.url}/other"))
    assert [row.event for row in read_checkpoints(f"{folder.root}/logs")] == ["durable"]
    assert read_metrics(f"{folder.root}/logs").latest_step == 1


def test_wandb_missing_is_one_line_and_the_run_is_as_it_would_have_been(
    folder: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with caplog.at_level(logging.WARNING), folder.open() as run:
        run.trackers(WandbTracker())
        with AsyncCheckpointer(run, model=nn.Linear(2, 2)) as ckpt:
            assert ckpt.save(1).wait().step == 1
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("wandb is not used: W&B needs wandb")
    assert "asyncckpt[wandb]" in said
    assert folder.read("wandb_info.json") is None


def test_wandb_hanging_holds_up_neither_the_training_nor_its_end(
    folder: Place, wandb: Wandb, caplog: pytest.LogCaptureFixture
) -> None:
    wandb.gate = threading.Event()
    try:
        with caplog.at_level(logging.WARNING), folder.open() as run:
            trackers = run.trackers(WandbTracker())
            with AsyncCheckpointer(run, model=nn.Linear(2, 2)) as ckpt:
                for step in (1, 2):
                    trackers.log(step, {"loss": 1.0})
                    assert ckpt.save(step).wait().step == step
            assert not trackers.close(timeout=0.1)  # a minute, where the run does it
        assert run.log_path is None
    finally:
        wandb.gate.set()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == "wandb has not ended: 4 rows still wait for it, and are given up"


@pytest.mark.parametrize("hangs", ["init", "log", "finish"])
def test_wandb_hanging_when_a_run_ends_is_given_up_by_the_run_itself(
    folder: Place, wandb: Wandb, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, hangs: str
) -> None:
    """Nobody closes the trackers but the run: it waits for its patience, says one line, and is over."""
    from asyncckpt.trackers import fanout
    from tests.trackers import stub

    go_on, patience = threading.Event(), []
    if hangs == "init":
        wandb.gate = go_on
    else:
        real = getattr(stub.Run, hangs)
        monkeypatch.setattr(stub.Run, hangs, lambda self, *given: (go_on.wait(), real(self, *given)))
    close = fanout.Trackers.close
    monkeypatch.setattr(
        fanout.Trackers, "close", lambda self, timeout=60.0: (patience.append(timeout), close(self, 0))[1]
    )
    try:
        with caplog.at_level(logging.WARNING), folder.open() as run:
            trackers = run.trackers(WandbTracker())
            with AsyncCheckpointer(run, model=nn.Linear(2, 2)) as ckpt:
                trackers.log(1, {"loss": 1.0})
                assert ckpt.save(1).wait().step == 1
        run.close()
        (said,) = [record.getMessage() for record in caplog.records]
    finally:
        go_on.set()
    assert patience == [60.0], "a minute, once"
    assert said.startswith("wandb has not ended: ")
    assert [info.step for info in _listed(folder)] == [1]


def test_a_process_whose_wandb_hangs_for_ever_ends_all_the_same(train: Train, tmp_path: Path) -> None:
    program = """
import threading
sys.path.insert(0, sys.argv[1])
from tests.trackers.stub import Wandb
from asyncckpt import AsyncCheckpointer
from asyncckpt.trackers import WandbTracker, fanout
import torch
sys.modules["wandb"] = wandb = Wandb()
wandb.gate = threading.Event()
close = fanout.Trackers.close
fanout.Trackers.close = lambda self, timeout=60.0: close(self, 0.1)
with Run.open("run", logs=False) as run:
    run.trackers(WandbTracker())
    with AsyncCheckpointer(run, model=torch.nn.Linear(2, 2)) as ckpt:
        print(ckpt.save(1).wait().step)
"""
    done = train(program, str(SOURCE))
    assert done.stdout.split() == ["1"]
    assert done.stderr.count("wandb has not ended: ") == 1


def _listed(place: Place) -> list[CheckpointInfo]:
    with AsyncCheckpointer(place.root, model=nn.Linear(2, 2)) as ckpt:
        return ckpt.checkpoints()


PICTURES = (
    "plots/training_step_000000100_20261129_101500.png",
    "plots/model_weights_step_000000100_20261129_101500.png",
    "checkpoints_step_000000100_20261129_101500.png",
    "board/events.out.tfevents.1764411300.host.1.0",
)
MINE = (
    "plots/mine.png",
    "training_step_1.png",
    "board/notes.txt",
    "other/plots/training_step_000000100_20261129_101500.png",
)


def test_overwrite_takes_pictures_and_event_files_of_the_earlier_run_along(somewhere: Place) -> None:
    somewhere.open().close()
    for key in (*PICTURES, *MINE, "other/identity.json"):
        somewhere.write(key, b"x")
    somewhere.open(mode="overwrite").close()
    names = somewhere.names()
    assert [key for key in PICTURES if key in names] == []
    assert [key for key in MINE if key not in names] == []  # the last is of another run


def test_overwrite_takes_event_files_along_whatever_the_host_is_called(folder: Place) -> None:
    folder.open().close()
    board = Path(folder.root, "Board")
    board.mkdir()
    (board / "events.out.tfevents.1764411300.DESKTOP-A.1.0").touch()
    folder.open(mode="overwrite").close()
    assert list(board.iterdir()) == []
