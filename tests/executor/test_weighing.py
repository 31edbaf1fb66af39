"""Which states are worth a worker process: by measurement where that decides, and alike on all ranks."""

from __future__ import annotations

import pytest

from asyncckpt.construction.weighing import BREAK_EVEN, LEAST, MOST, WORTH, digest_rate, weigh
from asyncckpt.events import Weighed


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What measuring finds, one after the other; what is left was not asked for."""
    rates = list[float]()
    monkeypatch.setattr("asyncckpt.construction.weighing.digest_rate", lambda: rates.pop(0))
    return rates


def test_the_slower_bytes_are_digested_the_less_of_them_are_worth_a_process(measured: list[float]) -> None:
    size = 100 << 20
    slow, fast = 99 * (1 << 20) / WORTH, 101 * (1 << 20) / WORTH
    measured += [slow, fast]
    assert weigh(size, 1) == Weighed("process", size, int(slow * WORTH), slow)
    assert weigh(size, 1) == Weighed("thread", size, int(fast * WORTH), fast)


@pytest.mark.parametrize(("rate", "break_even"), [(1.0, LEAST), (1e15, MOST)])
def test_a_measurement_that_went_wrong_decides_within_bounds_only(
    measured: list[float], rate: float, break_even: int
) -> None:
    measured.append(rate)
    assert weigh(LEAST + 1, 1).break_even == break_even


@pytest.mark.parametrize(("size", "executor"), [(0, "thread"), (LEAST, "thread"), (MOST + 1, "process")])
def test_nothing_is_measured_where_it_cannot_decide(measured: list[float], size: int, executor: str) -> None:
    found = weigh(size, 1)
    assert (found.executor, found.rate, measured) == (executor, None, [])


@pytest.mark.parametrize(("size", "executor"), [(BREAK_EVEN, "thread"), (BREAK_EVEN + 1, "process")])
def test_ranks_measure_nothing_so_that_all_choose_alike(measured: list[float], size: int, executor: str) -> None:
    assert weigh(size, 2) == Weighed(executor, size, BREAK_EVEN, None)
    assert measured == []


def test_this_machine_digests_at_some_rate() -> None:
    assert 1e6 < digest_rate() < 1e13
