"""References: which checkpoint a W&B artifact shall point at, as the catalog lists it. Reads only."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.format.record import Checkpoint
from asyncckpt.retention import Monitor
from asyncckpt.storage import LocalStorage, opened
from asyncckpt.storage.base import Storage


@dataclass(frozen=True, slots=True)
class Reference:
    """A listed checkpoint: the URL of its manifest, what is told about it, and whether it is latest and best."""

    seq: int
    url: str
    metadata: Mapping[str, Any]
    is_latest: bool
    is_best: bool


class References:
    """Looks up checkpoints of `root`; `monitor` says what is best, by default what the run itself goes by."""

    def __init__(
        self, root: str | os.PathLike[str] | Storage, storage_options: Mapping[str, Any] | None, monitor: Monitor | None
    ) -> None:
        self._storage = opened(root, storage_options)
        self._is_ours = self._storage is not root
        self._monitor = monitor

    def listed(self) -> list[Reference]:
        """Every complete checkpoint, by rising sequence number. Raises `AsyncCkptError`."""
        listing = asyncio.run(Catalog(self._storage, self._monitor).listing())
        best, whole = listing.best, [found for found in listing.checkpoints if not found.partial]
        latest = max((found.seq for found in whole), default=None)
        return [self._reference(found, is_latest=found.seq == latest, is_best=found is best) for found in whole]

    def _reference(self, found: Checkpoint, *, is_latest: bool, is_best: bool) -> Reference:
        metadata = {
            "step": found.step,
            "epoch": found.epoch,
            "seq": found.seq,
            "bytes": found.size,
            "digest": found.manifest.digest,
            "metrics": dict(found.metrics),
        }
        return Reference(found.seq, self._url(found.manifest.key), metadata, is_latest, is_best)

    def _url(self, key: str) -> str:
        if isinstance(self._storage, LocalStorage):
            return (Path(self._storage.url) / key).as_uri()
        return f"{self._storage.url.rstrip('/')}/{key}"

    def close(self) -> None:
        """Release what was opened."""
        if self._is_ours:
            asyncio.run(self._storage.aclose())
