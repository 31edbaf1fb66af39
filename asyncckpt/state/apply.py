"""Apply: a checkpoint's bytes as tensors and values again, and put back into live objects, random state last."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from asyncckpt.errors import CheckpointCorruptError, IncompatibleState, UnsupportedFormat
from asyncckpt.format.contents import Alias, Contents, Path, TensorEntry
from asyncckpt.format.parts import around, below, plain
from asyncckpt.format.sealed import Json
from asyncckpt.state.dtypes import from_logical
from asyncckpt.state.values import decode

_ALLOCATED = 64
"""What addresses of torch's allocator are multiples of."""
_WIDEST = 16
"""Bytes of the widest element (complex128)."""


class Missing:
    """Stands in a decoded state for a tensor that was not asked for."""


def wanted(contents: Contents, parts: Collection[str] | None, exclude: Collection[str] = ()) -> set[Path]:
    """The stored tensors that the state below `parts` (all of it where None) needs, aliases followed.

    A part is what people write: ``"model"``, ``"extra.ema"``.
    """

    def asked(path: Path) -> bool:
        name = plain(path)
        return (parts is None or below(name, parts)) and not below(name, exclude)

    named = {path for path in contents.tensors if asked(path)}
    return named | {alias.of for path, alias in contents.aliases.items() if asked(path)}


def only_parts(value: Any, parts: Collection[str], path: Path = ()) -> Any:
    """Of the state `value` at `path`, what is one of `parts` or in one, with the containers around it."""

    def pick(key: object, item: Any) -> Any:
        there = (*path, str(key))
        if below(there, parts):
            return item
        inner = only_parts(item, parts, there) if around(there, parts) and isinstance(item, dict | list) else None
        return inner or Missing()

    if isinstance(value, dict):
        value = {key: pick(key, item) for key, item in value.items()}
    elif isinstance(value, list):
        value = [pick(index, item) for index, item in enumerate(value)]
    return without_missing(value)


def tensors_of(
    contents: Contents, data: dict[Path, memoryview], device: str | torch.device = "cpu"
) -> dict[Path, Tensor]:
    """Every stored tensor in `data`, and every alias of one, sharing memory as they did when they were saved.

    Empties `data`, so that what was copied is in memory once.
    """
    leads = _leads(contents)
    # One tensor that stays where it was read keeps the memory of all that were read with it.
    moved = {id(view.obj) for path, view in data.items() if leads.get(path) or _address(view) % _ALLOCATED}
    flat = {}
    for path in list(data):
        view = data.pop(path)
        flat[path] = _flat(view, leads.get(path, 0), device, stays=id(view.obj) not in moved)
        del view
    return shaped(contents, flat, device)


def rooms_for(contents: Contents, paths: Iterable[Path], device: str | torch.device = "cpu") -> dict[Path, Tensor]:
    """Fresh memory on `device` for the bytes of the tensors at `paths`: what `shaped` takes, once they are there."""
    leads = _leads(contents)
    found = {}
    for path in paths:
        lead, size = leads.get(path, 0), contents.tensors[path].nbytes
        if size:
            found[path] = torch.empty(lead + size, dtype=torch.uint8, device=device)[lead:]
    return found


def can_be_shaped_before(contents: Contents) -> set[Path]:
    """The stored tensors that are a view of their bytes, in the order in which these are stored, and share them with no
    other: they can be made before the bytes are there.
    """
    shared = {alias.of for alias in contents.aliases.values()}
    return {path for path, entry in contents.tensors.items() if entry.stride is None and path not in shared}


def shaped(contents: Contents, flat: Mapping[Path, Tensor], device: str | torch.device = "cpu") -> dict[Path, Tensor]:
    """Every stored tensor whose bytes are in `flat`, every alias of one, and all that have no bytes."""
    found = {path: _shaped(entry, flat.get(path), path) for path, entry in contents.tensors.items() if path in flat}
    for path, entry in contents.tensors.items():
        if not entry.nbytes:
            found[path] = torch.empty(entry.shape, dtype=from_logical(entry.dtype), device=device)
    for path, alias in contents.aliases.items():
        if alias.of in flat:
            found[path] = _aliased(alias, flat[alias.of], path)
    return found


