"""Refusing: a saved state that does not go into an object, said by the object's name and with the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

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


class explained:
    """Turns what a ``load_state_dict`` raises into `IncompatibleState` with the component's name in front."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RuntimeError | ValueError | LookupError | TypeError | AttributeError):
            raise IncompatibleState(f"{'.'.join(self._path)} does not accept its saved state: {error}") from error
