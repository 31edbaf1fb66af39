"""Contents: what one checkpoint holds, as its manifest tells it: tensors, components, values."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from asyncckpt.format.contents import Path
from asyncckpt.format.manifest import Manifest
from asyncckpt.format.tagged import SHARED
from asyncckpt.inspection.values import Value, values


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor, or an alias: another name for bytes of the tensor at `alias_of`, which take no room again."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    alias_of: Path | None = None

    @property
    def name(self) -> str:
        """Its path joined by dots, as packs name it and globs match it."""
        return ".".join(self.path)

    def json(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "bytes": self.nbytes,
            "alias_of": ".".join(self.alias_of) if self.alias_of else None,
        }


@dataclass(frozen=True, slots=True)
class Component:
    """What was given to the checkpointer under one name, or is a rank's own: how much of it there is."""

    name: str
    tensors: int
    nbytes: int
    values: int

    def json(self) -> dict[str, Any]:
        """As one JSON object."""
        return {"name": self.name, "tensors": self.tensors, "bytes": self.nbytes, "values": self.values}


@dataclass(frozen=True, slots=True)
class Contents:
    """A manifest, for people."""

    manifest: Manifest

    def tensors(self, glob: str = "*") -> list[Tensor]:
        """The tensors and aliases whose dotted path matches, sorted by path."""
        contents = self.manifest.contents
        stored = [Tensor(path, t.dtype, t.shape, t.nbytes) for path, t in contents.tensors.items()]
        aliases = [Tensor(path, a.dtype, a.shape, 0, a.of) for path, a in contents.aliases.items()]
        return sorted((t for t in stored + aliases if fnmatchcase(t.name, glob)), key=lambda t: t.path)

    def values(self) -> list[Value]:
        """Everything that is no tensor."""
        return list(values(self.manifest.contents.values))

    def components(self) -> list[Component]:
        """Its components, sorted by name."""
        tensors: Counter[str] = Counter()
        nbytes: Counter[str] = Counter()
        for tensor in self.tensors():
            tensors[name := self._component(tensor.path)] += 1
            nbytes[name] += tensor.nbytes
        others = Counter(self._component(value.path) for value in self.values())
        return [Component(name, tensors[name], nbytes[name], others[name]) for name in sorted(tensors | others)]

    def _component(self, path: Path) -> str:
        of_one_rank = path[0] != SHARED and path[0] in self.manifest.contents.values
        return ".".join(path[: 2 if of_one_rank else 1])
