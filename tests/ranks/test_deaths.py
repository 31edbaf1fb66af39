"""Ranks that are killed in mid-save: who learns of it, and what the next start finds."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch.distributed as dist

from asyncckpt.distributed import coordinator
from asyncckpt.errors import RankMissing
from asyncckpt.storage import from_url
from asyncckpt.testing.ranks import StoreHost, run_ranks
from asyncckpt.testing.slow import GatedStorage
from tests.ranks.looking import OwnTime, failure_of, is_leader, steps_of, unlisted
from tests.ranks.training import Training

pytestmark = pytest.mark.ranks


def _one_dies(root: Path, victim: int, at: str) -> tuple[list[int], list[int], str]:
    """One durable save, then one in which `victim` is killed at its put of `at`; what the others know then."""
    coordinator.FAREWELL = 0.5
    training, storage, own = Training(), GatedStorage(from_url(root)), OwnTime()
    store = dist.distributed_c10d._get_default_store()
    checkpointer = training.checkpointer(storage)
    training.step()
    checkpointer.save(1).wait()
    training.step()
    gate = storage.hold("put", at)
    handle = checkpointer.save(2)
    checkpointer.before_mutation()  # rank 0 cannot report before its snapshot is found untorn
    if dist.get_rank() == victim:
        gate.wait_reached()
        store.set("dies", "")
        os.kill(os.getpid(), signal.SIGKILL)
    gate.open()
    with suppress(RuntimeError):  # it may take the store with it
        store.wait(["dies"])
    if is_leader():
        _wait_for(root, "data/*-step-2-*/rank-00001-*.json")
    if victim == 0 or is_leader():
        own.fly()
    error = failure_of(handle)
    missing = error.__cause__.ranks if isinstance(error.__cause__, RankMissing) else ()
    listed = [info.step for info in checkpointer.checkpoints()]
    checkpointer.close()
    return list(missing), listed, str(error)


def _wait_for(root: Path, pattern: str) -> None:
    while not any(root.glob(pattern)):
        time.sleep(0.001)


def _resume(root: Path) -> tuple[int, int]:
    training = Training()
    with training.checkpointer(root) as checkpointer:
        state = checkpointer.resume()
        assert state is not None
        taken = training.loader.taken
        training.step()
        assert checkpointer.save(state.step + 1).wait().step == state.step + 1
    return state.step, taken


def test_a_rank_killed_before_its_report_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    (missing, listed, message), other, _ = run_ranks(
        _one_dies, 3, tmp_path, 2, "*/rank-00002-of-00003.json", killed=[2]
    )
    assert missing == [2]
    assert "no part of step 2 from rank 2 within 600 s" in message
    assert "rank 0: RankMissing: no part of step 2 from rank 2" in other[2]
    assert other[1] == listed == steps_of(tmp_path) == [1]
    assert unlisted(tmp_path) == []
    assert run_ranks(_resume, 3, tmp_path) == [(1, 1)] * 3
    assert steps_of(tmp_path) == [1, 2]


@pytest.mark.parametrize("store", ["rank 0", "launcher"])
@pytest.mark.parametrize("at", ["*/rank-00000-of-00002.p0.safetensors", "*/manifest.json"])
def test_rank_0_killed_in_mid_save_ends_the_others_handles_and_is_swept(
    tmp_path: Path, store: StoreHost, at: str
) -> None:
    _, (missing, listed, _) = run_ranks(_one_dies, 2, tmp_path, 0, at, killed=[0], store=store)
    assert missing == [0]
    assert listed == steps_of(tmp_path) == [1]
    assert len(unlisted(tmp_path)) == 1 or at != "*/manifest.json"  # the other may have written nothing yet
    assert run_ranks(_resume, 2, tmp_path) == [(1, 1)] * 2
    assert steps_of(tmp_path) == [1, 2]
    assert unlisted(tmp_path) == []
