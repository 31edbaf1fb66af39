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
from asyncckpt.errors import IncompatibleState, UnsupportedState
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


def wrapped_inside(model: Net) -> nn.Module:
    model.body[0] = nn.DataParallel(model.body[0])
    model.head = nn.DataParallel(model.head)
    return model


def mixed_inside(model: Net) -> nn.Module:
    model.body[0] = nn.DataParallel(torch.compile(model.body[0]))
    model.body[1] = torch.compile(nn.DataParallel(nn.DataParallel(model.body[1])))
    model.body = nn.DataParallel(model.body)
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
    "wrapped inside": wrapped_inside,
    "mixed inside": mixed_inside,
    "mixed inside and out": lambda model: torch.compile(nn.DataParallel(mixed_inside(model))),
    "guarded": guarded,
    "guarded compile": lambda model: guarded(torch.compile(model)),
}


@pytest.mark.parametrize("loaded", WRAPPERS)
@pytest.mark.parametrize(
    "saved", ["compile of DataParallel", "compiled inside and out", "mixed inside", "guarded compile", "plain"]
)
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
        model.body[0] = nn.DataParallel(model.body[0])
        checkpointer.save(4).wait()
        model.body[0] = model.body[0].module
    for step in (1, 2, 3, 4):
        assert list(asyncckpt.load(store, step).state["model"]) == list(model.state_dict())


AVERAGED: dict[str, Callable[[Net], nn.Module]] = {
    "plain": lambda model: model,
    "compile": torch.compile,
    "DataParallel": nn.DataParallel,
    "DataParallel of what is mixed": lambda model: nn.DataParallel(mixed_inside(model)),
}


@pytest.mark.parametrize("loaded", AVERAGED)
@pytest.mark.parametrize("saved", AVERAGED)
def test_P1_the_average_of_a_wrapped_model_is_the_average_of_the_plain_one(saved: str, loaded: str) -> None:
    store, plain = MemoryStorage("average"), AveragedModel(Net())
    averages = [AveragedModel(AVERAGED[wrap](Net())) for wrap in (saved, loaded)]
    averages[0].update_parameters(AVERAGED[saved](Net()))
    with AsyncCheckpointer(store, extra={"ema": averages[0]}) as checkpointer:
        checkpointer.save(1).wait()
    state = asyncckpt.load(store).state["extra"]["ema"]
    assert list(state) == list(plain.state_dict())
    assert set(state._metadata) == set(plain.state_dict()._metadata)
    with AsyncCheckpointer(store, extra={"ema": averages[1]}) as checkpointer:
        checkpointer.restore()
    first, second = (average.state_dict().values() for average in averages)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_P1_a_checkpoint_that_has_the_wrappers_names_is_read_by_what_is_wrapped_so() -> None:
    class Raw:
        """Saves what the first versions saved of a model."""

        def __init__(self, model: nn.Module) -> None:
            self.state_dict = model.state_dict
            self.load_state_dict = model.load_state_dict

    store, old, new = MemoryStorage("old"), *(AveragedModel(nn.DataParallel(Net())) for _ in range(2))
    with AsyncCheckpointer(store, extra={"ema": Raw(old)}) as checkpointer:
        checkpointer.save(1).wait()
    assert "module.module.head.weight" in asyncckpt.load(store).state["extra"]["ema"]
    with AsyncCheckpointer(store, extra={"ema": new}) as checkpointer:
        checkpointer.restore()
    assert list(differences(old.state_dict(), new.state_dict())) == []


class Holder(nn.Module):
    """Calls its child as wrappers call theirs."""

    def __init__(self, child: nn.Module) -> None:
        super().__init__()
        self.module = child
        self.weight = nn.Parameter(torch.rand(3))


