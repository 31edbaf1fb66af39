"""Tensors that have no bytes of their own are refused by name, whatever torch would say about them itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from asyncckpt import AsyncCheckpointer
from asyncckpt.errors import UnsupportedState


class Holder:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def state_dict(self) -> dict[str, Any]:
        return {"tensor": self.tensor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tensor = state["tensor"]


def _freed() -> torch.Tensor:
    tensor = torch.zeros(3)
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: torch.eye(3).to_sparse(), "sparse_coo tensors cannot be held"),
        (lambda: torch.zeros(2, device="meta"), "has no values"),
        (lambda: torch.nn.LazyLinear(2).weight, "has no shape yet"),
        (_freed, "its memory was freed"),
    ],
)
@pytest.mark.parametrize("kind", ["handed out", "kept"])
def test_a_tensor_without_bytes_is_refused_at_every_save(
    tmp_path: Path, make: Callable[[], torch.Tensor], reason: str, kind: str
) -> None:
    holder, module = Holder(torch.zeros(1)), torch.nn.Linear(2, 2)
    with AsyncCheckpointer(tmp_path, model=module, extra={"holder": holder}) as checkpointer:
        if kind == "kept":
            module.register_buffer("tensor", make())
        else:
            holder.tensor = make()
        for step in (1, 2):
            with pytest.raises(UnsupportedState, match=rf"tensor: .*{reason}"):
                checkpointer.save(step)
        module.register_buffer("tensor", None)
        holder.tensor = torch.ones(1)
        assert checkpointer.save(3).wait().step == 3
