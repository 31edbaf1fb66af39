"""Pictures: the curves of a run and the timeline of its checkpoints, or why there are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from asyncckpt.plots import PlotsUnavailable, checkpoint_timeline, training_curves
from asyncckpt.report.gathering import Gathered


@dataclass(frozen=True)
class Picture:
    """The bytes of a PNG, or `reason`, a sentence, where it could not be drawn."""

    name: str
    text: str
    """What it shows, for those who do not see it."""
    png: bytes = b""
    reason: str = ""


def pictures(run: Gathered) -> tuple[list[Picture], list[Picture]]:
    """The curves, where anything was logged, and the timeline, where a checkpoint log was kept."""
    curves = [Picture("curves", "Every metric over the steps")] if run.history.rows else []
    timeline = [Picture("timeline", "How long saves took, and what became of them")] if run.events else []
    return (
        [_drawn(each, lambda: training_curves(run.history, run.name)) for each in curves],
        [_drawn(each, lambda: checkpoint_timeline(run.events)) for each in timeline],
    )


def _drawn(wanted: Picture, draw: Callable[[], bytes]) -> Picture:
    try:
        return Picture(wanted.name, wanted.text, png=draw())
    except PlotsUnavailable as error:
        return Picture(wanted.name, wanted.text, reason=f"No {wanted.name}: {error}.")
    except Exception as error:  # of a library that draws: the page is worth more than its pictures
        return Picture(wanted.name, wanted.text, reason=f"No {wanted.name}: {type(error).__name__}: {error}.")
