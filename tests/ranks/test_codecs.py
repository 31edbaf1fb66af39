"""Several ranks that encrypt: each its own shard and its own report, and nobody reads either without the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist

from asyncckpt import SavePolicy, keys
from tests.ranks.executors import Launcher
from tests.ranks.looking import error_of, is_leader
from tests.ranks.training import Training

pytestmark = pytest.mark.ranks

KEY = bytes(range(32))


def _train(root: Path, steps: int) -> tuple[int, list[float], str]:
    keys.register(KEY)  # as from a vault: the environment does not have it
    training = Training()
    with training.checkpointer(root, save=SavePolicy(every_steps=2, codec="zstd+aes256gcm"), on_busy="wait") as ckpt:
        state = ckpt.resume()
        first = state.step + 1 if state else 1
        for step in range(first, steps + 1):
            training.step()
            ckpt.step(step)
        ckpt.wait()
    return first, training.losses, str(training.tally.owner)


def test_a20_a_replicated_training_goes_on_from_what_its_ranks_encrypted(tmp_path: Path, launch: Launcher) -> None:
    straight = launch(_train, 2, tmp_path / "straight", 4)
    before = launch(_train, 2, tmp_path / "run", 2)
    after = launch(_train, 2, tmp_path / "run", 4)
    for rank in range(2):
        assert after[rank][0] == 3
        assert before[rank][1] + after[rank][1] == straight[rank][1]
        assert after[rank][2] == f"rank {rank}"
    files = [path for path in (tmp_path / "run" / "data").rglob("*") if path.is_file()]
    assert {path.name.partition(".")[2] for path in files} == {"p0.safetensors.zst.enc", "json"}
    found = b"".join(path.read_bytes() for path in files)
    assert not [text for text in (b"owner", b"rank 0", b"rank 1", b"exp_avg", b"float32") if text in found]


def _differ(root: Path) -> str:
    """Each rank has a key, and not the same one; the other's is known to it as well, to read with."""
    other = bytes(32)
    for key in (KEY, other) if is_leader() else (other, KEY):
        keys.register(key)
    checkpointer = Training().checkpointer(root, save=SavePolicy(codec="aes256gcm"))
    message = error_of(checkpointer.resume)
    dist.barrier()
    error_of(checkpointer.close)
    return message


def test_a20_ranks_that_would_write_with_different_keys_are_told_at_the_start(tmp_path: Path, launch: Launcher) -> None:
    """Where the run is empty, rank 0 needs no word of the others to know that; they do of it."""
    told = [message for message in launch(_differ, 2, tmp_path / "run") if message != "no error"]
    assert told
    assert all("key of what is saved (ASYNCCKPT_KEY, asyncckpt.keys): " in message for message in told), told
    ids = [keys.Key(secret).id for secret in (bytes(32), KEY)]
    assert all(" and ".join(ids) in message for message in told), told
    assert not list((tmp_path / "run").glob("data/*"))
