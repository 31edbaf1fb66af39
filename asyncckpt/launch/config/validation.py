"""Validation: from what a file says to the schema, with every problem of it at once."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import logging
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from asyncckpt.errors import ValidationError
from asyncckpt.launch.config.aliases import placed, renamed
from asyncckpt.launch.config.environment import Written
from asyncckpt.launch.config.scalars import Wrong, plain, scalar
from asyncckpt.launch.config.schema import ExperimentConfig

logger = logging.getLogger("asyncckpt")

_T = TypeVar("_T")


def experiment(
    values: Mapping[str, Any], name: str = "the configuration", written: Written | None = None
) -> ExperimentConfig:
    """The experiment that `values` describe, of which nothing is shared.

    Raises `ValidationError` with every problem by its path; `name` says in its message what they are problems of.
    Words of other frameworks are taken for ours, with a warning. `written`: how texts in it were written before their
    references were looked up.
    """
    given: Any = values
    if not isinstance(given, Mapping):
        said = f"is {given!r}; it has to be a mapping: a file is read by ConfigurationManager.load_experiment"
        raise ValidationError(f"{name} cannot be used: it {said}", {"": said})
    ours = copy.deepcopy({**values})
    warnings, problems = renamed(ours)
    reading = _Reading(problems)
    found = reading.section(ExperimentConfig, ours, "")
    if problems or found is None:
        said = "\n".join(f"  {path or 'all of it'}: {what}" for path, what in sorted(problems.items()))
        raise ValidationError(f"{name} cannot be used:\n{said}", problems)
    if found.deterministic and found.benchmark:
        warnings.append("deterministic and benchmark are both on: benchmark is turned off")
        found.benchmark = False
    for warning in warnings:
        logger.warning("%s: %s", name, warning)
    found.written.update({(placed(place), text): said for (place, text), said in (written or {}).items()})
    return found


class _Reading:
    """Makes objects of values, and notes into `problems` what is wrong with them."""

    def __init__(self, problems: dict[str, str]) -> None:
        self._problems = problems

    def section(self, kind: type[_T], values: Any, path: str) -> _T | None:
        """An object of `kind`, or None where it cannot be made."""
        if not isinstance(values, Mapping):
            self._problems[path] = f"is {values!r}; it has to be a section with fields of its own"
            return None
        before = len(self._problems)
        known = get_type_hints(kind, include_extras=True)
        hints = {each.name: known[each.name] for each in dataclasses.fields(cast(Any, kind))}
        for key in values:
            if key not in hints:
                self._problems[_below(path, key)] = _unknown(key, list(hints))
        said = [name for name in hints if name in values]
        given = {name: self._field(hints[name], values[name], _below(path, name)) for name in said}
        for name in _needed(kind):
            if name not in values:
                self._problems.setdefault(_below(path, name), "is missing")
        return kind(**given) if len(self._problems) == before else None

    def _field(self, hint: Any, value: Any, path: str) -> Any:
        try:
            return self._value(hint, value, path)
        except Wrong as wrong:
            self._problems.setdefault(path, str(wrong))
            return None

    def _value(self, hint: Any, value: Any, path: str) -> Any:
        value = plain(value)
        origin, inside = get_origin(hint), get_args(hint)
        if origin is Annotated:
            found = self._value(inside[0], value, path)
            if said := inside[1](found):
                raise Wrong(said)
            return found
        if origin in (Union, types.UnionType):
            return None if value is None else self._value(inside[0], value, path)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self.section(hint, value, path)
        if origin is Literal:
            if value not in inside:
                raise Wrong(f"is {value!r}; use one of {', '.join(map(str, inside))}")
            return value
        if origin in (list, tuple):
            return self._items(origin, inside, value, path)
        if origin is dict:
            if not isinstance(value, Mapping):
                raise Wrong(f"is {value!r}; it has to be a mapping")
            return dict(value)
        return scalar(hint, value)

    def _items(self, origin: Any, inside: tuple[Any, ...], value: Any, path: str) -> Any:
        if not isinstance(value, list | tuple):
            raise Wrong(f"is {value!r}; it has to be a list")
        if origin is list:
            return [self._value(inside[0], item, path) for item in value]
        if len(value) != len(inside):
            raise Wrong(f"has {len(value)} values; it has to have {len(inside)}")
        return tuple(self._value(hint, item, path) for hint, item in zip(inside, value, strict=True))


def _below(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _unknown(key: object, known: list[str]) -> str:
    near = difflib.get_close_matches(str(key), known, 1)
    return (
        f"is no field; is {near[0]} meant?"
        if near
        else f"is no field; there are {', '.join(known)}; what is yours goes into custom_params"
    )


def _needed(kind: Any) -> list[str]:
    """The fields without a default."""
    missing = dataclasses.MISSING
    return [each.name for each in dataclasses.fields(kind) if each.default is missing is each.default_factory]
