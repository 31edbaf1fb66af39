"""The launcher itself: what it returns, what it shows when a rank fails, and that it leaves no process behind."""

from __future__ import annotations

import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from asyncckpt.testing import ranks
from asyncckpt.testing.ranks import RanksFailed, StoreHost, run_ranks

pytestmark = pytest.mark.ranks


def _sum_of_ranks(factor: int) -> tuple[int, str, float]:
    total = torch.tensor([float(dist.get_rank() * factor)])
    dist.all_reduce(total)
    return dist.get_rank(), os.environ["WORLD_SIZE"], total.item()


@pytest.mark.parametrize("store", ["rank 0", "launcher"])
def test_ranks_reach_each_other_and_return_in_order(store: StoreHost) -> None:
    assert run_ranks(_sum_of_ranks, 3, 10, store=store) == [(0, "3", 30.0), (1, "3", 30.0), (2, "3", 30.0)]


def _one_raises() -> None:
    print(f"hello from rank {dist.get_rank()}, pid {os.getpid()}", flush=True)
    dist.barrier()
    if dist.get_rank() == 1:
        raise ValueError("no reason")
    _sleep_for_ever()


def _sleep_for_ever() -> None:
    while True:
        time.sleep(3600)


def test_a_rank_that_raises_fails_the_job_with_what_all_printed() -> None:
    with pytest.raises(RanksFailed, match=r"rank 1 ended with exit code 1") as caught:
        run_ranks(_one_raises, 2)
    message = str(caught.value)
    assert "hello from rank 0" in message
    assert "ValueError: no reason" in message
    _assert_gone(message)


def _one_hangs() -> None:
    print(f"hello from rank {dist.get_rank()}, pid {os.getpid()}", flush=True)
    store = dist.distributed_c10d._get_default_store()
    if dist.get_rank() == 1:
        _hang(store)
    store.wait(["hangs"])


def _hang(store: dist.Store) -> None:
    store.set("hangs", "")
    _sleep_for_ever()


def test_a_rank_that_hangs_is_ended_and_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    # What a rank takes to start is not the launcher's to decide: time passes once the other one has ended.
    moments = iter([0.0, 0.0, 3600.0])
    monkeypatch.setattr(ranks, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    with pytest.raises(RanksFailed, match=r"rank 1 had not ended after 120 s") as caught:
        run_ranks(_one_hangs, 2)
    assert "_hang" in str(caught.value)
    _assert_gone(str(caught.value))


def _assert_gone(message: str) -> None:
    pids = [int(line.split()[-1]) for line in message.splitlines() if line.startswith("hello from")]
    assert len(pids) == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def _one_is_killed(victim: int) -> str:
    if dist.get_rank() == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def test_a_rank_may_be_killed_where_the_test_says_so_and_must_be() -> None:
    assert run_ranks(_one_is_killed, 2, 1, killed=[1]) == ["alive", None]
    with pytest.raises(RanksFailed, match="rank 1 ended with exit code -9"):
        run_ranks(_one_is_killed, 2, 1)
    with pytest.raises(RanksFailed, match="rank 0 ended with exit code 0"):
        run_ranks(_one_is_killed, 2, 5, killed=[0])
