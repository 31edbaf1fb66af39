"""Runs of every format version are read, to the bit, and gone on with, for ever."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import asyncckpt
from asyncckpt import AsyncCheckpointer
from asyncckpt.format import FORMAT
from tests.golden.make import Box, draws, seed, tensors, training, values

HERE = Path(__file__).parent
VERSIONS = sorted(path.name for path in HERE.glob("v*"))


def test_the_present_version_has_a_golden_run() -> None:
    assert f"v{FORMAT}" in VERSIONS


@pytest.fixture(params=VERSIONS)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(HERE / request.param, tmp_path / "run", symlinks=True))


def test_what_it_lists_and_holds(root: Path) -> None:
    loaded = asyncckpt.load(root)
    assert (loaded.info.id, loaded.info.step, loaded.info.epoch) == ("00000003", 3, 3)
    assert math.isnan(loaded.info.metrics["loss"])
    assert loaded.state["extra"]["values"] == values()
    found = loaded.state["extra"]["tensors"]
    for name, tensor in tensors().items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor), name
    found["base"].zero_()
    assert not found["view"].any(), "the view no longer shares its base's memory"
    assert asyncckpt.load(root, "best").info.step == 2
    assert asyncckpt.load(root, "00000002").info.step == 2


def stored(root: Path) -> dict[str, torch.Tensor]:
    """What somebody else's reader finds in the packs, the newest of each name.

    Trained again here, the weights may be others: what Adam makes of a gradient that is nothing but rounding depends on
    the processor.
    """
    return {
        name: tensor for pack in sorted(root.glob("data/*/*.safetensors")) for name, tensor in load_file(pack).items()
    }


def test_it_is_restored_and_gone_on_with(root: Path) -> None:
    seed()
    draws()
    drawn = draws()
    model, optimizer = training()
    found = stored(root)
    expected = {n: found["model.0.weight" if n == "2.weight" else f"model.{n}"] for n in model.state_dict()}
    moments = [found[f"optimizer.state.{number}.exp_avg"] for number in range(len(optimizer.state))]
    with torch.no_grad():
        for tensor in (*model.parameters(), *(s["exp_avg"] for s in optimizer.state.values())):
            tensor.fill_(9)
    box = Box({})
    with AsyncCheckpointer(
        root, model=model, optimizer=optimizer, extra={"values": box, "tensors": Box({})}
    ) as checkpointer:
        state = checkpointer.resume()
        assert state is not None
        assert (state.step, state.learning_rate) == (3, 0.01)
        assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in expected.items())
        assert all(torch.equal(s["exp_avg"], m) for s, m in zip(optimizer.state.values(), moments, strict=True))
        assert box.state == values()
        assert draws() == drawn
        checkpointer.save(4).wait()
        assert [c.step for c in checkpointer.checkpoints()] == [2, 3, 4]
