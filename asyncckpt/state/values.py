"""Values: any nested state as JSON with explicit tags, tensors aside. Lossless, and never a pickle.

In the JSON, null, booleans, strings, integers below 2**53 and lists stand for themselves. So do dicts whose
keys are strings in sorted order (canonical JSON sorts them), none of which begins with ``$``. Everything else
is an object with one key, its tag: ``{"$float": "0.1"}``, ``{"$tuple": [1, 2]}``,
``{"$dict": [[key, value], ...]}``. A tensor is ``{"$tensor": path}``; where its bytes lie is not said here.

Path of a tensor: the path given to `encode`, then one component for each container on the way to it. A string
key is its own component; an item of a list or tuple gives its index; a field gives its name; any other key
gives its JSON, so the integer 0 gives ``0``. Where that is a component of the same dict already, ``#`` is
appended until it is not: of the keys ``"1"`` and ``1``, the integer gives ``1#``.

Values are copied: two references to one list come back as two lists. Types are matched exactly, since a
subclass would come back as less than it was; tensors alone are all alike, a Parameter is one. Classes are found
by name, as `asyncckpt.state.classes` says.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from reprlib import repr as brief
from typing import Any, Final, TypeAlias, TypeVar

import torch

from asyncckpt.errors import AsyncCkptError, CheckpointCorruptError, UnsupportedFormat, UnsupportedState
from asyncckpt.format.contents import Path
from asyncckpt.format.sealed import Json, canonical
from asyncckpt.state import classes, leaves

_T = TypeVar("_T")

TensorSink: TypeAlias = Callable[[Path, torch.Tensor], object]
"""Given each tensor with its path. A numpy array's tensor shares its memory: copy it before the array changes."""

TensorSource: TypeAlias = Callable[[Path], object]
"""Gives the tensor of a path back, or what shall stand in its place."""

MAX_DEPTH: Final = 64
"""Containers within containers; JSON nests up to three levels for each, and readers stop at a thousand."""

_FACTORIES: Final[dict[str, Callable[[], object] | None]] = {
    "None": None,
    **{kind.__name__: kind for kind in (bool, int, float, str, list, tuple, dict, set)},
}


def encode(value: object, path: Path, tensors: TensorSink) -> Json:
    """`value` as JSON that `decode` turns back into an equal value of the same types.

    Every tensor in it is given to `tensors`. Raises `UnsupportedState`, naming where in the state, for what
    cannot be held, for cycles, and for more than `MAX_DEPTH` levels.
    """
    return _Encoder(tensors).value(value, path)


def decode(data: Json, tensors: TensorSource) -> object:
    """The value that `encode` was given; `tensors` gives the tensor of each path.

    Runs no code that `data` names, and imports nothing. Raises `UnsupportedFormat` for a tag of a newer
    version, `IncompatibleState` for a class or device that this process does not have, and
    `CheckpointCorruptError` for what `encode` never wrote.
    """
    return _Decoder(tensors).value(data, 0)


def readable(path: Path) -> str:
    """`path` as people write it: ``optimizer.state[0].foo``."""
    text = "".join(map(_component, path))
    return text.removeprefix(".") or "the state"


