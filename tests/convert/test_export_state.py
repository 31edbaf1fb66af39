"""``export --to torch`` and ``--to dcp``: read by torch, safely, and by ``torch.distributed.checkpoint``."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

import asyncckpt

from .conftest import Box, Run, assert_same, fresh, goes_on, names, same, saved, step, zoo

Trained = tuple[Path, nn.Module, torch.optim.Optimizer]

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


@pytest.mark.parametrize("kind", ["torch", "dcp"])
def test_every_tensor_is_there_bit_by_bit_and_comes_back(run: Run, tmp_path: Path, kind: str) -> None:
    state = zoo()
    saved(tmp_path / "run", Box(state))
    run("export", tmp_path / "run", tmp_path / "out", "--to", kind)
    if kind == "torch":
        found = torch.load(tmp_path / "out", weights_only=True)
        assert_same(found["model"], state)
        assert (found["step"], found["epoch"], found["metrics"]) == (7, 2, {"loss": 0.5})
    run("import", tmp_path / "out", tmp_path / "again")
    loaded = asyncckpt.load(tmp_path / "again")
    assert_same(loaded.state["model"], state)
    assert (loaded.info.step, loaded.info.epoch, loaded.info.metrics) == (7, 2, {"loss": 0.5})
    rng = asyncckpt.load(tmp_path / "run").state["rng"]
    assert {"devices": {}, **loaded.state["rng"]} == rng  # DCP has no empty dicts


def test_torch_loads_what_it_would_have_saved(run: Run, tmp_path: Path, trained: Trained) -> None:
    root, model, optimizer = trained
    run("export", root, tmp_path / "out.pt", "--to", "torch")
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    other, its = fresh()
    other.load_state_dict(found["model"])
    its.load_state_dict(found["optimizer"])
    step(model, optimizer)
    step(other, its)
    assert_same(other.state_dict(), model.state_dict())


def test_dcp_loads_it_into_a_model_and_its_optimizer(run: Run, tmp_path: Path, trained: Trained) -> None:
    root, model, optimizer = trained
    run("export", root, tmp_path / "out", "--to", "dcp")
    other, its = fresh()
    step(other, its)  # so that the optimizer has its state, which DCP loads into
    live: dict[str, Any] = {"model": other.state_dict(), "optimizer": its.state_dict(), "step": 0}
    checkpoint.load(live, checkpoint_id=tmp_path / "out", no_dist=True)
    its.load_state_dict(live["optimizer"])
    other.load_state_dict(live["model"])
    assert live["step"] == 3
    step(model, optimizer)
    step(other, its)
    assert_same(other.state_dict(), model.state_dict())


def test_dcps_own_tool_makes_a_file_of_it(run: Run, tmp_path: Path, trained: Trained) -> None:
    root, model, _ = trained
    run("export", root, tmp_path / "out", "--to", "dcp", "--only", "model", "--only", "optimizer")
    dcp_to_torch_save(tmp_path / "out", tmp_path / "out.pt")
    found = torch.load(tmp_path / "out.pt", weights_only=True)
    assert_same(found["model"], dict(model.state_dict()))
    assert set(found) == {"model", "optimizer", "step", "epoch", "metrics"}


@pytest.mark.parametrize("kind", ["torch", "dcp"])
def test_a_training_goes_on_from_what_was_exported(run: Run, tmp_path: Path, trained: Trained, kind: str) -> None:
    root, model, optimizer = trained
    run("export", root, tmp_path / "out", "--to", kind)
    run("import", tmp_path / "out", tmp_path / "again")
    goes_on(tmp_path / "again", model, optimizer, 3)


def test_tied_weights_are_tied_in_the_file_and_once_they_are_back(run: Run, tmp_path: Path, trained: Trained) -> None:
    run("export", trained[0], tmp_path / "out.pt", "--to", "torch")
    run("import", tmp_path / "out.pt", tmp_path / "again")
    for found in (torch.load(tmp_path / "out.pt")["model"], asyncckpt.load(tmp_path / "again").state["model"]):
        assert found["a_head.weight"].data_ptr() == found["embedding.weight"].data_ptr()


def test_values_of_other_types_are_plain_and_it_is_said_which(run: Run, tmp_path: Path) -> None:
    values = {
        "when": datetime(2026, 11, 29, 20),
        "where": PurePosixPath("a/b"),
        "array": np.arange(3, dtype=np.int16),
        "one": np.float32(0.5),
        "plain": [1, (2.5, None), {"x": b"y", 3: True}, {4, 5}, 1j, OrderedDict(a=1), torch.float16],
    }
    saved(tmp_path / "run", nn.Linear(1, 1), extra={"values": Box(values)})
    done = run("export", tmp_path / "run", tmp_path / "out.pt", "--to", "torch", "--only", "extra")
    assert (
        "extra.values.when (datetime), extra.values.where (PurePosixPath), extra.values.array (ndarray)" in done.stderr
    )
    assert "plain." not in done.stderr
    found = torch.load(tmp_path / "out.pt", weights_only=True)["extra"]["values"]
    assert same(found.pop("array"), torch.arange(3, dtype=torch.int16))
    wanted = {"when": "2026-11-29T20:00:00", "where": "a/b", "one": 0.5, "plain": values["plain"]}
    assert found == wanted
    assert [type(item) for item in found["plain"]] == [type(item) for item in wanted["plain"]]


def test_what_has_one_name_in_dcp_is_refused(run: Run, tmp_path: Path) -> None:
    saved(tmp_path / "run", Box({"a": {"b.c": torch.ones(1)}, "a.b": {"c": torch.ones(1)}}))
    done = run("export", tmp_path / "run", tmp_path / "out", "--to", "dcp", code=4)
    assert "duplicated flatten key model.a.b.c" in done.stderr
    assert names(tmp_path) == ["run"]
