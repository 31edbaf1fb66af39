"""Generators: random states of a loader's own, which that of the process does not contain, and where they are found.

They are attributes of the loader, or of what it is made of: samplers, the data set, those that this is made of, what
changes samples and puts them together. What a worker process draws from its copy of them is not seen here.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from typing import Any

import torch

from asyncckpt.state.rng import packed, unpacked

_PARTS = ("loader", "sampler", "batch_sampler", "dataset", "collate_fn", "transform", "target_transform")
_SEVERAL = ("datasets", "transforms")


def parts(loader: object) -> list[Any]:
    """`loader` and what it is made of, each once."""
    found: dict[int, Any] = {}
    left = [loader]
    while left:
        part = left.pop()
        if id(part) in found:
            continue
        found[id(part)] = part
        held = getattr(part, "__dict__", {})
        left += [held[name] for name in _PARTS if held.get(name) is not None]
        for name in _SEVERAL:
            inner = held.get(name)
            left += inner if isinstance(inner, list | tuple) else []
    return list(found.values())


def generators(holders: Iterable[object]) -> list[Any]:
    """Those that are attributes of one of them, of torch, numpy and python, each once."""
    kinds: tuple[type, ...] = (torch.Generator, random.Random)
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        kinds += (numpy_random.Generator, numpy_random.RandomState)
    held = (value for holder in holders for value in getattr(holder, "__dict__", {}).values())
    found = {id(each): each for each in held if isinstance(each, kinds) and not isinstance(each, random.SystemRandom)}
    return list(found.values())


def state_of(generator: Any) -> Any:
    """Its state, as plain values."""
    if isinstance(generator, torch.Generator):
        return bytes(generator.get_state().tolist())
    if isinstance(generator, random.Random):
        return generator.getstate()
    if hasattr(generator, "bit_generator"):
        return packed(generator.bit_generator.state)
    return packed(generator.get_state(legacy=False))


def set_state(generator: Any, state: Any) -> None:
    """Have it go on from what `state_of` gave."""
    if isinstance(generator, torch.Generator):
        generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = unpacked(state)
    else:
        generator.set_state(unpacked(state))
