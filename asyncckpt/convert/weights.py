"""Weights: tensors in files of safetensors, written as their bytes come from the store, and without torch.

No more than a few extents are in memory at a time, but for a view that is not row-major, whose tensor is read whole.
What safetensors has no name for stands there as in packs, complex128 as pairs of numbers, and the file's metadata have
its dtype: an import brings it back.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from asyncckpt.convert.named import Named, row_major
from asyncckpt.convert.place import Place, Written
from asyncckpt.fetching.reading import Taken, fetch, stream
from asyncckpt.format.contents import Contents
from asyncckpt.format.contents import Path as Part
from asyncckpt.format.elements import NAMES, is_complex, width
from asyncckpt.format.shard import MAX_HEADER, PackedTensor, encode_header
from asyncckpt.storage.base import Storage

ABOUT: Final = "asyncckpt"
"""The key of a file's metadata under which stands, as JSON, which checkpoint it is of, and what the file cannot say."""

SPOKEN: Final = {"complex64": "C64"}
"""What today's safetensors has names for beyond those that packs use."""

_WRITING: Final = "writing it"

_WORDS: Final[dict[int, Literal["B", "H", "I", "Q"]]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


@dataclass(frozen=True, slots=True)
class File:
    """One file: its name, its first bytes, and where behind them each tensor begins."""

    name: str
    header: bytes
    starts: Mapping[str, int]
    size: int


def files(
    tensors: Sequence[Named],
    names: Callable[[int, int], str],
    most: int | None,
    about: Mapping[str, Any],
    *,
    ties: bool,
) -> list[File]:
    """The files of `tensors`, of at most so many bytes of them where one does not hold more; at least one.

    `names` gives the name of number i of n; `about` goes into the metadata of each. Without `ties`, a tensor that is
    tied to another is left out.
    """
    kept = [one for one in tensors if ties or one.tied_to is None]
    tied = {one.name: one.tied_to for one in tensors if one.tied_to is not None}
    about = {**about, "ties": tied} if ties else about
    shards = [*_cut(kept, most)] or [[]]
    count = len(shards)
    return [_file(names(i, count), shard, {} if ties else tied, about) for i, shard in enumerate(shards, 1)]


def _cut(tensors: Iterable[Named], most: int | None) -> Iterable[list[Named]]:
    shard: list[Named] = []
    size = header = 0
    for one in tensors:
        entry = 2 * len(one.name.encode()) + 200 + 22 * len(one.shape)
        if shard and ((most is not None and size + one.nbytes > most) or header + entry > MAX_HEADER // 2):
            yield shard
            shard, size, header = [], 0, 0
        shard.append(one)
        size, header = size + one.nbytes, header + entry
    if shard:
        yield shard


def _file(name: str, shard: Sequence[Named], left_out: Mapping[str, str], about: Mapping[str, Any]) -> File:
    dtypes = {one.name: one.dtype for one in shard if is_disguised(one.dtype)}
    inside = {one.name for one in shard}
    # As safetensors' own save_model says it: what is left out, and which tensor that is as well.
    said = {tied: name for tied, name in left_out.items() if name in inside}
    metadata = {**said, "format": "pt", ABOUT: json.dumps({**about, "dtypes": dtypes})}
    # Wide elements first, which aligns every tensor.
    ordered = sorted(shard, key=lambda one: -width(one.dtype))
    header = encode_header([_packed(one) for one in ordered], metadata)
    ends = itertools.accumulate((one.nbytes for one in ordered), initial=len(header))
    starts = dict(zip((one.name for one in ordered), ends, strict=False))
    return File(name, header, starts, len(header) + sum(one.nbytes for one in ordered))


def _packed(one: Named) -> PackedTensor:
    dtype = SPOKEN.get(one.dtype)
    pair = (2,) if dtype is None and is_complex(one.dtype) else ()
    return PackedTensor(one.name, dtype or NAMES[one.dtype], (*one.shape, *pair), one.nbytes)


def is_disguised(dtype: str) -> bool:
    """Whether a file names another dtype than this one, which other tools will see."""
    exact = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"}
    exact |= {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
    exact |= {f"{kind[0].upper()}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
    return dtype not in SPOKEN and exact.get(NAMES[dtype]) != dtype


async def write(
    storage: Storage,
    contents: Contents,
    tensors: Iterable[Named],
    wanted: Mapping[Path, File],
    place: Place,
    progress: Callable[[int], None],
) -> None:
    """Write the `wanted` files, each at its path, which is in `place`.

    Raises as `asyncckpt.fetching.reading.fetch` and `Place.do` do, and `OSError`.
    """
    target = await asyncio.to_thread(place.do, _WRITING, lambda: _Target(wanted, place))
    views: list[Named] = []
    plain: defaultdict[Part, list[Named]] = defaultdict(list)
    for one in tensors:
        if one.name in target.homes and one.nbytes:
            (views if one.stride is not None else plain[one.path]).append(one)

    def take(taken: Sequence[Taken]) -> None:
        target.put_all((one, start, data) for path, start, data in taken for one in plain[path])

    await stream(storage, contents, plain.keys(), lambda taken: place.do(_WRITING, partial(take, taken)), progress)
    for one in views:
        (whole,) = (await fetch(storage, contents, {one.path}, progress)).values()
        data = gathered(whole, one)
        await asyncio.to_thread(place.do, _WRITING, partial(target.put_all, [(one, one.offset, data)]))


class _Target:
    """Puts the bytes of tensors where they belong."""

    def __init__(self, wanted: Mapping[Path, File], place: Place) -> None:
        self.homes: dict[str, tuple[Written, int]] = {}
        for path, file in wanted.items():
            opened = place.file(path)
            opened.write(file.header)
            opened.truncate(file.size)
            self.homes |= {name: (opened, at) for name, at in file.starts.items()}

    def put_all(self, stored: Iterable[tuple[Named, int, memoryview]]) -> None:
        """What of some bytes of a stored tensor, from such a one on, is of a name."""
        for one, start, data in stored:
            low, high = max(start, one.offset), min(start + len(data), one.offset + one.nbytes)
            if low < high:
                file, at = self.homes[one.name]
                file.seek(at + low - one.offset)
                file.write(data[low - start : high - start])


def gathered(whole: memoryview, one: Named) -> memoryview:
    """The bytes of a view in row-major order, `whole` being those of the tensor that it is a view of."""
    stride, shape, size = one.stride or row_major(one.shape), one.shape, width(one.dtype)
    if size not in _WORDS:  # complex128, as pairs
        shape, stride, size = (*shape, 2), (*(2 * step for step in stride), 1), 8
    # The last element ends inside, but others of the same width need not fit in what is behind it.
    usable = len(whole[one.offset :]) // size * size
    words = memoryview(bytes(whole[one.offset : one.offset + usable])).cast(_WORDS[size])
    made = memoryview(bytearray(one.nbytes))
    found = made.cast(_WORDS[size])
    *outer, (inner, inner_step) = zip(shape, stride, strict=True)
    for row, place in enumerate(itertools.product(*(range(count) for count, _ in outer))):
        first = sum(index * step for index, (_, step) in zip(place, outer, strict=True))
        if inner_step:
            end = first + (inner - 1) * inner_step + 1
            found[row * inner : (row + 1) * inner] = words[first:end:inner_step]
        else:  # expanded: one element again and again
            for column in range(inner):
                found[row * inner + column] = words[first]
    return made
