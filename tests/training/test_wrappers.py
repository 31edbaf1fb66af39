"""Wrappers leave no trace: what one process saved wrapped, another restores plain, and the other way round."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import asyncckpt
from asyncckpt import AsyncCheckpointer, guarded
from asyncckpt.storage import MemoryStorage

from .runs import differences

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 1)


def compiled_inside(model: Net) -> nn.Module:
    model.body[0] = torch.compile(model.body[0])
    model.head = torch.compile(model.head)
    return model


def compiled_in_place(model: Net) -> nn.Module:
    model.compile()
    model.head.compile()
    return model


WRAPPERS: dict[str, Callable[[Net], Any]] = {
    "plain": lambda model: model,
    "DataParallel": nn.DataParallel,
    "compile": torch.compile,
    "compile of DataParallel": lambda model: torch.compile(nn.DataParallel(model)),
    "DataParallel of compile": lambda model: nn.DataParallel(torch.compile(model)),
    "compiled inside": compiled_inside,
    "compiled inside and out": lambda model: torch.compile(compiled_inside(model)),
    "compiled in place": compiled_in_place,
    "guarded": guarded,
    "guarded compile": lambda model: guarded(torch.compile(model)),
}


@pytest.mark.parametrize("loaded", WRAPPERS)
@pytest.mark.parametrize("saved", ["compile of DataParallel", "compiled inside and out", "guarded compile", "plain"])
def test_P1_names_are_the_plain_models_whatever_is_around_it(saved: str, loaded: str) -> None:
    store, model, fresh = MemoryStorage("wrapped"), Net(), Net()
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with AsyncCheckpointer(store, model=WRAPPERS[saved](model)) as checkpointer:
        checkpointer.save(1).wait()
    state = asyncckpt.load(store).state["model"]
    assert list(differences(expected, dict(state))) == []
    assert set(state._metadata) == set(Net().state_dict()._metadata)
    with AsyncCheckpointer(store, model=WRAPPERS[loaded](fresh)) as checkpointer:
        checkpointer.restore()
    assert all(torch.equal(a, b) for a, b in zip(expected.values(), fresh.state_dict().values(), strict=True))


def test_P1_a_wrapper_may_come_between_two_saves_and_go_again() -> None:
    store, model = MemoryStorage("between"), Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with AsyncCheckpointer(store, model=model, optimizer=optimizer) as checkpointer:
        checkpointer.save(1).wait()
        head, model.head = model.head, torch.compile(model.head)
        checkpointer.save(2).wait()
        model.head = head
        checkpointer.save(3).wait()
    for step in (1, 2, 3):
        assert list(asyncckpt.load(store, step).state["model"]) == list(model.state_dict())


def test_P1_the_average_of_a_compiled_model_has_clean_names_too() -> None:
    store, plain, fresh = MemoryStorage("average"), AveragedModel(Net()), AveragedModel(torch.compile(Net()))
    with AsyncCheckpointer(store, extra={"ema": fresh}) as checkpointer:
        checkpointer.save(1).wait()
    with AsyncCheckpointer(store, extra={"ema": plain}) as checkpointer:
        checkpointer.restore()
    assert asyncckpt.load(store).state["extra"]["ema"].keys() == plain.state_dict().keys()
    assert torch.equal(plain.module.head.weight, next(p for n, p in fresh.named_parameters() if "head.weight" in n))


def test_P1_a_name_that_only_looks_like_a_wrappers_is_left_alone() -> None:
    model, store = nn.ModuleDict({"my_orig_mod": nn.Linear(1, 1), "my": nn.Linear(1, 1)}), MemoryStorage("alike")
    with AsyncCheckpointer(store, model=model) as checkpointer:
        checkpointer.save(1).wait()
    assert list(asyncckpt.load(store).state["model"]) == list(model.state_dict())


def test_P1_what_an_optimizer_learnt_of_a_wrapped_model_serves_the_plain_one() -> None:
    store, model, fresh = MemoryStorage("optimizer"), Net(), Net()
    wrapped = nn.DataParallel(model)
    optimizer = torch.optim.Adam(wrapped.parameters())
    for parameter in wrapped.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with AsyncCheckpointer(store, model=wrapped, optimizer=optimizer) as checkpointer:
        checkpointer.save(1).wait()
    other = torch.optim.Adam(fresh.parameters())
    with AsyncCheckpointer(store, model=fresh, optimizer=other) as checkpointer:
        checkpointer.restore()
    assert list(differences(optimizer.state_dict(), other.state_dict())) == []
    for each in (optimizer, other):
        each.zero_grad()
    for parameter in (*model.parameters(), *fresh.parameters()):
        parameter.grad = torch.full_like(parameter, 0.5)
    optimizer.step()
    other.step()
    assert list(differences(model.state_dict(), fresh.state_dict())) == []


DDP = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from tests.training.test_wrappers import Net
from asyncckpt import AsyncCheckpointer, load
from asyncckpt.storage import MemoryStorage

dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
DDP = nn.parallel.DistributedDataParallel
torch.manual_seed(0)

def train(model, optimizer):
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()

plain = Net()
wrappers = {
    "DDP": DDP,
    "compile of DDP": lambda model: torch.compile(DDP(model)),
    "DDP of compile": lambda model: DDP(torch.compile(model)),
}
for name, wrap in wrappers.items():
    root = f"{sys.argv[1]}/{name}"
    model = wrap(Net())
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer)
    expected = [t.clone() for t in model.state_dict().values()]
    with AsyncCheckpointer(root, model=model, optimizer=optimizer) as checkpointer:
        handle = checkpointer.save(1)
        train(model, optimizer)
        handle.wait()
        other = wrap(Net())
    assert list(load(root).state["model"]) == list(plain.state_dict())
    for target in (Net(), other, nn.DataParallel(Net())):
        adamw = torch.optim.AdamW(target.parameters())
        with AsyncCheckpointer(root, model=target, optimizer=adamw) as checkpointer:
            assert checkpointer.restore().step == 1
        assert all(torch.equal(a, b) for a, b in zip(expected, target.state_dict().values(), strict=True)), name
        assert len(adamw.state) == 6
dist.destroy_process_group()
print("fine")
"""


def test_P1_distributed_data_parallel_of_one_rank_leaves_no_trace(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DDP, str(tmp_path)], capture_output=True, text=True, timeout=240, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "fine"), done.stderr
