"""Of state: nested dicts of tensors and values as the image of a state."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from asyncckpt.convert.image import Fill, Image
from asyncckpt.convert.of_weights import Weights
from asyncckpt.format.contents import Path
from asyncckpt.format.tagged import SHARED
from asyncckpt.staging.layout import build
from asyncckpt.state.capture import Source
from asyncckpt.state.dtypes import from_logical
from asyncckpt.state.values import encode


def image_of(state: Mapping[str, Any]) -> Image:
    """The image of a state of these parts; tensors that share memory share it there.

    Raises `UnsupportedState`, naming its path, for what cannot be held.
    """
    tensors: dict[Path, Tensor] = {}
    parts = [[name, encode(part, (name,), tensors.__setitem__)] for name, part in state.items()]
    plan = build([Source(path, tensor) for path, tensor in tensors.items()])
    fills = [Fill(region.offset, region.nbytes, partial(_copy, region.source.tensor)) for region in plan.regions]
    return Image(plan.layout, plan.headers, fills, {SHARED: {"$dict": [*parts]}})


def tensors_of(found: Weights) -> dict[str, Tensor]:
    """The tensors of files of safetensors, in memory; those that are tied are the same."""
    made: dict[str, Tensor] = {}
    for name, held in found.tensors.items():
        data = bytearray(held.nbytes)
        held.write(memoryview(data))
        dtype = from_logical(held.dtype)
        flat = torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
        made[name] = flat.view(dtype).view(held.shape)
    return made | {name: made[to] for name, to in found.ties.items()}


def _copy(tensor: Tensor, into: memoryview) -> None:
    """The tensor's bytes, row-major, and what they mean: a conjugate is one of other bits."""
    if not into.nbytes:
        return
    whole = tensor.detach().resolve_conj().resolve_neg().contiguous()
    torch.frombuffer(into, dtype=torch.uint8).copy_(whole.reshape(-1).view(torch.uint8))
