"""A notice that one rank alone is given: all ranks save the same step, and all of them leave after it."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import pytest
import torch.distributed as dist

from asyncckpt import Preempted, Preemption, load
from asyncckpt.preemption import plan
from asyncckpt.preemption.speed import Speed
from asyncckpt.testing.ranks import run_ranks
from tests.ranks.looking import listing_of, steps_of
from tests.ranks.training import Training

pytestmark = pytest.mark.ranks


def _told(root: Path, told: int, exit_: str, step_of_notice: int) -> tuple[int, int, str]:
    """Trains until it is told to leave; the last step, the status, and who said so."""
    training = Training()
    with training.checkpointer(root, preemption=Preemption(exit=exit_, deadline=60), executor="thread") as ckpt:
        ckpt.resume()
        step = 0
        while True:
            step += 1
            training.step()
            if step == step_of_notice and dist.get_rank() == told:
                os.kill(os.getpid(), signal.SIGUSR1)
            try:
                handle = ckpt.step(step)
            except Preempted as left:
                return left.step, left.code, left.source
            if ckpt.should_stop:
                assert handle is not None
                return handle.wait(60).step, 0, "flag"


@pytest.mark.parametrize("told", [0, 1])
@pytest.mark.parametrize("exit_", ["raise", "flag"])
def test_all_ranks_stop_after_the_same_step(tmp_path: Path, told: int, exit_: str) -> None:
    one, other = run_ranks(_told, 2, tmp_path, told, exit_, 3)
    assert one == other
    assert one[1:] == ((128 + signal.SIGUSR1, "SIGUSR1") if exit_ == "raise" else (0, "flag"))
    assert one[0] >= 3
    assert steps_of(tmp_path) == [one[0]]


def _each_by_hand(root: Path) -> int:
    """Saves each step by hand, until it leaves; rank 1 alone is told to, after the second one."""
    training = Training()
    with training.checkpointer(root, preemption=Preemption(deadline=60), executor="thread") as ckpt:
        for step in itertools.count(1):
            training.step()
            ckpt.save(step).wait()
            if step == 2 and dist.get_rank() == 1:
                os.kill(os.getpid(), signal.SIGUSR1)
            try:
                assert ckpt.step(step) is None
            except Preempted as left:
                return left.step
    raise AssertionError


def test_ranks_that_save_each_step_by_hand_stop_after_the_same_one(tmp_path: Path) -> None:
    one, other = run_ranks(_each_by_hand, 2, tmp_path)
    assert one == other
    assert one >= 2


def _by_hand(root: Path) -> tuple[bool, list[str]]:
    """An emergency save without time for everything, as only rank 0 has measured; and what this rank's part holds."""
    plan.FEW = 0  # this state is small
    training = Training()
    with training.checkpointer(root, executor="thread") as ckpt:
        training.step()
        if dist.get_rank() == 0:
            ckpt._stopping._speedometer._recent.append(Speed(sum(ckpt._saver.sizes().values()) / 100.0))
        info = ckpt.save(1, emergency=True, deadline=60).wait()
        return info.partial, sorted(load(root, 1).state)


def test_all_ranks_leave_out_what_rank_0_has_no_time_for(tmp_path: Path) -> None:
    one, other = run_ranks(_by_hand, 2, tmp_path)
    assert one == other
    assert one[0] is True
    (checkpoint,) = listing_of(tmp_path).checkpoints
    assert not set(one[1]) & set(checkpoint.partial)
    assert "model" in one[1]
    assert steps_of(tmp_path) == [1]
