"""Among: an epoch ends with the same metrics on all ranks of a training, those of all their samples.

Metrics decide when a training stops early, and what a schedule does: ranks that had each their own would part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist

from asyncckpt.trainer.amounts import Amount


def means(sums: Mapping[str, Amount], samples: int) -> dict[str, float]:
    """Each of `sums` by the number of `samples`, both of all ranks; none where there are no samples.

    With several ranks every one has to call it, on the thread that trains.
    """
    own = {name: float(total) for name, total in sums.items()}, samples
    ranks = _all(own)
    count = sum(number for _, number in ranks)
    names = dict.fromkeys(name for found, _ in ranks for name in found)
    return {name: sum(found.get(name, 0.0) for found, _ in ranks) / count for name in names} if count else {}


def _all(own: tuple[dict[str, float], int]) -> list[tuple[dict[str, float], int]]:
    """What each rank has, in their order."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return [own]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found
