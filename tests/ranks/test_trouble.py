"""One rank cannot do its part of a save: all handles fail at once, name that rank, and the next save works.

Few of these tests shorten a deadline: what waited for one would not end before the launcher gives up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from asyncckpt import AsyncCheckpointer, SavePolicy
from asyncckpt.distributed import coordinator
from asyncckpt.errors import (
    CheckpointDirectoryExistsError,
    OutcomeUnknown,
    StorageDenied,
    TransientError,
    UnsupportedState,
)
from asyncckpt.storage import from_url
from asyncckpt.storage.base import ObjectInfo
from asyncckpt.testing.ranks import StoreHost, run_ranks
from asyncckpt.testing.slow import GatedStorage
from asyncckpt.worker import listening, pulse
from tests.ranks.executors import Launcher, gated
from tests.ranks.looking import (
    OwnTime,
    failure_of,
    is_leader,
    shorten_deadline,
    steps_of,
    unlisted,
    wait_for_beats,
)
from tests.ranks.training import Training

pytestmark = pytest.mark.ranks


def _put_fails(root: Path, victim: int, at: str, error: Callable[[], BaseException]) -> str:
    """The message of a save in which `victim` cannot put `at`; the saves before and after it are durable."""
    training, storage = Training(), gated(root)
    with training.checkpointer(storage) as checkpointer:
        training.step()
        checkpointer.save(1).wait()
        if dist.get_rank() == victim:
            storage.fail("put", at, error, times=1)
        training.step()
        message = str(failure_of(checkpointer.save(2)))
        storage.heal()
        training.step()
        assert checkpointer.save(3).wait().step == 3
    return message


def _shares_less(root: Path) -> str:
    training = Training()
    optimizer = training.optimizer if is_leader() else None
    with AsyncCheckpointer(root, model=training.model, optimizer=optimizer) as checkpointer:
        training.step()
        return str(failure_of(checkpointer.save(1)))


def test_a_rank_that_was_given_other_objects_to_share_is_named(tmp_path: Path) -> None:
    messages = run_ranks(_shares_less, 2, tmp_path)
    for message in messages:
        assert "RanksDiffer" in message or "the ranks of this training were given different arguments" in message
        assert "objects that all ranks share: " in message


def _denied() -> StorageDenied:
    return StorageDenied("the file system is read-only")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_cannot_write_fails_the_save_of_all(tmp_path: Path, launch: Launcher, victim: int) -> None:
    messages = launch(_put_fails, 3, tmp_path, victim, "*.safetensors", _denied)
    said = "StorageDenied: the file system is read-only"
    if victim == 0:
        assert all(f"rank 0: {said}" in message for message in messages[1:])
    else:
        assert all(f"rank 1 could not write its shard: {said}" in messages[rank] for rank in (0, 2))
    assert steps_of(tmp_path) == [1, 3]
    assert unlisted(tmp_path) == []


@pytest.mark.parametrize(("victim", "at"), [(0, "*.safetensors"), (0, "*/manifest.json"), (1, "*.safetensors")])
def test_a_worker_that_dies_on_one_rank_fails_the_save_of_all(tmp_path: Path, victim: int, at: str) -> None:
    messages = run_ranks(_put_fails, 2, tmp_path, victim, at, SystemExit)
    assert "WorkerCrashed" in messages[1 - victim]
    assert f"rank {victim}" in messages[1 - victim]
    assert steps_of(tmp_path) == [1, 3]


def _commit_stays_unknown(root: Path) -> str:
    training, storage = Training(), gated(root)
    with training.checkpointer(storage) as checkpointer:
        checkpointer.save(1).wait()
        storage.fail("reply", "commits/*", lambda: OutcomeUnknown("no answer"))
        storage.fail("get", "commits/*", lambda: TransientError("no answer"))
        error = failure_of(checkpointer.save(2))
        storage.heal()
        assert checkpointer.save(3).wait().step == 3
    return str(error)


def test_a_shard_stays_as_long_as_a_record_may_name_it(tmp_path: Path, launch: Launcher) -> None:
    for message in launch(_commit_stays_unknown, 2, tmp_path):
        assert "could not find out whether it was created" in message
    assert steps_of(tmp_path) == [1, 2, 3]


def _state_is_refused(root: Path, victim: int) -> str:
    training = Training()
    with training.checkpointer(root) as checkpointer:
        training.step()
        if dist.get_rank() == victim:
            training.tally.owner = object()
            with pytest.raises(UnsupportedState) as caught:
                checkpointer.save(1)
            message = str(caught.value)
            training.tally.owner = "rank again"
        else:
            message = str(failure_of(checkpointer.save(1)))
        assert checkpointer.save(2).wait().step == 2
    return message


@pytest.mark.parametrize("victim", [0, 1])
def test_a_call_that_raises_on_one_rank_fails_the_save_of_all(tmp_path: Path, launch: Launcher, victim: int) -> None:
    messages = launch(_state_is_refused, 2, tmp_path, victim)
    assert messages[victim] in messages[1 - victim]
    assert f"rank {victim}" in messages[1 - victim]
    assert steps_of(tmp_path) == [2]


def _start_over(root: Path) -> list[str]:
    training = Training()
    found = []
    with training.checkpointer(root) as checkpointer:
        for step in (1, 2):
            if is_leader():
                with pytest.raises(CheckpointDirectoryExistsError) as caught:
                    checkpointer.save(step)
                found.append(str(caught.value))
            else:
                found.append(str(failure_of(checkpointer.save(step))))
        state = checkpointer.resume()
        assert state is not None
        assert checkpointer.save(state.step + 1).wait().step == state.step + 1
    return found


def test_starting_over_by_accident_is_refused_on_every_rank(tmp_path: Path, launch: Launcher) -> None:
    launch(_put_fails, 2, tmp_path, 1, "*.safetensors", _denied)
    leader, other = launch(_start_over, 2, tmp_path)
    for step, refusal, message in zip((1, 2), leader, other, strict=True):
        assert "holds 2 checkpoints" in refusal
        assert message == f"the save of step {step} failed (open): rank 0: CheckpointDirectoryExistsError: {refusal}"
    assert steps_of(tmp_path) == [1, 3, 4]


def _out_of_step(root: Path) -> tuple[str, str]:
    training = Training()
    with training.checkpointer(root) as checkpointer:
        error = failure_of(checkpointer.save(1 if is_leader() else 2))
        assert checkpointer.save(3).wait().step == 3
    return type(error.__cause__).__name__, str(error)


def test_ranks_that_save_different_steps_are_told_so(tmp_path: Path, launch: Launcher) -> None:
    for kind, message in launch(_out_of_step, 2, tmp_path):
        assert kind in ("SaveFailed", "ShardFailed")  # of its own, or of another rank's part
        assert "save number 1 is of step 2 here and of step 1 on rank 0" in message
    assert steps_of(tmp_path) == [3]


def _slow_leader(root: Path) -> int:
    """Rank 0's store takes three times as long as the deadline: it beats until then, and the others wait."""
    pulse.BEAT = 0.01
    training, storage = Training(), gated(root)
    with training.checkpointer(storage) as checkpointer:
        if not is_leader():
            OwnTime().pass_with_beats(checkpointer._returning._ranks)
        gate = storage.hold("put", "*/rank-00000-of-*")
        first, second = checkpointer.save(1), checkpointer.save(2)
        checkpointer.before_mutation()
        if is_leader():
            wait_for_beats(checkpointer._returning._ranks, 15)
        gate.open()
        return len([handle.wait() for handle in (first, second)])