def is_text(name: str) -> bool:
    """Whether `name` may lead to a tensor: files of tensors have names in Unicode, which has no lone surrogates."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


def _component(name: str) -> str:
    if name.isdecimal():
        return f"[{name}]"
    return f".{name}" if name.replace(".", "").isidentifier() else f"[{name!r}]"


# -- out ---------------------------------------------------------------------------------------------------


class _Encoder:
    def __init__(self, tensors: TensorSink) -> None:
        self._tensors = tensors
        self._inside: set[int] = set()

    def value(self, value: Any, path: Path) -> Json:
        kind = type(value)
        if kind in _PLAIN:
            plain: Json = value
            return plain
        if kind is int:
            return leaves.integer(value)
        if isinstance(value, torch.Tensor):
            return self._tensor(value, path)
        if leaf := leaves.LEAVES.get(kind):
            return {leaf.tag: _held(leaf.dump, value, path)}
        if container := _CONTAINERS.get(kind):
            return self._nested(container, value, path)
        return self._of_a_family(value, path)

    def _of_a_family(self, value: Any, path: Path) -> Json:
        if isinstance(value, Enum):
            return {"$enum": list(_held(classes.enum_parts, value, path))}
        if leaves.is_numpy_scalar(value):
            return {"$numpy": _held(leaves.dump_numpy_scalar, value, path)}
        if leaves.is_numpy_array(value):
            return self._array(value, path)
        if classes.is_namedtuple(type(value)):
            return self._nested(_Encoder._namedtuple, value, path)
        if is_dataclass(value) and not isinstance(value, type):
            return self._nested(_Encoder._dataclass, value, path)
        raise _refusal(path, value)

    def _tensor(self, tensor: torch.Tensor, path: Path) -> Json:
        if not all(map(is_text, path)):
            raise _refusal(path, tensor, "a name on the way to it has a lone surrogate, which is no text: rename it")
        self._tensors(path, tensor)
        return {"$tensor": list(path)}

    def _array(self, array: Any, path: Path) -> Json:
        tensor = _held(leaves.numpy_as_tensor, array, path)
        if tensor is None:
            return {"$array": leaves.dump_numpy_array(array)}
        return {"$array": self._tensor(tensor, path)}

    def _nested(self, encode: Callable[[_Encoder, Any, Path], Json], value: object, path: Path) -> Json:
        if id(value) in self._inside:
            raise _refusal(path, value, "it contains itself")
        if len(self._inside) == MAX_DEPTH:
            raise _refusal(path, value, f"it lies more than {MAX_DEPTH} levels deep")
        self._inside.add(id(value))
        try:
            return encode(self, value, path)
        finally:
            self._inside.remove(id(value))

    def _items(self, items: Collection[object], path: Path) -> list[Json]:
        if leaves.are_plain_integers(items):
            return list(items)
        return [self.value(item, (*path, str(index))) for index, item in enumerate(items)]

    def _tuple(self, value: tuple[object, ...], path: Path) -> Json:
        return {"$tuple": self._items(value, path)}

    def _deque(self, value: deque[object], path: Path) -> Json:
        return {"$deque": [self._items(value, path), value.maxlen]}

    def _set(self, value: Iterable[object], path: Path) -> Json:
        # Sorted: the order of a set differs between processes, and equal states shall be equal bytes.
        elements = sorted((self._key(element, path) for element in value), key=canonical)
        return {f"${type(value).__name__}": elements}

    def _dict(self, value: dict[object, object], path: Path) -> Json:
        pairs = self._pairs(value, path)
        plain = {key: item for key, item in pairs if isinstance(key, str) and not key.startswith("$")}
        return plain if len(plain) == len(pairs) and list(plain) == sorted(plain) else {"$dict": _lists(pairs)}

    def _ordered(self, value: OrderedDict[object, object], path: Path) -> Json:
        # Module.state_dict() hangs the modules' versions on its OrderedDict, and load_state_dict() asks for them.
        if other := vars(value).keys() - {"_metadata"}:
            raise _refusal(path, value, f"it has an attribute: {min(other)}")
        metadata = self.value(getattr(value, "_metadata", None), (*path, _free("_metadata", value)))
        return {"$odict": [_lists(self._pairs(value, path)), metadata]}

    def _counter(self, value: Counter[object], path: Path) -> Json:
        return {"$counter": _lists(self._pairs(value, path))}

    def _defaulting(self, value: defaultdict[object, object], path: Path) -> Json:
        for name, factory in _FACTORIES.items():
            if value.default_factory is factory:
                return {"$defaultdict": [name, _lists(self._pairs(value, path))]}
        raise _refusal(path, value, "its default is made by code")

    def _pairs(self, value: Mapping[Any, object], path: Path) -> list[tuple[Json, Json]]:
        keys = [key if type(key) is str else self._key(key, path) for key in value]
        return [
            (key, self.value(item, (*path, component)))
            for key, component, item in zip(keys, _components(keys), value.values(), strict=True)
        ]

    def _key(self, key: object, path: Path) -> Json:
        data = self.value(key, path)
        if not _is_key(key):
            raise _refusal(path, key, "it is a key or an element of a set")
        return data

    def _namedtuple(self, value: object, path: Path) -> Json:
        name, fields = _held(classes.namedtuple_parts, value, path)
        return {"$namedtuple": [name, [self.value(item, (*path, field)) for field, item in fields.items()]]}

    def _dataclass(self, value: object, path: Path) -> Json:
        name, fields = _held(classes.dataclass_parts, value, path)
        return {"$dataclass": [name, {field: self.value(v, (*path, field)) for field, v in fields.items()}]}


_PLAIN: Final = frozenset({type(None), bool, str})

_CONTAINERS: Final[dict[type, Callable[[_Encoder, Any, Path], Json]]] = {
    dict: _Encoder._dict,
    list: _Encoder._items,
    tuple: _Encoder._tuple,
    set: _Encoder._set,
    frozenset: _Encoder._set,
    deque: _Encoder._deque,
    OrderedDict: _Encoder._ordered,
    defaultdict: _Encoder._defaulting,
    Counter: _Encoder._counter,
}


def _lists(pairs: Iterable[tuple[Json, Json]]) -> list[Json]:
    return [list(pair) for pair in pairs]


def _components(keys: Sequence[Json]) -> Iterator[str]:
    taken = {key for key in keys if isinstance(key, str)}
    for key in keys:
        component = key if isinstance(key, str) else _free(canonical(key).decode(), taken)
        taken.add(component)
        yield component


def _free(name: str, taken: Container[object]) -> str:
    while name in taken:
        name += "#"
    return name


def _is_key(value: object) -> bool:
    """Whether `value` can be put into a dict again without running code of a class of the user's."""
    if isinstance(value, tuple | frozenset):
        return all(map(_is_key, value))
    kind = type(value)
    simple = kind in _PLAIN or kind is int or kind in leaves.LEAVES
    return kind is not bytearray and (simple or isinstance(value, Enum) or leaves.is_numpy_scalar(value))


