"""When a save is due: steps, seconds, epochs and best, in any combination."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asyncckpt import AsyncCheckpointer, SaveHandle, SavePolicy
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.errors import StorageDenied
from asyncckpt.policy import Decider
from asyncckpt.testing.slow import GatedStorage

from .conftest import Make
from .trainings import Toy, steps, until_over

NAN = float("nan")
LOSS = ("loss", "min")


class Clock:
    """Stands until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


def due(ckpt: AsyncCheckpointer, *values: float | None) -> list[int]:
    """The steps that were saved when the steps from 1 on had these losses (None: the metric was absent)."""
    handles = [
        ckpt.step(number, metrics={} if value is None else {"loss": value}) for number, value in enumerate(values, 1)
    ]
    return [handle.step for handle in handles if handle is not None]


def test_every_steps_is_due_at_each_multiple(make: Make) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=3), on_busy="wait")
    assert due(ckpt, *[0.0] * 10) == [3, 6, 9]


def test_every_steps_means_the_number_and_not_the_calls(make: Make) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=100), on_busy="wait")
    assert [bool(ckpt.step(step)) for step in (99, 100, 150, 200, 301)] == [False, True, False, True, False]


def test_every_seconds_counts_from_the_last_save_whoever_asked_for_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("asyncckpt.construction.blueprint.SYSTEM_CLOCK", clock)
    ckpt = make(model=Toy(), save=SavePolicy(every_seconds=60))

    def at(seconds: float, step: int) -> bool:
        clock.now = 1000 + seconds
        return ckpt.step(step) is not None

    assert [at(0, 1), at(59.9, 2), at(60, 3), at(60.1, 4), at(119.9, 5), at(120, 6)] == [0, 0, 1, 0, 0, 1]
    clock.now = 1150
    ckpt.save(7)
    assert [at(180, 8), at(209.9, 9), at(210, 10)] == [0, 0, 1]


def test_every_epochs_is_due_at_the_end_of_an_epoch_and_nowhere_else(make: Make) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_epochs=2), on_busy="wait")
    saved = []
    for step in range(1, 13):
        assert ckpt.step(step, epoch=(step - 1) // 3) is None
        if step % 3 == 0:
            saved.append(ckpt.epoch_end(step // 3))
    assert [(handle.step, handle.wait().epoch) for handle in saved if handle] == [(6, 2), (12, 4)]


def test_epoch_zero_is_not_a_completed_epoch(make: Make) -> None:
    assert make(model=Toy(), save=SavePolicy(every_epochs=1)).epoch_end(0, step=1) is None


def test_a_save_of_the_same_step_counts_at_the_end_of_its_epoch(make: Make) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=4, every_epochs=1), on_busy="wait")
    assert ckpt.step(4) is not None
    assert ckpt.epoch_end(1) is None
    ckpt.step(5)
    assert ckpt.epoch_end(2).step == 5
    assert ckpt.epoch_end(2) is None
    ckpt.wait()
    assert steps(ckpt) == [4, 5]


def test_epoch_end_needs_a_step(make: Make) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_epochs=1))
    with pytest.raises(ValueError, match="pass step="):
        ckpt.epoch_end(1)
    assert ckpt.epoch_end(1, step=7).step == 7


def test_after_a_resume_the_end_of_an_epoch_knows_its_step(make: Make) -> None:
    policy = SavePolicy(every_steps=3, every_epochs=1)
    ckpt = make(model=Toy(), save=policy)
    ckpt.step(3)  # the last step of an epoch, and the training is killed before it says so
    ckpt.close()
    ckpt = make(model=Toy(), save=policy)
    assert ckpt.resume().step == 3
    handle = ckpt.epoch_end(1)
    assert (handle.step, handle.wait().epoch) == (3, 1)
    assert steps(ckpt) == [3]


@pytest.mark.parametrize(
    ("monitor", "values", "expected"),
    [
        (("loss", "min"), [0.5, 0.6, 0.4, 0.4, 0.3], [1, 3, 5]),
        (("loss", "max"), [0.5, 0.6, 0.4, 0.6, 0.7], [1, 2, 5]),
        (("loss", "min"), [NAN, 0.5, NAN, 0.4, NAN], [2, 4]),
        (("loss", "max"), [NAN, 0.5, NAN, 0.6, NAN], [2, 4]),
        (("loss", "min"), [None, 0.5, None, 0.6, 0.4], [2, 5]),
        (("loss", "min"), [math.inf, 1.0, -math.inf, -1e300], [1, 2, 3]),
        (("loss", "max"), [-math.inf, 1.0, math.inf, 1e300], [1, 2, 3]),
        (("loss", "min"), [0.0, -0.0], [1]),
        (("loss", "min"), [3, np.float32(2), torch.tensor(1.0), torch.tensor([0.5])], [1, 2, 3, 4]),
    ],
)
def test_on_best_is_due_when_the_monitored_metric_improves(
    make: Make, monitor: tuple[str, str], values: list[float], expected: list[int]
) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(on_best=True), monitor=monitor, on_busy="wait")
    assert due(ckpt, *values) == expected


