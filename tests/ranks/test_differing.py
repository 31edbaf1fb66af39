"""Ranks that were made differently are told so at once, whatever they call first; no deadline is shortened here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from asyncckpt import AsyncCheckpointer, SavePolicy
from asyncckpt.distributed.coordinator import StoreRanks
from asyncckpt.errors import RanksDiffer, TransientError
from asyncckpt.storage import from_url
from asyncckpt.testing.ranks import run_ranks
from asyncckpt.testing.slow import GatedStorage
from asyncckpt.worker.ranks import attempt_key, hello_key, left_key, trouble_key, verdict_key
from tests.ranks.looking import error_of, is_leader, steps_of
from tests.ranks.training import Training

pytestmark = pytest.mark.ranks


def _differ(root: Path, ours: dict[str, Any], theirs: dict[str, Any], call: str) -> str:
    """What a first call says on each rank; where a rank's own call does nothing, it stays until the other is told."""
    options = ours if is_leader() else theirs
    training = Training()
    checkpointer = training.checkpointer(root / options.pop("at", "run"), **options)
    message = error_of(lambda: _call(checkpointer, call))
    dist.barrier()
    error_of(checkpointer.close)
    return message


def _call(checkpointer: AsyncCheckpointer, call: str) -> object:
    if call == "step":
        handle = checkpointer.step(1)
        return handle.wait() if handle else None
    return checkpointer.save(1).wait() if call == "save" else checkpointer.resume()


@pytest.mark.parametrize(
    ("ours", "theirs", "call", "said"),
    [
        ({}, {"at": "elsewhere"}, "resume", "root: "),
        ({}, {"at": "elsewhere"}, "save", "root: "),
        ({"save": SavePolicy(every_steps=1)}, {}, "step", "save: SavePolicy("),
        ({}, {"save": SavePolicy(every_steps=1)}, "step", "save: None and SavePolicy("),
        ({"save": SavePolicy(every_steps=1)}, {"save": SavePolicy(every_seconds=1)}, "step", "save: SavePolicy("),
        ({}, {"on_failure": "raise"}, "save", "on_failure: warn and raise"),
        ({}, {"monitor": ("loss", "max")}, "resume", "monitor: None and ('loss', 'max')"),
    ],
)
def test_other_arguments_are_named_at_the_first_call(
    tmp_path: Path, ours: dict[str, Any], theirs: dict[str, Any], call: str, said: str
) -> None:
    messages = run_ranks(_differ, 2, tmp_path, ours, theirs, call)
    told = [message for message in messages if message != "no error"]
    assert told
    for message in told:
        assert "the ranks of this training were given different arguments" in message
        assert "on rank 0 and rank 1" in message
        assert said in message
    assert not (tmp_path / "run" / "commits").exists() or steps_of(tmp_path / "run") == []


def _made_twice(root: Path) -> int:
    """On rank 1 the first attempt to make the checkpointer fails."""
    training = Training()
    if not is_leader():
        with pytest.raises(TypeError, match="without state_dict"):
            AsyncCheckpointer(root, model=training.model, dataloader=[1, 2])
    with training.checkpointer(root) as checkpointer:
        return checkpointer.save(1).wait().step


def test_a_checkpointer_that_could_not_be_made_is_not_counted(tmp_path: Path) -> None:
    assert run_ranks(_made_twice, 2, tmp_path) == [1, 1]


def _met(*ranks: StoreRanks) -> None:
    """Return once every one of them has heard rank 0, and rank 0 all others."""
    while any(ranks[0].peek(hello_key(r.rank)) is None or r.peek(hello_key(0)) is None for r in ranks):
        pass


def test_what_was_said_of_other_arguments_names_them_and_where() -> None:
    store = dist.HashStore()
    leader = StoreRanks(store, 0, 3, 1.0, {"root": "/a", "save": "None"})
    leader.check_alike(2)  # it has said nothing yet
    alike = StoreRanks(store, 1, 3, 1.0, {"root": "/a", "save": "None"})
    other = StoreRanks(store, 2, 3, 1.0, {"root": "/b", "save": "None"})
    _met(leader, alike, other)
    leader.check_alike(1)
    for differing, rank in ((leader, 2), (other, 0)):
        with pytest.raises(RanksDiffer, match=r"root: /a and /b \(on rank 0 and rank 2\)"):
            differing.check_alike(rank)


