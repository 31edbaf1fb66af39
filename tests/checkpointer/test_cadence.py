"""How long it usually is from one periodic save to the next, by the policy and by how long steps take."""

from __future__ import annotations

import statistics
from collections.abc import Collection
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from asyncckpt import MetricsConfig, SavePolicy
from asyncckpt.events import Expected, Listeners
from asyncckpt.saves.cadence import CHANGE, ENOUGH, RECENT, SELDOM, Cadence
from asyncckpt.storage import MemoryStorage

from .conftest import Make
from .scraping import scrape, value
from .trainings import Recorder, Toy

METRIC = "asyncckpt_expected_interval_seconds"


class Clock:
    """Stands until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


class Loop:
    """A training whose steps take `seconds`, told to the cadence of one policy."""

    def __init__(self, seconds: float = 0.5, **policy: float) -> None:
        self.clock, self.recorder = Clock(), Recorder()
        self.cadence = Cadence(SavePolicy(**policy), self.clock, Listeners([self.recorder]))
        self.seconds, self.at = seconds, 0

    def step(self, by: int = 1) -> None:
        self.clock.now += self.seconds * by
        self.at += by
        self.cadence.step(self.at)

    def steps(self, count: int) -> list[float]:
        """What was said of the interval until after `count` more steps."""
        for _ in range(count):
            self.step()
        return self.said

    @property
    def said(self) -> list[float]:
        return [event.seconds for event in self.recorder.of(Expected)]


def test_steps_are_counted_once_enough_of_them_were_timed() -> None:
    loop = Loop(every_steps=100)
    assert loop.steps(ENOUGH) == []  # the first says when it ended, and not when it began
    assert loop.steps(1) == [50.0]
    assert loop.steps(100) == [50.0]


def test_seconds_are_known_at_once_and_looked_at_after_each_step_only() -> None:
    assert Loop(every_seconds=60).steps(1) == [60.0]
    assert Loop(every_seconds=60, seconds=90).steps(ENOUGH + 1) == [60.0, 90.0]


def test_the_smaller_of_both_is_expected() -> None:
    assert Loop(every_steps=100, every_seconds=60).steps(ENOUGH + 1) == [60.0, 50.0]
    assert Loop(every_steps=1000, every_seconds=60).steps(ENOUGH + 1) == [60.0]


@pytest.mark.parametrize("policy", [{}, {"every_epochs": 1}], ids=str)
def test_a_policy_without_a_period_has_no_interval(policy: dict[str, float]) -> None:
    assert Loop(**policy).steps(100) == []


def test_an_evaluation_now_and_then_is_no_step() -> None:
    loop = Loop(every_steps=100)
    loop.steps(ENOUGH + 1)
    for _ in range(20):
        loop.clock.now += 3600
        loop.steps(3)
    assert loop.said == [50.0]


def test_steps_that_take_longer_from_now_on_are_said_and_small_changes_are_not() -> None:
    loop = Loop(every_steps=100)
    loop.steps(RECENT)
    loop.seconds *= 1 + CHANGE / 2
    assert loop.steps(2 * RECENT) == [50.0]
    loop.seconds = 2.0
    said = loop.steps(RECENT)
    assert (said[0], said[-1]) == (50.0, 200.0)


def test_their_median_is_taken_once_in_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def median(steps: Collection[float]) -> float:
        taken.append(len(steps))
        return statistics.median(steps)

    monkeypatch.setattr("asyncckpt.saves.cadence.statistics", SimpleNamespace(median=median))
    loop = Loop(every_steps=1000)
    loop.steps(1 + ENOUGH + 10 * SELDOM)
    assert len(taken) == 1 + 10
    assert (taken[0], taken[-1]) == (ENOUGH, RECENT)


def test_who_tells_of_each_tenth_step_has_made_ten() -> None:
    loop = Loop(every_steps=100)
    for _ in range(ENOUGH + 1):
        loop.step(by=10)
    assert loop.said == [50.0]


def test_a_step_said_twice_and_one_after_a_restore_are_timed_from_where_they_began() -> None:
    loop = Loop(every_steps=100)
    for _ in range(ENOUGH + 1):
        loop.step()
        loop.clock.now += 0.25
        loop.cadence.step(loop.at)
    assert loop.said == [75.0]
    loop = Loop(every_steps=100)
    for _ in range(ENOUGH + 1):
        loop.step()
        loop.cadence.restored()
        loop.at += 5000
    assert loop.said == []


def test_it_is_scraped_once_it_is_known(
    make: Make, registry: CollectorRegistry, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("asyncckpt.construction.blueprint.SYSTEM_CLOCK", clock)
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=1000), metrics=MetricsConfig(port=0, registry=registry))
    for step in range(ENOUGH + 1):
        assert METRIC not in {name for name, _ in scrape(ckpt.metrics_port)}
        clock.now += 0.25
        ckpt.step(step)
    assert value(scrape(ckpt.metrics_port), METRIC) == 250.0
    assert [event.seconds for event in recorder.of(Expected)] == [250.0]


def test_what_a_training_before_said_in_the_same_registry_is_gone(make: Make, registry: CollectorRegistry) -> None:
    config = MetricsConfig(port=None, registry=registry, const_labels={"run": "a"})
    make(model=Toy(), save=SavePolicy(every_seconds=60), metrics=config).step(1)
    assert value(scrape(registry), METRIC, run="a") == 60.0
    make(MemoryStorage("another"), model=Toy(), metrics=config).step(1)
    assert METRIC not in {name for name, _ in scrape(registry)}


def test_steps_after_a_restore_are_not_timed_from_before_it(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, recorder = Clock(), Recorder()
    monkeypatch.setattr("asyncckpt.construction.blueprint.SYSTEM_CLOCK", clock)
    ckpt = make(model=Toy(), save=SavePolicy(every_steps=1000), listeners=[recorder])
    ckpt.save(0).wait()
    for _ in range(ENOUGH):
        clock.now += 0.25
        ckpt.step(1)
        ckpt.restore()
        clock.now += 3600
        ckpt.step(2)
        ckpt.restore()
    assert recorder.of(Expected) == []
