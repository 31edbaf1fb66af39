"""Landing: only memory that is byte for byte what a stored tensor is, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from asyncckpt.format.contents import Alias, Box, Contents, Extent, TensorEntry
from asyncckpt.state.landing import SMALLEST, fitting, landing, memory_of

COUNT = SMALLEST // 4


def big(*shape: int) -> Tensor:
    return torch.zeros(*(shape or (COUNT,)))


def inference() -> Tensor:
    with torch.inference_mode():
        return big()


def freed() -> Tensor:
    tensor = big()
    tensor.untyped_storage().resize_(0)
    return tensor


class Special(Tensor):
    """A subclass has more to it than its memory."""


PLAIN: dict[str, Callable[[], Tensor]] = {
    "tensor": big,
    "parameter": lambda: nn.Parameter(big()),
    "buffer": lambda: nn.Buffer(big()),
    "a part of more": lambda: big(COUNT + 7)[3:-4],
    "small": lambda: big(1),
    "bytes": lambda: torch.zeros(SMALLEST, dtype=torch.uint8),
    "complex": lambda: torch.zeros(COUNT, dtype=torch.complex64),
}

OTHER: dict[str, Callable[[], Tensor]] = {
    "empty": lambda: big(0),
    "subclass": lambda: big().as_subclass(Special),
    "channels_last": lambda: big(COUNT // 64, 4, 4, 4).to(memory_format=torch.channels_last),
    "transposed": lambda: big(COUNT // 2, 2).t(),
    "every second": lambda: big(2 * COUNT)[::2],
    "expanded": lambda: torch.zeros(1).expand(COUNT),
    "meta": lambda: torch.zeros(COUNT, device="meta"),
    "sparse": lambda: big(COUNT // 2, 2).to_sparse(),
    "sparse rows": lambda: big(COUNT // 2, 2).to_sparse_csr(),
    "conjugate": lambda: torch.zeros(COUNT, dtype=torch.complex64).conj(),
    "negative": lambda: torch.zeros(2 * COUNT, dtype=torch.complex64).conj().imag.contiguous()._neg_view(),
    "inference": inference,
    "freed": freed,
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("name", [*PLAIN, *OTHER])
def test_dense_memory_of_its_own_is_landed_in(name: str) -> None:
    tensor = (PLAIN | OTHER)[name]()
    found = landing({"it": tensor})
    assert list(found) == (["it"] if name in PLAIN else [])
    assert all(not t.requires_grad and t.data_ptr() == tensor.data_ptr() for t in found.values())


@pytest.mark.filterwarnings("ignore:.*[qQ]uant")
def test_quantised_numbers_are_not() -> None:
    assert landing({"it": torch.quantize_per_tensor(big(4 * COUNT), 0.1, 0, torch.qint8)}) == {}


@pytest.mark.parametrize("other", [lambda t: t, lambda t: t[:1], lambda t: t.detach()], ids=["same", "part", "alias"])
def test_memory_that_two_have_is_not(other: Callable[[Tensor], Tensor]) -> None:
    tensor = big()
    assert list(landing({"it": tensor, "other": other(tensor), "third": big()})) == ["third"]


def test_its_bytes_are_its_numbers() -> None:
    tensor = torch.zeros(4, dtype=torch.int16)[1:]
    memory_of(tensor)[2:4] = b"\x01\x01"
    assert tensor.tolist() == [0, 257, 0]


# -- what is stored ------------------------------------------------------------------------------------------

ENTRY = TensorEntry("float32", (COUNT,), (Box((0,), (COUNT,), (Extent(0, 0, SMALLEST, ""),)),))

UNFIT: dict[str, TensorEntry] = {
    "dtype": replace(ENTRY, dtype="int32"),
    "shape": replace(ENTRY, shape=(COUNT, 1)),
    "order": replace(ENTRY, stride=(1,)),
    "two boxes": replace(ENTRY, boxes=(*ENTRY.boxes, *ENTRY.boxes)),
    "a part": replace(ENTRY, boxes=(Box((0,), (COUNT - 1,), ENTRY.boxes[0].extents),)),
    "too few bytes": replace(ENTRY, boxes=(Box((0,), (COUNT,), (Extent(0, 0, SMALLEST - 4, ""),)),)),
    "no box": replace(ENTRY, boxes=()),
}


def test_what_is_stored_as_it_is_live_fits() -> None:
    it, live = ("it",), {("it",): big(), ("not stored",): big()}
    contents = Contents((), {it: ENTRY, ("not live",): ENTRY}, {})
    assert list(fitting(contents, {it, ("not live",)}, live)) == [it]
    assert fitting(contents, {("not live",)}, live) == {}
    shared = replace(contents, aliases={("alias",): Alias(it, "float32", (1,), (1,), 0)})
    assert fitting(shared, {it}, live) == {}


@pytest.mark.parametrize("name", UNFIT)
def test_what_is_stored_in_another_form_does_not(name: str) -> None:
    assert fitting(Contents((), {("it",): UNFIT[name]}, {}), {("it",)}, {("it",): big()}) == {}
