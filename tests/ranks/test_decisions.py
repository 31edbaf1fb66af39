"""When to save is decided by rank 0 for all, through the key-value store and only where ranks may disagree."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import torch.distributed as dist
from torch.distributed import distributed_c10d

from asyncckpt import SavePolicy
from asyncckpt.construction import blueprint
from asyncckpt.distributed import coordinator
from asyncckpt.distributed.agreement import Agreement
from asyncckpt.distributed.coordinator import StoreRanks
from asyncckpt.distributed.counts import Counts
from asyncckpt.errors import RankMissing, SaveFailed
from asyncckpt.testing.ranks import run_ranks
from asyncckpt.worker.ranks import attempt_key, hello_key
from tests.ranks.executors import Launcher
from tests.ranks.looking import is_leader, shorten_deadline, steps_of
from tests.ranks.training import Training

pytestmark = pytest.mark.ranks

SCORES = ([5.0, 4.0, 6.0, 3.0, 7.0, 2.0], [1.0, 9.0, 0.5, 9.0, 0.25, 9.0], [1.0] * 6)
"""Of three ranks; rank 0's are best at steps 1, 2, 4 and 6."""


def _best(root: Path) -> tuple[list[int], list[int], int]:
    training, scores = Training(), SCORES[dist.get_rank()]
    policy = SavePolicy(on_best=True)
    options = {"save": policy, "monitor": ("score", "min"), "on_busy": "wait"}
    with training.checkpointer(root, **options) as ckpt:
        first = [step for step, score in enumerate(scores, 1) if ckpt.step(step, metrics={"score": score})]
        state = ckpt.resume(which=1)
        assert state is not None
        assert state.metrics == {"score": SCORES[0][0]}
        # The same steps again, with other scores: a decision of the first time must not be taken for one of now.
        again = [step for step, score in enumerate(scores[1:], 2) if ckpt.step(step, metrics={"score": 1 - score})]
        at_end = ckpt.epoch_end(1, metrics={"score": -100.0 if is_leader() else 0.0})
        assert at_end is not None
        at_end.wait()
    return first, again, at_end.step


def test_all_ranks_save_where_rank_0_found_the_best(tmp_path: Path, launch: Launcher) -> None:
    assert launch(_best, 3, tmp_path) == [([1, 2, 4, 6], [2, 3, 5], 6)] * 3


