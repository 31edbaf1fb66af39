"""Save: one save of one system, timed from the call until it is durable.

``call`` is how long ``save`` held the training thread, ``guard`` how long updates were held until the state was
copied, ``durable`` the time from the call to the last fsync. A thread waits for that, so that training may go on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from benchmarks.subjects import Subject
from benchmarks.systems import System
from benchmarks.turns import Sample

WARM = 2
"""The first saves of a process: the very first is reported apart, and by the next both our generations are in use."""


class Save:
    """One save that has begun."""

    def __init__(self, system: System, step: int, *, keep_all: bool = False) -> None:
        self._system = system
        self._keep_all = keep_all
        self._failure: BaseException | None = None
        self._durable = 0.0
        waited = system.waited
        self._began = time.perf_counter()
        system.save(step)
        self._call = time.perf_counter() - self._began
        self._waited = waited
        self._waiter = threading.Thread(target=self._wait)
        self._waiter.start()

    @property
    def is_over(self) -> bool:
        """Whether it is durable, and its forerunner deleted."""
        return not self._waiter.is_alive()

    def sample(self) -> Sample:
        """Wait for it; returns what it cost in seconds. Raises what it failed with."""
        self._waiter.join()
        if self._failure is not None:
            raise self._failure
        return {"call": self._call, "guard": self._system.waited - self._waited, "durable": self._durable}

    def _wait(self) -> None:
        try:
            self._system.wait()
            self._durable = time.perf_counter() - self._began
            if not self._keep_all:
                self._system.prune()
        except BaseException as failure:  # a thread's entry: raised by `sample`
            self._failure = failure


def series(
    subject: Subject, system: System, *, saves: int, between: int, beside: Callable[[], Sample] = dict
) -> list[Sample]:
    """`between` steps, then a save and one more step while it is under way: `saves` times, and `WARM` before that.

    `beside` is measured after each and belongs to its sample. The first sample has ``first`` set; what follows it
    while the process warms up is left out.
    """
    step, samples = 0, list[Sample]()
    for number in range(WARM + saves):
        for _ in range(between):
            subject.step()
            step += 1
            system.after_step(step)
        save = Save(system, step)
        subject.step()
        samples.append(save.sample() | {"first": float(number == 0)} | beside())
    return [samples[0], *samples[WARM:]]


def warm(samples: list[Sample]) -> list[Sample]:
    """All but the first of each process."""
    return [s for s in samples if not s["first"]]


def first(samples: list[Sample]) -> list[Sample]:
    """The first of each process."""
    return [s for s in samples if s["first"]]
