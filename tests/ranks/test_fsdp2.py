"""The example of a sharded training (FSDP2): every rank gets its own shards back, and goes on to the last bit."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asyncckpt.testing.ranks import run_ranks

EXAMPLE = Path(__file__).parents[2] / "examples/fsdp2.py"

Train = Callable[[Path, int], dict[str, Any]]


def tensors(state: Any, at: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        yield at, state
    elif isinstance(state, dict):
        for name, value in state.items():
            yield from tensors(value, f"{at}.{name}")


def goes_on(root: Path) -> tuple[int, list[str], int]:
    """How many tensors this rank has, which of them a resumed training has otherwise, and this rank's parameters."""
    train: Train = runpy.run_path(str(EXAMPLE))["train"]
    straight = dict(tensors(train(root / "straight", 12)))
    train(root / "run", 7)  # the last two steps of which no checkpoint has
    again = dict(tensors(train(root / "run", 12)))
    assert again.keys() == straight.keys()
    differing = [name for name, tensor in straight.items() if not torch.equal(tensor, again[name])]
    return len(straight), differing, sum(t.numel() for name, t in straight.items() if name.startswith(".parameters"))


@pytest.mark.ranks
def test_the_example_goes_on_to_the_last_bit_and_each_rank_with_its_own_shards(tmp_path: Path) -> None:
    results = run_ranks(goes_on, 2, tmp_path)
    parameters, slots, buffers = 6, 3 * 6, 3
    assert [(count, differing) for count, differing, _ in results] == [(parameters + slots + buffers, [])] * 2
    assert sum(mine for _, _, mine in results) == 16 * 65 + 65 + 2 * 65 + 65 + 1
