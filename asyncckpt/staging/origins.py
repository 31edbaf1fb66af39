"""Origins: what a group of copies reads. Most of it stays; what a ``state_dict()`` made is another at every save."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from asyncckpt.format.contents import Path
from asyncckpt.staging.device import origin
from asyncckpt.staging.layout import Region, handed_out


@dataclass(frozen=True, slots=True)
class Origins:
    """Tensors as copies read them; `volatile` are those, by their index, that are handed out anew for every save."""

    tensors: tuple[Tensor, ...]
    volatile: tuple[tuple[int, Region], ...]

    def now(self, handed: Mapping[Path, Tensor]) -> list[Tensor]:
        """Those of one save, for which `handed` was handed out."""
        found = list(self.tensors)
        for index, region in self.volatile:
            found[index] = origin(handed_out(region, handed))
        return found


def origins(regions: Iterable[Region]) -> Origins:
    """Those of `regions`, in their order."""
    known = list(regions)
    return Origins(
        tuple(origin(region.source.tensor) for region in known),
        tuple((index, region) for index, region in enumerate(known) if region.source.volatile),
    )
