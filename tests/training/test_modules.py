"""Any module: its names, its buffers, what it says about itself, and every change of its structure between saves."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import asyncckpt
from asyncckpt import AsyncCheckpointer
from asyncckpt.errors import UnsupportedState
from asyncckpt.storage import MemoryStorage

from .runs import differences

DTYPES = [d for d in vars(torch).values() if isinstance(d, torch.dtype) and not str(d).startswith("torch.q")]


def held(model: nn.Module, store: Any, step: int, checkpointer: AsyncCheckpointer) -> dict[str, Any]:
    """What a checkpoint of `model` says of it, which is what the model says."""
    checkpointer.save(step).wait()
    state = asyncckpt.load(store, step).state["model"]
    assert list(differences(model.state_dict(), state)) == []
    return state


def round_trip(model: nn.Module, other: nn.Module) -> None:
    """Save one, restore it into the other."""
    store = MemoryStorage("round")
    with AsyncCheckpointer(store, model=model) as checkpointer:
        checkpointer.save(1).wait()
    with AsyncCheckpointer(store, model=other) as checkpointer:
        checkpointer.restore()


# -- buffers and forms -------------------------------------------------------------------------------------


class Buffers(nn.Module):
    def __init__(self, value: int) -> None:
        super().__init__()
        self.register_buffer("kept", torch.full((2,), value))
        self.register_buffer("scratch", torch.full((2,), value), persistent=False)
        self.register_buffer("none", None)
        self.register_parameter("bias", None)
        self.scalar = nn.Parameter(torch.tensor(float(value)))
        self.empty = nn.Parameter(torch.zeros(0, 3))


def test_R9_buffers_are_saved_and_those_that_are_not_persistent_are_not() -> None:
    fresh = Buffers(2)
    round_trip(Buffers(1), fresh)
    assert fresh.kept.tolist() == [1, 1]
    assert fresh.scratch.tolist() == [2, 2]
    assert fresh.scalar == 1


def can_be_copied(dtype: torch.dtype) -> bool:
    """Whether torch can copy such tensors at all: not those of less than a byte, so that no module loads them."""
    try:
        torch.empty(1, dtype=dtype).copy_(torch.empty(1, dtype=dtype))
    except NotImplementedError:
        return False
    return True


def module_of_every_dtype(byte: int) -> nn.Module:
    made = nn.Module()
    for dtype in DTYPES:
        content = torch.full((2 * dtype.itemsize,), byte, dtype=torch.uint8).view(dtype)
        made.register_buffer(str(dtype).replace("torch.", "of_"), content)
    return made


@pytest.mark.filterwarnings("ignore:ComplexHalf:UserWarning")
def test_buffers_of_every_dtype_come_back_bit_by_bit_and_stock_safetensors_reads_the_pack(tmp_path: Path) -> None:
    saved, fresh = module_of_every_dtype(1), module_of_every_dtype(0)
    with AsyncCheckpointer(tmp_path, model=saved) as checkpointer:
        checkpointer.save(1).wait()
    (pack,) = tmp_path.glob("data/*/*.safetensors")
    stock, loaded = load_file(pack), asyncckpt.load(tmp_path).state["model"]
    assert len(DTYPES) > 30
    for name, tensor in saved.named_buffers():
        assert loaded[name].dtype == tensor.dtype
        assert bits(loaded[name]) == bits(stock[f"model.{name}"]) == bits(tensor), name
    for module in (saved, fresh):
        for name in [name for name, tensor in module.named_buffers() if not can_be_copied(tensor.dtype)]:
            delattr(module, name)
    with AsyncCheckpointer(tmp_path, model=fresh) as checkpointer:
        checkpointer.restore(strict=False)
    assert len(list(saved.buffers())) > 20
    assert all(bits(fresh.get_buffer(name)) == bits(tensor) for name, tensor in saved.named_buffers())


def bits(tensor: Tensor) -> list[int]:
    plain = torch.view_as_real(tensor) if tensor.dtype == torch.complex128 else tensor
    listed: list[int] = plain.reshape(-1).view(torch.uint8).tolist()
    return listed


# -- tied weights ------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(50, 20)
        self.head = nn.Linear(20, 50, bias=False)
        self.head.weight = self.embedding.weight


@pytest.mark.parametrize("kind", ["kept", "handed out"])
def test_tied_weights_are_stored_once_and_stay_tied(tmp_path: Path, kind: str) -> None:
    model, fresh = Tied(0), Tied(1)
    if kind == "handed out":
        for each in (model, fresh):
            each.register_state_dict_post_hook(lambda *args: None)
    with AsyncCheckpointer(tmp_path, model=model) as checkpointer:
        info = checkpointer.save(1).wait()
        checkpointer.save(2).wait()
    assert 4000 <= info.size < 4000 + 10_000
    state = asyncckpt.load(tmp_path).state["model"]
    assert state["embedding.weight"].data_ptr() == state["head.weight"].data_ptr()
    with AsyncCheckpointer(tmp_path, model=fresh) as checkpointer:
        checkpointer.restore()
    assert fresh.head.weight is fresh.embedding.weight
    assert torch.equal(fresh.head.weight, model.head.weight)


def test_weights_that_are_tied_in_one_model_only_are_restored_all_the_same() -> None:
    tied, loose = Tied(0), nn.ModuleDict({"embedding": nn.Embedding(50, 20), "head": nn.Linear(20, 50, bias=False)})
    round_trip(tied, loose)
    assert torch.equal(loose["head"].weight, tied.head.weight)
    assert torch.equal(loose["embedding"].weight, tied.head.weight)
    assert loose["head"].weight is not loose["embedding"].weight


# -- what a module says about itself -----------------------------------------------------------------------


class Versioned(nn.Linear):
    """Upgrades what it thinks an older version wrote."""

    _version = 2

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        if metadata.get("version", 1) < 2:
            state[prefix + "weight"] = state[prefix + "weight"] * 10
        super()._load_from_state_dict(state, prefix, metadata, *rest)


@pytest.mark.parametrize("where", ["itself", "inside"])
@pytest.mark.parametrize("kind", ["kept", "handed out"])
def test_a_module_is_told_the_version_that_wrote_its_state(where: str, kind: str) -> None:
    saved, fresh = Versioned(2, 2), Versioned(2, 2)
    if kind == "handed out":
        saved.register_state_dict_post_hook(lambda *args: None)
    models = (saved, fresh) if where == "itself" else (nn.Sequential(saved), nn.Sequential(fresh))
    round_trip(*models)
    assert torch.equal(fresh.weight, saved.weight)


def test_a_loaded_state_is_one_that_torch_itself_would_load() -> None:
    saved, fresh, store = nn.Sequential(Versioned(2, 2)), nn.Sequential(Versioned(2, 2)), MemoryStorage("plain")
    with AsyncCheckpointer(store, model=saved) as checkpointer:
        checkpointer.save(1).wait()
    fresh.load_state_dict(asyncckpt.load(store, only=["model"]).state["model"])
    assert torch.equal(fresh[0].weight, saved[0].weight)


class Extra(nn.Linear):
    """Has state that is no tensor, and changes without its structure changing."""

    def __init__(self, value: int) -> None:
        super().__init__(2, 2)
        self.value = value

    def get_extra_state(self) -> dict[str, int]:
        return {"value": self.value}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.value = state["value"]


def test_extra_state_is_read_at_every_save_also_of_a_module_that_came_later() -> None:
    model, store = nn.Sequential(nn.Linear(2, 2)), MemoryStorage("extra")
    with AsyncCheckpointer(store, model=model) as checkpointer:
        held(model, store, 1, checkpointer)
        model.append(Extra(1))
        assert held(model, store, 2, checkpointer)["1._extra_state"] == {"value": 1}
        model[1].value = 7
        assert held(model, store, 3, checkpointer)["1._extra_state"] == {"value": 7}
        model[1].value = 8
        checkpointer.restore(3)
        assert model[1].value == 7


def test_a_module_that_becomes_another_class_in_place_has_its_say() -> None:
    model, store = nn.Sequential(nn.Linear(2, 2)), MemoryStorage("class")
    with AsyncCheckpointer(store, model=model) as checkpointer:
        held(model, store, 1, checkpointer)
        model[0].__class__ = Extra
        model[0].value = 5
        assert held(model, store, 2, checkpointer)["0._extra_state"] == {"value": 5}


def test_a_hook_that_comes_later_has_its_say() -> None:
    model, store = nn.Sequential(nn.Linear(2, 2)), MemoryStorage("hook")
    with AsyncCheckpointer(store, model=model) as checkpointer:
        held(model, store, 1, checkpointer)
        handle = model[0].register_state_dict_post_hook(lambda m, state, prefix, meta: state.update(note=prefix))
        assert held(model, store, 2, checkpointer)["note"] == "0."
        handle.remove()
        assert "note" not in held(model, store, 3, checkpointer)


class Own(nn.Module):
    """A state_dict and load_state_dict of its own, which know nothing of torch's keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {"inner": self.inner.state_dict(), "note": "mine"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert state_dict["note"] == "mine"
        self.inner.load_state_dict(state_dict["inner"])