def _held(dump: Callable[[Any], _T], value: object, path: Path) -> _T:
    try:
        return dump(value)
    except ValueError as reason:
        raise _refusal(path, value, str(reason)) from None


def _refusal(path: Path, value: object, reason: str = "") -> UnsupportedState:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return UnsupportedState(
        f"{readable(path)}: cannot hold a value of type {name}{reason and f' ({reason})'}. Hand over its "
        "state_dict(), convert it to a plain value, or leave it out of what is saved"
    )


# -- in ----------------------------------------------------------------------------------------------------


class _Decoder:
    def __init__(self, tensors: TensorSource) -> None:
        self._tensors = tensors

    def value(self, data: Any, depth: int) -> Any:
        if type(data) is int or type(data) in _PLAIN:
            return data
        if depth > MAX_DEPTH:
            raise CheckpointCorruptError(f"a value lies more than {MAX_DEPTH} levels deep")
        if isinstance(data, list):
            return self._items(data, depth + 1)
        if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
            raise _malformed(data)
        if not any(name.startswith("$") for name in data):
            return self._fields(data, depth + 1)
        if len(data) != 1:
            raise _malformed(data)
        ((tag, content),) = data.items()
        return self._tagged(tag, content, depth + 1)

    def _tagged(self, tag: str, content: Any, depth: int) -> object:
        if load := _LOADERS.get(tag):
            return _made(load, content)
        if build := _BUILDERS.get(tag):
            return build(self, content, depth)
        raise UnsupportedFormat(f"the checkpoint holds a value tagged {tag!r}: upgrade asyncckpt")

    def _tensor(self, path: Any, _depth: int) -> object:
        if not all(isinstance(name, str) for name in _list(path)):
            raise _malformed(path)
        return self._tensors(tuple(path))

    def _array(self, content: Any, depth: int) -> object:
        if not isinstance(content, dict):
            return _made(leaves.load_numpy_array, content)
        if content.keys() != {"$tensor"}:
            raise _malformed(content)
        tensor = self._tensor(content["$tensor"], depth)
        return _made(leaves.tensor_as_numpy, tensor) if isinstance(tensor, torch.Tensor) else tensor

    def _items(self, content: Any, depth: int) -> list[Any]:
        return [self.value(item, depth) for item in _list(content)]

    def _fields(self, content: Any, depth: int) -> dict[str, Any]:
        if not isinstance(content, dict):
            raise _malformed(content)
        return {name: self.value(item, depth) for name, item in content.items()}

    def _tuple(self, content: Any, depth: int) -> object:
        return tuple(self._items(content, depth))

    def _deque(self, content: Any, depth: int) -> object:
        items, maxlen = _list(content, 2)
        return _made(lambda items: deque(items, maxlen), self._items(items, depth))

    def _set(self, content: Any, depth: int) -> set[object]:
        return set(self._unique(self._items(content, depth), content))

    def _frozenset(self, content: Any, depth: int) -> object:
        return frozenset(self._set(content, depth))

    def _dict(self, content: Any, depth: int) -> dict[Any, Any]:
        pairs = [_list(pair, 2) for pair in _list(content)]
        keys = self._unique(self._items([key for key, _ in pairs], depth), content)
        return dict(zip(keys, self._items([item for _, item in pairs], depth), strict=True))

    def _unique(self, keys: list[object], content: Any) -> list[object]:
        # Anything else could run a class's own __hash__ and __eq__, or has none.
        if not all(map(_is_key, keys)) or len(set(keys)) != len(keys):
            raise _malformed(content)
        return keys

    def _ordered(self, content: Any, depth: int) -> object:
        pairs, metadata = _list(content, 2)
        made = OrderedDict(self._dict(pairs, depth))
        if metadata is not None:
            vars(made)["_metadata"] = self.value(metadata, depth)
        return made

    def _counter(self, content: Any, depth: int) -> object:
        return Counter(self._dict(content, depth))

    def _defaulting(self, content: Any, depth: int) -> object:
        name, pairs = _list(content, 2)
        return defaultdict(_made(_FACTORIES.__getitem__, name), self._dict(pairs, depth))

    def _namedtuple(self, content: Any, depth: int) -> object:
        name, items = _list(content, 2)
        return _made(partial(classes.make_namedtuple, name), self._items(items, depth))

    def _dataclass(self, content: Any, depth: int) -> object:
        name, fields = _list(content, 2)
        return _made(partial(classes.make_dataclass, name), self._fields(fields, depth))


