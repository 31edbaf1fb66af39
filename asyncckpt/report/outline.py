"""Outline: a run for programs, as one JSON object."""

from __future__ import annotations

from typing import Any

from asyncckpt.report.checkpoints import lines
from asyncckpt.report.gathering import Gathered
from asyncckpt.report.words import strict


def json_of(run: Gathered) -> dict[str, Any]:
    """What stands on its page; NaN and infinities are strings, and what is not known is null."""
    summary = {
        name: {part: strict(getattr(found, part)) for part in ("final", "min", "max", "mean", "count", "not_finite")}
        for name, found in run.history.summary().items()
    }
    return {
        "run": run.name,
        "status": run.status,
        "step": run.latest_step,
        "identity": dict(run.identity),
        "results": dict(run.results),
        "hyperparameters": dict(run.hyperparameters),
        "config": run.config.get("config"),
        "hardware": run.config.get("hardware"),
        "model": run.config.get("model"),
        "wandb": dict(run.wandb),
        "metrics": summary,
        "checkpoints": [
            {
                "id": line.id or None,
                "step": None if line.step < 0 else line.step,
                "epoch": line.epoch,
                "created": line.created,
                "seconds": line.seconds,
                "stalled": line.stalled,
                "size": line.size,
                "written": line.written,
                "state": line.state,
                "why": line.fate,
                "metrics": {name: strict(value) for name, value in line.metrics.items()},
            }
            for line in lines(run)
        ],
        "problems": list(run.problems),
    }
