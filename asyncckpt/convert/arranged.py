"""Arranged: the parts of what another system saved: which of its keys is the model, the optimizer, the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from asyncckpt.convert.image import About
from asyncckpt.errors import UnsupportedState

LIGHTNING = "pytorch-lightning_version"
"""The key that every checkpoint of Lightning has."""

_NAMES = {
    "model": ("model", "model_state_dict", "state_dict", "model_state", "module", "net"),
    "optimizer": ("optimizer", "optimizer_state_dict", "optimizers", "optim", "optimizer_states"),
    "scheduler": ("scheduler", "scheduler_state_dict", "lr_scheduler", "lr_schedulers", "schedulers"),
    "scaler": ("scaler", "scaler_state_dict", "grad_scaler"),
    "dataloader": ("dataloader", "dataloader_state_dict"),
}
"""What people call each part, our own name first."""

_COUNTS = {"step": ("step", "global_step", "iteration"), "epoch": ("epoch",)}

RNG = "rng"


@dataclass(frozen=True, slots=True)
class Arranged:
    """A state by our names of its parts, and what its source says of itself."""

    state: dict[str, Any]
    about: About


def arranged(found: Any, what: str) -> Arranged:
    """The parts of a nested dict, or of a dict of tensors, which is a model. Raises `UnsupportedState` for others."""
    if not isinstance(found, Mapping):
        raise UnsupportedState(f"{what} holds a {type(found).__name__}: import a dict, as of a state_dict()")
    if found and all(isinstance(value, Tensor) for value in found.values()):
        return Arranged(whole({"model": found}), About())
    left = dict(found)
    state = {part: left.pop(name) for part, names in _NAMES.items() if (name := _first(names, left)) is not None}
    if not _is_model(state.get("model")):
        state.pop("model", None)
        if not (tensors := {name: value for name, value in found.items() if isinstance(value, Tensor)}):
            keys = ", ".join(map(str, list(found)[:10])) or "nothing"
            raise UnsupportedState(f"{what} holds no model: of its keys ({keys}) none is {', '.join(_NAMES['model'])}")
        # As torchtitan saves it: the model's tensors by their names, beside the other parts.
        state = {"model": tensors, **state}
        left = {name: value for name, value in left.items() if name not in tensors}
    if _is_random_state(left.get(RNG)):
        state[RNG] = left.pop(RNG)
    about = _about(left)
    extra = left.pop("extra", {})
    left = {"extra": extra} if not isinstance(extra, Mapping) else {**extra, **left}
    return Arranged(whole({**state, "extra": left} if left else state), about)


def lightning(found: Any, what: str) -> Arranged:
    """The parts of a checkpoint of Lightning; what only its trainer knows is the extra ``lightning``.

    Raises `UnsupportedState` for what is none.
    """
    if not isinstance(found, Mapping) or "state_dict" not in found:
        raise UnsupportedState(f"{what} is no checkpoint of Lightning: it has no state_dict")
    left = dict(found)
    state: dict[str, Any] = {"model": left.pop("state_dict")}
    for part, name in (("optimizer", "optimizer_states"), ("scheduler", "lr_schedulers")):
        if several := left.pop(name, None):
            state[part] = several[0] if len(several) == 1 else several
    about = _about(left)
    return Arranged(whole({**state, "extra": {"lightning": left}}), about)


def _first(names: Sequence[str], found: Mapping[Any, Any]) -> str | None:
    return next((name for name in names if name in found and found[name] is not None), None)


def _is_model(found: object) -> bool:
    return isinstance(found, Mapping | list)


def _is_random_state(found: object) -> bool:
    """Whether it is one that asyncckpt itself has saved."""
    return isinstance(found, Mapping) and (not found or {"python", "torch"} <= found.keys())


def _about(left: dict[Any, Any]) -> About:
    """What is said of step, epoch and metrics, which is taken out of `left`."""
    counts: dict[str, int | None] = {}
    for name, others in _COUNTS.items():
        known = [other for other in others if (count := _count(left.get(other))) is not None and count >= 0]
        counts[name] = _count(left.pop(known[0])) if known else None
    metrics = left.get("metrics")
    are_numbers = isinstance(metrics, Mapping) and all(type(v) in (int, float) for v in metrics.values())
    numbers = {str(name): float(value) for name, value in left.pop("metrics").items()} if are_numbers else {}
    return About(counts["step"], counts["epoch"], numbers)


def _count(value: object) -> int | None:
    if isinstance(value, Tensor):
        value = value.item() if value.numel() == 1 else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int else None


def whole(state: dict[str, Any]) -> dict[str, Any]:
    """The parts that a training looks for, in the order in which they are put back.

    Random state that a source does not have goes on as the training has it.
    """
    if "optimizer" in state:
        state["optimizer"] = _optimizer(state["optimizer"])
    order = ("model", "optimizer", "scheduler", "scaler", "dataloader", "extra")
    return {**{part: state[part] for part in order if part in state}, RNG: state.get(RNG, {})}


def _optimizer(found: Any) -> Any:
    """An optimizer's state with its parameters' numbers as numbers: a path in DCP is text, and has no empty dict."""
    if isinstance(found, list):
        return [*map(_optimizer, found)]
    if not isinstance(found, Mapping) or "param_groups" not in found:
        if isinstance(found, Mapping) and found and all(map(_is_optimizer, found.values())):
            return {name: _optimizer(one) for name, one in found.items()}
        return found
    state = found.get("state", {})
    if isinstance(state, Mapping):
        state = {int(key) if isinstance(key, str) and key.isdecimal() else key: one for key, one in state.items()}
    return {"state": state, **{name: value for name, value in found.items() if name != "state"}}


def _is_optimizer(found: object) -> bool:
    return isinstance(found, Mapping) and "param_groups" in found
