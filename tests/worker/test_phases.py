"""Phases: every second of a save belongs to the phase it was spent in."""

from __future__ import annotations

from asyncckpt.worker.phases import Phases


class Watch:
    """A clock that goes by what it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def time(self) -> float:
        raise AssertionError("wall time may jump")

    def monotonic(self) -> float:
        return self.now


def test_each_phase_has_the_seconds_until_the_next_one() -> None:
    watch = Watch()
    phases = Phases(watch)
    assert phases.now == "open"
    for seconds, phase in ((1, "write"), (20, "stage"), (0, "report"), (4, "commit")):
        watch.now += seconds
        phases.enter(phase)
        assert phases.now == phase
    watch.now += 0.5
    assert phases.end() == {"open": 1, "write": 20, "stage": 0, "report": 4, "commit": 0.5}
