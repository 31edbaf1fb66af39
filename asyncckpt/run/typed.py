"""Typed: what a JSON file says, as the dataclass that it was written from; every field that does not fit is named.

Fields may be dataclasses, lists, tuples, sets and mappings of such, paths, enums (by value), optional, or plain.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from asyncckpt.configuration.masking import MASK, is_secret
from asyncckpt.errors import AsyncCkptError

_C = TypeVar("_C")

_FLOATS = ("NaN", "Infinity", "-Infinity")


class ConfigurationInvalid(AsyncCkptError, ValueError):
    """A configuration does not fit its dataclass; `problems` are all that was found, by the fields' paths."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


def fitted(values: Any, kind: type[_C], what: str) -> _C:
    """The `kind` that `values` say; raises `ConfigurationInvalid` with everything that does not fit, naming `what`."""
    fitting = _Fitting()
    found = fitting.fit(values, kind, "")
    if fitting.problems:
        raise ConfigurationInvalid(f"{what}: {'; '.join(fitting.problems)}", fitting.problems)
    made: _C = found
    return made


class _Fitting:
    """One file on its way."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def fit(self, value: Any, kind: Any, path: str) -> Any:
        """`value` as a `kind`; None, and a problem more, where it is none."""
        origin, inner = get_origin(kind), get_args(kind)
        if kind is Any or isinstance(kind, TypeVar):
            return value
        if origin in (Union, types.UnionType):
            return self._one_of(value, inner, path)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return self._dataclass(value, kind, path)
        if (origin or kind) in (list, tuple, set, frozenset, Sequence):
            return self._items(value, origin or kind, inner, path)
        if (origin or kind) in (dict, Mapping):
            of = inner[1] if inner else Any
            if isinstance(value, dict):
                return {key: self.fit(item, of, _below(path, key)) for key, item in value.items()}
            return self._wrong(value, "an object", path)
        return self._plain(value, kind, path)

    def _dataclass(self, value: Any, kind: type[Any], path: str) -> Any:
        if not isinstance(value, dict):
            return self._wrong(value, "an object", path)
        hints = get_type_hints(kind)
        fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
        self.problems += [
            f"{_below(path, name)} is no field of {kind.__name__}" for name in value if name not in fields
        ]
        needed = [name for name, field in fields.items() if _is_needed(field) and name not in value]
        self.problems += [f"{_below(path, name)} is missing" for name in needed]
        before = len(self.problems)
        found = {
            name: self.fit(value[name], hints.get(name, Any), _below(path, name)) for name in fields if name in value
        }
        if needed or len(self.problems) > before:
            return None
        try:
            return kind(**found)
        except (ValueError, TypeError) as error:  # its own check refuses them
            self.problems.append(f"{path or kind.__name__}: {error}")
            return None

    def _items(self, value: Any, kind: Any, inner: tuple[Any, ...], path: str) -> Any:
        if not isinstance(value, list):
            return self._wrong(value, "a list", path)
        kinds = list(inner) or [Any]
        if kind is tuple and inner and inner[-1] is not Ellipsis:
            if len(value) != len(inner):
                return self._wrong(value, f"a list of {len(inner)}", path)
        else:
            kinds = [kinds[0]] * len(value)
        found = [self.fit(item, of, f"{path}[{at}]") for at, (item, of) in enumerate(zip(value, kinds, strict=True))]
        return found if kind in (list, Sequence) else kind(found)

    def _one_of(self, value: Any, kinds: tuple[Any, ...], path: str) -> Any:
        if value is None and type(None) in kinds:
            return None
        tries: list[list[str]] = []
        for kind in kinds:
            if kind is not type(None):
                fitting = _Fitting()
                found = fitting.fit(value, kind, path)
                if not fitting.problems:
                    return found
                tries.append(fitting.problems)
        tries.sort(key=len)
        self.problems += tries[0] if tries else [f"{path} is not null"]
        return None

    def _plain(self, value: Any, kind: Any, path: str) -> Any:
        if kind is float and (value in _FLOATS or (isinstance(value, int) and not isinstance(value, bool))):
            return float(value)
        if isinstance(kind, type) and issubclass(kind, Enum):
            try:
                return kind(value)
            except ValueError:
                return self._wrong(value, f"one of {[member.value for member in kind]}", path)
        if isinstance(kind, type) and issubclass(kind, PurePath) and isinstance(value, str):
            return kind(value)
        if isinstance(kind, type) and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            return self._wrong(value, f"of type {kind.__name__}", path)
        return value

    def _wrong(self, value: Any, what: str, path: str) -> None:
        found = MASK if is_secret(path.rpartition(".")[2], value) else repr(value)
        self.problems.append(f"{path or 'it'} is {found}, not {what}")


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
