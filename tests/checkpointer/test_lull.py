"""Steps at which nothing can be due are passed by, and all comes as if each of them had been looked at."""

from __future__ import annotations

import os
import random
import signal
from typing import Any

import pytest

from asyncckpt import Preemption, SavePolicy
from asyncckpt.errors import CheckpointerClosed
from asyncckpt.lifecycle.lull import LONGEST, SECONDS, Lull
from asyncckpt.saves.deciding import Decision
from asyncckpt.saves.interference import Interference
from asyncckpt.storage import MemoryStorage

from .conftest import Make
from .test_cadence import Clock
from .trainings import Toy


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stands until it is set, for every checkpointer made here."""
    clock = Clock()
    monkeypatch.setattr("asyncckpt.construction.blueprint.SYSTEM_CLOCK", clock)
    return clock


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps at which it was decided what is due."""
    steps, decide = list[int](), Decision.at_step

    def at_step(self: Decision, step: int, metrics: Any) -> Any:
        steps.append(step)
        return decide(self, step, metrics)

    monkeypatch.setattr(Decision, "at_step", at_step)
    return steps


def test_most_steps_are_not_looked_at_and_those_that_are_due_are_saved(
    make: Make, clock: Clock, looked: list[int]
) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=100))
    saved = []
    for step in range(1, 301):
        handle = ckpt.step(step)
        if handle is not None:
            saved.append(handle.wait().step)
    assert saved == [100, 200, 300]
    assert {*saved} < {*looked}
    assert 300 / LONGEST < len(looked) < 60


def test_a_second_is_the_longest(make: Make, clock: Clock, looked: list[int]) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=10_000))
    for step in range(1, 100):
        clock.now += SECONDS
        ckpt.step(step)
    assert looked == [*range(1, 100)]


@pytest.mark.parametrize("seed", range(4))
def test_all_is_as_if_each_step_had_been_looked_at(
    make: Make, clock: Clock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    noted = list[tuple[int, float]]()
    monkeypatch.setattr(Interference, "step", lambda self, step, now, flight: noted.append((step, now)))

    def trained(name: str) -> list[int | None]:
        ckpt = make(MemoryStorage(f"{name}-{seed}"), model=Toy(), save=SavePolicy(every_steps=23, every_seconds=20))
        draw, step, saved = random.Random(seed), 0, list[int | None]()
        clock.now = 1000.0
        noted.clear()
        for number in range(400):
            clock.now += draw.choice([0.01, 0.01, 0.01, 0.3, 2.0])
            what = draw.randrange(40)
            step += 0 if what < 3 else 3 if what == 3 else 1
            if what == 0:
                handle = ckpt.save(step)
            elif what == 1:
                handle = ckpt.epoch_end(number)
            else:
                handle = ckpt.step(step)
            saved.append(None if handle is None else handle.wait().step)
        ckpt.wait()
        return [*saved, *(info.step for info in ckpt.checkpoints())]

    one, of_one = trained("passed"), [*noted]
    monkeypatch.setattr(Lull, "passes", lambda self, step: False)
    assert trained("looked") == one
    assert noted == of_one


def test_a_notice_is_heard_at_the_next_step(make: Make) -> None:
    ckpt = make(model=Toy(), preemption=Preemption(exit="flag"), save=SavePolicy(every_steps=1000))
    assert [ckpt.step(step) for step in range(1, 40)] == [None] * 39
    assert ckpt.may_stop is False
    os.kill(os.getpid(), signal.SIGTERM)
    assert ckpt.may_stop is True
    assert ckpt.step(40).wait().step == 40
    assert ckpt.should_stop


def test_a_closed_one_passes_nothing_by(make: Make) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=1000))
    for step in range(1, 40):
        ckpt.step(step)
    ckpt.close()
    with pytest.raises(CheckpointerClosed):
        ckpt.step(40)


def test_the_end_of_an_epoch_is_at_the_step_that_was_made_last(make: Make, clock: Clock) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=1000, every_epochs=1))
    for step in range(1, 40):
        ckpt.step(step)
    assert ckpt.epoch_end(1).wait().step == 39
