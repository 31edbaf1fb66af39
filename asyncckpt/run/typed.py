"""Typed: what a JSON file says, as the dataclass that it was written from; every field that does not fit is named.

Fields may be dataclasses, typed dictionaries and named tuples, lists, tuples, sets and mappings of such, paths, enums
(by value), literals, dates, times, bytes, dtypes and devices of torch, optional, or plain. Keys of mappings, which JSON
has as texts, are again what they were.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from enum import Enum
from pathlib import PurePath
from typing import (
    Any,
    Literal,
    NotRequired,
    Required,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from asyncckpt.configuration.masking import MASK, is_secret
from asyncckpt.errors import AsyncCkptError

_C = TypeVar("_C")

_FLOATS = ("NaN", "Infinity", "-Infinity")
_OF_NUMBER: Mapping[type, Callable[[float], Any]] = {
    float: float, timedelta: lambda seconds: timedelta(seconds=seconds),
}  # fmt: skip
_OF_TEXT: Mapping[type, Callable[[str], Any]] = {
    datetime: datetime.fromisoformat, date: date.fromisoformat, time: time.fromisoformat,
    bytes: bytes.fromhex, bytearray: bytearray.fromhex, complex: complex,
}  # fmt: skip
"""What reads the text that a value was written as."""
_OF_KEY: Mapping[type, Callable[[str], Any]] = {
    int: int, float: float, bool: {"True": True, "False": False}.__getitem__,
}  # fmt: skip
"""What reads the text that a key was written as."""


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
        if origin is Literal:
            return self._literal(value, inner, path)
        if dataclasses.is_dataclass(kind) or is_typeddict(kind) or _is_named_tuple(kind):
            return self._fields(value, kind, path)
        if (origin or kind) in (list, tuple, set, frozenset, Sequence):
            return self._items(value, origin or kind, inner, path)
        if (origin or kind) in (dict, Mapping):
            return self._mapping(value, inner or (Any, Any), path)
        return self._plain(value, kind, path)

    def _fields(self, value: Any, kind: Any, path: str) -> Any:
        if _is_named_tuple(kind):
            found = self._items(value, tuple, tuple(get_type_hints(kind)[name] for name in kind._fields), path)
            return None if found is None else kind(*found)
        if not isinstance(value, dict):
            return self._wrong(value, "an object", path)
        return (self._typed_dictionary if is_typeddict(kind) else self._dataclass)(value, kind, path)

    def _dataclass(self, value: dict[str, Any], kind: Any, path: str) -> Any:
        hints = get_type_hints(kind)
        known = [field.name for field in dataclasses.fields(kind)]  # also what it makes of the others by itself
        fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
        self._refuse_unknown(value, known, kind, path)
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

    def _typed_dictionary(self, value: dict[str, Any], kind: Any, path: str) -> Any:
        hints = get_type_hints(kind)
        self._refuse_unknown(value, hints, kind, path)
        needed = [name for name in hints if name not in value and _is_required(kind, name)]
        self.problems += [f"{_below(path, name)} is missing" for name in needed]
        return {name: self.fit(value[name], hint, _below(path, name)) for name, hint in hints.items() if name in value}

    def _refuse_unknown(self, value: Mapping[str, Any], known: Collection[str], kind: Any, path: str) -> None:
        self.problems += [f"{_below(path, name)} is no field of {kind.__name__}" for name in value if name not in known]

    def _mapping(self, value: Any, inner: tuple[Any, Any], path: str) -> Any:
        if not isinstance(value, dict):
            return self._wrong(value, "an object", path)
        (of_key, of), below = inner, {key: _below(path, key) for key in value}
        return {self._key(key, of_key, below[key]): self.fit(value[key], of, below[key]) for key in value}

    def _key(self, key: str, kind: Any, path: str) -> Any:
        """The key of a mapping that `key` says."""
        if isinstance(kind, type) and issubclass(kind, Enum):
            by_text = {text: member for member in kind for text in (str(member.value), str(member))}
            return by_text[key] if key in by_text else self.fit(key, kind, path)
        try:
            return self.fit(_OF_KEY[kind](key) if kind in _OF_KEY else key, kind, path)
        except (ValueError, KeyError):
            return self._wrong(key, f"of type {kind.__name__}", path)

    def _literal(self, value: Any, allowed: tuple[Any, ...], path: str) -> Any:
        said = [each.value if isinstance(each, Enum) else each for each in allowed]
        for each, text in zip(allowed, said, strict=True):
            if type(text) is type(value) and text == value:
                return each
        return self._wrong(value, f"one of {said}", path)

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
        if not isinstance(kind, type):
            return value
        if issubclass(kind, Enum):
            try:
                return kind(value)
            except ValueError:
                return self._wrong(value, f"one of {[member.value for member in kind]}", path)
        try:
            read = _reader(kind, value)
            found = value if read is None else read(value)
        except (ValueError, OverflowError, RuntimeError):  # the last for a device that torch does not know
            return self._wrong(value, f"of type {kind.__name__}", path)
        if not isinstance(found, kind) or (isinstance(found, bool) and kind not in (bool, object)):
            return self._wrong(value, f"of type {kind.__name__}", path)
        return found

    def _wrong(self, value: Any, what: str, path: str) -> None:
        found = MASK if is_secret(path.rpartition(".")[2], value) else repr(value)
        self.problems.append(f"{path or 'it'} is {found}, not {what}")


def _reader(kind: type[Any], value: Any) -> Callable[[Any], Any] | None:
    """What makes a `kind` of `value`, where JSON has it as something else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _OF_NUMBER.get(kind)
    if not isinstance(value, str):
        return None
    if kind is float and value in _FLOATS:
        return float
    if issubclass(kind, PurePath) or (kind.__module__, kind.__name__) == ("torch", "device"):
        return kind
    return _dtype if (kind.__module__, kind.__name__) == ("torch", "dtype") else _OF_TEXT.get(kind)


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def _is_required(kind: Any, name: str) -> bool:
    # Asked of the hints too: where annotations are texts, the class has not understood its NotRequired.
    said = get_origin(get_type_hints(kind, include_extras=True)[name])
    return said is Required or (said is not NotRequired and name in kind.__required_keys__)


def _dtype(text: str) -> Any:
    return getattr(sys.modules["torch"], text.removeprefix("torch."), None)  # it has the class that is asked for


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