def _full_leader(root: Path) -> list[int]:
    """Rank 0 has no memory left for a save, three times as long as the deadline: it beats in that call too."""
    pulse.BEAT = 0.01
    training, storage = Training(), gated(root)
    options: dict[str, Any] = {"save": SavePolicy(every_seconds=1e-6), "on_busy": "wait", "generations": 1}
    with training.checkpointer(storage, **options) as checkpointer:
        ranks = checkpointer._returning._ranks
        gate = storage.hold("put", "*/rank-00000-of-*")
        opening = threading.Thread(target=lambda: (wait_for_beats(ranks, 15), gate.open()))
        if is_leader():
            opening.start()
        else:
            OwnTime().pass_with_beats(ranks)
        handles = [checkpointer.step(step) for step in (1, 2, 3)]
        if is_leader():
            opening.join()
        return [handle.wait().step for handle in handles if handle is not None]


def test_a_save_that_waits_for_memory_longer_than_the_deadline_is_no_death(tmp_path: Path, launch: Launcher) -> None:
    assert launch(_full_leader, 2, tmp_path) == [[1, 2, 3]] * 2
    assert steps_of(tmp_path) == [1, 2, 3]


def _leaves(root: Path) -> list[str]:
    """What is left in the store once all have closed, of the keys that were ever written."""
    training = Training()
    said: list[str] = []
    with training.checkpointer(root, save=SavePolicy(every_seconds=1e-6)) as checkpointer:
        ranks: Any = checkpointer._returning._ranks
        checkpointer.resume()
        for step in (1, 2, 3):
            training.step()
            checkpointer.step(step)
        checkpointer.wait()
        said = [f"{ranks._session.name()}/{key}" for kind in ranks._published.values() for key in kind]
        said += [f"{ranks._session.name()}/left/{ranks.rank}", f"join/{ranks.rank}", f"welcome/{ranks.rank}"]
    assert len(said) >= 4
    dist.barrier()
    return [key for key in said if ranks._store.check([key])]


