"""What several ranks cannot do in this version is refused in words, at construction where that is possible."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from asyncckpt import AsyncCheckpointer
from asyncckpt.errors import UnsupportedState
from asyncckpt.testing.ranks import run_ranks

pytestmark = pytest.mark.ranks


def _refusal(root: Path, **parts: Any) -> str:
    try:
        AsyncCheckpointer(root, **parts)
    except UnsupportedState as error:
        return str(error)
    return "not refused"


class Holder:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def state_dict(self) -> dict[str, Any]:
        return {"tensor": self.tensor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tensor = state["tensor"]


def _sharded(root: Path) -> dict[str, str]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
    from torch.distributed.optim import ZeroRedundancyOptimizer

    mesh = init_device_mesh("cpu", (2,))
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    older = nn.Sequential(
        FullyShardedDataParallel(nn.Linear(4, 4), device_id=torch.device("cpu"), use_orig_params=True)
    )
    whole = nn.Linear(4, 4)
    return {
        "fully_shard": _refusal(root, model=model),
        "in a list": _refusal(root, model=[whole, model]),
        "its optimizer": _refusal(root, optimizer={"main": optimizer}),
        "an extra": _refusal(root, extra={"teacher": model}),
        "FSDP": _refusal(root, model=older),
        "ZeRO": _refusal(root, optimizer=ZeroRedundancyOptimizer(whole.parameters(), torch.optim.SGD, lr=0.1)),
        "in a state": _in_a_state(root, next(model.parameters())),
    }


def _in_a_state(root: Path, parameter: torch.Tensor) -> str:
    holder = Holder(parameter)
    with AsyncCheckpointer(root, extra={"holder": holder}) as checkpointer:
        try:
            checkpointer.save(1)
        except UnsupportedState as error:
            holder.tensor = torch.zeros(1)
            checkpointer.save(2).wait()
            return str(error)
    return "not refused"


def test_sharded_state_is_refused_by_name(tmp_path: Path) -> None:
    for messages in run_ranks(_sharded, 2, tmp_path):
        assert messages["fully_shard"].startswith("model.0.weight is sharded over ranks (DTensor, FSDP, ZeRO)")
        assert messages["in a list"].startswith("model.0.weight is sharded over ranks")
        assert messages["its optimizer"].startswith("optimizer is sharded over ranks")
        assert messages["an extra"].startswith("extra.0.weight is sharded over ranks")
        assert messages["FSDP"].startswith("model.0 is sharded over ranks")
        assert messages["ZeRO"].startswith("optimizer is sharded over ranks")
        assert "holder.tensor: sharded parameters (DTensor, FSDP) are not supported" in messages["in a state"]
        assert all("DistributedDataParallel" in messages[key] for key in messages if key != "in a state")


def _late_group(root: Path) -> list[str]:
    store, rank = dist.distributed_c10d._get_default_store(), dist.get_rank()
    dist.destroy_process_group()
    del os.environ["WORLD_SIZE"]
    messages = []
    with AsyncCheckpointer(root) as checkpointer:
        dist.init_process_group("gloo", store=dist.PrefixStore("late", store), rank=rank, world_size=2)
        for call in (lambda: checkpointer.save(1), checkpointer.resume):
            try:
                call()
            except RuntimeError as error:
                messages.append(str(error))
        dist.barrier()
    return messages


def test_a_process_group_that_comes_after_the_checkpointer_is_refused(tmp_path: Path) -> None:
    for messages in run_ranks(_late_group, 2, tmp_path):
        assert len(messages) == 2
        assert all("was initialised after AsyncCheckpointer(...)" in message for message in messages)
    assert list(tmp_path.iterdir()) == []


def test_several_ranks_without_a_process_group_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match=r"call torch\.distributed\.init_process_group\(\) before AsyncCheckpointer"):
        AsyncCheckpointer(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "1")
    AsyncCheckpointer(tmp_path).close()
