"""Plain: values as ``torch.load(weights_only=True)`` takes them; what had another type says so."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, timedelta, tzinfo
from enum import Enum
from pathlib import PurePath
from typing import Any

import torch

from asyncckpt.state.leaves import is_numpy_array, is_numpy_scalar, numpy_as_tensor

_AS_THEY_ARE = (type(None), bool, int, float, complex, str, bytes, bytearray, torch.dtype, torch.device, torch.Size)


class Plain:
    """Makes values plain; `changed` has the paths of those that are of another type now, with the type they had."""

    def __init__(self) -> None:
        self.changed: dict[str, str] = {}

    def value(self, value: Any, path: str) -> Any:
        """`value`, which is at that path, with everything in it plain; tensors stay the same objects."""
        kind = type(value)
        if isinstance(value, torch.Tensor) or kind in _AS_THEY_ARE:
            return value
        if kind in (list, tuple, set):
            return kind(self.value(item, f"{path}.{number}") for number, item in enumerate(value))
        if kind in (dict, OrderedDict):
            return self._mapping(value, kind, path)
        self.changed[path] = kind.__name__
        return self._of_another_type(value, path)

    def _mapping(self, value: Mapping[Any, Any], kind: type, path: str) -> Any:
        made = kind((self.value(key, path), self.value(item, f"{path}.{key}")) for key, item in value.items())
        if (versions := getattr(value, "_metadata", None)) is not None:
            vars(made)["_metadata"] = versions  # of a module's state_dict(): load_state_dict() asks for it
        return made

    def _of_another_type(self, value: Any, path: str) -> Any:
        if is_numpy_scalar(value):
            return self._quietly(value.item(), path)
        if is_numpy_array(value):
            tensor = numpy_as_tensor(value)
            return self._quietly(value.tolist(), path) if tensor is None else tensor
        if is_dataclass(value) and not isinstance(value, type):
            return {each.name: self.value(getattr(value, each.name), f"{path}.{each.name}") for each in fields(value)}
        if isinstance(value, Mapping):
            return self._mapping(value, dict, path)
        if isinstance(value, tuple | frozenset) or hasattr(value, "maxlen"):
            return self.value([*value] if not isinstance(value, frozenset) else {*value}, path)
        return _text(value)

    def _quietly(self, value: Any, path: str) -> Any:
        """What numpy gave, which may be of a type of its own still."""
        return value if type(value) in (*_AS_THEY_ARE, list, tuple) else _text(value)


def _text(value: Any) -> Any:
    match value:
        case Enum():
            return value.name
        case date():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case tzinfo() | PurePath():
            return str(value)
    return str(value)