def test_nothing_that_was_said_stays_in_the_store_when_all_have_closed(tmp_path: Path, launch: Launcher) -> None:
    assert launch(_leaves, 3, tmp_path, store="launcher") == [[], [], []]


def test_a_save_that_takes_longer_than_the_deadline_is_no_death(tmp_path: Path) -> None:
    assert run_ranks(_slow_leader, 2, tmp_path) == [2, 2]
    assert steps_of(tmp_path) == [1, 2]


def _listens_late(root: Path) -> str:
    """The other ranks ask so seldom that rank 0 is done, closed and gone long before, if it does not wait."""
    if not is_leader():
        listening._FIRST_LOOK = listening._SLOWEST_LOOK = 1.0
    training = Training()
    with training.checkpointer(root) as checkpointer:
        return str(checkpointer.save(1).wait().step if is_leader() else checkpointer.save(1).wait().id)


@pytest.mark.parametrize("store", ["rank 0", "launcher"])
def test_rank_0_leaves_last(tmp_path: Path, launch: Launcher, store: StoreHost) -> None:
    assert launch(_listens_late, 2, tmp_path, store=store) == ["1", "00000001"]


def _store_is_lost(root: Path) -> str:
    """On rank 0 the key-value store stops to answer once the attempt is announced; rank 1 reports after that."""
    training, storage, store = Training(), gated(root), dist.distributed_c10d._get_default_store()
    gate = storage.hold("put", "*/rank-00001-*.json")
    with training.checkpointer(storage) as checkpointer:
        if is_leader():
            _lose(checkpointer._returning._ranks, store)
        handle = checkpointer.save(1)
        if not is_leader():
            gate.wait_reached()  # it has heard of the attempt
            shorten_deadline(checkpointer, 1)
            store.wait(["rank 0 has looked for trouble"])
            gate.open()
            return str(failure_of(handle))
        return f"step {handle.wait().step} is durable"


def _lose(ranks: Any, store: dist.Store) -> None:
    publish = ranks.publish

    def peek(key: str) -> None:
        store.set("rank 0 has looked for trouble", b"")
        raise ConnectionError("no answer")

    def publish_attempts(key: str, value: dict[str, Any]) -> None:
        if not key.startswith("attempt/"):
            raise ConnectionError("no answer")
        publish(key, value)

    ranks.peek, ranks.publish, ranks.tell = peek, publish_attempts, lambda key, value: None


def test_a_commit_needs_nothing_but_the_storage_once_it_is_announced(tmp_path: Path) -> None:
    leader, other = run_ranks(_store_is_lost, 2, tmp_path)
    assert leader == "step 1 is durable"
    assert (tmp_path / "latest").exists()  # what comes after the verdict was done as well
    assert "rank 0" in other
    assert steps_of(tmp_path) == [1]


def _store_is_slow(root: Path) -> list[str]:
    """The key-value store does not answer this rank; what else its worker has to do goes on meanwhile."""
    training, found = Training(), []
    requests = [("publish", "attempt/"), ("peek", "trouble/")]
    with training.checkpointer(root) as checkpointer:
        ranks: Any = checkpointer._returning._ranks
        for step, (name, kind) in enumerate(requests, 1):
            asked, answer = threading.Event(), threading.Event()
            real = getattr(ranks, name)
            if is_leader():
                setattr(ranks, name, _slow(real, kind, asked, answer))
            handle = checkpointer.save(step)
            checkpointer.before_mutation()
            if is_leader():
                asked.wait()
                found.append(str(checkpointer._executor.pool.start(_still_there).result(30)))
            answer.set()
            handle.wait()
            setattr(ranks, name, real)
    return found


