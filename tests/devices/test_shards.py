"""Shards that each rank has of its own, and memory that another process reads."""

from __future__ import annotations

from pathlib import Path

import pytest

import asyncckpt
from asyncckpt import AsyncCheckpointer
from asyncckpt.testing import simacc
from asyncckpt.testing.ranks import run_ranks
from asyncckpt.worker.bridge import ProcessExecutor

from . import sharded
from .trainings import Training, differing, side, tensors


@pytest.mark.ranks
def test_T13_local_shards_are_staged_beside_a_sharded_training(tmp_path: Path) -> None:
    results = run_ranks(sharded.saves_its_shards, 2, tmp_path)
    assert [(wrong, races) for wrong, races, _ in results] == [([], [])] * 2
    assert sum(count for _, _, count in results) == 8 * 16 + 16 + 16 * 4 + 4


def test_T14_a_worker_process_reads_memory_that_a_device_has_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCCKPT_RUNTIME_DIR", str(tmp_path / "runtime"))
    training, root = Training(), tmp_path / "run"
    options = {"model": training.model, "optimizer": training.optimizer, "verify": "off"}
    with AsyncCheckpointer(root, executor="process", **options) as checkpointer:
        assert isinstance(checkpointer._executor, ProcessExecutor)
        wanted, before = {}, simacc.stats().get("d2h_pageable", 0)
        for step in range(1, 6):
            wanted[step] = training.state()
            with simacc.hold(side()):
                handle = checkpointer.save(step)
                training.step()
            handle.wait()
        assert all(arena.pin("sim") for arena in checkpointer._saver._arenas._free)
    assert simacc.stats().get("d2h_pageable", 0) == before
    for step, state in wanted.items():
        found = asyncckpt.load(root, step).state
        assert differing(tensors({name: found[name] for name in ("model", "optimizer")}), state) == []
