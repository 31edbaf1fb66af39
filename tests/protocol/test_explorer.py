"""The explorer finds what is planted, by a shortest way, and says whether it saw everything."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from .explorer import Broken, explore


class Counter:
    """Starts at 3 and doubles or adds one, up to 40; from 40 on it starts again."""

    def __init__(self, forbidden: int | None = None) -> None:
        self.forbidden = forbidden

    def initial(self) -> int:
        return 3

    def successors(self, state: int) -> Iterable[tuple[object, int]]:
        if state >= 40:
            yield "start again", 3
        else:
            yield "add one", state + 1
            yield "double", state * 2

    def broken_in(self, state: int) -> Iterable[Broken]:
        if state == self.forbidden:
            yield Broken("value", f"it is {state}")

    def broken_by(self, before: int, after: int) -> Iterable[Broken]:
        if after < before:
            yield Broken("growth", f"{before} becomes {after}")


@pytest.mark.parametrize(
    ("planted", "way"),
    [(13, ("double", "double", "add one")), (14, ("double", "add one", "double")), (24, ("double",) * 3)],
)
def test_finds_a_planted_state_by_the_shortest_way(planted: int, way: tuple[str, ...]) -> None:
    violation = explore(Counter(forbidden=planted)).violations["value"]
    assert violation.message == f"it is {planted}"
    assert violation.trace == way


def test_a_violation_is_printed_as_a_numbered_trace() -> None:
    found = explore(Counter(forbidden=13), until={"value"})
    assert str(found.violations["value"]) == "value: it is 13\n    1. double\n    2. double\n    3. add one"


def test_finds_a_planted_step_into_a_known_state_by_the_shortest_way() -> None:
    violation = explore(Counter()).violations["growth"]
    assert violation.message == "48 becomes 3"
    assert violation.trace == ("double", "double", "double", "double", "start again")


def test_finds_an_initial_state_that_is_broken() -> None:
    assert explore(Counter(forbidden=3)).violations["value"].trace == ()


def test_sees_every_state() -> None:
    found = explore(Counter())
    assert found.exhausted
    assert sorted(found.arrivals) == [*range(3, 41), *range(42, 79, 2)]


def test_stops_once_all_that_it_was_to_find_is_found() -> None:
    found = explore(Counter(forbidden=13), until={"value"})
    assert not found.exhausted
    assert found.violations.keys() == {"value"}
    both = explore(Counter(forbidden=13), until={"value", "growth"})
    assert both.violations.keys() == {"value", "growth"}
    assert found.states < both.states


def test_stops_at_the_limit() -> None:
    found = explore(Counter(), limit=10)
    assert not found.exhausted
    assert 10 < found.states <= 12
