"""Layouts: every byte of memory is stored once, and what shares memory shares it again when it is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

import asyncckpt
from asyncckpt import AsyncCheckpointer
from asyncckpt.errors import UnsupportedState
from asyncckpt.staging import layout
from asyncckpt.staging.layout import STORAGE, Plan, build
from asyncckpt.state.capture import Source
from asyncckpt.storage import MemoryStorage
from tests.golden.make import Box

from .held import saved


def planned(lazy: bool = False, **tensors: Tensor) -> Plan:
    return build([Source((name,), tensor, lazy=lazy) for name, tensor in tensors.items()])


def through(**tensors: Tensor) -> dict[str, Tensor]:
    """The tensors out to a checkpoint and back."""
    found: dict[str, Tensor] = saved(extra={"box": Box(tensors)})["extra"]["box"]
    return found


def share(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


# -- the image of the packs --------------------------------------------------------------------------------


def test_tensors_follow_each_other_without_a_gap_and_aligned_to_their_elements() -> None:
    dtypes = [torch.uint8, torch.float64, torch.bfloat16, torch.float32, torch.complex128, torch.bool]
    plan = planned(**{f"t{i}": torch.zeros(2 * i + 1, dtype=dtype) for i, dtype in enumerate(dtypes * 3)})
    (pack,) = plan.layout.packs
    assert pack.header % 4096 == 0
    at = pack.header
    for region, tensor in zip(plan.regions, plan.layout.tensors.values(), strict=True):
        assert region.offset == tensor.offset == at
        assert at % region.source.tensor.itemsize == 0
        at += region.nbytes
    assert at == pack.length
    assert plan.layout.size == -(-at // 4096) * 4096
    assert plan.layout.bytes == sum(region.nbytes for region in plan.regions)


def test_equal_states_have_equal_layouts() -> None:
    one = planned(b=torch.zeros(3), a=torch.zeros(5), c=torch.zeros(1, dtype=torch.int64))
    two = planned(c=torch.ones(1, dtype=torch.int64), a=torch.ones(5), b=torch.ones(3))
    assert one.layout == two.layout
    assert one.headers == two.headers


def test_what_is_copied_in_the_call_comes_first_so_that_it_can_be_written_at_once() -> None:
    plan = build(
        [
            Source(("lazy",), torch.zeros(100), lazy=True),
            Source(("eager",), torch.zeros(100)),
            Source(("handed out",), torch.zeros(100), volatile=True),
        ]
    )
    kinds = [region.lazy for region in plan.regions]
    assert kinds == sorted(kinds)


def test_a_header_that_grows_too_long_starts_another_pack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(layout, "MAX_HEADER", 20_000)
    model = nn.ParameterDict({f"parameter{i}": torch.full((3,), float(i)) for i in range(200)})
    optimizer = torch.optim.SGD(model.parameters())
    with AsyncCheckpointer(tmp_path, model=model, optimizer=optimizer) as checkpointer:
        checkpointer.save(1).wait()
    packs = sorted(tmp_path.glob("data/*/*.safetensors"))
    assert len(packs) > 1
    names = [name for pack in packs for name in load_file(pack)]
    assert len(names) == len(set(names))
    assert {f"model.parameter{i}" for i in range(200)} <= set(names)
    found = asyncckpt.load(tmp_path).state["model"]
    assert all(torch.equal(found[name], value) for name, value in model.items())


def test_a_state_without_tensors_is_one_pack() -> None:
    assert len(build([]).layout.packs) == 1


# -- shared memory -----------------------------------------------------------------------------------------


def test_the_whole_is_stored_and_its_views_are_aliases() -> None:
    base = torch.arange(12.0)
    plan = planned(whole=base, row=base.view(3, 4)[1], bits=base.view(torch.int32)[2:4], tied=base)
    assert plan.layout.tensors.keys() == {("tied",)}
    assert {path: (alias.of, alias.offset) for path, alias in plan.layout.aliases.items()} == {
        ("whole",): (("tied",), 0),
        ("row",): (("tied",), 16),
        ("bits",): (("tied",), 8),
    }


def test_overlapping_views_that_nothing_covers_are_stored_as_their_common_bytes() -> None:
    base = torch.arange(10.0)
    plan = planned(head=base[:6], tail=base[4:])
    ((path, tensor),) = plan.layout.tensors.items()
    assert path == ("head", STORAGE)
    assert (tensor.dtype, tensor.nbytes) == ("uint8", 40)
    assert plan.layout.aliases.keys() == {("head",), ("tail",)}


def test_views_that_do_not_overlap_are_tensors_of_their_own() -> None:
    base = torch.arange(10.0)
    plan = planned(head=base[:4], tail=base[6:])
    assert plan.layout.tensors.keys() == {("head",), ("tail",)}
    assert plan.layout.aliases == {}
    assert plan.layout.bytes == 32


def test_of_a_large_memory_only_what_is_referred_to_is_stored() -> None:
    base = torch.zeros(100_000)
    assert planned(a=base[10:20], b=base[15:30]).layout.bytes == 80
    assert planned(a=base[::1000]).layout.bytes == 400


def test_nothing_is_shared_between_tensors_that_stay_and_tensors_that_are_handed_out() -> None:
    base = torch.zeros(4)
    plan = build([Source(("stays",), base), Source(("handed out",), base, volatile=True)])
    assert plan.layout.aliases == {}


def test_memory_is_lazy_only_where_all_sharers_are() -> None:
    base = torch.zeros(4)
    for lazy in (True, False):
        plan = build([Source(("a",), base, lazy=True), Source(("b",), base[1:], lazy=lazy)])
        assert [region.lazy for region in plan.regions] == [lazy]


def test_conjugate_and_negated_views_come_back_as_their_values() -> None:
    base = torch.tensor([1 + 2j, 3 - 4j])
    found = through(base=base, conjugate=base.conj(), negated=base.conj().imag, real=base.real)
    assert found["conjugate"].tolist() == [1 - 2j, 3 + 4j]
    assert found["negated"].tolist() == [-2, 4]
    assert not found["conjugate"].is_conj()
    assert share(found["base"], found["real"])


def test_a_view_that_becomes_a_conjugate_is_seen() -> None:
    base, store = torch.tensor([1 + 2j, 3 - 4j]), MemoryStorage("conjugate")
    box = Box({"base": base, "view": base})
    with AsyncCheckpointer(store, extra={"box": box}) as checkpointer:
        for step in range(1, 4):
            checkpointer.save(step).wait()
        box.state["view"] = base.conj()
        checkpointer.save(4).wait()
    assert asyncckpt.load(store).state["extra"]["box"]["view"].tolist() == [1 - 2j, 3 + 4j]


def test_tensors_that_are_handed_out_tied_once_and_loose_the_next_time_are_seen() -> None:
    store, box = MemoryStorage("loose"), Box({})
    with AsyncCheckpointer(store, extra={"box": box}) as checkpointer:
        for step in range(1, 7):
            a, b = torch.full((3,), float(step)), torch.full((3,), -float(step))
            box.state = {"a": a, "b": a if step % 2 else b}
            checkpointer.save(step).wait()
            found = asyncckpt.load(store).state["extra"]["box"]
            assert all(torch.equal(found[name], tensor) for name, tensor in box.state.items())
            assert share(found["a"], found["b"]) == (step % 2 == 1)


def test_loaded_tensors_share_memory_as_the_saved_ones_did_also_on_another_device() -> None:
    base = torch.arange(8.0)
    store = MemoryStorage("shared")
    with AsyncCheckpointer(store, extra={"box": Box({"base": base, "view": (base[2:6],)})}) as checkpointer:
        checkpointer.save(1).wait()
    found = asyncckpt.load(store).state["extra"]["box"]
    found["view"][0].fill_(-1)
    assert found["base"].tolist() == [0, 1, -1, -1, -1, -1, 6, 7]
    there = asyncckpt.load(store, device="meta").state["extra"]["box"]
    assert {there["base"].device.type, there["view"][0].device.type} == {"meta"}
    assert there["base"].untyped_storage()._cdata == there["view"][0].untyped_storage()._cdata


# -- strides -----------------------------------------------------------------------------------------------

DENSE: dict[str, Tensor] = {
    "transposed": torch.arange(6.0).view(2, 3).t(),
    "permuted": torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1),
    "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "channels_last_3d": torch.randn(2, 3, 2, 2, 2).to(memory_format=torch.channels_last_3d),
    "pointwise channels_last": torch.randn(8, 4, 1, 1).to(memory_format=torch.channels_last),
    "one channel": torch.randn(2, 1, 4, 4).to(memory_format=torch.channels_last),
    "a column": torch.arange(3.0).view(1, 3).t(),
    "complex": torch.randn(2, 3, dtype=torch.complex128).t(),
    "row-major": torch.arange(6.0).view(2, 3),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense_memory_comes_back_in_its_order_and_the_pack_is_row_major(name: str, tmp_path: Path) -> None:
    tensor = DENSE[name]
    model = nn.ParameterDict({"tensor": tensor})
    with AsyncCheckpointer(tmp_path, model=model, extra={"box": Box({"tensor": tensor})}) as checkpointer:
        checkpointer.save(1).wait()
    state = asyncckpt.load(tmp_path).state
    for found in (state["model"]["tensor"], state["extra"]["box"]["tensor"]):
        assert torch.equal(found, tensor)
        assert found.stride() == tensor.stride()
    (pack,) = tmp_path.glob("data/*/*.safetensors")
    stock = load_file(pack)["model.tensor"]
    assert torch.equal(torch.view_as_complex(stock) if tensor.is_complex() else stock, tensor)


def test_tied_dense_memory_in_another_order_is_tied_again() -> None:
    for tensor in DENSE.values():
        found = through(a=tensor, b=tensor)
        assert share(found["a"], found["b"])
        assert found["a"].stride() == found["b"].stride() == tensor.stride()


def test_strided_memory_with_gaps_becomes_dense() -> None:
    found = through(gaps=torch.arange(20.0)[::3])["gaps"]
    assert found.tolist() == [0, 3, 6, 9, 12, 15, 18]
    assert found.is_contiguous()


def test_an_expanded_tensor_is_stored_as_its_elements_and_comes_back_expanded() -> None:
    expanded = torch.tensor([1.0, 2.0]).expand(1000, 2)
    found = through(expanded=expanded)["expanded"]
    assert torch.equal(found, expanded)
    assert found.stride() == (0, 1)
    assert planned(expanded=expanded).layout.bytes == 8


def test_a_view_of_wide_elements_may_begin_amid_narrow_ones() -> None:
    storage = torch.arange(8, dtype=torch.int16)
    found = through(narrow=storage[1:3], wide=storage[2:4].view(torch.int32), all=storage[1:8])
    assert found["narrow"].tolist() == [1, 2]
    assert found["wide"].tolist() == [2 + 3 * 65536]
    found["narrow"].fill_(0)
    assert found["wide"].tolist() == [3 * 65536]
    assert found["all"].tolist() == [0, 0, 3, 4, 5, 6, 7]


# -- any views of any memory -------------------------------------------------------------------------------

AMID = torch.arange(4, dtype=torch.int16)


@st.composite
def views(draw: st.DrawFn) -> dict[str, Tensor]:
    """Views of two storages, in any order, of any strides, overlapping in any way."""
    storages = [torch.arange(24, dtype=torch.int16), torch.arange(100, 124, dtype=torch.int16)]
    found: dict[str, Tensor] = {}
    for number in range(draw(st.integers(1, 5))):
        base = draw(st.sampled_from(storages))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        stride = [draw(st.integers(0, 4)) for _ in shape]
        reach = sum((size - 1) * step for size, step in zip(shape, stride, strict=True) if size)
        offset = draw(st.integers(0, max(0, 23 - reach)))
        view = base.as_strided(shape, stride, offset)
        even = offset % 2 == 0 and all(step % 2 == 0 for step in stride[:-1])
        wide = even and stride[-1:] == [1] and shape[-1] % 2 == 0 and draw(st.booleans())
        found[f"t{number}"] = view.view(torch.int32) if wide else view
    return found


@given(views())
@example({"t0": AMID[1:3], "t1": AMID[2:4].view(torch.int32)})
@settings(deadline=None, max_examples=120)
def test_any_views_come_back_with_their_values_and_share_what_they_shared(tensors: dict[str, Tensor]) -> None:
    found = through(**tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name], tensor)
    assert planned(**tensors).layout.bytes <= 2 * 48, "more than both storages hold"
    for name, tensor in tensors.items():
        if overlaps_itself(tensor):
            continue
        tensor.fill_(-1)
        found[name].fill_(-1)
        for other in tensors.keys() - {name}:
            assert torch.equal(found[other], tensors[other])


def overlaps_itself(tensor: Tensor) -> bool:
    places = torch.arange(1000).as_strided(tensor.shape, tensor.stride())
    return places.unique().numel() < places.numel()


# -- refused -----------------------------------------------------------------------------------------------


def freed() -> Tensor:
    tensor = torch.zeros(3)
    tensor.untyped_storage().resize_(0)
    return tensor


REFUSED: dict[str, tuple[Any, str]] = {
    "sparse": (lambda: torch.eye(2).to_sparse(), "torch.sparse_coo tensors cannot be held: save a dense one"),
    "sparse csr": (lambda: torch.eye(2).to_sparse_csr(), "torch.sparse_csr tensors cannot be held"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested tensors cannot be held"),
    "jagged": (
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        "nested tensors cannot be held: save a padded one, or its parts (.unbind())",
    ),
    "quantised": (
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "torch.qint8 cannot be held: save a dequantised tensor",
    ),
    "meta": (lambda: torch.empty(2, device="meta"), "a tensor on the meta device has no values"),
    "uninitialised": (lambda: nn.LazyLinear(2).weight, "has no shape yet: run one forward pass"),
    "freed": (freed, "its memory was freed"),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_a_tensor_that_cannot_be_held_is_refused_by_its_path(name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(UnsupportedState, match=re.escape("model.deep.0: ") + ".*" + re.escape(reason)):
        build([Source(("model", "fine"), torch.ones(1)), Source(("model", "deep", "0"), make())])
