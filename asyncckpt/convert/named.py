"""Named: the tensors that leave a checkpoint, by the names that they get, and which bytes make each of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from asyncckpt.errors import IncompatibleState, UnsupportedFormat
from asyncckpt.format.contents import Alias, Contents, Path
from asyncckpt.format.elements import NAMES, width
from asyncckpt.format.parts import below, plain
from asyncckpt.format.sealed import Json
from asyncckpt.format.shard import unique_names
from asyncckpt.format.tagged import SHARED, parts, tagged

FIRST_RANK = "rank-0"
"""The scope of what is rank 0's alone, of a job of several: it is exported, the others' is not."""


@dataclass(frozen=True, slots=True)
class Named:
    """One tensor; its bytes are among those of the stored one at `path`, from byte `offset` on."""

    name: str
    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int = 0
    stride: tuple[int, ...] | None = None
    """In elements, where it is no row-major part of those bytes."""
    tied_to: str | None = None
    """The name of an earlier one that is the same bytes in the same shape."""

    @property
    def count(self) -> int:
        """Of its elements."""
        return elements(self.shape)

    @property
    def nbytes(self) -> int:
        """Of it when it is row-major."""
        return self.count * width(self.dtype)


def named(contents: Contents, only: Collection[str], step: int) -> list[Named]:
    """The tensors of the parts `only`, in the state's own order; names begin below the part where it is only one.

    Raises `IncompatibleState` for a part without tensors, and `UnsupportedFormat` for a dtype of a newer version.
    """
    paths = [path for path in _in_order(contents) if _is_exported(contents, path)]
    for part in only:
        if not any(below(plain(path), [part]) for path in paths):
            there = ", ".join(dict.fromkeys(plain(path)[0] for path in paths)) or "none"
            raise IncompatibleState(f"the checkpoint of step {step} has no tensors in {part!r}; of these: {there}")
    chosen = [path for path in paths if below(plain(path), only)]
    return list(_tied(_found(contents, chosen, _names(chosen, only))))


def _is_exported(contents: Contents, path: Path) -> bool:
    foreign = path[0] in contents.values and path[0] not in (SHARED, FIRST_RANK)
    return not foreign and (path in contents.tensors or path in contents.aliases)


def _in_order(contents: Contents) -> Iterator[Path]:
    """Every tensor as the state has them: of two that are tied, models name first which the other is tied to."""
    known = contents.tensors.keys() | contents.aliases.keys()
    seen: set[Path] = set()
    for scope in contents.values.values():
        for path in _tensors_in(scope):
            if path in known and path not in seen:
                seen.add(path)
                yield path


def _tensors_in(data: Json) -> Iterator[Path]:
    tag, content = tagged(data)
    if tag == "$tensor":
        yield tuple(content)
    elif tag == "$array" and isinstance(content, dict):
        yield tuple(content["$tensor"])
    else:
        for _, item in parts(tag, content) or ():
            yield from _tensors_in(item)


def _names(paths: Iterable[Path], only: Collection[str]) -> dict[Path, str]:
    above = 0
    if len(only) == 1:
        (part,) = only
        above = len(part.split("."))
    return unique_names({path: _below(plain(path), above) for path in paths})


def _below(path: Path, above: int) -> str:
    """`path` without the names of the part it is in, which may end amid a name with dots in it."""
    return ".".join(path).split(".", above)[-1]


def _found(contents: Contents, paths: Iterable[Path], names: Mapping[Path, str]) -> Iterator[Named]:
    for path in paths:
        if (alias := contents.aliases.get(path)) is not None:
            dtype, shape = alias.dtype, alias.shape
            found = Named(names[path], alias.of, dtype, shape, alias.offset, _own_stride(alias))
        else:
            entry = contents.tensors[path]
            dtype, found = entry.dtype, Named(names[path], path, entry.dtype, entry.shape)
        if dtype not in NAMES:
            raise UnsupportedFormat(f"{'.'.join(path)} is of dtype {dtype!r}: upgrade asyncckpt")
        yield found


def _own_stride(alias: Alias) -> tuple[int, ...] | None:
    # What has one element or none in a dimension lies the same with any stride there.
    plain_ones = zip(row_major(alias.shape), alias.stride, alias.shape, strict=True)
    return None if all(size < 2 or mine == its for mine, its, size in plain_ones) else alias.stride


def _tied(found: Iterable[Named]) -> Iterator[Named]:
    first: dict[Named, str] = {}
    for one in found:
        same = replace(one, name="")
        tied = first.setdefault(same, one.name)
        yield one if tied == one.name or not one.nbytes else replace(one, tied_to=tied)


def elements(shape: Iterable[int]) -> int:
    """Of a tensor of that shape."""
    count = 1
    for size in shape:
        count *= size
    return count


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in elements, of a tensor of that shape whose last index varies fastest."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))
