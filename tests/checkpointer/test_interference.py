"""Steps with a save in flight are compared with those without, and background work is paced to a target."""

from __future__ import annotations

import itertools
import random
import threading
import time
from pathlib import Path

import pytest
import torch

from asyncckpt import Budget
from asyncckpt.events import Listeners, Paced
from asyncckpt.saves.handle import wait_all
from asyncckpt.saves.interference import ENOUGH, LEAST, SPAN, STALE, Flight, Interference
from asyncckpt.saves.rhythm import Rhythm
from asyncckpt.saves.waiting import Waiting
from asyncckpt.staging.guards import unfollow
from asyncckpt.testing.slow import PATIENCE, GatedStorage
from asyncckpt.worker.pace import PIECE, Pace

from .conftest import Make
from .scraping import scrape, value
from .trainings import Recorder, Training, steps

NOTHING = Flight(False, False, 0)


class Plant:
    """A training whose steps take `usual` seconds, and longer by `burden` in proportion to the share of a save's work.

    A save takes `work` seconds of work. Its copy takes one step longer by `copy` seconds, at any pace.
    """

    def __init__(
        self, target: float | None, *, usual: float = 0.1, burden: float, work: float = 0.5, copy: float = 0.0
    ) -> None:
        self.recorder = Recorder()
        self.share = 1.0
        self.control = Interference(target, self._apply, Listeners([self.recorder]))
        self.usual, self.burden, self.work, self.copy = usual, burden, work, copy
        self.now = 0.0
        self.left = 0.0
        self.saves = 0
        self.at = 0
        self.taken: list[float] = []
        self._noise = random.Random(0)
        self._copying = False

    def _apply(self, share: float, seconds: float | None) -> None:
        assert share or seconds, "work that is held needs an end"
        self.share = share

    def step(self) -> None:
        is_flying = self.left > 0
        seconds = self.usual * (1 + self._noise.gauss(0, 0.005))
        if is_flying:
            seconds += self.usual * self.burden * self.share + (self.copy if self._copying else 0)
            self.left -= seconds * self.share
            self.taken.append(seconds)
        self._copying = False
        self.now += seconds
        self.at += 1
        self.control.step(self.at, self.now, Flight(self.left > 0, False, self.saves))

    def save(self) -> None:
        self.saves += 1
        self.left = self.work
        self._copying = True

    def run(self, saves: int, every: int) -> float:
        """How much longer the steps of the last save took, as a part of the usual."""
        for _ in range(saves):
            self.taken = []
            self.save()
            for _ in range(every):
                self.step()
        return sum(self.taken) / len(self.taken) / self.usual - 1


@pytest.mark.parametrize("burden", [0.08, 0.3, 1.0])
def test_within_twenty_saves_a_load_slows_steps_no_more_than_it_may(burden: float) -> None:
    assert Plant(None, burden=burden).run(20, 200) == pytest.approx(burden, abs=0.01)
    assert Plant(0.02, burden=burden).run(20, 200) <= 0.02 + 0.005


def test_also_where_saves_follow_one_another_and_no_step_is_without_one() -> None:
    plant = Plant(0.02, burden=0.3, work=10.0)
    plant.run(20, 20)
    assert plant.run(1, 20) <= 0.02 + 0.005
    assert plant.recorder.of(Paced)


def test_what_the_copy_costs_is_spread_over_more_steps() -> None:
    plant = Plant(0.02, burden=0.05, copy=0.02)
    plant.run(20, 200)
    assert plant.share < 1
    assert plant.run(1, 200) <= 0.02 + 0.01


def test_a_load_that_is_gone_lets_saves_be_fast_again() -> None:
    plant = Plant(0.02, burden=0.3)
    plant.run(20, 200)
    assert plant.control.share < 0.2
    plant.burden = 0.0
    plant.run(10, 200)
    assert plant.control.share == 1.0


def test_a_save_goes_on_however_much_it_disturbs() -> None:
    plant = Plant(0.02, burden=50.0)
    plant.run(20, 400)
    assert plant.control.share == LEAST


def test_a_disturbance_within_the_noise_is_none() -> None:
    plant = Plant(0.02, burden=0.0)
    plant.run(20, 50)
    assert plant.share == 1.0


def test_on_a_machine_whose_steps_vary_by_a_tenth_the_work_takes_what_it_may_on_the_average() -> None:
    """Looks are off by five times the target, by chance and together: none may decide by itself."""
    taken = []
    for seed in range(8):
        plant, drift = Plant(0.02, burden=1.0), random.Random(seed)
        for save in range(80):
            plant.save()
            for step in itertools.count():
                if step % SPAN == 0:
                    plant.usual = 0.1 * (1 + drift.gauss(0, 0.1))
                plant.step()
                if plant.left <= 0 and step >= 40:
                    break
            if save >= 20:
                taken.append((plant.work * plant.burden, sum(plant.taken)))
            plant.taken = []
    assert sum(work for work, _ in taken) / sum(flown for _, flown in taken) <= 0.035


