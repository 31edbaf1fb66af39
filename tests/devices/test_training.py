"""Saving changes nothing of a training on a device, and what was saved goes on there."""

from __future__ import annotations

import random

import pytest
import torch

from asyncckpt.testing import simacc

from .trainings import Training, differing, side


def losses(training: Training, steps: int) -> list[float]:
    return [training.step().item() for _ in range(steps)]


def test_P4_T12_training_with_a_save_at_every_step_is_training_without() -> None:
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


@pytest.mark.parametrize("block", range(10))
def test_T16_random_schedules(block: int) -> None:
    for seed in range(block * 20, block * 20 + 20):
        torch.accelerator.synchronize()
        assert simacc.races() == [], seed
        simacc.forget()  # of threads that have ended, or each schedule takes longer than the one before
        _random_schedule(seed)


def _random_schedule(seed: int) -> None:
    chance = random.Random(seed)
    kinds = [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.AdamW, {"foreach": True}), (torch.optim.Adam, {})]
    kind, options = chance.choice(kinds)
    training = Training(kind, **options)
    simacc.configure(
        kernel_latency=chance.choice([0, 0, 1e-5]),
        d2h_bw=chance.choice([0, 0, 2e8]),
        poison=chance.choice([1, 2]),
    )
    wanted, handles = {}, []
    gates: list[simacc.Gate] = []
    with training.checkpointer(
        verify=chance.choice(["off", "always", "sample"]), generations=chance.choice([1, 2, 3])
    ) as checkpointer:
        for step in range(1, 5):
            wanted[step] = training.state()  # waits for the device: gates are open here
            if chance.random() < 0.5:
                gates.append(simacc.hold(side()))
            busy = chance.choice(["coalesce", "skip"])
            if chance.random() < 0.3:
                checkpointer.before_mutation()
            handles.append(checkpointer.save(step, on_busy="skip" if gates else busy))
            training.forward_backward()
            training.optimizer.step()
            training.optimizer.zero_grad()
            while gates:
                gates.pop()()
        checkpointer.wait()
    for handle in handles:
        if handle.status == "durable":
            assert differing(training.saved(handle.step), wanted[handle.step]) == [], seed
        else:
            assert handle.status in ("skipped", "superseded"), (seed, handle.status)
