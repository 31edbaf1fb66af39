"""A moment between two steps: nothing but notice counts there, and what is saved is of that moment."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch.distributed as dist

from asyncckpt import Preempted, Preemption, SavePolicy, load
from asyncckpt.distributed.agreement import Agreement
from asyncckpt.errors import CheckpointerClosed
from asyncckpt.preemption.stop import Stop
from asyncckpt.testing.ranks import run_ranks
from asyncckpt.testing.slow import GatedStorage

from ..checkpointer.trainings import Toy, steps
from ..ranks.looking import steps_of
from ..ranks.training import Training
from .conftest import Make


def notice(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def test_without_notice_it_does_nothing_whatever_the_policy(make: Make) -> None:
    for preemption in (None, Preemption()):
        ckpt = make(model=Toy(), preemption=preemption, save=SavePolicy(every_steps=1, every_seconds=1e-9))
        assert [ckpt.midstep(1) for _ in range(3)] == [None] * 3
        assert steps(ckpt) == []
        ckpt.close()
    with pytest.raises(CheckpointerClosed):
        ckpt.midstep(1)


def test_one_rank_asks_for_notice_without_a_word_to_others(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[object] = []
    monkeypatch.setattr(Stop, "json", said.append)
    monkeypatch.setattr(Agreement, "decide", lambda *_: said.append("decided"))
    ckpt = make(model=Toy(), preemption=Preemption(exit="flag"), save=SavePolicy(every_steps=2))
    assert [ckpt.step(1), ckpt.midstep(1), ckpt.epoch_end(1)] == [None] * 3
    ckpt.step(2).wait()
    notice()
    assert ckpt.midstep(2).wait().step == 2
    assert said == []


def test_a_step_that_was_saved_is_saved_again_as_it_is_now(make: Make, store: GatedStorage) -> None:
    model = Toy(1)
    ckpt = make(model=model, save=SavePolicy(every_steps=1))
    ckpt.step(4).wait()
    model.weight.data.fill_(2)
    notice()
    with pytest.raises(Preempted) as raised:
        ckpt.midstep(4, epoch=1, metrics={"loss": 0.5})
    assert (raised.value.code, raised.value.step, raised.value.saved) == (143, 4, 4)
    found = load(store)
    assert found.state["model"]["weight"].unique().tolist() == [2]
    assert (found.info.epoch, dict(found.info.metrics)) == (1, {"loss": 0.5})
    assert steps(ckpt) == [4], "a step names one checkpoint"


def test_a_save_of_that_step_which_is_under_way_is_of_an_earlier_moment(make: Make, store: GatedStorage) -> None:
    model = Toy(1)
    ckpt = make(model=model, save=SavePolicy(every_steps=1))
    with store.hold("put", "data/*") as gate:
        earlier = ckpt.step(4)
        gate.wait_reached()
        earlier.wait_staged()
        model.weight.data.fill_(2)
        notice()
        gate.open()
        with pytest.raises(Preempted):
            ckpt.midstep(4)
    assert load(store).state["model"]["weight"].unique().tolist() == [2]


def test_with_a_flag_the_handle_is_returned_and_it_is_asked_once(make: Make) -> None:
    ckpt = make(model=Toy(), preemption=Preemption(exit="flag"))
    notice()
    handle = ckpt.midstep(3)
    assert ckpt.should_stop
    assert handle.wait().step == 3
    assert ckpt.midstep(3) is None


def _told(root: Path, told: int) -> tuple[int, int]:
    training = Training()
    with training.checkpointer(root, preemption=Preemption(deadline=60), executor="thread") as ckpt:
        ckpt.resume()
        training.step()
        ckpt.step(1)
        moment = 0
        while True:
            moment += 1
            if moment == 3 and dist.get_rank() == told:
                notice()
            try:
                ckpt.midstep(1)
            except Preempted as left:
                return left.step, moment


@pytest.mark.ranks
@pytest.mark.parametrize("told", [0, 1])
def test_all_ranks_leave_at_the_same_moment(tmp_path: Path, told: int) -> None:
    one, other = run_ranks(_told, 2, tmp_path, told)
    assert one == other
    assert one[0] == 1
    assert steps_of(tmp_path) == [1]
