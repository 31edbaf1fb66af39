"""The first save is prepared as soon as it is known what it will hold: planned once, its memory there. By counts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn

from asyncckpt import AsyncCheckpointer, SavePolicy
from asyncckpt.errors import UnsupportedState
from asyncckpt.lifecycle.beginning import UNSEEN
from asyncckpt.saves import preparing
from asyncckpt.saves.saving import Saver
from asyncckpt.staging import arena, guards, rounds, stager
from asyncckpt.staging.arena import Arena
from asyncckpt.staging.layout import Plan, build
from asyncckpt.staging.prefault import Prefault
from asyncckpt.staging.schedule import Schedule
from asyncckpt.testing.slow import GatedStorage

from .conftest import Make
from .trainings import Toy, Training

Sources = Any


@dataclass
class Made:
    """What was made so far to save with."""

    plans: list[Plan] = field(default_factory=list)
    schedules: list[Schedule] = field(default_factory=list)
    arenas: list[Arena] = field(default_factory=list)
    faulted: list[Arena] = field(default_factory=list)
    """In the background."""
    times: int = 0
    """How often it was prepared."""

    @property
    def counts(self) -> tuple[int, int, int]:
        """Plans, schedules and arenas."""
        return len(self.plans), len(self.schedules), len(self.arenas)

    @contextmanager
    def nothing(self) -> Iterator[None]:
        """Within it nothing is made or looked at again: all that is needed is there."""
        before = self.counts, self.times
        yield
        assert (self.counts, self.times) == before


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    found = Made()
    start, prepare = Prefault.start, Saver.prepare

    class CountedArena(Arena):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            found.arenas.append(self)

    class CountedSchedule(Schedule):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            found.schedules.append(self)

    def counted_build(sources: Sources) -> Plan:
        found.plans.append(build(sources))
        return found.plans[-1]

    def counted_start(prefault: Prefault, arenas: Any, kinds: Any) -> None:
        found.faulted += arenas
        start(prefault, arenas, kinds)

    def counted_prepare(saver: Saver) -> None:
        found.times += 1
        prepare(saver)

    monkeypatch.setattr(arena, "Arena", CountedArena)
    monkeypatch.setattr(stager, "Schedule", CountedSchedule)
    monkeypatch.setattr(preparing, "build", counted_build)
    monkeypatch.setattr(Prefault, "start", counted_start)
    monkeypatch.setattr(Saver, "prepare", counted_prepare)
    return found


READY = (1, 2, 2)
"""One plan, and both generations with the copies into them."""


class Two:
    """Two optimizers that take turns."""

    def __init__(self, width: int = 8) -> None:
        self.width = width
        self.model = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
        self.optimizers = [torch.optim.Adam(part.parameters()) for part in self.model]

    def step(self, which: int) -> None:
        self.model[which](torch.ones(1, self.width)).sum().backward()
        self.optimizers[which].step()


# -- when --------------------------------------------------------------------------------------------------


def test_the_first_step_that_is_not_saved_prepares_the_first_save(make: Make, made: Made) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, save=SavePolicy(every_steps=3))
    assert made.counts == (0, 0, 0)
    training.step()
    ckpt.step(1)
    assert made.counts == READY
    assert made.faulted == made.arenas
    with made.nothing():
        for step in (2, 3, 4, 5, 6):
            training.step()
            ckpt.step(step)
            ckpt.wait()


def test_a_loop_that_only_saves_has_its_first_save_prepared_before_its_second_step(make: Make, made: Made) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer)
    training.step()
    assert made.counts == (0, 0, 0)
    training.step()
    assert made.counts == READY
    with made.nothing():
        for step in (3, 4, 5):
            training.step()
            ckpt.save(step).wait()


def test_a_loop_that_only_ends_epochs_has_its_first_save_prepared(make: Make, made: Made) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, save=SavePolicy(every_epochs=1))
    training.step()
    training.step()
    with made.nothing():
        assert ckpt.epoch_end(1, step=2).wait().step == 2
    assert made.counts == READY


def test_an_epoch_that_is_not_saved_prepares_the_one_that_is(make: Make, made: Made) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, save=SavePolicy(every_epochs=2))
    training.step()
    assert ckpt.epoch_end(1, step=1) is None
    assert made.counts == READY


def test_a_loop_whose_first_told_step_is_due_has_its_save_prepared_before_that(make: Make, made: Made) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, save=SavePolicy(every_steps=10))
    for _ in range(10):
        training.step()
    with made.nothing():
        assert ckpt.step(10).wait().step == 10
    assert made.counts == READY


def test_a_training_that_has_its_state_from_the_start_is_prepared_by_then(make: Make, made: Made) -> None:
    training = Training()
    training.step()
    ckpt = make(model=training.model, optimizer=training.optimizer, save=SavePolicy(every_steps=1))
    assert made.counts == READY
    with made.nothing():
        training.step()
        ckpt.step(1).wait()


def test_a_checkpointer_made_only_to_restore_takes_no_memory(make: Make, made: Made, store: GatedStorage) -> None:
    with AsyncCheckpointer(store, model=Toy(1)) as first:
        first.save(1).wait()
    before = made.counts
    training = Training()
    ckpt = make(model=Toy(), extra={"unused": training.optimizer})
    ckpt.restore(only="model")
    assert made.counts == before


def saved_once(store: GatedStorage) -> None:
    """A training that was left after its first step, for another to go on from."""
    first = Training()
    with AsyncCheckpointer(store, model=first.model, optimizer=first.optimizer) as ckpt:
        first.step()
        ckpt.save(1).wait()


def test_a_resume_prepares_what_it_has_brought_back_in_the_arenas_that_are_there(
    make: Make, made: Made, store: GatedStorage
) -> None:
    saved_once(store)
    again = Training()
    again.step()
    made.arenas.clear()
    ckpt = make(model=again.model, optimizer=again.optimizer)
    assert len(made.arenas) == 2
    ckpt.resume()  # the optimizer's tensors are others by now, of the same size
    assert len(made.arenas) == 2
    with made.nothing():
        again.step()
        ckpt.save(2).wait()


def test_the_first_step_after_a_resume_is_made_beside_no_faults(make: Make, made: Made, store: GatedStorage) -> None:
    saved_once(store)
    made.faulted.clear()
    again = Training()
    ckpt = make(model=again.model, optimizer=again.optimizer, save=SavePolicy(every_steps=10))
    ckpt.resume()
    again.step()
    assert made.faulted == []
    ckpt.step(2)
    assert made.faulted == made.arenas[-2:]
    with made.nothing():
        again.step()
        ckpt.save(3).wait()


def test_a_save_that_is_refused_leaves_the_faults_of_a_resume_for_the_next_step(
    make: Make, made: Made, store: GatedStorage
) -> None:
    saved_once(store)
    made.faulted.clear()
    again = Training()
    ckpt = make(model=again.model, optimizer=again.optimizer, save=SavePolicy(every_steps=10))
    ckpt.resume()
    again.step()
    with pytest.raises(TypeError, match="loss"):
        ckpt.save(2, metrics={"loss": object()})
    assert made.faulted == []
    ckpt.step(2)
    assert made.faulted == made.arenas[-2:]


def test_a_loop_that_only_saves_has_its_memory_faulted_in_once_it_has_resumed(
    make: Make, made: Made, store: GatedStorage
) -> None:
    saved_once(store)
    made.faulted.clear()
    again = Training()
    ckpt = make(model=again.model, optimizer=again.optimizer)
    ckpt.resume()
    again.step()
    ckpt.save(2).wait()  # into the one
    assert made.faulted == made.arenas[-1:]


def test_state_that_appears_after_a_first_save_is_prepared_for(make: Make, made: Made) -> None:
    two = Two(64)
    ckpt = make(model=two.model, optimizer=two.optimizers, save=SavePolicy(every_steps=5))
    ckpt.save(0).wait()
    small = made.arenas[0].capacity
    two.step(0)
    two.step(1)
    ckpt.step(1)
    assert len(made.plans) == 2
    assert [one.capacity > small for one in made.arenas[-2:]] == [True, True]
    with made.nothing():
        two.step(0)
        ckpt.save(2).wait()


# -- not for nothing ---------------------------------------------------------------------------------------


def test_steps_that_a_scaler_leaves_out_are_no_reason_to_plan_without_state(make: Make, made: Made) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, save=SavePolicy(every_steps=10))
    for step in (1, 2, 3):
        ckpt.step(step)
    assert made.counts == (0, 0, 0)
    training.step()
    ckpt.step(4)
    assert made.counts == READY


def test_an_optimizer_without_state_is_known_by_its_step(make: Make, made: Made) -> None:
    model = nn.Linear(4, 4)
    plain = torch.optim.SGD(model.parameters())
    ckpt = make(model=model, optimizer=plain, save=SavePolicy(every_steps=10))
    model(torch.ones(1, 4)).sum().backward()
    plain.step()
    ckpt.step(1)
    assert made.counts == READY
    with made.nothing():
        ckpt.step(2)


def test_an_optimizer_whose_steps_nobody_sees_is_waited_for_a_while(make: Make, made: Made) -> None:
    model = nn.Linear(4, 4)
    ckpt = make(model=model, optimizer=torch.optim.SGD(model.parameters()), save=SavePolicy(every_steps=100))
    for step in range(1, UNSEEN):
        ckpt.step(step)
    assert made.counts == (0, 0, 0)
    ckpt.step(UNSEEN)
    assert made.counts == READY


def test_optimizers_that_take_turns_are_planned_once_all_have_had_theirs(make: Make, made: Made) -> None:
    two = Two()
    ckpt = make(model=two.model, optimizer=two.optimizers)
    for _ in range(3):
        two.step(0)
    assert made.counts == (0, 0, 0)
    two.step(1)
    two.step(0)
    assert made.counts == READY
    with made.nothing():
        two.step(1)
        ckpt.save(1).wait()


def test_an_optimizer_for_a_later_part_of_training_is_not_waited_for_for_ever(make: Make, made: Made) -> None:
    two = Two()
    ckpt = make(model=two.model, optimizer=two.optimizers)
    for _ in range(rounds.ENOUGH):
        two.step(0)
    assert made.counts == (0, 0, 0)
    two.step(0)
    assert made.counts == READY
    with made.nothing():
        ckpt.save(1).wait()


def test_a_state_that_grows_at_every_step_is_planned_less_and_less_often(make: Make, made: Made) -> None:
    model = nn.ModuleList(nn.Linear(2, 2, bias=False) for _ in range(33))
    optimizer = torch.optim.Adam(model.parameters())
    ckpt = make(model=model, optimizer=optimizer, save=SavePolicy(every_steps=1000))
    for step, expert in enumerate(model, start=1):
        expert(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        ckpt.step(step)
    assert len(made.plans) == 6  # at 1, 2, 4, 8, 16 and 32


def test_another_trainings_optimizer_is_no_sign(make: Make, made: Made) -> None:
    training, other = Training(), Training()
    ckpt = make(model=training.model, optimizer=training.optimizer)
    for _ in range(10):
        other.step()
    assert made.counts == (0, 0, 0)
    ckpt.close()


def test_after_a_save_nothing_is_left_to_prepare(make: Make, made: Made) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, save=SavePolicy(every_steps=100))
    training.step()
    ckpt.save(1).wait()
    with made.nothing():
        training.step()
        ckpt.step(2)
        training.step()


def test_a_closed_checkpointer_looks_at_no_step(make: Make, made: Made, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer)
    training.step()
    ckpt.close()
    training.step()
    assert made.times == 0
    assert ckpt._beginning._rounds not in [known() for known in guards._followers.refs]
    assert "cannot be prepared" not in caplog.text


def test_optimizers_that_step_in_the_backward_pass_are_left_to_the_step(make: Make, made: Made) -> None:
    """Nothing of the state may be read beside them."""
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer)

    def twice() -> None:
        training.step()
        training.step()

    thread = threading.Thread(target=twice)
    thread.start()
    thread.join()
    assert made.counts == (0, 0, 0)
    ckpt.step(2)
    assert made.counts == READY


class Stubborn:
    """Cannot be saved before it is ready."""

    is_ready = False

    def state_dict(self) -> dict[str, Any]:
        if not self.is_ready:
            raise AttributeError("not ready")
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def test_a_state_that_cannot_be_read_yet_harms_neither_construction_nor_a_step(
    make: Make, made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    training, stubborn = Training(), Stubborn()
    training.step()
    ckpt = make(model=training.model, optimizer=training.optimizer, extra={"it": stubborn})
    assert "cannot be prepared yet: AttributeError('not ready')" in caplog.text
    for _ in range(3):
        training.step()
    assert made.counts == (0, 0, 0)
    with pytest.raises(AttributeError):
        ckpt.step(1)  # whoever asks is told
    stubborn.is_ready = True
    for step in (2, 3):  # not at every step, which would be told so at every step
        ckpt.step(step)
    assert made.counts == READY


def test_what_can_never_be_held_is_told_by_the_step_as_before(make: Make) -> None:
    model = Toy()
    ckpt = make(model=model, extra={"it": nn.Linear(2, 2)})
    model.register_buffer("odd", torch.ones(2).to_sparse())
    with pytest.raises(UnsupportedState, match="odd"):
        ckpt.step(1)


# -- the plan of every later save --------------------------------------------------------------------------


def test_the_plan_is_made_once_for_all_saves_of_a_state_that_stays_the_same(make: Make, made: Made) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer)
    training.step()
    for step in range(1, 8):
        ckpt.save(step)
        training.step()
    ckpt.wait()
    assert made.counts == READY


def test_the_plan_is_made_anew_where_a_tensor_is_another(make: Make, made: Made) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer)
    training.step()
    ckpt.save(1).wait()
    training.model.bias = nn.Parameter(torch.ones(16))
    ckpt.save(2).wait()
    ckpt.save(3).wait()
    plans, _, arenas = made.counts
    assert (plans, arenas) == (2, 2)
