"""Every request of a writer: stopped while another takes over, its answer lost, delivered twice, delivered late.

In each of these runs the store is looked at after every change. What is listed is there, and in the end loads bit
by bit; nothing of a fenced writer appears; what was reported durable is lost only by retention; latest never goes
back; and the next start works and leaves nothing behind that no live record names.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from asyncckpt.errors import OutcomeUnknown, StorageError, TransientError
from tests.worker.exploring import explore, faults, late, openers, pairs, zombies
from tests.worker.watching import WatchedStorage

OPEN = {"get run.json", "probe", "list commits/", "get commits/N.json", "create commits/N.json", "list user/"}
SWEEP = {"list data/", "uploads", "delete data/N-step-N/rank-N-of-N.pN.safetensors"}
SAVE = {"put data/N-step-N/rank-N-of-N.pN.safetensors", "put data/N-step-N/manifest.json", "get latest", "put latest"}
PRUNE = {"list data/N-step-N/"}
SHARE = {"get data/N-step-N/manifest.json"}
AMEND = {"delete commits/N.json"}
"""What was known before of a checkpoint, where its metrics came late."""
ALL = OPEN | SHARE | SWEEP | SAVE | PRUNE | AMEND
FIRST = ALL - SHARE - AMEND - {"get commits/N.json", "delete data/N-step-N/rank-N-of-N.pN.safetensors"} | {
    "create run.json"
}


def test_a_writer_stopped_at_any_request_and_resumed_after_another_took_over() -> None:
    seen = explore(zombies())
    assert seen.violations == []
    assert seen.kinds == ALL
    assert seen.runs >= 34


def test_a_first_writer_stopped_at_any_request_and_resumed_after_another_took_over() -> None:
    seen = explore(zombies(base=()), base=())
    assert seen.violations == []
    assert seen.kinds >= FIRST
    assert seen.runs >= 28


def test_an_opener_stopped_at_any_request_and_resumed_after_the_holder_saved_on() -> None:
    seen = explore(openers())
    assert seen.violations == []
    assert seen.kinds == ALL
    assert seen.runs >= 34


def test_two_writers_stopped_at_any_two_requests() -> None:
    seen = explore(pairs())
    assert seen.violations == []
    assert seen.runs >= 600


@pytest.mark.parametrize("base", [(1, 2, 3), ()])
@pytest.mark.parametrize("error", [TransientError, OutcomeUnknown])
@pytest.mark.parametrize("what", [WatchedStorage.refuse, WatchedStorage.lose_reply])
def test_any_request_that_fails_before_or_after_it_was_carried_out(
    what: Callable[[WatchedStorage, int, Callable[[], StorageError]], None],
    error: Callable[[], StorageError],
    base: tuple[int, ...],
) -> None:
    seen = explore(faults(lambda faulty, number: what(faulty, number, error), base), base)
    assert seen.violations == []
    assert seen.kinds >= (ALL if base else FIRST)


def test_any_put_delivered_a_second_time_after_any_later_request() -> None:
    seen = explore(late(lambda faulty, number, after: faulty.repeat(number, after=after)))
    assert seen.violations == []
    assert seen.runs >= 300


def test_any_put_delivered_only_after_any_later_request() -> None:
    seen = explore(late(lambda faulty, number, after: faulty.delay(number, after=after)))
    assert seen.violations == []
    assert seen.runs >= 300
