"""Capture: a whole state at one step: tensors that stay, tensors handed out for this save, and values.

What was learnt about structure is kept as long as nothing it rests on has changed: the same tensor objects at
the same addresses in the same order, and volatile tensors of the same names and forms. Values are read at every save.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor

from asyncckpt.format.contents import Path
from asyncckpt.format.sealed import Json
from asyncckpt.state.stateful import Component, Scan

Tree: TypeAlias = Component | Sequence["Tree"] | Mapping[str, "Tree"]
"""Components by name, as the user gave them: one, several, or named ones."""


@dataclass(frozen=True, slots=True)
class Source:
    """A live tensor of the state.

    LAZY ones may be copied while training goes on. Volatile ones are handed out anew for every save (by a
    ``state_dict()``), and never share bytes with others that stay; LAZY ones among them are kept until they are copied.
    """

    path: Path
    tensor: Tensor
    lazy: bool = False
    volatile: bool = False


@dataclass(frozen=True, slots=True)
class Captured:
    """A state at one step. `sources` is the same list for as long as the structure stays the same."""

    sources: Sequence[Source]
    volatile: Mapping[Path, Tensor]
    values: Mapping[str, Json]


class Capture:
    """Reads the state of `trees` (by scope: what ranks share, and each rank's own) at every save.

    `lazy` gives the ids of the tensors that may be copied while training goes on; it is asked at each scan. The same
    holds for everything that the components at the paths `guarded` hand out.
    """

    def __init__(
        self,
        trees: Mapping[str, Mapping[str, Tree]],
        lazy: Callable[[], Collection[int]],
        guarded: Collection[Path] = (),
    ) -> None:
        self._trees = trees
        self._lazy = lazy
        self._guarded = guarded
        self._components = [c for tree in trees.values() for c in components(tree)]
        self._scans: list[Scan] = []
        self._is_known = False
        self._tensors: list[Tensor] = []
        self._known: list[tuple[int, int, tuple[int, ...]]] = []
        self._sources: list[Source] = []
        self._forms: list[Any] | None = None
        self._all: list[Source] = []

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of what is saved, in the order of restoring."""
        return tuple(dict.fromkeys(name for tree in self._trees.values() for name in tree))

    def only(self, parts: Collection[str]) -> Capture:
        """One that reads these parts and no others."""
        trees = {scope: {n: t for n, t in tree.items() if n in parts} for scope, tree in self._trees.items()}
        return Capture(trees, self._lazy, self._guarded)

    def read(self) -> Captured:
        """The state now; raises `UnsupportedState` naming the path of what cannot be held."""
        if not self._unchanged():
            self._scan()
        volatile: dict[Path, Tensor] = {}
        found = {
            c.path: c.values(s.skeleton, volatile.__setitem__)
            for c, s in zip(self._components, self._scans, strict=True)
        }
        values = {scope: _assemble(tree, found) for scope, tree in self._trees.items()}
        return Captured(self._with(volatile), volatile, values)

    def _unchanged(self) -> bool:
        return (
            self._is_known
            and all(_same(c.tokens(), s.tokens) for c, s in zip(self._components, self._scans, strict=True))
            and all(map(operator.eq, _memory(self._tensors), self._known))
        )

    def _scan(self) -> None:
        self._is_known = False  # first: a scan that is cut short must not be taken for a whole one
        self._scans = [c.scan() for c in self._components]
        lazy = self._lazy()
        self._sources = [
            Source(path, tensor, lazy=id(tensor) in lazy)
            for scan in self._scans
            for path, tensor in scan.tensors.items()
        ]
        self._tensors = [source.tensor for source in self._sources]
        self._forms = None
        with suppress(RuntimeError, ValueError):  # without an address (sparse, sharded): the layout refuses it, by name
            self._known = list(_memory(self._tensors))
            self._is_known = True

    def _with(self, volatile: Mapping[Path, Tensor]) -> list[Source]:
        forms = _forms(volatile)
        if forms != self._forms:
            handed_out = [Source(p, t, lazy=self._is_guarded(p), volatile=True) for p, t in volatile.items()]
            self._all, self._forms = [*self._sources, *handed_out], forms
        return self._all

    def _is_guarded(self, path: Path) -> bool:
        return any(path[:length] in self._guarded for length in range(len(path)))


def components(tree: Mapping[str, Tree]) -> Iterable[Component]:
    """Every component of a tree, in order."""
    for branch in tree.values():
        yield from _leaves(branch)


def _leaves(tree: Tree) -> Iterable[Component]:
    if isinstance(tree, Mapping):
        yield from components(tree)
    elif isinstance(tree, Sequence):
        for branch in tree:
            yield from _leaves(branch)
    else:
        yield tree


def _assemble(tree: Tree, found: Mapping[Path, Json]) -> Json:
    """The JSON of a whole tree, in the encoding of `asyncckpt.state.values`."""
    if isinstance(tree, Mapping):
        return {"$dict": [[name, _assemble(branch, found)] for name, branch in tree.items()]}
    if isinstance(tree, Sequence):
        return [_assemble(branch, found) for branch in tree]
    return found[tree.path]


def _memory(tensors: Sequence[Tensor]) -> Iterable[tuple[int, int, tuple[int, ...]]]:
    """Of each its address, its length and its strides: `parameter.data = parameter.data.t()` moves nothing.

    One tensor after the other: at many small ones it is the visit of each that takes the time, not what it is asked.
    """
    return zip(map(Tensor.data_ptr, tensors), map(Tensor.numel, tensors), map(Tensor.stride, tensors), strict=True)


def _same(now: Iterable[object], before: list[object]) -> bool:
    current = list(now)
    return len(current) == len(before) and all(map(operator.is_, current, before))


def _forms(volatile: Mapping[Path, Tensor]) -> list[Any]:
    """What the plan knows of volatile tensors: names and forms, and which of them share memory."""
    seen: dict[int, int] = {}
    return [_form(path, tensor, seen) for path, tensor in volatile.items()]


def _form(path: Path, tensor: Tensor, seen: dict[int, int]) -> object:
    try:
        return (
            path,
            tensor.dtype,
            tensor.shape,
            tensor.stride(),
            tensor.storage_offset(),
            tensor.is_conj(),
            tensor.is_neg(),
            seen.setdefault(tensor.untyped_storage().data_ptr(), len(seen)),
        )
    except (RuntimeError, ValueError):
        return object()  # like nothing before, so that a new layout is made, which refuses it by name
