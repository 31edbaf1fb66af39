"""Refusing: a saved state that does not go into an object, said by the object's name and with the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from asyncckpt.errors import IncompatibleState
from asyncckpt.format.contents import Path


def check_fit(path: Path, live: Mapping[str, Any], state: Mapping[str, Any], *, strict: bool) -> None:
    """Raise `IncompatibleState` where the names in `state` are not those in `live`, or a shape is another.

    Without `strict` only what is in both has to fit.
    """
    name = ".".join(path)
    for what, names in (("lacks", live.keys() - state.keys()), ("has in excess", state.keys() - live.keys())):
        if strict and names:
            shown = ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise IncompatibleState(
                f"the checkpoint of {name} {what} {shown}: use the same architecture, or restore(..., strict=False)"
            )
    for key, value in live.items():
        saved = state.get(key)
        if not isinstance(value, Tensor) or not isinstance(saved, Tensor) or nn.parameter.is_lazy(value):
            continue
        if value.shape != saved.shape:
            raise IncompatibleState(
                f"{name}.{key} has shape {tuple(value.shape)}, the checkpoint's {tuple(saved.shape)}"
            )


def check_single(path: Path, state: Any) -> None:
    """Raise `IncompatibleState` where several optimizers were saved, and one is given."""
    if "param_groups" not in state:
        several = f"a list of {len(state)}" if isinstance(state, list) else f"several: {', '.join(map(str, state))}"
        raise IncompatibleState(f"{'.'.join(path)} is one, and was {several}; give the same as when it was saved")


def check_kind(path: Path, optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Raise `IncompatibleState` for what another kind of optimizer has saved.

    Torch would take it, and the next step not find a word of its own. Flags that an older version did not have every
    optimizer adds by itself when it loads.
    """
    own = {name for name, value in optimizer.defaults.items() if not isinstance(value, bool | None)}
    for live, saved in zip(optimizer.param_groups, state["param_groups"], strict=True):
        lacking, others = sorted(own - saved.keys()), sorted(saved.keys() - live.keys())
        if lacking and others:
            name = ".".join(path)
            raise IncompatibleState(
                f"{name} is {type(optimizer).__name__}, and the checkpoint's is of another kind: it has "
                f"{', '.join(others)}, and no {', '.join(lacking)}; give the kind that was saved, or "
                f"restore(..., exclude=[{name!r}])"
            )


class explained:
    """Turns what a ``load_state_dict`` raises into `IncompatibleState` with the component's name in front."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError | ValueError | LookupError | TypeError | AttributeError):
            raise IncompatibleState(f"{'.'.join(self._path)} does not accept its saved state: {error}") from error
