"""Image: a state as the packs that it becomes: where every tensor goes, and how its bytes get there. Without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from asyncckpt.errors import UnsupportedState
from asyncckpt.format.contents import Alias, Path
from asyncckpt.format.elements import NAMES, is_complex, width
from asyncckpt.format.sealed import Json
from asyncckpt.format.shard import ALIGNMENT, MAX_HEADER, PackedTensor, encode_header, pack_names
from asyncckpt.worker.job import Layout, PlannedPack, PlannedTensor


@dataclass(frozen=True, slots=True)
class Fill:
    """Bytes of one tensor: `write` puts them into memory of that length, at `offset` of the image."""

    offset: int
    nbytes: int
    write: Callable[[memoryview], object]


@dataclass(frozen=True, slots=True)
class Image:
    """A whole state. `headers` are the first bytes of each pack, with where it starts."""

    layout: Layout
    headers: Sequence[tuple[int, bytes]]
    fills: Sequence[Fill]
    values: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Held:
    """One tensor as somebody else holds it, row-major; `write` puts its bytes into memory of their length."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    write: Callable[[memoryview], object]


@dataclass(frozen=True, slots=True)
class About:
    """What a source says of itself, as far as it does."""

    step: int | None = None
    epoch: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What somebody should know of the import."""


def image(tensors: Mapping[Path, Held], aliases: Mapping[Path, Alias], values: Mapping[str, Json]) -> Image:
    """The image of a state of these `tensors`, in one pack. Raises `UnsupportedState` for more than a pack can name."""
    # Wide elements first, which aligns every tensor.
    ordered = sorted(tensors, key=lambda path: (-width(tensors[path].dtype), path))
    names = pack_names(ordered)
    packed = {path: _packed(names[path], tensors[path]) for path in ordered}
    header = encode_header(list(packed.values()))
    if len(header) > MAX_HEADER:
        raise UnsupportedState(f"{len(ordered)} tensors are more than one pack can name: import them in parts")
    planned: dict[Path, PlannedTensor] = {}
    fills, offset = [], len(header)
    for path in ordered:
        held = tensors[path]
        planned[path] = PlannedTensor(held.dtype, held.shape, None, 0, offset, packed[path])
        fills.append(Fill(offset, held.nbytes, held.write))
        offset += held.nbytes
    size = -(-offset // ALIGNMENT) * ALIGNMENT
    layout = Layout((PlannedPack(0, len(header), offset),), planned, aliases, size, offset - len(header))
    return Image(layout, [(0, header)], fills, values)


def _packed(name: str, held: Held) -> PackedTensor:
    pair = (2,) if is_complex(held.dtype) else ()
    return PackedTensor(name, NAMES[held.dtype], (*held.shape, *pair), held.nbytes)
