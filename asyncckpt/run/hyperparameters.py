"""Hyperparameters: the few numbers that people ask for first, from the configuration and from what really trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from asyncckpt.configuration.plain import Json, Plain

_SECTIONS = ("training", "train", "trainer", "optimization")
_NAMES = {
    "epochs": ("epochs", "num_epochs", "max_epochs", "num_train_epochs"),
    "max_steps": ("max_steps", "steps", "num_steps", "total_steps"),
    "batch_size": ("batch_size", "train_batch_size", "per_device_train_batch_size"),
    "gradient_accumulation_steps": ("gradient_accumulation_steps", "grad_accumulation", "accumulate_grad_batches"),
    "gradient_clipping": ("gradient_clipping", "max_grad_norm", "grad_clip", "clip_grad_norm"),
    "mixed_precision": ("mixed_precision", "precision", "amp"),
    "seed": ("seed",),
}
"""What ours is called elsewhere, first come first taken."""

_OF_OPTIMIZER = {"lr": ("lr", "learning_rate"), "weight_decay": ("weight_decay",)}


def hyperparameters(config: Mapping[str, Any], optimizer: object = None, scheduler: object = None) -> dict[str, Json]:
    """What `config` says, in its training section or at its top, and what the objects say, which count where they are.

    Several optimizers are a list of theirs.
    """
    places = [config[name] for name in _SECTIONS if isinstance(config.get(name), Mapping)] + [config]
    found = {name: value for name, others in _NAMES.items() if (value := _first(places, others)) is not None}
    found |= _of_config(config, places)
    if optimizers := [_of_optimizer(each) for each in _each(optimizer)]:
        found["optimizer"] = _one(optimizers, "type")
        for name in _OF_OPTIMIZER:
            found[name] = _one(optimizers, name)
    if schedulers := [type(each).__name__ for each in _each(scheduler)]:
        found["scheduler"] = schedulers if len(schedulers) > 1 else schedulers[0]
    plain = Plain().of({name: value for name, value in found.items() if value is not None})
    return plain if isinstance(plain, dict) else {}


def _of_config(config: Mapping[str, Any], places: list[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in ("optimizer", "scheduler"):
        said = _first(places, (part,))
        found[part] = _first([said], ("type", "name")) if isinstance(said, Mapping) else said
        if isinstance(said, Mapping):
            places = [said, *places]
            if part == "scheduler":
                found["warmup_steps"] = _first([said], ("warmup_steps", "num_warmup_steps", "warmup"))
    return {**{name: _first(places, others) for name, others in _OF_OPTIMIZER.items()}, **found}


def _of_optimizer(optimizer: Any) -> dict[str, Any]:
    groups = getattr(optimizer, "param_groups", None) or [{}]
    first = groups[0]
    return {
        "type": type(optimizer).__name__,
        "lr": first.get("initial_lr", first.get("lr")),  # what a scheduler began with, not where it is now
        "weight_decay": first.get("weight_decay"),
    }


def _first(places: list[Any], names: tuple[str, ...]) -> Any:
    for place in places:
        for name in names:
            if place.get(name) is not None:
                return place[name]
    return None


def _one(found: list[dict[str, Any]], name: str) -> Any:
    values = [each[name] for each in found]
    return values[0] if len(values) == 1 else values


def _each(given: object) -> Iterator[object]:
    if isinstance(given, Mapping):
        yield from given.values()
    elif isinstance(given, list | tuple):
        yield from given
    elif given is not None:
        yield given
