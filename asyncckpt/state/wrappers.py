"""Wrappers: modules around a module that leave no trace in the names of its state.

They are DataParallel, DistributedDataParallel and torch.compile, around a whole model or any part of it. Only the
tree of modules tells what a wrapper calls its module from a child that is really called ``module``. ``AveragedModel``
is none of them: it has a count of its own beside its ``module``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import nn


def unwrap(target: object) -> object:
    """`target` without the wrappers around it."""
    while isinstance(target, nn.Module) and (name := _wrapped(target)) is not None:
        target = target._modules[name]
    return target


def _wrapped(module: nn.Module) -> str | None:
    """What a wrapper calls the module that it wraps; None for what is no wrapper."""
    name = "module" if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel) else "_orig_mod"
    # One that has more would lose it, or mix it up with what it wraps.
    is_wrapper = list(module._modules.keys()) == [name] and not module._parameters and not module._buffers
    return name if is_wrapper else None


class Names:
    """What checkpoints call the state of `module`: its own names, less what wrappers in it call their modules."""

    def __init__(self, module: nn.Module) -> None:
        tree = module.named_modules(remove_duplicate=False)
        self._left_out = frozenset(
            f"{path}.{name}".removeprefix(".") for path, m in tree if (name := _wrapped(m)) is not None
        )

    def clean(self, name: str) -> str:
        """The name in checkpoints of what the module calls `name`."""
        if not self._left_out:
            return name
        parts = name.split(".")
        return ".".join(part for end, part in enumerate(parts, 1) if ".".join(parts[:end]) not in self._left_out)

    def cleaned(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A module's state under clean names, with its modules' versions, which ``load_state_dict`` asks for."""
        cleaned = OrderedDict((self.clean(name), value) for name, value in state.items())
        versions = getattr(state, "_metadata", {})
        vars(cleaned)["_metadata"] = {self.clean(name): version for name, version in versions.items()}
        return cleaned
