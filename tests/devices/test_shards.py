"""Shards that each rank has of its own, and memory that another process reads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

import asyncckpt
from asyncckpt import AsyncCheckpointer, guarded
from asyncckpt.errors import UnsupportedState
from asyncckpt.staging import layout
from asyncckpt.state.capture import Source
from asyncckpt.testing import simacc
from asyncckpt.testing.ranks import run_ranks
from asyncckpt.testing.shared import SharedGates
from asyncckpt.worker.process.bridge import ProcessExecutor

from . import sharded
from .trainings import DEVICE, Training, differing, side, tensors


@pytest.mark.ranks
def test_T13_local_shards_are_staged_beside_a_sharded_training(tmp_path: Path) -> None:
    results = run_ranks(sharded.saves_its_shards, 2, tmp_path)
    assert [(wrong, races) for wrong, races, _ in results] == [([], [])] * 2
    assert sum(count for _, _, count in results) == 8 * 16 + 16 + 16 * 4 + 4


@pytest.mark.ranks
@pytest.mark.parametrize("mutation", ["no_fence", "no_hold"])
def test_T13_mutants(mutation: str, tmp_path: Path) -> None:
    """The saves of both ranks are wrong, or race."""
    for wrong, races, _ in run_ranks(sharded.saves_its_shards, 2, tmp_path, mutation):
        assert wrong + races != []


@pytest.fixture
def two_ranks() -> Iterator[DeviceMesh]:
    """A mesh of two, of which this process is the first and the other is none; collectives do nothing."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield DeviceMesh("sim", torch.arange(2))
    dist.destroy_process_group()


def test_T13_a_plan_of_local_shards_has_their_bytes_and_reads_their_memory(two_ranks: DeviceMesh) -> None:
    whole = torch.arange(60.0, device=DEVICE).reshape(5, 12)
    there = distribute_tensor(whole, two_ranks, [Shard(0)], src_data_rank=None)
    sources = [Source(("there",), there.to_local(), lazy=True), Source(("again",), there.to_local(), lazy=True)]
    plan = layout.build(sources)
    (region,) = plan.regions  # the other one is an alias: it is the same memory
    assert region.nbytes == 3 * 12 * 4  # of five rows, three
    assert region.source.tensor.data_ptr() == there.to_local().data_ptr()
    assert region.lazy
    empty = layout.build([Source(("none",), there.to_local()[3:], lazy=True)])
    assert [region.nbytes for region in empty.regions] == [0]
    with pytest.raises(UnsupportedState, match=r"^there: sharded parameters \(DTensor, FSDP\) are not supported"):
        layout.build([Source(("there",), there, lazy=True)])


def test_T13_a_sharded_model_on_a_device_is_refused_by_name_whatever_it_is_wrapped_in(
    two_ranks: DeviceMesh, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)).to(DEVICE)
    fully_shard(model[0], mesh=two_ranks)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for parts in ({"model": model}, {"extra": {"it": guarded(model)}}, {"optimizer": optimizer}):
        with pytest.raises(UnsupportedState, match="sharded over ranks"):
            AsyncCheckpointer(tmp_path / "run", **parts)
    assert not (tmp_path / "run").exists()


def test_T13_what_fsdp_frees_is_refused_by_name() -> None:
    gathered = torch.ones(8, device=DEVICE)
    gathered.untyped_storage().resize_(0)
    with pytest.raises(UnsupportedState, match=r"^gathered: its memory was freed"):
        layout.build([Source(("gathered",), gathered, lazy=True)])


def test_T14_a_worker_process_reads_memory_that_a_device_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(tmp_path / "runtime"))
    training, root = Training(), tmp_path / "run"
    options = {"model": training.model, "optimizer": training.optimizer, "verify": "off"}
    with AsyncCheckpointer(root, executor="process", **options) as checkpointer:
        assert isinstance(checkpointer._executor, ProcessExecutor)
        wanted = {}
        for step in range(1, 6):
            wanted[step] = training.state()
            before = simacc.stats()["d2h_pageable"]
            with simacc.hold(side()):
                handle = checkpointer.save(step)
                training.step()
            handle.wait()
            assert simacc.stats()["d2h_pageable"] == before
        assert all(arena.pin("sim") for arena in checkpointer._saver._arenas._free)
    for step, state in wanted.items():
        found = asyncckpt.load(root, step).state
        assert differing(tensors({name: found[name] for name in ("model", "optimizer")}), state) == []


def test_T6_what_a_worker_process_reads_is_not_copied_to_before_it_has_said_that_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(tmp_path / "runtime"))
    training, wanted, handles = Training(), {}, []
    with closing(SharedGates(tmp_path / "run")) as training.store:
        with training.checkpointer(executor="process", verify="off", generations=2) as checkpointer:
            checkpointer.save(1).wait()
            with training.store.hold("put", "*.safetensors") as writing:
                for step in (2, 3, 4):
                    training.step()
                    wanted[step] = training.state()
                    handles.append(checkpointer.save(step, on_busy="skip"))
                    if step == 2:
                        writing.wait_reached()
                training.step()
        assert [handle.status for handle in handles] == ["durable", "durable", "skipped"]
        for step in (2, 3):
            assert differing(training.saved(step), wanted[step]) == []
