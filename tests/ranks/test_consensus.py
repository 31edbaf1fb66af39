"""Consensus, in one process: what one rank finds makes the others take another checkpoint, or none."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch.distributed as dist

from asyncckpt.distributed.coordinator import StoreRanks
from asyncckpt.errors import CheckpointCorruptError, CheckpointNotFoundError, RestoreError
from asyncckpt.format.contents import Contents
from asyncckpt.format.record import Checkpoint, ObjectRef
from asyncckpt.restores.consensus import Consensus
from asyncckpt.restores.restoring import Loaded
from asyncckpt.worker.ranks import CALL_KEY

Load = Callable[[Checkpoint, list[str]], Loaded]


def _checkpoint(seq: int) -> Checkpoint:
    return Checkpoint(seq, seq * 10, None, 2, None, 0, {}, ObjectRef("data/x/manifest.json", 1, "0" * 32), ())


def _loaded(checkpoint: Checkpoint, scopes: list[str]) -> Loaded:
    return Loaded(checkpoint, {scope: {} for scope in scopes}, 0, 0.0, Contents((), {}, {}, {}))


def _unless(error: Exception, seq: int) -> Load:
    """Reads every checkpoint but one."""

    def load(checkpoint: Checkpoint, scopes: list[str]) -> Loaded:
        if checkpoint.seq == seq:
            raise error
        return _loaded(checkpoint, scopes)

    return load


Place = Callable[[Loaded], Loaded]


def _place(loaded: Loaded) -> Loaded:
    return loaded


def _pair(loads: tuple[Load, Load], place: Place = _place) -> tuple[Consensus[Loaded], Consensus[Loaded]]:
    store = dist.HashStore()
    ranks = [StoreRanks(store, rank, 2, 60.0, {}) for rank in (0, 1)]
    leader, follower = (Consensus(r, 0, "restore('best')", load, place) for r, load in zip(ranks, loads, strict=True))
    return leader, follower


def _run(
    loads: tuple[Load, Load], lead: Callable[[Consensus[Loaded]], Any], place: Place = _place
) -> tuple[Future[Any], Future[Any]]:
    """How `lead` on rank 0, and following on rank 1, ended."""
    leader, follower = _pair(loads, place)

    def led() -> Any:
        with leader.under_way(None):
            return lead(leader)

    def followed() -> Any:
        with follower.under_way(None):
            return follower.follow()

    with ThreadPoolExecutor(2) as threads:
        return threads.submit(led), threads.submit(followed)


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize(
    "error", [CheckpointNotFoundError("it is gone"), CheckpointCorruptError("it is damaged", "missing")]
)
def test_what_one_rank_cannot_use_no_rank_takes(at: int, error: Exception) -> None:
    loads: list[Load] = [_loaded, _loaded]
    loads[at] = _unless(error, 3)

    def lead(consensus: Consensus[Loaded]) -> Loaded:
        with pytest.raises(type(error), match=str(error)) as caught:
            consensus.propose(_checkpoint(3))
        assert getattr(caught.value, "kind", "missing") == "missing"
        return consensus.propose(_checkpoint(2))

    leader, follower = _run((loads[0], loads[1]), lead)
    assert leader.result().checkpoint.seq == follower.result().checkpoint.seq == 2
    assert list(leader.result().scopes) == ["state", "rank-0"]
    assert list(follower.result().scopes) == ["state", "rank-1"]


@pytest.mark.parametrize("at", [0, 1])
def test_what_shows_its_damage_to_one_rank_while_it_is_put_back_is_replaced_on_all(at: int) -> None:
    placed: dict[str, list[int]] = {"rank-0": [], "rank-1": []}

    def place(loaded: Loaded) -> Loaded:
        own = list(loaded.scopes)[1]
        if own == f"rank-{at}" and loaded.checkpoint.seq == 3:
            raise CheckpointCorruptError("it is damaged", "content")
        placed[own].append(loaded.checkpoint.seq)
        return loaded

    def lead(consensus: Consensus[Loaded]) -> Loaded:
        with pytest.raises(CheckpointCorruptError, match="it is damaged"):
            consensus.propose(_checkpoint(3))
        return consensus.propose(_checkpoint(2))

    leader, follower = _run((_loaded, _loaded), lead, place)
    assert leader.result().checkpoint.seq == follower.result().checkpoint.seq == 2
    assert placed == {f"rank-{at}": [2], f"rank-{1 - at}": [3, 2]}


@pytest.mark.parametrize("at", [0, 1])
def test_a_rank_that_cannot_put_its_state_back_stops_all(at: int) -> None:
    def place(loaded: Loaded) -> Loaded:
        if list(loaded.scopes)[1] == f"rank-{at}":
            raise OSError("gone")
        return loaded

    both = _run((_loaded, _loaded), lambda consensus: consensus.propose(_checkpoint(3)), place)
    assert isinstance(both[at].exception(), OSError)
    other = both[1 - at].exception()
    assert isinstance(other, RestoreError)
    told = "rank 1 could not put its state back" if at else "rank 0 could not restore"
    assert str(other) == f"{told}: OSError: gone"


def test_rank_0_is_at_work_until_the_last_one_has_put_its_state_back() -> None:
    seen: list[set[str]] = []

    def lead(consensus: Consensus[Loaded]) -> None:
        consensus.propose(_checkpoint(3))
        ranks: Any = consensus._ranks
        consensus.finish(lambda: seen.append(set(ranks._pulse._tasks)))

    leader, follower = _pair((_loaded, _loaded))
    with ThreadPoolExecutor(2) as threads:
        led = threads.submit(_under_way, leader, lead)
        followed = threads.submit(_under_way, follower, _follow_and_finish)
    assert (led.result(), followed.result()) == (None, None)
    assert seen == [{"consensus/1"}]


def _under_way(consensus: Consensus[Loaded], act: Callable[[Consensus[Loaded]], None]) -> None:
    with consensus.under_way(None):
        act(consensus)


def _follow_and_finish(consensus: Consensus[Loaded]) -> None:
    consensus.follow()
    consensus.finish(lambda: None)


def _lead_and_finish(consensus: Consensus[Loaded]) -> None:
    consensus.propose(_checkpoint(3))
    consensus.finish(lambda: None)


def test_none_is_none_for_all() -> None:
    leader, follower = _run((_loaded, _loaded), lambda consensus: consensus.give_up())
    assert leader.result() is None
    assert follower.result() is None


def test_rank_0s_failure_reaches_the_others_before_it_has_proposed_anything() -> None:
    def lead(consensus: Consensus[Loaded]) -> None:
        raise KeyError("latest")

    leader, follower = _run((_loaded, _loaded), lead)
    assert isinstance(leader.exception(), KeyError)
    with pytest.raises(RestoreError, match="rank 0 could not restore: KeyError: 'latest'"):
        follower.result()


def test_a_failure_of_another_kind_is_told_to_all() -> None:
    leader, follower = _run(
        (_loaded, _unless(OSError("no route"), 3)), lambda consensus: consensus.propose(_checkpoint(3))
    )
    with pytest.raises(RestoreError, match="rank 1 could not restore: OSError: no route"):
        leader.result()
    with pytest.raises(OSError, match="no route"):
        follower.result()


def _given_up_once() -> tuple[StoreRanks, StoreRanks]:
    """Rank 0, which gave up its first call because rank 1 did not come, and rank 1."""
    store = dist.HashStore()
    first, late = (StoreRanks(store, rank, 2, wait, {}) for rank, wait in ((0, 0.1), (1, 60.0)))
    with pytest.raises(RestoreError, match="no answer in restore"):
        _under_way(Consensus(first, 0, "restore('best')", _loaded, _place), lambda alone: alone.propose(_checkpoint(3)))
    first.peek(CALL_KEY)  # a rank's requests are carried out one after the other: by now it has said that it failed
    return first, late


def _wait_until_passed_over(call: Consensus[Loaded], followed: Future[None]) -> None:
    while call.number < 1:
        assert not followed.done(), followed.result()


def test_a_call_that_rank_0_gave_up_for_a_ranks_absence_does_not_hold_that_rank_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, late = _given_up_once()
    monkeypatch.setattr(first, "deadline", 60.0)
    call = Consensus(late, 0, "restore('best')", _loaded, _place)
    with ThreadPoolExecutor(1) as threads:
        followed = threads.submit(_under_way, call, _follow_and_finish)
        _wait_until_passed_over(call, followed)
        _under_way(Consensus(first, 1, "restore('best')", _loaded, _place), _lead_and_finish)
        followed.result()


def test_a_call_that_was_passed_over_is_no_reason_for_what_fails_later(monkeypatch: pytest.MonkeyPatch) -> None:
    first, late = _given_up_once()
    call = Consensus(late, 0, "restore('best')", _loaded, _place)
    with ThreadPoolExecutor(1) as threads:
        followed = threads.submit(_under_way, call, _follow_and_finish)
        _wait_until_passed_over(call, followed)
        monkeypatch.setattr(late, "deadline", 0.1)
        first.tell(CALL_KEY, {"number": 2, "call": "restore('best')", "counts": None})  # and nothing more
        with pytest.raises(RestoreError, match="no answer in restore") as caught:
            followed.result()
    assert "gave up" not in str(caught.value)


def test_a_rank_that_comes_after_rank_0_gave_up_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    _, late = _given_up_once()
    monkeypatch.setattr(late, "deadline", 0.1)
    with pytest.raises(RestoreError, match=r"no answer .* rank 0 gave up its call number 1: .* from rank 1 within"):
        _under_way(Consensus(late, 0, "restore('best')", _loaded, _place), _follow_and_finish)