def _leads(contents: Contents) -> dict[Path, int]:
    """How many bytes must lie before those of a tensor, so that everything that shares them can be a view.

    A view of wide elements may begin amid narrow ones: int32 at byte 4 of what int16 values hold from byte 2 on.
    """
    needs: defaultdict[Path, list[tuple[int, int]]] = defaultdict(list)
    for alias in contents.aliases.values():
        needs[alias.of].append((alias.offset, from_logical(alias.dtype).itemsize))
    for path in needs:
        if path in contents.tensors:
            needs[path].append((0, from_logical(contents.tensors[path].dtype).itemsize))
    return {path: next((n for n in range(_WIDEST) if _all_aligned(n, there)), 0) for path, there in needs.items()}


def _all_aligned(lead: int, needs: list[tuple[int, int]]) -> bool:
    return all((lead + offset) % itemsize == 0 for offset, itemsize in needs)


def _address(view: memoryview) -> int:
    return torch.frombuffer(view, dtype=torch.uint8).data_ptr()


def _flat(buffer: memoryview, lead: int, device: str | torch.device, *, stays: bool) -> Tensor:
    """The bytes as a tensor, `lead` bytes behind an aligned address; a copy unless it stays where it is.

    A pack aligns to the element's size only, and sums over misaligned memory may round in another order: with such a
    state LBFGS went on differently in the last bit.
    """
    flat = torch.frombuffer(buffer, dtype=torch.uint8)
    if lead:
        return torch.empty(lead + flat.numel(), dtype=torch.uint8, device=device)[lead:].copy_(flat)
    return (flat if stays else flat.clone()).to(device)


def _shaped(entry: TensorEntry, flat: Tensor | None, path: Path) -> Tensor:
    dtype = from_logical(entry.dtype)
    if flat is None or flat.numel() != _nbytes(entry.shape, dtype):
        raise CheckpointCorruptError(f"{'.'.join(path)} has not as many bytes as its shape {entry.shape} says")
    tensor = flat.view(dtype).view(entry.shape)
    if entry.stride is None:
        return tensor
    # Memory was dense in another order (channels_last): give it back so, or kernels take other paths.
    strided = torch.empty_strided(entry.shape, entry.stride, dtype=dtype, device=flat.device)
    # In the same order after all, where only dimensions of one element differ; others may share that memory.
    return tensor.as_strided(entry.shape, entry.stride) if strided.is_contiguous() else strided.copy_(tensor)


def _nbytes(shape: Iterable[int], dtype: torch.dtype) -> int:
    count = dtype.itemsize
    for size in shape:
        count *= size
    return count


def _aliased(alias: Alias, flat: Tensor, path: Path) -> Tensor:
    dtype = from_logical(alias.dtype)
    base = flat[alias.offset :]
    try:
        usable = base[: base.numel() // dtype.itemsize * dtype.itemsize].view(dtype)
        return usable.as_strided(alias.shape, alias.stride)
    except RuntimeError as error:
        raise CheckpointCorruptError(f"{'.'.join(path)} reaches beyond the bytes it shares: {error}") from error


def state_of(
    values: Json,
    tensors: Mapping[Path, Tensor],
    parts: Collection[str] | None = None,
    exclude: Collection[str] = (),
    path: Path = (),
) -> Any:
    """The nested state that `values` at `path` describes; `Missing` stands for those of its tensors not in `tensors`.

    Of what is asked for (`wanted`) everything has to be possible here. Beside that, a component is `Missing` whose
    values are of a class that this process does not have: whoever wants the weights alone need not have it.
    """
    is_excluded = below(path, exclude)
    is_asked = not is_excluded and (parts is None or below(path, parts))
    divided = around(path, (*(parts or ()), *exclude)) if path else parts is not None or bool(exclude)
    is_divided = divided and not is_excluded
    if is_divided and (branches := _branches(values)) is not None:
        return {name: state_of(branch, tensors, parts, exclude, (*path, name)) for name, branch in branches.items()}
    try:
        return decode(values, lambda where: tensors.get(where, Missing()))
    except (IncompatibleState, UnsupportedFormat):
        if is_asked or is_divided:
            raise
        return Missing()


def _branches(values: Json) -> dict[str, Json] | None:
    """What `values` holds by name; None where it is no mapping as one of components is written."""
    match values:
        case {"$dict": list(pairs), **others} if not others:
            named: dict[str, Json] = {}
            for pair in pairs:
                if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str):
                    named[pair[0]] = pair[1]
            return named if len(named) == len(pairs) else None
        case _:
            return None


def without_missing(value: Any) -> Any:
    """`value` without the places of what was not asked for; in place, so that a Counter stays one."""
    if isinstance(value, dict):
        for key in [key for key, item in value.items() if isinstance(without_missing(item), Missing)]:
            del value[key]
    elif isinstance(value, list):
        value[:] = [item for item in value if not isinstance(without_missing(item), Missing)]
    return value