class Bare(Own):
    """The same, which takes no keyword at all."""

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict()


@pytest.mark.parametrize("kind", [Own, Bare])
def test_a_module_with_a_state_dict_of_its_own_gets_it_back(kind: type[Own]) -> None:
    saved, fresh = kind(), kind()
    round_trip(saved, fresh)
    assert torch.equal(fresh.inner.weight, saved.inner.weight)


def test_a_state_dict_that_was_put_on_the_object_has_its_say() -> None:
    """Adapters do so that save themselves, and not what they are put on."""
    model, store = nn.Linear(2, 2), MemoryStorage("put on")
    with AsyncCheckpointer(store, model=model) as checkpointer:
        held(model, store, 1, checkpointer)
        vars(model)["state_dict"] = lambda *_, **__: {"doubled": 2 * model.weight.detach()}
        for step in (2, 3):
            nn.init.constant_(model.weight, step)
            assert held(model, store, step, checkpointer)["doubled"].unique().tolist() == [2 * step]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("nested", [False, True])
def test_what_torchscript_has_compiled_comes_back(nested: bool) -> None:
    def made() -> nn.Module:
        compiled = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
        return nn.ModuleDict({"body": compiled, "head": nn.Linear(2, 2)}) if nested else compiled

    saved, fresh, store = made(), made(), MemoryStorage("compiled")
    with AsyncCheckpointer(store, model=saved) as checkpointer:
        for step in (1, 2):
            nn.init.constant_(next(saved.parameters()), step)
            held(saved, store, step, checkpointer)
    with AsyncCheckpointer(store, model=fresh) as checkpointer:
        checkpointer.restore()
    assert list(differences(saved.state_dict(), fresh.state_dict())) == []