def _slow(call: Callable[..., Any], kind: str, asked: threading.Event, answer: threading.Event) -> Callable[..., Any]:
    def slow(key: str, *value: Any) -> Any:
        if key.startswith(kind):
            asked.set()
            answer.wait()
        return call(key, *value)

    return slow


async def _still_there(service: object) -> str:
    return "there"


def test_a_key_value_store_that_is_slow_holds_nothing_up_in_the_worker(tmp_path: Path) -> None:
    assert run_ranks(_store_is_slow, 2, tmp_path) == [["there"] * 2, []]
    assert steps_of(tmp_path) == [1, 2]


class LosesReports(GatedStorage):
    """What its rank reports does not get to rank 0: as where every node has a disk of its own at the same path."""

    async def put(self, key: str, *arguments: Any, **options: Any) -> ObjectInfo:
        if key.endswith(".json") and "rank-00001" in key:
            return ObjectInfo(key, 0)
        return await super().put(key, *arguments, **options)


def _is_not_seen(root: Path) -> str:
    pulse.BEAT = 0.2
    training = Training()
    with training.checkpointer(LosesReports(from_url(root))) as checkpointer:
        if is_leader():
            shorten_deadline(checkpointer, 1)
        return str(failure_of(checkpointer.save(1)))


def test_two_ranks_do_not_wait_for_each_other_for_ever(tmp_path: Path) -> None:
    for message in run_ranks(_is_not_seen, 2, tmp_path):
        assert "no part of step 1 from rank 1 within 1 s" in message


def _raises_then_epoch_ends(root: Path) -> list[int]:
    """A step that is due raises on rank 1; the epoch ends at that very step."""
    training = Training()
    with training.checkpointer(root, save=SavePolicy(every_steps=2, every_epochs=1)) as checkpointer:
        for step in range(1, 9):
            training.step()
            if step == 4 and not is_leader():
                training.tally.owner = object()
                with pytest.raises(UnsupportedState):
                    checkpointer.step(step)
                training.tally.owner = "again"
            elif handle := checkpointer.step(step):
                checkpointer.before_mutation()
                handle.wait() if step != 4 else failure_of(handle)
            if step % 4 == 0:
                assert checkpointer.epoch_end(step // 4) is None, "this step has had its save"
        return [info.step for info in checkpointer.checkpoints()]


def test_a_step_that_raised_on_one_rank_shifts_no_later_save(tmp_path: Path) -> None:
    assert run_ranks(_raises_then_epoch_ends, 2, tmp_path) == [[2, 6, 8]] * 2


def _only_rank_0_saves(root: Path) -> str | None:
    coordinator.FAREWELL = 0.5
    training = Training()
    if not is_leader():
        return None
    with training.checkpointer(root) as checkpointer:
        shorten_deadline(checkpointer, 1)
        return str(failure_of(checkpointer.save(1)))


def test_a_loop_in_which_rank_0_alone_saves_is_told_why_it_fails(tmp_path: Path) -> None:
    message, _ = run_ranks(_only_rank_0_saves, 2, tmp_path)
    assert "no part of step 1 from rank 1 within 1 s" in message
    assert "does not call step() and save() as rank 0 does" in message


def _leaves_early(root: Path) -> str:
    """Rank 1 closes before a save that rank 0 still makes."""
    training = Training()
    checkpointer = training.checkpointer(root)
    training.step()
    checkpointer.save(1).wait()
    if not is_leader():
        checkpointer.close()
        return ""
    message = str(failure_of(checkpointer.save(2)))
    checkpointer.close()
    return message


def test_nobody_waits_for_a_rank_that_has_closed(tmp_path: Path) -> None:
    message, _ = run_ranks(_leaves_early, 2, tmp_path)
    assert "no part of step 2 from rank 1: it has closed its checkpointer" in message
    assert steps_of(tmp_path) == [1]
    assert unlisted(tmp_path) == []
