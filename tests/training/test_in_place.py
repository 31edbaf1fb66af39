"""Big parameters and buffers are read straight into their live memory, where that is all that restoring them is."""

from __future__ import annotations

import os
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asyncckpt import AsyncCheckpointer
from asyncckpt.errors import CheckpointCorruptError, IncompatibleState, RestoreError
from asyncckpt.events import Restored
from asyncckpt.storage import LocalStorage, MemoryStorage
from asyncckpt.testing.files import Counting
from tests.golden.make import Box

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

WIDE = 600
"""A square of as many numbers is bigger than what counts as small."""

SQUARE = 4 * WIDE * WIDE


class Reads(Counting):
    """Adds up the bytes that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def read(self, descriptor: int, into: memoryview, offset: int) -> int:
        got = super().read(descriptor, into, offset)
        self.bytes += got
        return got


class Hearing:
    """A listener that passes on what it hears."""

    def __init__(self, act: Callable[[Any], Any]) -> None:
        self.on_event = act


class Wide(nn.Module):
    """A big parameter and a big buffer, and small ones; every number of a kind is the same."""

    def __init__(self, value: float = 0) -> None:
        super().__init__()
        self.body = nn.Linear(WIDE, WIDE)
        self.norm = nn.BatchNorm1d(WIDE)
        self.register_buffer("table", torch.zeros(WIDE, WIDE))
        self.fill(value)

    def fill(self, value: float) -> None:
        with torch.no_grad():
            for tensor in (*self.parameters(), *self.buffers()):
                tensor.fill_(value)


def saved(root: Path, model: nn.Module, **parts: Any) -> Path:
    with AsyncCheckpointer(root, model=model, **parts) as checkpointer:
        checkpointer.save(1).wait()
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("in-place") / "run", Wide(1))


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run", symlinks=True))


def restored(root: Path, model: Any, call: str = "restore", **options: Any) -> int:
    """How many squares were read; by a restore, one that goes straight into its place is read twice."""
    files = Reads()
    with AsyncCheckpointer(LocalStorage(root, files=files), model=model) as checkpointer:
        getattr(checkpointer, call)(**options)
    return files.bytes // SQUARE


def values(model: nn.Module) -> list[float]:
    """The number that each tensor is made of."""
    found = [tensor.unique().tolist() for tensor in model.state_dict().values()]
    assert all(len(numbers) == 1 for numbers in found)
    return [numbers[0] for numbers in found]


def pack_of(root: Path) -> Path:
    (found,) = root.glob("data/*/*.safetensors")
    return found


def flip(root: Path, at: int) -> None:
    with pack_of(root).open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


WRAPPED: dict[str, Callable[[nn.Module], Any]] = {
    "bare": lambda model: model,
    "DataParallel": nn.DataParallel,
    "compiled": torch.compile,
    "frozen": lambda model: model.requires_grad_(False),
}


@pytest.mark.parametrize("call", ["restore", "resume"])
@pytest.mark.parametrize("wrap", WRAPPED)
def test_big_tensors_stay_where_they_are_and_are_read_in_place(made: Path, call: str, wrap: str) -> None:
    model = Wide(2)
    tensors = model.state_dict(keep_vars=True)
    before = {name: (id(t), t.data_ptr(), t.requires_grad) for name, t in tensors.items()}
    if call == "resume":
        made = Path(shutil.copytree(made, made.parent / wrap, symlinks=True))
    versions = {name: t._version for name, t in tensors.items()}
    assert restored(made, WRAPPED[wrap](model), call) == (4 if call == "restore" else 2)
    assert set(values(model)) == {1}
    after = model.state_dict(keep_vars=True)
    assert {name: (id(t), t.data_ptr()) for name, t in after.items()} == {k: v[:2] for k, v in before.items()}
    assert all(t._version > versions[name] for name, t in after.items())
    assert [t.requires_grad for t in after.values()] == [v[2] and wrap != "frozen" for v in before.values()]


def test_what_a_wrapper_within_the_model_holds_is_read_in_place_too(made: Path) -> None:
    model = Wide(2)
    model.body = nn.DataParallel(torch.compile(model.body))
    assert restored(made, model) == 4
    assert set(values(model)) == {1}


def test_its_files_are_closed_before_anybody_hears_that_it_is_restored(made: Path) -> None:
    files, opened = Reads(), []
    listener = Hearing(lambda event: opened.append(files.opened) if isinstance(event, Restored) else None)
    with AsyncCheckpointer(LocalStorage(made, files=files), model=Wide(2), listeners=[listener]) as checkpointer:
        checkpointer.restore()
    assert opened == [0]


def test_autograd_sees_that_they_were_changed(made: Path) -> None:
    model = Wide(2)
    loss = model.body(torch.ones(2, WIDE, requires_grad=True)).sum()
    restored(made, model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_only_the_parts_asked_for_are_read(made: Path) -> None:
    model = Wide(2)
    assert restored(made, model, only=["model.body"]) == 2
    assert model.body.weight.eq(1).all()
    assert model.table.eq(2).all()
    assert restored(made, model, exclude=["model.body"]) == 2
    assert set(values(model)) == {1}


def test_without_strict_what_is_on_both_sides_is_read_in_place(made: Path) -> None:
    model = nn.ModuleDict({"body": nn.Linear(WIDE, WIDE), "tail": nn.Linear(WIDE, WIDE)})
    tail = model["tail"].weight.clone()
    assert restored(made, model, strict=False) == 3
    assert model["body"].weight.eq(1).all()
    assert model["tail"].weight.equal(tail)


# -- by way of load_state_dict -------------------------------------------------------------------------------


class Doubling(Wide):
    """Hands something else on than it is given."""

    def load_state_dict(self, state_dict: Any, *arguments: Any, **options: Any) -> Any:
        doubled = OrderedDict((name, 2 * value) for name, value in state_dict.items())
        return super().load_state_dict(doubled, *arguments, **options)


class DoublingPart(nn.Linear):
    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        state_dict[f"{prefix}weight"] = 2 * state_dict[f"{prefix}weight"]
        state_dict[f"{prefix}bias"] = 2 * state_dict[f"{prefix}bias"]
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class Remembering(Wide):
    """Keeps what it was before, for its extra state."""

    def get_extra_state(self) -> Any:
        return 0

    def set_extra_state(self, state: Any) -> None:
        self.before = self.body.weight[0, 0].item()


def with_part(model: Wide) -> Wide:
    model.body = DoublingPart(WIDE, WIDE)
    return model


def with_method(model: Wide) -> Wide:
    plain = model.load_state_dict
    model.load_state_dict = lambda state, **options: plain({k: 2 * v for k, v in state.items()}, **options)
    return model


def with_pre_hook(model: Wide) -> Wide:
    def double(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
        state.update({name: 2 * value for name, value in state.items() if name.startswith(prefix)})

    model.register_load_state_dict_pre_hook(double)
    return model


def with_post_hook(model: Wide) -> Wide:
    def double(module: nn.Module, _: Any) -> None:
        module.body.weight.data.mul_(2)

    model.register_load_state_dict_post_hook(double)
    return model


HANDED: dict[str, tuple[Callable[[], Wide], float]] = {
    "load_state_dict of its own": (lambda: Doubling(3), 2),
    "the instance's own": (lambda: with_method(Wide(3)), 2),
    "a part's own": (lambda: with_part(Wide(3)), 2),
    "pre-hook": (lambda: with_pre_hook(Wide(3)), 2),
    "post-hook": (lambda: with_post_hook(Wide(3)), 2),
}


@pytest.mark.parametrize("name", HANDED)
def test_what_has_a_say_in_its_loading_is_handed_tensors_of_its_own(made: Path, name: str) -> None:
    make, expected = HANDED[name]
    model = make()
    assert restored(made, model) == 2
    assert model.body.weight.eq(expected).all()


def test_what_has_a_say_in_its_state_is_handed_tensors_of_its_own(tmp_path: Path) -> None:
    def swap(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
        state["body.weight"], state["table"] = state["table"], state["body.weight"]

    before, model = Wide(1), Wide(3)
    before.table.fill_(2)
    for each in (before, model):
        each.register_state_dict_post_hook(swap)
    assert restored(saved(tmp_path / "run", before), model) == 2
    assert model.body.weight.eq(2).all()
    assert model.table.eq(1).all()


def test_extra_state_is_set_when_it_was(tmp_path: Path) -> None:
    root = saved(tmp_path / "run", Remembering(1))
    model = Remembering(3)
    assert restored(root, model) == 2
    assert model.before == 3  # its parts come after it
    assert model.table.eq(1).all()


def test_parameters_that_are_swapped_are_loaded_so(made: Path) -> None:
    model = Wide(3)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        assert restored(made, model) == 2
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert set(values(model)) == {1}


def transposed(model: Wide) -> None:
    model.body.weight.data = model.body.weight.data.t()


def tied(model: Wide) -> None:
    model.table = model.body.weight.data


def overlapping(model: Wide) -> None:
    both = torch.full((WIDE + 1, WIDE), 3.0)
    model.body.weight.data, model.table = both[1:], both[:-1]


def doubled(model: Wide) -> None:
    model.double()


LIVE: dict[str, tuple[Callable[[Wide], None], int]] = {
    "another order in memory": (transposed, 3),
    "another dtype": (doubled, 2),
    "two that are one": (tied, 2),
    "two that overlap": (overlapping, 2),
}


@pytest.mark.parametrize("name", LIVE)
def test_memory_that_is_not_what_is_stored_is_copied_into(made: Path, name: str) -> None:
    change, read = LIVE[name]
    model = Wide(3)
    change(model)
    form = [(t.data_ptr(), t.dtype, t.stride()) for t in model.state_dict().values()]
    assert restored(made, model) == read
    assert set(values(model)) == {1}
    assert [(t.data_ptr(), t.dtype, t.stride()) for t in model.state_dict().values()] == form


@pytest.mark.parametrize("change", [transposed, tied, doubled], ids=lambda change: change.__name__)
def test_what_is_stored_in_another_form_is_copied_from(tmp_path: Path, change: Callable[[Wide], None]) -> None:
    # Two that are one are stored once, and stand in the pack as a part of what shares them.
    before = Wide(1)
    change(before)
    root = saved(tmp_path / "run", before)
    model = Wide(3)
    restored(root, model)
    assert set(values(model)) == {1}
    assert model.table.data_ptr() != model.body.weight.data_ptr()


def test_another_store_is_not_asked_twice() -> None:
    store, model = MemoryStorage("in place"), Wide(1)
    with AsyncCheckpointer(store, model=model) as checkpointer:
        checkpointer.save(1).wait()
        model.fill(2)
        checkpointer.restore()
    assert set(values(model)) == {1}


# -- nothing before all is known -----------------------------------------------------------------------------


def untouched(model: Wide, versions: list[int]) -> bool:
    return set(values(model)) == {2} and [t._version for t in model.state_dict(keep_vars=True).values()] == versions


def test_a_damaged_byte_anywhere_changes_nothing(root: Path) -> None:
    model = Wide(2)
    versions = [t._version for t in model.state_dict(keep_vars=True).values()]
    size = pack_of(root).stat().st_size
    for at in (size - 1, size - SQUARE, size - 2 * SQUARE):
        flip(root, at)
        with pytest.raises(CheckpointCorruptError):
            restored(root, model)
        flip(root, at)
        assert untouched(model, versions)
    restored(root, model)
    assert set(values(model)) == {1}


def test_a_part_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    before = Wide(1)
    root = saved(tmp_path / "run", before, optimizer=torch.optim.SGD(before.parameters()))
    model = Wide(2)
    versions = [t._version for t in model.state_dict(keep_vars=True).values()]
    optimizer = torch.optim.SGD(model.body.parameters())
    with (
        AsyncCheckpointer(root, model=model, optimizer=optimizer) as checkpointer,
        pytest.raises(IncompatibleState, match="optimizer has groups"),
    ):
        checkpointer.restore()
    assert untouched(model, versions)


class Acting(Box):
    """Does something when it is its turn."""

    def __init__(self, act: Callable[[], Any]) -> None:
        super().__init__({"value": 0})
        self.act = act

    def load_state_dict(self, state: Any) -> None:
        self.act()


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    return saved(tmp_path / "run", {"first": Acting(bool), "wide": Wide(1), "last": Wide(1)})


def test_objects_are_put_back_one_after_the_other(parts: Path) -> None:
    wide, last, seen = Wide(2), Wide(2), []
    model = {"first": Acting(lambda: seen.append(values(wide))), "wide": wide, "last": last}
    restored(parts, model)
    assert set(seen[0]) == {2}
    assert set(values(wide)) == set(values(last)) == {1}


def test_what_is_deleted_once_it_is_checked_is_restored_all_the_same(parts: Path) -> None:
    wide, last = Wide(2), Wide(2)
    restored(parts, {"first": Acting(lambda: shutil.rmtree(parts / "data")), "wide": wide, "last": last})
    assert set(values(wide)) == set(values(last)) == {1}


def test_what_is_damaged_once_it_is_checked_is_an_error_that_every_save_repeats(parts: Path) -> None:
    wide, last = Wide(2), Wide(2)
    model = {"first": Acting(lambda: os.truncate(pack_of(parts), SQUARE)), "wide": wide, "last": last}
    with AsyncCheckpointer(parts, model=model, overwrite=True) as checkpointer:
        with pytest.raises(CheckpointCorruptError, match="became shorter"):
            checkpointer.restore()
        with pytest.raises(RestoreError, match="restoring the checkpoint of step 1 ended halfway"):
            checkpointer.save(2)
