"""Sampling: a random part of a checkpoint's bytes, and how likely damage is in it."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from asyncckpt.format.contents import EXTENT, Contents, Extent
from asyncckpt.format.record import Checkpoint
from asyncckpt.sizes import size

_SURE = 0.95


def percent(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """The share in ``5%``, for an option. Raises `click.BadParameter`."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?%?", text.strip())
    share = float(found[1]) / 100 if found else 0.0
    if not 0 < share <= 1:
        raise click.BadParameter(f"{text!r}: give a part of the bytes, as 5%")
    return share


@dataclass(frozen=True, slots=True)
class Sample:
    """A `share` of the extents of each checkpoint, the same ones for the same `seed`.

    Extents are what has a digest of its own, and each is as likely as every other to be among them.
    """

    share: float
    seed: int

    def of(self, checkpoint: Checkpoint) -> Callable[[Contents], frozenset[Extent]]:
        """What chooses among the contents of `checkpoint`, others than of another one that shares them."""
        return lambda contents: self._chosen(f"{self.seed}/{checkpoint.seq}", contents)

    def finds(self, places: int) -> float:
        """The least probability that damage in so many extents of one checkpoint is found."""
        return 1 - (1 - self.share) ** places

    @property
    def line(self) -> str:
        """What a clean result is worth."""
        told = f"sampled {_percent(self.share)} (seed {self.seed}): damage in one place of a checkpoint is found with"
        return (
            f"{told} a probability of at least {_percent(self.finds(1))}, in 10 with {_percent(self.finds(10))}, in "
            f"{self._places} with {_percent(self.finds(self._places))}; a place is {size(EXTENT)} in a row, or less"
        )

    def json(self) -> dict[str, Any]:
        """As one JSON object."""
        finds = [{"places": places, "probability": self.finds(places)} for places in (1, 10, self._places)]
        return {"share": self.share, "seed": self.seed, "place": EXTENT, "finds": finds}

    @property
    def _places(self) -> int:
        """In how many there has to be damage, so that it is all but certainly found."""
        return 1 if self.share >= _SURE else math.ceil(math.log(1 - _SURE) / math.log(1 - self.share))

    def _chosen(self, salt: str, contents: Contents) -> frozenset[Extent]:
        boxes = (box for entry in contents.tensors.values() for box in entry.boxes)
        extents = [extent for box in boxes for extent in box.extents]

        def rank(extent: Extent) -> bytes:
            # Not by a generator: the next Python's may draw others for the same seed.
            name = f"{salt}/{contents.packs[extent.pack].key}/{extent.offset}"
            return hashlib.blake2b(name.encode(), digest_size=16).digest()

        return frozenset(sorted(extents, key=rank)[: math.ceil(self.share * len(extents))])


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
