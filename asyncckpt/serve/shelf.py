"""Shelf: the runs in a root, by the names that pages have for them.

Nothing that a browser asks for is ever put together to a path: a name is one of those that were found in the root.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.errors import CheckpointNotFoundError
from asyncckpt.format.manifest import Manifest
from asyncckpt.format.record import Checkpoint
from asyncckpt.inspection.following import unless_removed
from asyncckpt.report import Gathered, Gathering
from asyncckpt.report.runs import runs_below
from asyncckpt.serve.fresh import Fresh, Known
from asyncckpt.serve.reader import Reader, StoreSlow
from asyncckpt.serve.view import View
from asyncckpt.storage import from_url
from asyncckpt.storage.base import Opening
from asyncckpt.storage.bounded import bounded_reading

NEAR, FAR = 1.0, 15.0
"""Seconds for which what was read counts as new: of a folder, and of a store over a network."""
_PARTING = 3.0
"""Seconds that a storage has to be closed in."""
_AHEAD = 100
"""Runs that are looked at before anybody asks."""
_MANIFESTS = 8
"""Of checkpoints, that are kept: one of 20,000 tensors takes a while to read."""


class NoSuchRun(CheckpointNotFoundError):
    """A page asked for a run that the root does not have."""


class Volume:
    """One run: its storage, what is known of it, and what its checkpoints hold."""

    def __init__(self, name: str, root: str, reader: Reader) -> None:
        self._name = name
        self._reader = reader
        self._storage = bounded_reading(from_url(root))
        self._gathering = Gathering(self._storage)
        self._manifests: OrderedDict[str, Manifest] = OrderedDict()
        self._view: View | None = None
        self.pause = NEAR if isinstance(self._storage, Opening) else FAR
        self.fresh = Fresh(f"the store of {name}", reader, self._look, self.pause)

    async def _look(self) -> View:
        found: Gathered = await self._gathering.look()
        if self._view is None or self._view.run is not found:
            self._view = View(self._name, found)
        return self._view

    def manifest(self, checkpoint: Checkpoint) -> Manifest:
        """What `checkpoint` holds. Raises as `Catalog.manifest` does; `CheckpointNotFoundError` once it is removed."""
        return self._reader.answer(self._read(checkpoint))

    async def _read(self, checkpoint: Checkpoint) -> Manifest:
        digest = checkpoint.manifest.digest
        if digest not in self._manifests:
            catalog: Catalog = self._gathering.catalog
            async with unless_removed(catalog, checkpoint):
                self._manifests[digest] = await catalog.manifest(checkpoint)
            while len(self._manifests) > _MANIFESTS:
                self._manifests.popitem(last=False)
        self._manifests.move_to_end(digest)
        return self._manifests[digest]

    async def aclose(self) -> None:
        """Let go of the storage."""
        await self._storage.aclose()


class Shelf:
    """The runs in `root`, which is one itself or has them right below it."""

    def __init__(self, root: str, reader: Reader) -> None:
        self.root = root
        self._reader = reader
        self._volumes: dict[str, Volume] = {}
        self._runs: Fresh[Mapping[str, str]] = Fresh(f"the store of {root}", reader, self._found, FAR)

    async def _found(self) -> Mapping[str, str]:
        return {_called(root): root for root in await runs_below(self.root)}

    def runs(self) -> Known[Mapping[str, str]]:
        """The roots of the runs, by name. Raises as `runs_in` does, and `StoreSlow`."""
        return self._runs.now()

    def begin(self) -> None:
        """Look at what there is before anybody asks. Raises as `runs` does."""
        for name in list(self.runs().value)[:_AHEAD]:
            self.volume(name).fresh.ahead()

    @property
    def is_one(self) -> bool:
        """Whether the root is a run itself."""
        return list(self.runs().value.values()) == [self.root]

    def volume(self, name: str) -> Volume:
        """The run called that; raises `NoSuchRun`."""
        root = self.runs().value.get(name)
        if root is None:
            raise NoSuchRun(f"there is no run called {name} here")
        if name not in self._volumes:
            self._volumes.setdefault(name, Volume(name, root, self._reader))
        return self._volumes[name]

    def close(self) -> None:
        """Let go of all storages that answer."""
        for volume in self._volumes.values():
            with suppress(StoreSlow):
                self._reader.answer(volume.aclose(), _PARTING)


def _called(root: str) -> str:
    return root.rstrip("/").rpartition("/")[2] or Path(root).resolve().name or root