class OwnClock:
    """Rank 0's runs ten seconds per step, the others' stand still."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return 1e9 + self.now

    def monotonic(self) -> float:
        return self.now


def _timed(root: Path) -> list[int]:
    clock = OwnClock()
    blueprint.SYSTEM_CLOCK = clock
    training, found = Training(), []
    with training.checkpointer(root, save=SavePolicy(every_seconds=25), on_busy="wait") as ckpt:
        for step in range(1, 10):
            clock.now += 10 if is_leader() else 0
            if ckpt.step(step):
                found.append(step)
    return found


def test_all_ranks_save_when_rank_0s_clock_says_so(tmp_path: Path) -> None:
    assert run_ranks(_timed, 2, tmp_path) == [[3, 6, 9]] * 2
    assert steps_of(tmp_path) == [3, 6, 9]


def _counts_store_calls(root: Path, policy: SavePolicy) -> int:
    """How often the training thread touches the store in ten steps."""
    calls: list[str] = []
    for name in ("publish", "tell", "peek"):
        setattr(StoreRanks, name, _counted(getattr(StoreRanks, name), calls))
    training = Training()
    with training.checkpointer(root, save=policy, on_busy="wait") as ckpt:
        training.step()
        ckpt.save(1).wait()
        dist.barrier()  # both have measured what they need; memory is shared out once more then
        ckpt.save(2).wait()
        calls.clear()  # to say hello costs one, and so does who shares this machine's memory
        for step in range(3, 13):
            training.step()
            ckpt.step(step)
        return len(calls)


def _counted(method: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    @functools.wraps(method)
    def counted(*args: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            calls.append(method.__name__)
        return method(*args)

    return counted


def test_a_policy_of_steps_alone_costs_no_message(tmp_path: Path) -> None:
    assert run_ranks(_counts_store_calls, 2, tmp_path / "steps", SavePolicy(every_steps=5)) == [0, 0]
    timed = SavePolicy(every_steps=5, every_seconds=3600)
    assert min(run_ranks(_counts_store_calls, 2, tmp_path / "seconds", timed)) >= 10


def _disagree(root: Path) -> list[str]:
    training, told = Training(), []
    options = {"save": SavePolicy(on_best=True), "monitor": ("score", "min")}
    with training.checkpointer(root, **options) as ckpt:
        ckpt.step(1)
        told += _raised(lambda: ckpt.step(31 if is_leader() else 32))
        dist.barrier()  # what rank 0 decides next it must not be ahead with
        told += _raised(lambda: ckpt.step(33, metrics={"score": "high"}))
        if not is_leader():
            shorten_deadline(ckpt, 0.5)
            told += _raised(lambda: ckpt.step(34))
    return told


def _raised(call: Callable[[], object]) -> list[str]:
    try:
        call()
    except (SaveFailed, RankMissing, TypeError) as error:
        return [f"{type(error).__name__}: {error}"]
    return []


def test_ranks_that_decide_apart_are_told_so_and_none_hangs(tmp_path: Path) -> None:
    leader, (apart, failed, silent) = run_ranks(_disagree, 2, tmp_path)
    assert "rank 1 is at step 32 and rank 0 at step 31" in apart
    assert leader[0] in failed
    assert failed.startswith("SaveFailed: rank 0 could not decide whether step 33 is to be saved: TypeError: metric")
    assert "decision whether to save step 34" in silent
    assert silent.startswith("RankMissing: ")


def _agreements() -> tuple[Agreement, Agreement]:
    """Of rank 0 and of rank 1, in one process."""
    store = dist.HashStore()
    leader, follower = (StoreRanks(store, rank, 2, 60.0, {}) for rank in (0, 1))
    while leader.peek(hello_key(1)) is None or follower.peek(hello_key(0)) is None:
        pass
    return Agreement(leader, Counts()), Agreement(follower, Counts())


def test_a_rank_that_is_far_behind_decides_as_rank_0_did() -> None:
    leader, follower = _agreements()
    due = [step % 50 == 0 for step in range(1, 3001)]
    for step, is_due in enumerate(due, 1):
        assert leader.decide(step, lambda is_due=is_due: is_due) == is_due
    assert [follower.decide(step, _never) for step in range(1, 3001)] == due
    _impatient(follower)
    with pytest.raises(RankMissing, match=r"no decision whether to save step 3001 from rank 0 within 0\.1 s"):
        follower.decide(3001, _never)


def test_a_rank_that_is_too_far_behind_is_told_so_rather_than_a_wrong_answer() -> None:
    leader, follower = _agreements()
    for step in range(1, 67):
        leader.decide(step, lambda: True)
    leader._ranks.peek("anything")  # said by now
    with pytest.raises(SaveFailed, match="more than 64 saves behind"):
        follower.decide(1, _never)
    assert all(follower.decide(step, _never) for step in range(2, 67))


def test_a_rank_that_gave_up_on_a_step_may_ask_again_or_go_on_with_the_next() -> None:
    leader, follower = _agreements()
    _impatient(follower)
    for step in (1, 1, 2):
        with pytest.raises(RankMissing):
            follower.decide(step, _never)
    due = [leader.decide(step, lambda step=step: step == 4) for step in range(1, 6)]
    leader._ranks.peek("anything")  # said by now
    assert [follower.decide(step, _never) for step in range(2, 6)] == due[1:] == [False, False, True, False]


def _impatient(agreement: Agreement) -> None:
    """From now on that rank waits a moment only for what nobody says."""
    ranks: Any = agreement._ranks
    ranks.deadline = 0.1


def _never() -> bool:
    raise AssertionError("only rank 0 decides")


def test_of_each_kind_of_key_the_newest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator, "KEPT", 8)
    ranks = StoreRanks(dist.HashStore(), 0, 2, 1.0, {})
    for number in range(30):
        ranks.publish(attempt_key(number), {"number": number})
    assert [number for number in range(30) if ranks.peek(attempt_key(number))] == list(range(22, 30))


COLLECTIVES = (
    *("all_gather", "all_gather_object", "all_gather_into_tensor", "all_reduce", "all_to_all", "all_to_all_single"),
    *("barrier", "monitored_barrier", "broadcast", "broadcast_object_list", "gather", "gather_object", "new_group"),
    *("reduce", "reduce_scatter", "reduce_scatter_tensor", "scatter", "scatter_object_list"),
    *("send", "recv", "isend", "irecv", "send_object_list", "recv_object_list", "batch_isend_irecv"),
)


def _refuses(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def refusing(*args: Any, **options: Any) -> Any:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            name = frame.f_globals.get("__name__", "")
            if name.startswith("asyncckpt.") and not name.startswith("asyncckpt.testing."):
                raise AssertionError(f"{function.__name__} was called from {name}")
            frame = frame.f_back
        return function(*args, **options)

    return refusing


def _without_collectives(root: Path) -> str:
    for name in COLLECTIVES:
        for module in (dist, distributed_c10d):
            setattr(module, name, _refuses(getattr(module, name)))
    training = Training()
    options = {"save": SavePolicy(every_steps=2, every_seconds=3600, on_best=True), "monitor": ("loss", "min")}
    with training.checkpointer(root, **options) as ckpt:
        ckpt.resume()
        for step in range(1, 7):
            training.step()
            ckpt.step(step, metrics={"loss": training.losses[-1]})
        ckpt.epoch_end(1)
        ckpt.save(7).wait()
        ckpt.resume()
        ckpt.restore(7)
    return _called_as_from_asyncckpt(dist.barrier)


def _called_as_from_asyncckpt(call: Callable[[], object]) -> str:
    code: CodeType = compile("call()", "<a module of asyncckpt>", "exec")
    try:
        exec(code, {"__name__": "asyncckpt.somewhere", "call": call})  # noqa: S102 -- shows that the net holds
    except AssertionError as error:
        return str(error)
    return "not caught"


def test_no_collective_is_called(tmp_path: Path) -> None:
    assert run_ranks(_without_collectives, 2, tmp_path) == ["barrier was called from asyncckpt.somewhere"] * 2


def _late(root: Path) -> list[int]:
    """Rank 0 is so late at step 1 that rank 1 gives up, and calls again."""
    training = Training()
    with training.checkpointer(root, save=SavePolicy(every_seconds=1e-6), on_busy="wait") as ckpt:
        training.step()
        if is_leader():
            dist.barrier()
        else:
            deadline = ckpt._returning._ranks.deadline
            shorten_deadline(ckpt, 0.3)
            with pytest.raises(RankMissing):
                ckpt.step(1)
            shorten_deadline(ckpt, deadline)
            dist.barrier()
        handles = [ckpt.step(1)]
        training.step()
        handles.append(ckpt.step(2))
        return [handle.wait().step for handle in handles if handle is not None]


def test_a_rank_that_gave_up_waiting_for_a_decision_may_ask_again(tmp_path: Path) -> None:
    assert run_ranks(_late, 2, tmp_path) == [[1, 2]] * 2
    assert steps_of(tmp_path) == [1, 2]