def test_on_best_is_due_at_the_end_of_an_epoch_too(make: Make) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(on_best=True), monitor=LOSS, on_busy="wait")
    assert due(ckpt, None, None) == []
    assert ckpt.epoch_end(1, metrics={"loss": 0.5}) is not None
    ckpt.step(3)
    assert ckpt.epoch_end(2, metrics={"loss": 0.6}) is None


@pytest.mark.executors
def test_what_was_saved_by_hand_or_resumed_has_to_be_beaten(make: Make) -> None:
    options = {"save": SavePolicy(on_best=True), "monitor": LOSS, "on_busy": "wait"}
    ckpt = make(model=Toy(), **options)
    ckpt.save(1, metrics={"loss": 0.5})
    assert ckpt.step(2, metrics={"loss": 0.6}) is None
    ckpt.close()
    ckpt = make(model=Toy(), **options)
    ckpt.resume()
    assert ckpt.step(3, metrics={"loss": 0.6}) is None
    assert ckpt.step(4, metrics={"loss": 0.4}) is not None


@pytest.mark.executors
def test_a_best_of_which_nothing_came_need_not_be_beaten(make: Make, store: GatedStorage) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(on_best=True), monitor=LOSS, on_busy="skip")
    ckpt.save(1, metrics={"loss": 0.9}).wait()

    def step(number: int, loss: float) -> SaveHandle | None:
        return ckpt.step(number, metrics={"loss": loss})

    with store.hold("put", "data/*"):
        under_way = [step(2, 0.5), step(3, 0.4)]
        assert step(4, 0.2).status == "skipped"
        assert step(5, 0.3).status == "skipped"
        assert step(6, 0.4) is None  # that is on its way
    for handle in under_way:
        handle.wait()
    assert step(7, 0.4) is None
    store.fail("put", "data/*-step-8-*", lambda: StorageDenied(28, "No space left on device"))
    until_over(step(8, 0.1))
    assert step(9, 0.3).wait().step == 9
    assert step(10, 0.3) is None


def test_several_conditions_make_one_save_and_a_best_is_noted_beside_another_reason(make: Make) -> None:
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=2, on_best=True), monitor=LOSS, on_busy="wait")
    assert due(ckpt, 0.9, 0.1, 0.5, 0.5, 0.05) == [1, 2, 4, 5]
    ckpt.wait()
    assert steps(ckpt) == [1, 2, 4, 5]


def test_only_the_monitored_metric_is_read_and_only_for_a_decision(make: Make) -> None:
    class Unread:
        def __float__(self) -> float:
            raise AssertionError

    ckpt = make(model=Toy(), save=SavePolicy(on_best=True), monitor=LOSS)
    assert ckpt.step(1, metrics={"loss": NAN, "other": Unread()}) is None
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=100), monitor=LOSS)
    assert ckpt.step(1, metrics={"loss": Unread()}) is None


@pytest.mark.parametrize("field", ["every_steps", "every_seconds", "every_epochs"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_policy_that_would_never_or_always_save_is_refused(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{field}={value}"):
        SavePolicy(**{field: value})


def test_on_best_without_a_monitor_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="monitor="):
        make(model=Toy(), save=SavePolicy(on_best=True))


losses = st.lists(st.one_of(st.floats(), st.none()), max_size=30)


@given(values=losses, mode=st.sampled_from(["min", "max"]))
def test_the_best_that_were_saved_are_a_strictly_improving_sequence_that_ends_at_the_best(
    values: list[float | None], mode: str
) -> None:
    decider = Decider(SavePolicy(on_best=True), ("loss", mode), SYSTEM_CLOCK)
    saved = [
        value
        for step, value in enumerate(values, 1)
        if decider.at_step(step, {} if value is None else {"loss": value}) and value is not None
    ]
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    assert all(a > b if mode == "min" else a < b for a, b in pairwise(saved))
    assert saved[:1] == numbers[:1]
    if numbers:
        assert saved[-1] == (min(numbers) if mode == "min" else max(numbers))
