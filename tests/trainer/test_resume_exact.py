"""E21: a training that was told to leave in any phase, and went on in another process, is its twin to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import asyncckpt
from asyncckpt import SavePolicy
from asyncckpt.trainer import ResumeState, TrainerPhase

from .program import Plan, run, traced

TERMINATED = 143

PHASES = [phase for phase in TrainerPhase if phase.follows]
"""All that a training comes to; what is saved on notice in the first says the one that follows."""

LATER = {
    "train_start_epoch": 1,
    "train_batch_load": 3,
    "train_batch_forward": 4,
    "train_batch_backward": 5,
    "train_batch_end": 2,
    "val_batch_load": 2,
    "val_batch_forward": 2,
    "val_batch_end": 2,
}
"""When a process comes to them so many times: in the middle of what a step or a validation adds up."""


def stood(folder: Path) -> ResumeState:
    """Where the newest checkpoint says that the training stands."""
    state = asyncckpt.load(folder / "run", only="extra.trainer").state["extra"]["trainer"]
    return ResumeState.from_dict(state["resume"])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_e21_it_leaves_in_every_phase_and_is_its_twin(seed: int, tmp_path: Path) -> None:
    plan = Plan(seed=seed, epochs=8)
    assert run(tmp_path / "twin", plan) == 0
    left = []
    for number, phase in enumerate(PHASES):
        told = replace(plan, leave_at=phase.value, after=LATER.get(phase.value, 1))
        assert run(tmp_path / "left", told, seed_of_process=number + 100) == TERMINATED, phase
        left.append(stood(tmp_path / "left"))
    assert run(tmp_path / "left", plan, seed_of_process=99) == 0
    assert traced(tmp_path / "left") == traced(tmp_path / "twin")
    for phase, state in zip(PHASES, left, strict=True):
        # It is told as it comes to `phase`, which may be made before it is looked at.
        assert state.phase in (phase, *phase.follows) or not phase.is_resumable, (phase, state)
    assert {state.phase for state in left} >= {phase for phase in PHASES[1:] if phase.is_resumable}
    assert (left[0].phase, left[0].global_step) == (TrainerPhase.TRAIN_START_EPOCH, 0)
    assert any(state.train is not None and state.train.micro_step for state in left)
    assert any(state.val is not None and state.val.num_samples for state in left)


@pytest.mark.parametrize(
    "loader", ["generator", "workers", "persistent", "list", "stateful", "stateful_workers", "stream", "stream_workers"]
)
def test_e21_each_kind_of_loader_comes_back_to_its_place(loader: str, tmp_path: Path) -> None:
    plan = Plan(loader=loader, epochs=2)
    assert run(tmp_path / "twin", plan) == 0
    for number, (phase, after) in enumerate([("train_batch_load", 5), ("epoch_end", 1)]):
        told = replace(plan, leave_at=phase, after=after)
        assert run(tmp_path / "left", told, seed_of_process=number + 1) == TERMINATED
    assert run(tmp_path / "left", plan, seed_of_process=9) == 0
    assert traced(tmp_path / "left") == traced(tmp_path / "twin")


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_e45_losses_that_are_scaled_go_on_exactly_too(amp: str, tmp_path: Path) -> None:
    plan = Plan(amp=amp, save=SavePolicy(every_steps=2))
    assert run(tmp_path / "twin", plan) == 0
    # Before a step whose batches are all over, and after one.
    assert run(tmp_path / "left", replace(plan, leave_at="train_batch_optim_step", after=1), 3) == TERMINATED
    assert run(tmp_path / "left", replace(plan, leave_at="train_batch_end", after=5), 1) == TERMINATED
    assert run(tmp_path / "left", plan, 2) == 0
    assert traced(tmp_path / "left") == traced(tmp_path / "twin")


def test_e21_with_a_worker_process_and_a_policy_that_saves_at_each_step(tmp_path: Path) -> None:
    plan = Plan(executor="process", save=SavePolicy(every_steps=1, every_epochs=1), interval="epoch")
    assert run(tmp_path / "twin", plan) == 0
    for number, phase in enumerate(["train_batch_optim_step", "scheduler_batch_step", "checkpoint_save_end"]):
        assert run(tmp_path / "left", replace(plan, leave_at=phase), number) == TERMINATED
    assert run(tmp_path / "left", plan, 9) == 0
    assert traced(tmp_path / "left") == traced(tmp_path / "twin")