class Scaled(nn.DataParallel):
    """A wrapper that has something of its own, by the name of something in what it wraps."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.weight = nn.Parameter(torch.rand(1, 3))


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: Holder(nn.Sequential(model))])
@pytest.mark.parametrize(
    "model",
    [
        lambda: Holder(nn.Linear(3, 1)),
        lambda: Holder(Holder(nn.Linear(3, 1))),
        lambda: Scaled(nn.Linear(3, 1)),
        lambda: nn.ModuleDict({"module": nn.Linear(3, 1)}),
    ],
)
def test_P1_a_child_that_is_really_called_module_keeps_its_name(
    model: Callable[[], nn.Module], wrap: Callable[[nn.Module], nn.Module]
) -> None:
    store, saved, fresh = MemoryStorage("module"), wrap(model()), wrap(model())
    with AsyncCheckpointer(store, model=saved) as checkpointer:
        checkpointer.save(1).wait()
    assert list(asyncckpt.load(store).state["model"]) == list(saved.state_dict())
    with AsyncCheckpointer(store, model=fresh) as checkpointer:
        checkpointer.restore()
    assert list(differences(saved.state_dict(), fresh.state_dict())) == []


def test_P1_a_child_called_module_in_a_wrapper_keeps_its_name_too() -> None:
    store, plain = MemoryStorage("module"), nn.Sequential(Holder(nn.Linear(3, 1)))
    wrapped = nn.Sequential(nn.DataParallel(Holder(nn.DataParallel(nn.Linear(3, 1)))))
    with AsyncCheckpointer(store, model=wrapped) as checkpointer:
        checkpointer.save(1).wait()
    with AsyncCheckpointer(store, model=plain) as checkpointer:
        checkpointer.restore()
    assert torch.equal(plain[0].weight, wrapped[0].module.weight)
    assert torch.equal(plain[0].module.weight, wrapped[0].module.module.module.weight)


def test_P1_one_wrapper_in_two_places_leaves_no_trace_in_either() -> None:
    store, tied = MemoryStorage("tied"), nn.DataParallel(nn.Linear(3, 1))
    with AsyncCheckpointer(store, model=nn.ModuleDict({"a": tied, "b": tied})) as checkpointer:
        checkpointer.save(1).wait()
    assert list(asyncckpt.load(store).state["model"]) == ["a.weight", "a.bias", "b.weight", "b.bias"]


def test_P1_a_state_dict_with_hooks_is_cleaned_too() -> None:
    def without_bias(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        del state[f"{prefix}head.module.bias"]

    store, model = MemoryStorage("hooks"), wrapped_inside(Net())
    model.register_state_dict_post_hook(without_bias)
    with AsyncCheckpointer(store, model=model) as checkpointer:
        checkpointer.save(1).wait()
    assert list(asyncckpt.load(store).state["model"]) == [name for name in Net().state_dict() if name != "head.bias"]


class Versioned(nn.Linear):
    _version = 7

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        self.found = metadata.get("version")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_P1_a_module_in_a_wrapper_is_told_of_what_version_its_state_is() -> None:
    store, saved, fresh = MemoryStorage("version"), Versioned(3, 1), Versioned(3, 1)
    with AsyncCheckpointer(store, model=nn.Sequential(nn.DataParallel(saved))) as checkpointer:
        checkpointer.save(1).wait()
    with AsyncCheckpointer(store, model=nn.Sequential(torch.compile(nn.DataParallel(fresh)))) as checkpointer:
        checkpointer.restore()
    assert fresh.found == 7


def test_P1_what_is_in_excess_is_not_taken_for_what_a_wrapper_holds() -> None:
    store, saved = MemoryStorage("excess"), nn.Sequential(Holder(nn.Linear(3, 3, bias=False)))
    fresh = nn.Sequential(nn.DataParallel(nn.Linear(3, 1)))
    fresh[0].module.weight = nn.Parameter(torch.rand(3))
    fresh[0].module.bias = None
    with AsyncCheckpointer(store, model=saved) as checkpointer:
        checkpointer.save(1).wait()
    with AsyncCheckpointer(store, model=fresh) as checkpointer:
        with pytest.raises(IncompatibleState, match=r"has in excess 0\.module\.weight"):
            checkpointer.restore()
        checkpointer.restore(strict=False)
    assert torch.equal(fresh[0].module.weight, saved[0].weight)


def test_P1_what_is_sharded_is_named_without_its_wrappers() -> None:
    model = nn.Sequential(nn.DataParallel(nn.Linear(3, 1)))
    setattr(model[0].module.weight, "_local_tensor", torch.zeros(1))  # noqa: B010 -- as a DTensor has it
    with pytest.raises(UnsupportedState, match=r"^model\.0\.weight is sharded"):
        AsyncCheckpointer(MemoryStorage(), model=model)


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
from torch.optim.swa_utils import AveragedModel
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

def inside(model):
    model.body = torch.compile(DDP(model.body))
    model.head = DDP(torch.compile(model.head))
    return model

plain = Net()
wrappers = {
    "DDP": DDP,
    "compile of DDP": lambda model: torch.compile(DDP(model)),
    "DDP of compile": lambda model: DDP(torch.compile(model)),
    "inside": inside,
    "DataParallel inside and out": lambda model: nn.DataParallel(inside(model)),
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
averages = [AveragedModel(model) for model in (DDP(Net()), inside(Net()), Net())]
for number, average in enumerate(averages):
    root = f"{sys.argv[1]}/average {number}"
    with AsyncCheckpointer(root, extra={"ema": average}) as checkpointer:
        checkpointer.save(1).wait()
    assert list(load(root).state["extra"]["ema"]) == list(AveragedModel(Net()).state_dict())
    with AsyncCheckpointer(root, extra={"ema": averages[number - 1]}) as checkpointer:
        checkpointer.restore()
    pairs = zip(average.state_dict().values(), averages[number - 1].state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), number
dist.destroy_process_group()
print("fine")
"""


@pytest.mark.long
def test_d16_distributed_data_parallel_of_one_rank_leaves_no_trace(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DDP, str(tmp_path)], capture_output=True, text=True, timeout=240, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "fine"), done.stderr
