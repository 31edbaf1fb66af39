"""E21 on two ranks: a replicated training that was told to leave in any phase, and went on, is its twin on each."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import asyncckpt
from asyncckpt import Preempted, SavePolicy
from asyncckpt.testing.ranks import run_ranks
from asyncckpt.trainer import ResumeState, TrainerPhase
from asyncckpt.trainer.among import means

from .program import Plan, traced, train
from .small import ROWS, Linear, config
from .test_resume_exact import TERMINATED, stood

pytestmark = pytest.mark.ranks

PLAN = Plan(loader="distributed", epochs=4)

MOMENTS = [
    ("train_batch_load", 3),
    ("train_batch_backward", 2),
    ("train_batch_optim_step", 1),
    ("scheduler_batch_step", 1),
    ("val_batch_load", 2),
    ("scheduler_epoch_step", 1),
    ("checkpoint_save_start", 1),
]
"""When the notice comes: before that phase, when a process comes to it so many times."""

TOLD = [(0, 1), (0,), (1,)]
"""Whom it comes to: as Slurm does it, and as a spot machine does, that of rank 0 or another's."""


def _named(rank: int) -> str:
    return f"trace-{rank}.jsonl"


def _train(folder: Path, plan: Plan, told: Collection[int], seed: int) -> int:
    """One rank's part, until the end or until it leaves; `told` are the ranks that the notice comes to."""
    rank = dist.get_rank()
    # What only the other one is told rank 0 waits for: it decides for both.
    own = replace(plan, is_told=rank in told) if rank in (0, *told) else replace(plan, leave_at=None)
    try:
        train(folder, own, seed + rank, trace=_named(rank), wrapped=DistributedDataParallel)
    except Preempted as left:
        return int(left.code)
    return 0


def _leaving_again_and_again(folder: Path) -> list[ResumeState]:
    """Goes on each time with nothing but what was saved, until the end; where it stood."""
    stands = []
    for number, (phase, after) in enumerate(MOMENTS):
        leaving = replace(PLAN, leave_at=phase, after=after, exit="flag" if number % 2 else "raise")
        left = _train(folder, leaving, TOLD[number % len(TOLD)], 100 + number)
        assert left == (0 if leaving.exit == "flag" else TERMINATED), phase
        dist.barrier()
        stands.append(stood(folder))
        dist.barrier()
    assert _train(folder, PLAN, (), 99) == 0
    return stands


def test_e21_replicated_it_leaves_anywhere_and_each_rank_is_its_twin(tmp_path: Path) -> None:
    for folder in ("twin", "left"):
        (tmp_path / folder).mkdir()
    assert run_ranks(_train, 2, tmp_path / "twin", PLAN, (), 0) == [0, 0]
    one, other = run_ranks(_leaving_again_and_again, 2, tmp_path / "left")
    for rank in range(2):
        assert traced(tmp_path / "left", _named(rank)) == traced(tmp_path / "twin", _named(rank))
    assert [state.phase for state in one] == [state.phase for state in other]
    for (phase, _), state in zip(MOMENTS, one, strict=True):
        assert state.phase.value == phase or not TrainerPhase(phase).is_resumable, (phase, state)
    assert any(state.train is not None and state.train.micro_step for state in one)
    assert any(state.val is not None and state.val.num_samples for state in one)


def test_e21_replicated_it_goes_on_in_new_processes(tmp_path: Path) -> None:
    plan = replace(PLAN, epochs=1, save=SavePolicy(every_steps=1))
    for folder in ("twin", "left"):
        (tmp_path / folder).mkdir()
    assert run_ranks(_train, 2, tmp_path / "twin", plan, (), 0) == [0, 0]
    leaving = replace(plan, leave_at="train_batch_load", after=2)
    assert run_ranks(_train, 2, tmp_path / "left", leaving, (0,), 1) == [TERMINATED] * 2
    assert run_ranks(_train, 2, tmp_path / "left", plan, (), 2) == [0, 0]
    for rank in range(2):
        assert traced(tmp_path / "left", _named(rank)) == traced(tmp_path / "twin", _named(rank))


class Differing(Linear):
    """Validates better and better on rank 0, and worse and worse on the other, which has fewer samples."""

    def validation_step(self, batch: Any, batch_idx: int) -> Mapping[str, Any]:
        return {"loss": [[4.0, 2.0, 0.0, 0.0], [8.0, 14.0, 20.0, 20.0]][dist.get_rank()][self.epoch]}


def _stopping(folder: Path) -> tuple[int, dict[str, float], float]:
    torch.manual_seed(5)
    model = DistributedDataParallel(nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
    trainer = Differing(config(folder, epochs=4, patience=1, monitor=("val_loss", "min")))
    rows = ROWS if dist.get_rank() else [(2 * x, y) for x, y in ROWS]
    trainer.fit(model, optimizer, rows, [(torch.ones(1 if dist.get_rank() else 3, 3), None)], schedule)
    return trainer.epoch, trainer.logs, optimizer.param_groups[0]["lr"]


def test_e21_e45_ranks_have_the_metrics_of_all_and_stop_together(tmp_path: Path) -> None:
    one, other = run_ranks(_stopping, 2, tmp_path)
    assert one == other
    epoch, logs, rate = one
    assert (epoch, logs["val_loss"], rate) == (2, 5.0, 0.25)
    assert dict(asyncckpt.load(tmp_path).info.metrics) == logs


def _means() -> list[dict[str, float]]:
    """Of rank 0 alone, which has samples; of both, which have not as many; and of none."""
    leads = dist.get_rank() == 0
    given = {"val_loss": 6.0, "val_accuracy": torch.tensor(1.5), **dict.fromkeys("dbca", 3.0)}
    alone = means(given if leads else {}, 3 if leads else 0)
    return [alone, means({"loss": 1.0} if leads else {"loss": 8.0}, 1 if leads else 3), means({"loss": 0.0}, 0)]


def test_e21_a_rank_without_samples_has_the_metrics_of_the_others() -> None:
    one, other = map(json.dumps, run_ranks(_means, 2))  # plain numbers, in one order
    alone = {"val_loss": 2.0, "val_accuracy": 0.5, **dict.fromkeys("dbca", 1.0)}
    assert one == other == json.dumps([alone, {"loss": 2.25}, {}])