def test_a_load_that_has_grown_counts_alone() -> None:
    plant = Plant(0.02, burden=0.05)
    plant.run(20, 200)
    assert plant.control.share > 0.3
    plant.burden = 1.0
    plant.run(5, 200)
    assert plant.run(1, 200) <= 0.02 + 0.005


def test_an_evaluation_between_two_steps_is_no_step() -> None:
    plant = Plant(0.02, burden=0.0)
    for _ in range(30):
        plant.step()
    for _ in range(10):
        plant.save()
        plant.step()
        plant.now += 60  # an evaluation, in which step numbers go on
        for _ in range(10):
            plant.step()
    assert plant.share == 1.0
    plant.at += 7  # steps that were never told are no step either
    plant.step()
    assert plant.share == 1.0


def test_who_waits_is_not_held_up_until_the_next_step_is_made() -> None:
    plant = Plant(0.02, burden=0.3)
    plant.run(20, 200)
    slow = plant.share
    assert slow < 1
    plant.control.hurry()
    assert plant.share == 1.0
    plant.step()
    assert plant.share == slow


def test_what_is_known_of_steps_without_a_save_is_looked_at_again() -> None:
    plant = Plant(0.02, burden=0.0)
    for _ in range(30):
        plant.step()
    plant.work = 1e9
    plant.save()
    shares = set()
    for _ in range(STALE + ENOUGH):
        plant.step()
        shares.add(plant.share)
    assert shares == {1.0, 0.0}  # work was held for a look


def test_without_a_target_nothing_is_ever_paced() -> None:
    plant = Plant(None, burden=1.0)
    plant.run(20, 50)
    assert plant.share == 1.0
    assert not plant.recorder.events


# -- the pace ----------------------------------------------------------------------------------------------


def resting(pace: Pace, worked: float) -> threading.Thread:
    begun = threading.Event()

    def rest() -> None:
        begun.set()
        pace.rest(worked)

    thread = threading.Thread(target=rest)
    thread.start()
    begun.wait()
    return thread


