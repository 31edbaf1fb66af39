from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from asyncckpt import AsyncCheckpointer, SavePolicy
from asyncckpt.cli.app import app

Run = Callable[..., Result]


class Box:
    """A state of any tensors, in place of a model."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = state_dict


class Tied(nn.Module):
    """Its head, whose name comes first in the alphabet, is its embedding, which comes first in the model."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 4)
        self.body = nn.Linear(4, 4)
        self.a_head = nn.Linear(4, 8, bias=False)
        self.a_head.weight = self.embedding.weight


def zoo() -> dict[str, Tensor]:
    """A tensor of every kind."""
    torch.manual_seed(1)
    noise = torch.randn(6, 4, dtype=torch.float64)
    floats = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
    whole = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
    made = {str(dtype): noise.to(dtype) for dtype in floats}
    made |= {str(dtype): torch.arange(5).to(dtype) for dtype in whole}
    base = torch.arange(40, dtype=torch.int32)
    return made | {
        "bool": torch.tensor([True, False, True]),
        "c64": torch.complex(noise, noise + 1).to(torch.complex64),
        "c128": torch.complex(noise, noise + 1),
        "conjugate": torch.complex(noise, noise + 2).to(torch.complex64).conj(),
        "fnuz": noise.to(torch.float8_e4m3fnuz),
        "nan": torch.tensor([float("nan"), -0.0, float("inf")]),
        "scalar": torch.tensor(2.5),
        "none": torch.empty(0, 3),
        "strided": torch.arange(24.0).view(4, 6).t(),
        "last": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "gaps": torch.arange(24.0).view(4, 6)[:, ::2],
        "base": base,
        "again": base,
        "part": base[8:24].view(4, 4),
        "turned": base[8:24].view(4, 4).t(),
        "spread": base[3:4].expand(5),
    }


def same(found: Tensor, wanted: Tensor) -> bool:
    """Whether both are the same, bit by bit."""
    bits = [t.detach().resolve_conj().contiguous().reshape(-1).view(torch.uint8) for t in (found, wanted)]
    return (found.dtype, found.shape) == (wanted.dtype, wanted.shape) and torch.equal(*bits)


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert set(found) == set(wanted)
    assert [name for name in wanted if not same(found[name], wanted[name])] == []


@pytest.fixture
def run() -> Run:
    """Runs the command line in this process, and looks at its status."""

    def called(*arguments: object, code: int = 0) -> Result:
        found = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
        assert found.exit_code == code, found.output
        return found

    return called


@pytest.fixture
def document(run: Run) -> Callable[..., dict[str, Any]]:
    """The same with ``--json``: the one document that it prints."""

    def found(*arguments: object) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(run(*arguments, "--json").stdout)
        return parsed

    return found


def saved(root: object, model: object, step: int = 7, codec: str | None = None, **more: Any) -> None:
    """One checkpoint of `model` and others in `root`."""
    save = SavePolicy(codec=codec)
    with AsyncCheckpointer(root, model=model, save=save, executor="thread", **more) as ckpt:
        ckpt.save(step, epoch=2, metrics={"loss": 0.5}).wait()


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, nn.Module, torch.optim.Optimizer]:
    """A run of a tied model that has made three steps, and the model and its optimizer as they were saved."""
    torch.manual_seed(0)
    model, optimizer = fresh()
    for _ in range(3):
        step(model, optimizer)
    saved(tmp_path / "run", model, 3, optimizer=optimizer)
    return tmp_path / "run", model, optimizer


def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = Tied()
    return model, torch.optim.AdamW(model.parameters(), lr=0.05)


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    assert isinstance(model, Tied)
    optimizer.zero_grad()
    model.a_head(model.body(model.embedding(torch.arange(8)))).square().mean().backward()
    optimizer.step()


def goes_on(root: object, model: nn.Module, optimizer: torch.optim.Optimizer, at: int) -> None:
    """A training that is resumed from `root`, at that step, goes on as the one of `model` does."""
    other, its = fresh()
    with AsyncCheckpointer(root, model=other, optimizer=its, executor="thread") as ckpt:
        state = ckpt.resume()
        assert state is not None
        assert state.step == at
        assert_same(other.state_dict(), model.state_dict())
        step(model, optimizer)
        step(other, its)
    assert_same(other.state_dict(), model.state_dict())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