_LOADERS: Final[dict[str, Callable[[Any], object]]] = {
    **leaves.LOADERS,
    "$enum": lambda content: classes.make_enum(*content),
}

_BUILDERS: Final[dict[str, Callable[[_Decoder, Any, int], object]]] = {
    "$tensor": _Decoder._tensor,
    "$array": _Decoder._array,
    "$tuple": _Decoder._tuple,
    "$deque": _Decoder._deque,
    "$set": _Decoder._set,
    "$frozenset": _Decoder._frozenset,
    "$dict": _Decoder._dict,
    "$odict": _Decoder._ordered,
    "$counter": _Decoder._counter,
    "$defaultdict": _Decoder._defaulting,
    "$namedtuple": _Decoder._namedtuple,
    "$dataclass": _Decoder._dataclass,
}


def _list(content: Any, length: int | None = None) -> list[Any]:
    if not isinstance(content, list) or (length is not None and len(content) != length):
        raise _malformed(content)
    return content


def _made(make: Callable[[Any], _T], content: Any) -> _T:
    try:
        return make(content)
    except AsyncCkptError:
        raise
    except Exception as error:  # whatever a constructor raises at content from outside means the same
        raise _malformed(content) from error


def _malformed(content: object) -> CheckpointCorruptError:
    return CheckpointCorruptError(f"the checkpoint holds a value that was never written so: {brief(content)}")
