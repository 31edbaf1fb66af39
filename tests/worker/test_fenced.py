"""Mode "fenced": what the protocol promises on a store that creates nothing exclusively, at every request of a writer.

As in `test_zombie`: each run is watched, and in the end what is listed loads, nothing of a fenced writer appears, what
was reported durable is lost only by retention, and the next start leaves nothing behind that nobody needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import pytest

from asyncckpt.errors import OutcomeUnknown, StorageError, TransientError
from asyncckpt.worker.commitlog import fencing
from tests.worker.exploring import Story, explore, faults, late, openers, pairs, zombies
from tests.worker.mutants import mutate
from tests.worker.stores import Ignoring
from tests.worker.watching import WatchedStorage

fenced = partial(explore, made=Ignoring)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that have claimed the run at once do not wait before they claim it again."""
    monkeypatch.setattr(fencing, "_LONGEST_PAUSE", 0)


@pytest.mark.parametrize("base", [(1, 2, 3), ()])
def test_a_writer_stopped_at_any_request_and_resumed_after_another_took_over(base: tuple[int, ...]) -> None:
    seen = fenced(zombies(base, Ignoring), base)
    assert seen.violations == []
    assert seen.runs >= 40


def test_an_opener_stopped_at_any_request_and_resumed_after_the_holder_saved_on() -> None:
    seen = fenced(openers(Ignoring))
    assert seen.violations == []
    assert seen.runs >= 40


def test_two_writers_stopped_at_any_two_requests() -> None:
    seen = fenced(pairs(Ignoring, every=5))  # which comes by every request of either, beside ever other ones
    assert seen.violations == []
    assert seen.runs >= 350


@pytest.mark.parametrize("base", [(1, 2, 3), ()])
@pytest.mark.parametrize("error", [TransientError, OutcomeUnknown])
@pytest.mark.parametrize("what", [WatchedStorage.refuse, WatchedStorage.lose_reply])
def test_any_request_that_fails_before_or_after_it_was_carried_out(
    what: Callable[[WatchedStorage, int, Callable[[], StorageError]], None],
    error: Callable[[], StorageError],
    base: tuple[int, ...],
) -> None:
    seen = fenced(faults(lambda faulty, number: what(faulty, number, error), base, Ignoring), base)
    assert seen.violations == []


@pytest.mark.parametrize("what", [WatchedStorage.repeat, WatchedStorage.delay])
def test_any_put_about_a_commit_delivered_again_or_only_after_any_later_request(
    what: Callable[[WatchedStorage, int, int], None],
) -> None:
    seen = fenced(late(lambda faulty, number, after: what(faulty, number, after=after), "commits/", Ignoring))
    assert seen.violations == []
    assert seen.runs >= 200


MUTANTS = {
    "no look after the record": (
        "        await _check_claims(catalog, log, record.inc)\n",
        "        pass\n",
        zombies,
    ),
    "what was not confirmed is not adopted": (
        """written = sorted(slot for slot, kind in below if kind == "json")""",
        """written = sorted(slot for slot, kind in below if kind == "ok")""",
        zombies,
    ),
    "no look for other claims": (
        "if any(kind == ",
        "if False and any(kind == ",
        partial(pairs, every=1),
    ),
    "no claim": ("    await _put(catalog.storage, claim.claim,", "    _ = (claim.claim,", zombies),
    "no look after the open": ("    await _check_claims(catalog, log, claim.inc)\n", "    pass\n", zombies),
}


@pytest.mark.parametrize(("old", "new", "stories"), MUTANTS.values(), ids=MUTANTS)
def test_a_missing_line_is_noticed(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str, stories: Callable[..., Iterable[Story]]
) -> None:
    mutate(monkeypatch, fencing, old, new)
    assert fenced(stories(made=Ignoring), first=True).violations
