"""History file: what a run holds, as one JSON file for people and for other programs."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import CheckpointInfo, Listing
from asyncckpt.retention import Monitor
from asyncckpt.storage.base import Storage
from asyncckpt.training.following import Following

KEY = "history.json"


class HistoryFile(Following):
    """A listener that keeps ``history.json`` in `root`: the best, its value, and every listed checkpoint, oldest first.

    It is written from the catalog, whole, after each change, and nothing in this package reads it: what is pruned is
    gone from it, and a damaged or deleted one is as it should be after the next change or ``resume()``. Of two writers,
    whoever holds the run writes last. It is strict JSON: NaN and infinities are texts.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | Storage,
        *,
        model_name: str | None = None,
        experiment_name: str | None = None,
        monitor: Monitor | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._about = {"model_name": model_name, "experiment_name": experiment_name}
        super().__init__(root, KEY, self._write, monitor, storage_options)

    async def _write(self, catalog: Catalog) -> bool:
        listing = await catalog.listing()
        text = json.dumps({**self._about, **_history(listing)}, indent=2, allow_nan=False)
        await catalog.storage.put(KEY, [f"{text}\n".encode()])
        return False


def _history(listing: Listing) -> dict[str, Any]:
    infos, monitor = listing.infos(), listing.monitor
    best = next((info for info in infos if info.is_best), None)
    return {
        "monitor": list(monitor) if monitor else None,
        "best": best.id if best else None,
        "best_value": _number(best.metrics[monitor[0]]) if best and monitor else None,
        "checkpoints": [_entry(info) for info in infos],
    }


def _entry(info: CheckpointInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "step": info.step,
        "epoch": info.epoch,
        "created": info.created,
        "metrics": {name: _number(value) for name, value in info.metrics.items()},
        "is_best": info.is_best,
        "tags": list(info.tags),
        "pinned": info.pinned,
        "partial": info.partial,
        "damaged": info.damaged,
        "size": info.size,
        "digest": info.digest,
        "code_version": info.code_version,
        "message": info.message,
    }


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
