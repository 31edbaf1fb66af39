"""Every library of the resume benchmark brings a training back as it was: one that brought less would be faster."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from asyncckpt.testing.s3server import S3Server
from benchmarks.clients.place import place
from benchmarks.installed import is_installed
from benchmarks.loop import SMALL, Training
from benchmarks.resuming import MODULES
from benchmarks.systems import OWN


def tensors(training: Training) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {f"model.{name}": t.clone() for name, t in training.model.state_dict().items()}
    for number, state in training.optimizer.state_dict()["state"].items():
        found |= {f"optimizer.{number}.{name}": value.clone() for name, value in state.items()}
    return found


@pytest.mark.filterwarnings("default")  # libraries leave things open
@pytest.mark.parametrize("name", MODULES)
def test_a_training_is_brought_back_as_it_was(name: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_installed(name):
        pytest.skip(f"{name} is not installed")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):  # which one of them sets
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    module: Any = importlib.import_module(f"benchmarks.resuming.{MODULES[name]}")
    with place(s3.endpoint) as where:
        one, other = Training(SMALL), Training(SMALL)
        one.step()
        saving = module.Resuming(one, where.url, where.options)
        saving.save()
        expected = tensors(one)
        for _ in range(2):
            other.step()
        assert not torch.equal(tensors(other)["model.words.weight"], expected["model.words.weight"])
        resuming = module.Resuming(other, where.url, where.options)
        resuming.read()
        found = tensors(other)
        if name == OWN:
            resuming._checkpointer.close()
    assert found.keys() == expected.keys()
    assert [path for path, tensor in found.items() if not torch.equal(tensor, expected[path])] == []
