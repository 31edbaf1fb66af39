"""Modes: which modules of a model are in training, and which are not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def modes(model: nn.Module) -> dict[str, Any]:
    """That of the model, and the names of the modules in it that are in the other, as plain data."""
    named = model.named_modules()
    return {"training": model.training, "other": [name for name, part in named if part.training != model.training]}


def set_modes(model: nn.Module, saved: Mapping[str, Any]) -> None:
    """The inverse of `modes`."""
    model.train(saved["training"])
    others = set(saved["other"])
    for name, part in model.named_modules():
        if name in others:
            part.training = not saved["training"]