def test_work_at_full_pace_never_rests_and_held_work_rests_until_it_is_let_go() -> None:
    pace = Pace()
    pace.rest(1e9)
    pace.set(0.0)
    thread = resting(pace, 1.0)
    pace.set(1.0)
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_rest_is_in_proportion_to_work_and_small_pieces_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pace, now, waits = Pace(), [0.0], list[float]()
    monkeypatch.setattr("asyncckpt.worker.pace.time.monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(pace._changed, "wait", wait)
    pace.set(0.25)
    for _ in range(9):
        pace.rest(PIECE / 10)
    assert waits == []
    pace.rest(PIECE / 10)
    assert waits == [pytest.approx(3 * PIECE)]
    pace.rest(0.1)
    assert waits[1:] == [pytest.approx(0.3)]


def test_a_change_is_heeded_by_who_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = Pace()
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        pace._share = 1.0

    monkeypatch.setattr(pace._changed, "wait", wait)
    pace.set(0.5)
    pace.rest(1.0)
    assert len(waits) == 1


def test_work_that_is_held_goes_on_once_that_was_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    pace, now, waits = Pace(), [0.0], list[float]()
    monkeypatch.setattr("asyncckpt.worker.pace.time.monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(pace._changed, "wait", wait)
    pace.set(0.0, 3.0)
    assert pace.share == 0.0
    pace.rest(1.0)
    assert waits == [3.0]
    assert pace.share == 1.0
    pace.rest(1.0)
    assert waits == [3.0]


# -- in a checkpointer -------------------------------------------------------------------------------------


@pytest.mark.executors
def test_a_save_that_is_held_becomes_durable_once_somebody_waits(make: Make, store: GatedStorage) -> None:
    training = Training()
    ckpt = make(model=training.model, optimizer=training.optimizer, budget=Budget(slowdown=0.02))
    ckpt._saver._interference._say(0.0)
    handle = ckpt.save(1)
    training.step()
    assert handle.wait(60).step == 1
    ckpt._saver._interference._say(0.0)
    ckpt.save(2)
    training.step()
    ckpt.close()
    with make(model=training.model) as again:
        assert steps(again) == [1, 2]


@pytest.mark.executors
def test_every_executor_takes_the_pace_to_the_work(make: Make, tmp_path: Path) -> None:
    """Held for a second, and nobody waits for the save: it cannot be durable before that is over."""
    ckpt = make(tmp_path / "run", extra={"table": torch.nn.ParameterList([torch.zeros(16 << 20)])})
    ckpt.save(1).wait(PATIENCE)
    began = time.monotonic()
    ckpt._executor.pace(0.0, 1.0)
    handle = ckpt.save(2)
    wait_all([handle], Waiting(PATIENCE))  # which hurries nobody
    assert handle.status == "durable"
    assert time.monotonic() - began >= 1.0


class Clock:
    """Stands until it is set."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.mark.executors
def test_the_pace_and_what_it_brings_are_scraped_as_a_training_goes_on(make: Make, store: GatedStorage) -> None:
    training, clock = Training(), Clock()
    ckpt = make(
        model=training.model, optimizer=training.optimizer, budget=Budget(slowdown=0.02), metrics=0, verify="off"
    )
    ckpt._saver._clock, ckpt._lull._monotonic = clock, clock.monotonic
    at = 0

    def train(count: int, seconds: float) -> None:
        nonlocal at
        for _ in range(count):
            training.step()
            clock.now += seconds
            at += 1
            ckpt.step(at)

    def found() -> dict[str, float]:
        """What a server that scrapes it sees, to a hundredth."""
        scraped = scrape(ckpt.metrics_port)
        names = ("pace", "slowdown", "slowdown_target")
        said = {name: value(scraped, f"asyncckpt_{name}_ratio") for name in names}
        said |= {saving: value(scraped, "asyncckpt_step_seconds", saving=saving) for saving in ("no", "yes")}
        return {name: round(number, 3) for name, number in said.items()}

    def saved_beside(seconds: float) -> dict[str, float]:
        """A save is held while steps take so many seconds; what is seen meanwhile."""
        gate = store.hold("put", "data/*")
        handle = ckpt.save(at)
        gate.wait_reached()
        assert handle.id
        train(SPAN, seconds)
        seen = found()
        gate.open()
        handle.wait(PATIENCE)
        store.release()
        return seen

    train(ENOUGH + 1, 0.1)
    nothing = {"pace": 1, "slowdown": 0, "slowdown_target": 0, "no": 0, "yes": 0}
    assert found() == nothing
    seen = saved_beside(0.13)
    assert seen == {"pace": 0.25, "slowdown": 0.3, "slowdown_target": 0.02, "no": 0.1, "yes": 0.13}
    train(ENOUGH, 0.1)
    assert found() == seen  # that of the last look, until there is another
    assert saved_beside(0.1) == {"pace": 0.071, "slowdown": 0, "slowdown_target": 0.02, "no": 0.1, "yes": 0.1}


def test_a_loop_that_makes_no_step_is_timed_by_its_optimizer(
    make: Make, store: GatedStorage, recorder: Recorder
) -> None:
    training, clock = Training(), Clock()
    ckpt = make(model=training.model, optimizer=training.optimizer, verify="off")
    ckpt._saver._clock = clock

    def train(count: int, seconds: float) -> None:
        for _ in range(count):
            training.step()
            clock.now += seconds

    train(ENOUGH + 2, 0.1)
    gate = store.hold("put", "data/*")
    handle = ckpt.save(1)
    gate.wait_reached()
    assert handle.id
    train(SPAN + 1, 0.13)
    gate.open()
    handle.wait(PATIENCE)
    (paced,) = recorder.of(Paced)
    assert (round(paced.usual, 3), round(paced.taken, 2), paced.share) == (0.1, 0.13, 0.25)


def test_a_step_is_told_by_the_loop_else_by_the_first_optimizer_and_in_no_other_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = Training().optimizer, Training().optimizer
    told: list[int] = []
    rhythm = Rhythm([first, second], lambda step, now=None: told.append(step))
    for _ in range(3):
        first.step()
        second.step()
        elsewhere = threading.Thread(target=first.step)
        elsewhere.start()
        elsewhere.join()
    assert [b - a for a, b in itertools.pairwise(told)] == [1, 1]
    unfollowed: list[object] = []
    monkeypatch.setattr(
        "asyncckpt.saves.rhythm.unfollow", lambda follower: (unfollowed.append(follower), unfollow(follower))
    )
    rhythm.told(7)
    first.step()
    rhythm.told(8)
    assert told[3:] == [7, 8]
    assert unfollowed == [rhythm], "once, and not at every step"
    assert told[2] + 1 != 7


@pytest.mark.parametrize("wrong", [{"memory": 0}, {"memory": "8GB"}, {"stall_ms": -1}, {"slowdown": 0}])
def test_a_budget_that_means_nothing_is_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Budget(**wrong)
