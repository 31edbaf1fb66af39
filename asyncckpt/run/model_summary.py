"""Model summary: what a model is made of, and how many parameters it has, for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from asyncckpt.configuration.plain import Json, Plain
from asyncckpt.staging.guards import Guarded
from asyncckpt.state.wrappers import unwrap

_ATTRIBUTES = (
    "d_model", "hidden_size", "embed_dim", "n_embd", "dim", "d_ff", "num_layers", "n_layers", "n_layer",
    "num_hidden_layers", "num_heads", "n_heads", "n_head", "num_attention_heads", "vocab_size", "block_size",
    "max_seq_len", "max_position_embeddings", "dropout",
)  # fmt: skip
"""What models call their dimensions, themselves or in a ``config`` of theirs."""


def models_of(model: object) -> dict[str, nn.Module]:
    """The models in what a checkpointer was given as `model`, by name, without what wraps them."""
    if isinstance(model, Mapping):
        named: Iterable[tuple[str, Any]] = ((str(name), part) for name, part in model.items())
    elif isinstance(model, list | tuple):
        named = ((str(index), part) for index, part in enumerate(model))
    else:
        named = [("model", model)]
    bare = ((name, unwrap(part.target if isinstance(part, Guarded) else part)) for name, part in named)
    return {name: part for name, part in bare if isinstance(part, nn.Module)}


def summary(models: Mapping[str, nn.Module]) -> str:
    """``str(model)`` and the counts of parameters of each."""
    return "\n".join(_section(name, model, is_alone=len(models) == 1) for name, model in models.items())


def description(model: nn.Module) -> dict[str, Json]:
    """The model's class, its counts, and its dimensions as far as they have usual names."""
    total, trainable, lazy = _counts(model)
    found: dict[str, Json] = {
        "type": type(model).__name__,
        "num_parameters": total,
        "num_trainable_parameters": trainable,
    }
    if lazy:
        found["num_parameters_not_known_yet"] = lazy
    for owner in (getattr(model, "config", None), model):
        for name in _ATTRIBUTES:
            value = owner.get(name) if isinstance(owner, Mapping) else getattr(owner, name, None)
            if isinstance(value, int | float | str):
                found[name] = Plain().of(value, name)
    return found


def _section(name: str, model: nn.Module, *, is_alone: bool) -> str:
    total, trainable, lazy = _counts(model)
    lines = [] if is_alone else [f"=== {name} ===", ""]
    lines += [str(model), "", f"Total parameters: {total:,}", f"Trainable parameters: {trainable:,}"]
    if lazy:
        lines.append(f"Not counted: {lazy:,} tensors whose shape is not known before the first forward")
    return "\n".join(lines) + "\n"


def _counts(model: nn.Module) -> tuple[int, int, int]:
    """All parameters and those that are trained, each tied one once; and how many tensors have no shape yet."""
    known = [parameter for parameter in model.parameters() if not isinstance(parameter, UninitializedParameter)]
    lazy = sum(isinstance(parameter, UninitializedParameter) for parameter in model.parameters())
    return sum(map(torch.numel, known)), sum(p.numel() for p in known if p.requires_grad), lazy
