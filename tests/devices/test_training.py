"""Saving changes nothing of a training on a device, and what was saved goes on there."""

from __future__ import annotations

import torch

from .trainings import Training, differing


def losses(training: Training, steps: int) -> list[float]:
    return [training.step().item() for _ in range(steps)]


def test_T12_training_with_a_save_at_every_step_is_training_without() -> None:
    plain = Training()
    torch.manual_seed(1)
    wanted = losses(plain, 12)
    saving = Training()
    torch.manual_seed(1)
    found = []
    with saving.checkpointer() as checkpointer:
        for step in range(1, 13):
            found.append(saving.step().item())
            checkpointer.save(step, on_busy="coalesce")
    assert found == wanted
    assert differing(saving.state(), plain.state()) == []


def test_T12_a_resumed_training_on_a_device_is_the_one_that_was_not_interrupted() -> None:
    plain = Training()
    torch.manual_seed(1)
    losses(plain, 4)
    with plain.checkpointer() as checkpointer:
        checkpointer.save(4).wait()
    wanted = losses(plain, 4)
    resumed = Training()
    resumed.store = plain.store
    losses(resumed, 2)
    with resumed.checkpointer() as checkpointer:
        state = checkpointer.resume()
        assert state is not None
        assert state.step == 4
        assert losses(resumed, 4) == wanted
    assert differing(resumed.state(), plain.state()) == []
