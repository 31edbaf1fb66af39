"""Summary: a listed checkpoint in a few words, the same wherever it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asyncckpt.checkpoints.listing import CheckpointInfo, Listing
from asyncckpt.inspection.schema import finite


@dataclass(frozen=True, slots=True)
class Summary:
    """A checkpoint, and whether it is the one that a resume would take."""

    info: CheckpointInfo
    latest: bool

    @property
    def marks(self) -> str:
        info = self.info
        kinds = {"latest": self.latest, "best": info.is_best, "partial": info.partial, "pinned": info.pinned}
        kinds["damaged"] = info.damaged
        told = [name for name, on in kinds.items() if on]
        return " ".join([*told, *(f"tag:{tag}" for tag in info.tags)])

    def json(self) -> dict[str, Any]:
        """As one JSON object: ``created`` in seconds since the epoch, ``size`` in bytes."""
        info = self.info
        return {
            "id": info.id,
            "seq": info.seq,
            "step": info.step,
            "epoch": info.epoch,
            "created": info.created,
            "size": info.size,
            "digest": info.digest,
            "metrics": {name: finite(value) for name, value in info.metrics.items()},
            "tags": list(info.tags),
            "pinned": info.pinned,
            "latest": self.latest,
            "best": info.is_best,
            "partial": info.partial,
            "damaged": info.damaged,
            "code_version": info.code_version,
            "message": info.message,
        }


def summaries(listing: Listing) -> list[Summary]:
    """Every listed checkpoint, oldest first."""
    latest = next((checkpoint.seq for checkpoint in listing.candidates()), None)
    return [Summary(info, info.seq == latest) for info in listing.infos()]


def short(metrics: Mapping[str, float]) -> str:
    """Metrics on one line."""
    return " ".join(f"{name}={value:.4g}" for name, value in metrics.items())