def test_rank_0_takes_what_all_said_with_it_once_they_have_left() -> None:
    store = dist.HashStore()
    leader, other = (StoreRanks(store, rank, 2, 1.0, {}) for rank in (0, 1))
    _met(leader, other)
    leader.publish(attempt_key(1), {})
    other.publish(trouble_key(1, 1), {})
    assert store.num_keys() > 4
    other.part(0.0)
    leader.part(60.0)
    assert store.num_keys() == 0


def test_rank_0_leaves_what_it_said_to_those_who_still_listen() -> None:
    store = dist.HashStore()
    leader, other = (StoreRanks(store, rank, 2, 1.0, {}) for rank in (0, 1))
    _met(leader, other)
    leader.publish(attempt_key(1), {"there": True})
    leader.part(0.0)
    assert other.peek(attempt_key(1)) == {"there": True}
    assert other.peek(left_key(0)) is not None


def test_what_an_earlier_life_of_the_job_said_is_never_heard() -> None:
    store = dist.HashStore()  # outlives its ranks, as that of torchrun does
    first = [StoreRanks(store, rank, 2, 1.0, {"root": "/before"}) for rank in (0, 1)]
    _met(*first)
    first[0].publish(attempt_key(1), {"life": 1})
    first[1].publish(left_key(1), {"life": 1})
    other = StoreRanks(store, 1, 2, 1.0, {"root": "/now"})
    assert other.peek(attempt_key(1)) is None
    assert other.peek(hello_key(0)) is None
    other.tell(trouble_key(7, 1), {"life": 2})  # before anybody can hear it
    leader = StoreRanks(store, 0, 2, 1.0, {"root": "/now"})
    assert leader.peek(left_key(1)) is None
    _met(leader, other)
    leader.check_alike(1)
    other.check_alike(0)
    assert leader.peek(trouble_key(7, 1)) == {"life": 2}
    assert other.peek(attempt_key(1)) is None
    leader.publish(attempt_key(1), {"life": 2})
    assert other.peek(attempt_key(1)) == {"life": 2}


def _learn_apart(root: Path) -> tuple[list[str], list[str]]:
    """A save fails, rank 0 knows at once and rank 1 two steps later: with ``on_failure="raise"`` they raise apart."""
    training, told = Training(), []
    storage = GatedStorage(from_url(root))
    if is_leader():
        storage.fail("put", "*/rank-00000-*", lambda: TransientError("no route"), times=1)
    options: dict[str, Any] = {"save": SavePolicy(every_steps=1), "on_failure": "raise", "on_busy": "wait"}
    with training.checkpointer(storage, **options) as checkpointer:
        peek = checkpointer._returning._ranks.peek
        if not is_leader():
            checkpointer._returning._ranks.peek = lambda key: None if key == verdict_key(1) else peek(key)
        for step in range(1, 7):
            training.step()
            told.append(error_of(lambda step=step: checkpointer.step(step)))
            if step == 3:
                checkpointer._returning._ranks.peek = peek
            checkpointer.before_mutation()
            if step == (1 if is_leader() else 3):
                _wait_unasked(checkpointer)
        _wait_unasked(checkpointer)
        return told, [handle.status for handle in checkpointer._saver.handles]


def _wait_unasked(checkpointer: AsyncCheckpointer) -> None:
    """Nobody is told of a failure by this."""
    for handle in checkpointer._saver.handles:
        with handle._changed:
            handle._wait_for(handle.done)


def test_ranks_that_learn_of_a_failure_at_different_steps_go_on_making_the_same_saves(tmp_path: Path) -> None:
    (leader, _), (other, _) = run_ranks(_learn_apart, 2, tmp_path)
    for raised, at in ((leader, 1), (other, 3)):
        assert [message.startswith("SaveFailed") for message in raised] == [step == at for step in range(6)]
        assert "no route" in raised[at]
    assert steps_of(tmp_path) == [2, 3, 4, 5, 6]