class Former(nn.Module):
    """A layer in the names of an earlier version."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.rand(2, 2))


class Renamed(nn.Linear):
    """It knows what its weight was called."""

    def __init__(self) -> None:
        super().__init__(2, 2, bias=False)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if (former := state_dict.pop(f"{prefix}kernel", None)) is not None:
            state_dict[f"{prefix}weight"] = former
        super()._load_from_state_dict(state_dict, prefix, *rest)


def test_a_module_that_knows_its_former_names_is_given_them() -> None:
    saved, fresh = Former(), Renamed()
    round_trip(nn.Sequential(saved), nn.Sequential(fresh))
    assert torch.equal(fresh.weight, saved.kernel)


PARAMETRIZED: dict[str, Callable[[nn.Linear], Any]] = {
    "spectral_norm": parametrizations.spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
    "spectral_norm by hooks": nn.utils.spectral_norm,
}


@pytest.mark.parametrize("name", PARAMETRIZED)
def test_parametrizations_come_back(name: str) -> None:
    torch.manual_seed(0)
    made = [PARAMETRIZED[name](nn.Linear(4, 4)) for _ in range(2)]
    for model in made:
        model(torch.randn(3, 4))
    round_trip(*made)
    for model in made:
        model.eval()
    x = torch.ones(3, 4)
    assert torch.equal(made[0](x), made[1](x))


# -- modules that are not complete yet ---------------------------------------------------------------------


def test_an_uninitialised_module_is_refused_by_name_and_saved_once_it_is_complete() -> None:
    model, store = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d()), MemoryStorage("lazy")
    with AsyncCheckpointer(store, model=model) as checkpointer:
        with pytest.raises(UnsupportedState, match=r"model\.0\.weight: the parameter has no shape yet"):
            checkpointer.save(1)
        model(torch.randn(4, 5))
        held(model, store, 2, checkpointer)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(torch.randn(4, 5)).square().sum().backward()
        optimizer.step()
        held(model, store, 3, checkpointer)
    fresh = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    with AsyncCheckpointer(store, model=fresh) as checkpointer:
        checkpointer.restore()
    x = torch.randn(4, 5)
    assert torch.equal(fresh.eval()(x), model.eval()(x))


# -- structure that changes between saves --------------------------------------------------------------------


def renamed(model: Any) -> None:
    model.head = model.last
    del model.last


def reordered(model: Any) -> None:
    first = model._modules.pop("first")
    model._modules["first"] = first


def swapped(model: Any) -> None:
    model.first, model.last = model.last, model.first


CHANGES: dict[str, Callable[[Any], object]] = {
    "a layer more": lambda m: m.add_module("extra", nn.Linear(1, 1)),
    "a layer less": lambda m: m.__delattr__("last"),
    "a layer renamed": renamed,
    "layers swapped": swapped,
    "layers in another order": reordered,
    "a parameter replaced": lambda m: setattr(m.first, "weight", nn.Parameter(torch.ones(3, 3))),
    "a parameter tied": lambda m: setattr(m.last, "weight", m.first.weight),
    "a parameter gone": lambda m: m.first.register_parameter("bias", None),
    "other data": lambda m: setattr(m.first.weight, "data", torch.ones(3, 3)),
    "data of another shape": lambda m: setattr(m.first.weight, "data", torch.ones(5, 2)),
    "data transposed": lambda m: setattr(m.first.weight, "data", m.first.weight.data.t()),
    "data reshaped": lambda m: setattr(m.first.weight, "data", m.first.weight.data.view(9, 1)),
    "data of another dtype": lambda m: m.double(),
    "data converted and back": lambda m: m.double().float(),
    "a buffer more": lambda m: m.register_buffer("late", torch.ones(3, dtype=torch.bool)),
    "a buffer replaced": lambda m: setattr(m, "counts", torch.ones(2)),
    "a buffer resized in place": lambda m: m.counts.resize_(4).fill_(2),
    "a buffer shrunk in place": lambda m: m.counts.resize_(1),
    "a buffer that is not saved any more": lambda m: m.register_buffer(
        "counts", m._buffers.pop("counts").clone(), False
    ),
    "a parametrization": lambda m: parametrize.register_parametrization(m.first, "weight", nn.Tanh()),
    "compiled": lambda m: setattr(m, "first", torch.compile(m.first)),
}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.last = nn.Linear(3, 3)
        self.register_buffer("counts", torch.zeros(2))


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("registered", [False, True], ids=["EAGER", "LAZY"])
def test_the_next_checkpoint_holds_the_new_structure(name: str, registered: bool) -> None:
    model, store = Model(), MemoryStorage("structure")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1) if registered else None
    with AsyncCheckpointer(store, model=model, optimizer=optimizer, verify="always") as checkpointer:
        for step in (1, 2, 3):  # every arena has been used before
            plain(held(model, store, step, checkpointer))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.compile's own
            CHANGES[name](model)
        for step in (4, 5, 6):
            checkpointer.save(step).wait()
            state = asyncckpt.load(store, step).state["model"]
            assert list(differences(plain(model.state_dict()), plain(state))) == []


def plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
