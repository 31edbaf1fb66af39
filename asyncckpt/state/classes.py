"""Classes: Enum members, named tuples and dataclasses, held by the name of their class.

Names come out of checkpoints, so looking one up must not run code. A module is only looked for among those
already imported, attributes are read from its namespace and never computed, and only a class of the expected
kind is taken. Values are then put together without calling the class: neither ``__init__`` nor
``__post_init__`` runs, which is also what brings fields back exactly that the class derives or normalises.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from enum import Enum
from inspect import getattr_static
from types import ModuleType
from typing import Any

from asyncckpt.errors import IncompatibleState


def enum_parts(value: Enum) -> tuple[str, str]:
    """The names of the member's class and of the member; raises ValueError for what cannot be found again."""
    if type(value).__members__.get(value.name) is not value:
        raise ValueError("a combination of members, which has no name of its own")
    return _name_of(type(value)), value.name


def make_enum(name: str, member: str) -> Enum:
    """The member of that name."""
    members = _find(name, Enum).__members__
    if member not in members:
        raise IncompatibleState(f"{name} has no member {member!r} any more")
    found: Enum = members[member]
    return found


def is_namedtuple(kind: type) -> bool:
    """Whether `kind` was made by ``namedtuple`` or ``NamedTuple``."""
    named = issubclass(kind, tuple) and isinstance(getattr_static(kind, "_fields", None), tuple)
    return named and not _is_finalised(kind)


def namedtuple_parts(value: Any) -> tuple[str, dict[str, object]]:
    """The class's name and the fields; raises ValueError for what could not be put together again."""
    if extra := _attributes(value):
        raise ValueError(f"it has an attribute besides its fields: {extra}")
    return _name_of(type(value)), dict(zip(value._fields, value, strict=True))


def make_namedtuple(name: str, values: Sequence[object]) -> object:
    """The named tuple of that class, which must still have as many fields."""
    kind = _find(name, tuple)
    if not is_namedtuple(kind):
        raise IncompatibleState(f"{name} is not a named tuple")
    if len(kind._fields) != len(values):
        raise IncompatibleState(f"{name} had {len(values)} fields and has {len(kind._fields)} now")
    return tuple.__new__(kind, values)


def dataclass_parts(value: Any) -> tuple[str, dict[str, object]]:
    """The class's name and the fields; raises ValueError for what could not be put together again."""
    kind = type(value)
    name = _name_of(kind)
    if not _is_plain(kind):
        raise ValueError("it is more than its fields: it, or a base of it, has slots, __new__ or __del__")
    names = [field.name for field in dataclasses.fields(value)]
    if unset := [name for name in names if not hasattr(value, name)]:
        raise ValueError(f"its field {unset[0]} has no value")
    if extra := [name for name in _attributes(value) if name not in names and not _is_cache(kind, name)]:
        raise ValueError(f"it has an attribute that is no field: {extra[0]}")
    return name, {name: getattr(value, name) for name in names}


def make_dataclass(name: str, values: Mapping[str, object]) -> object:
    """The dataclass with those fields; one that is new in the class since gets its plain default."""
    kind: type = _find(name, object)
    if not dataclasses.is_dataclass(kind) or not _is_plain(kind):
        raise IncompatibleState(f"{name} is not a plain dataclass")
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    if gone := values.keys() - fields.keys():
        raise IncompatibleState(f"{name} has no field {min(gone)!r} any more")
    complete = fields | dict(values)
    if new := [field for field, value in complete.items() if value is dataclasses.MISSING]:
        raise IncompatibleState(f"{name} has a field {new[0]!r} now that the checkpoint does not give a value")
    return _assemble(kind, complete)


def _assemble(kind: type, fields: Mapping[str, object]) -> object:
    made: object = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)  # frozen classes refuse the ordinary way
    return made


def _is_plain(kind: type) -> bool:
    slotted = (base for base in kind.__mro__ if vars(base).get("__slots__"))
    made_plainly = getattr_static(kind, "__new__") is vars(object)["__new__"]
    whole = all("__dataclass_fields__" in vars(base) for base in slotted)
    return made_plainly and whole and not _is_finalised(kind)


def _is_finalised(kind: type) -> bool:
    # A finaliser is code that would run in the end, on whatever a checkpoint says the fields are.
    return getattr_static(kind, "__del__", None) is not None


def _is_cache(kind: type, name: str) -> bool:
    return isinstance(getattr_static(kind, name, None), functools.cached_property)


def _attributes(value: object) -> list[str]:
    return list(getattr(value, "__dict__", ()))


def _name_of(kind: type) -> str:
    name = f"{kind.__module__}:{kind.__qualname__}"
    try:
        found = _find(name, object)
    except IncompatibleState:
        found = None
    if found is not kind:
        raise ValueError(f"its class cannot be found as {name}: define it at the top of a module")
    return name


def _find(name: str, base: type) -> Any:
    module_name, _, qualname = name.partition(":")
    found: object = sys.modules.get(module_name)
    if not isinstance(found, ModuleType):
        raise IncompatibleState(f"the checkpoint holds a {name}: import {module_name} before loading")
    # Not getattr() and not vars(): modules that load their parts lazily run code there.
    scope: Mapping[str, object] = object.__getattribute__(found, "__dict__")
    for part in qualname.split("."):
        found = scope.get(part)
        if not isinstance(found, type):
            raise IncompatibleState(f"the checkpoint holds a {name}, and {module_name} has no such class")
        scope = vars(found)
    if not isinstance(found, type) or not issubclass(found, base):
        raise IncompatibleState(f"the checkpoint holds a {name}, which is no {base.__name__} here")
    return found
