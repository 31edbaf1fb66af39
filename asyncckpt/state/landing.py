"""Landing: live tensors that a stored one may be read straight into, because loading it would only copy it there.

Whatever is not plainly so (hooks, a ``load_state_dict`` of one's own, another dtype, shared memory) is none of them,
and is put back by ``load_state_dict`` from memory of its own.
"""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from asyncckpt.format.contents import Contents, Path, TensorEntry
from asyncckpt.state.dtypes import from_logical

SMALLEST = 1 << 20
"""Bytes: many smaller ones are read faster off a disk in one request than each into its place."""

_COPYING = (nn.Module._load_from_state_dict, nn.BatchNorm1d._load_from_state_dict)
"""What copies into parameters and buffers and does nothing else to them (all batch norms share one)."""


def only_copies(module: nn.Module) -> bool:
    """Whether ``load_state_dict`` of `module` does nothing with a tensor but copy it into the live one."""
    return loads_plainly(module) and not torch.__future__.get_swap_module_params_on_conversion()


def loads_plainly(module: nn.Module) -> bool:
    """Whether ``load_state_dict`` of `module` takes the names and shapes that it has itself, and no others.

    A hook, or code of its own, may know what an older version of it was called.
    """
    return runs(module, "load_state_dict", nn.Module.load_state_dict) and all(map(_is_plain, module.modules()))


def _is_plain(module: nn.Module) -> bool:
    return (
        runs(module, "_load_from_state_dict", *_COPYING)
        and not module._load_state_dict_pre_hooks
        and not module._load_state_dict_post_hooks
    )


def runs(target: object, name: str, *functions: object) -> bool:
    """Whether the method `name` of `target` is one of `functions`: an instance may have one of its own."""
    return getattr(getattr(target, name), "__func__", None) in functions


def landing(live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the `live` tensors of a module whose memory is what a stored tensor is: dense and their own."""
    if not all(map(_is_ordinary, live.values())):
        return {}  # with whom the others share memory cannot be told then
    # Which of two copies into the same memory comes last must not depend on which of them is read into place.
    users = Counter(map(_storage, live.values()))
    return {
        name: tensor.detach()
        for name, tensor in live.items()
        if tensor.nbytes and _is_plain_memory(tensor) and users[_storage(tensor)] == 1
    }


def _is_ordinary(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout is torch.strided


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _is_plain_memory(tensor: Tensor) -> bool:
    return (
        _has_addresses(tensor.device.type)
        and tensor.is_contiguous()
        # Memory that holds other numbers than the tensor shows.
        and not (tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
        and not tensor.is_inference()  # may not be changed everywhere
        # Sharded training takes the memory of a parameter away and leaves its shape.
        and tensor.storage_offset() * tensor.itemsize + tensor.nbytes <= tensor.untyped_storage().nbytes()
    )


def _has_addresses(kind: str) -> bool:
    """Whether tensors on devices of this kind are bytes that can be copied to."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return kind == "cpu" or (accelerator is not None and kind == accelerator.type)


def fitting(contents: Contents, paths: Collection[Path], live: Mapping[Path, Tensor]) -> dict[Path, Tensor]:
    """Those of `live` that a stored tensor among `paths` fits byte for byte, and that nothing else stored shares."""
    shared = {alias.of for alias in contents.aliases.values()}
    return {
        path: tensor
        for path, tensor in live.items()
        if path in paths and path not in shared and _fits(contents.tensors[path], tensor)
    }


def _fits(entry: TensorEntry, tensor: Tensor) -> bool:
    shape = tuple(tensor.shape)
    return (
        entry.stride is None
        and entry.shape == shape
        and [box.shape for box in entry.boxes] == [shape]
        and from_logical(entry.dtype) is tensor.dtype
        and sum(extent.length for extent in entry.boxes[0].extents) == tensor.nbytes
    )


def memory_of(tensor: Tensor) -> memoryview:
    """The bytes of a dense tensor, writable; whoever holds them keeps the tensor too."""
    return memoryview((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())).cast("B")
