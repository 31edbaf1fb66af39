"""A root that hangs in the midst of a save holds up what is asked of it after that, and nobody for longer than said."""

from __future__ import annotations

import pytest

from asyncckpt.errors import CheckpointTimeoutError
from asyncckpt.testing.slow import GatedStorage

from .conftest import Make
from .trainings import Toy, steps

pytestmark = pytest.mark.executors


def test_prune_raises_when_its_time_is_over_and_late_metrics_wait_beside_the_training(
    make: Make, store: GatedStorage
) -> None:
    model = Toy()
    ckpt = make(model=model)
    ckpt.save(1).wait()
    ckpt.wait()
    with store.hold("put", "*.safetensors") as gate:
        model.value = 2  # of what has not changed no pack is written
        handle = ckpt.save(2)
        gate.wait_reached()
        told = ckpt.record(1, {"loss": 0.5})
        with pytest.raises(TimeoutError, match=r"after 0\.1 s the root was still at work"):
            ckpt.prune(timeout=0.1)
        with pytest.raises(TimeoutError):
            told.result(0.1)
        with pytest.raises(TimeoutError, match=r"after 0\.1 s still under way: steps \[2\]"):
            ckpt.wait(0.1)
        with pytest.raises(CheckpointTimeoutError):
            handle.wait(0.1)
    ckpt.wait()
    assert told.result() is None
    assert ckpt.prune(timeout=60).removed == ()
    assert [(info.step, info.metrics) for info in ckpt.checkpoints()] == [(1, {"loss": 0.5}), (2, {})]
    assert steps(ckpt) == [1, 2]
