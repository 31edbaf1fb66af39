"""Late metrics: what an evaluation finds out about a checkpoint that is saved, or on its way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asyncckpt import AsyncCheckpointer, SavePolicy
from asyncckpt.errors import CheckpointerClosed, CheckpointNotFoundError
from asyncckpt.events import Amended, Leftover
from asyncckpt.testing.slow import GatedStorage

from .conftest import Make
from .trainings import Recorder, Toy

pytestmark = pytest.mark.executors

MONITOR = ("val_loss", "min")


def test_they_decide_which_checkpoint_is_best(make: Make, recorder: Recorder, tmp_path: Path) -> None:
    ckpt = make(tmp_path / "run", model=Toy(), monitor=MONITOR)
    for step in (1, 2):
        ckpt.save(step, metrics={"val_loss": step}).wait()
    assert ckpt.record(2, {"val_loss": torch.tensor(0.5), "accuracy": 1}).result() is None
    best = ckpt.best()
    assert best is not None
    assert (best.step, best.metrics) == (2, {"val_loss": 0.5, "accuracy": 1.0})
    assert [event.step for event in recorder.of(Amended)] == [2]
    ckpt.close()
    with AsyncCheckpointer(tmp_path / "run", model=Toy(), executor="thread") as reader:
        assert reader.restore("best").metrics == {"val_loss": 0.5, "accuracy": 1.0}


def test_a_save_that_is_on_its_way_is_waited_for(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy(), monitor=MONITOR)
    with store.hold("put", "*.safetensors") as writing:
        handle = ckpt.save(1)
        writing.wait_reached()
        told = ckpt.record(1, {"val_loss": 0.5})
        assert not told.done()
    ckpt.wait()
    assert told.done()
    assert handle.wait().metrics == {}
    latest = ckpt.latest()
    assert latest is not None
    assert latest.metrics == {"val_loss": 0.5}


def test_what_was_asked_for_cannot_be_called_off(make: Make, store: GatedStorage) -> None:
    """As ``asyncio.wait_for`` of a future that is wrapped would try to."""
    ckpt = make(model=Toy())
    with store.hold("put", "*.safetensors"):
        ckpt.save(1)
        told = ckpt.record(1, {"loss": 0.5})
        assert not told.cancel()
    ckpt.wait()
    assert told.done()


def test_closing_waits_for_them(make: Make, tmp_path: Path) -> None:
    ckpt = make(tmp_path / "run", model=Toy())
    ckpt.save(1)
    told = ckpt.record(1, {"loss": 0.5})
    ckpt.close()
    assert told.done()
    with AsyncCheckpointer(tmp_path / "run", executor="thread") as reader:
        assert [info.metrics for info in reader.checkpoints()] == [{"loss": 0.5}]


def test_what_comes_must_be_better_than_those(make: Make) -> None:
    ckpt = make(model=Toy(), monitor=MONITOR, save=SavePolicy(on_best=True))
    ckpt.save(1).wait()
    ckpt.record(1, {"val_loss": 0.5}).result()
    assert ckpt.step(2, metrics={"val_loss": 0.6}) is None
    assert ckpt.step(3, metrics={"val_loss": 0.4}) is not None


def test_a_step_without_a_checkpoint_is_on_the_future_and_in_an_event(make: Make, recorder: Recorder) -> None:
    ckpt = make(model=Toy())
    ckpt.save(1).wait()
    with pytest.raises(CheckpointNotFoundError, match=r"no checkpoint 7: steps 1 are there"):
        ckpt.record(7, {"loss": 0.5}).result()
    (event,) = recorder.of(Leftover)
    assert event.what == "the late metrics of step 7"
    ckpt.wait()


def test_what_is_no_number_or_comes_after_the_end_is_refused(make: Make) -> None:
    ckpt = make(model=Toy())
    with pytest.raises(TypeError, match="metric 'loss' is 'low'"):
        ckpt.record(1, {"loss": "low"})
    ckpt.close()
    with pytest.raises(CheckpointerClosed):
        ckpt.record(1, {"loss": 0.5})
