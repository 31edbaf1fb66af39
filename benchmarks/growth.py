"""Growth: how much more of something is held at the end of many saves than once the process was warm."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.turns import Sample

WARM = 0.2
"""Of all saves: compared is from there on."""


def warm(found: Sequence[Sample]) -> list[Sample]:
    """The samples from there on; ``progress`` of each is the share of the saves that were made before it."""
    return [s for s in found if s["progress"] >= WARM]


def gained(found: Sequence[Sample], key: str) -> list[float]:
    """`key` of each of the last samples, over the median of the first warm ones."""
    before = statistics.median(s[key] for s in warm(found) if s["progress"] < 2 * WARM)
    return [s[key] - before for s in found if s["progress"] >= 1 - WARM]
