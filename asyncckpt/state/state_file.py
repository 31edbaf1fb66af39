"""State file: one nested state as a sealed JSON document, tensors in it as base64. For small states, outside of a run.

The document is ``{"state": ..., "tensors": [...]}``: `state` as `asyncckpt.state.values` writes it, and for each tensor
its path, dtype, shape, and bytes in row-major order.
"""

from __future__ import annotations

import asyncio
import os
from base64 import b64decode, b64encode
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

from asyncckpt.errors import CheckpointCorruptError, UnsupportedState
from asyncckpt.format.contents import Path
from asyncckpt.format.sealed import Json, seal, unseal
from asyncckpt.state.dtypes import from_logical, logical_name
from asyncckpt.state.landing import memory_of
from asyncckpt.state.values import decode, encode, readable
from asyncckpt.storage import from_url

_T = TypeVar("_T")


def write(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write `state` to the file at `path`. Raises `UnsupportedState` and `StorageError`."""
    found: dict[Path, Tensor] = {}
    encoded = encode(state, (), found.__setitem__)
    tensors: list[Json] = [_tensor_json(name, tensor) for name, tensor in found.items()]
    data = seal({"state": encoded, "tensors": tensors})
    _apart(_put(path, data))


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `write` wrote. Raises `ObjectNotFound`, `CheckpointCorruptError` and `UnsupportedFormat`."""
    what = os.fspath(path)
    fields = unseal(_apart(_get(path)), what)
    try:
        tensors = {tuple(t["path"]): _tensor_of(t["dtype"], t["shape"], t["data"]) for t in fields["tensors"]}
        state = decode(fields["state"], tensors.__getitem__)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointCorruptError(f"{what} is no training state: {error!r}") from error
    if not isinstance(state, dict):
        raise CheckpointCorruptError(f"{what} is no training state")
    return state


def _tensor_json(path: Path, tensor: Tensor) -> Json:
    try:
        name = logical_name(tensor.dtype)
        if tensor.layout is not torch.strided:
            raise UnsupportedState(f"tensors of layout {tensor.layout} cannot be held: make it dense (.to_dense())")
        dense = tensor.cpu().resolve_conj().resolve_neg().contiguous()
    except UnsupportedState as error:
        raise UnsupportedState(f"{readable(path)}: {error}") from None
    data = b64encode(memory_of(dense)).decode("ascii") if dense.nbytes else ""
    return {"path": list(path), "dtype": name, "shape": list(tensor.shape), "data": data}


def _tensor_of(dtype: str, shape: list[int], data: str) -> Tensor:
    raw, kind = bytearray(b64decode(data, validate=True)), from_logical(dtype)
    if not raw:
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(raw, dtype=torch.uint8).view(kind).view(shape)


def _apart(work: Coroutine[Any, Any, _T]) -> _T:
    """Run `work` in a thread of its own: the caller may be on an event loop, as a notebook is."""
    with ThreadPoolExecutor(1, thread_name_prefix="asyncckpt-state-file") as thread:
        return thread.submit(asyncio.run, work).result()


async def _put(path: str | os.PathLike[str], data: bytes) -> None:
    folder, name = _split(path)
    storage = from_url(folder)
    try:
        await storage.put(name, [data])
    finally:
        await storage.aclose()


async def _get(path: str | os.PathLike[str]) -> bytes:
    folder, name = _split(path)
    storage = from_url(folder)
    try:
        return bytes(await storage.get(name))
    finally:
        await storage.aclose()


def _split(path: str | os.PathLike[str]) -> tuple[str, str]:
    """The folder and the name in it."""
    folder, slash, name = os.fspath(path).replace(os.sep, "/").rpartition("/")
    return (folder or "/") if slash else ".", name
