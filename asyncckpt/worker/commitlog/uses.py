"""Uses: how many listed checkpoints name each pack, and what all of these packs take."""

from __future__ import annotations

from collections import Counter

from asyncckpt.format.record import Checkpoint


class Uses:
    """The packs that the checkpoints name which it was told of."""

    def __init__(self) -> None:
        self.nbytes = 0
        """Bytes of all packs, each counted once."""
        self._counts = Counter[str]()
        self._lengths: dict[str, int] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._lengths

    def add(self, checkpoint: Checkpoint) -> None:
        """`checkpoint` is listed from now on."""
        for pack in checkpoint.packs:
            if pack.key not in self:
                self._lengths[pack.key] = pack.length
                self.nbytes += pack.length
            self._counts[pack.key] += 1

    def remove(self, checkpoint: Checkpoint) -> None:
        """`checkpoint` is listed no longer."""
        for pack in checkpoint.packs:
            self._counts[pack.key] -= 1
            if not self._counts[pack.key]:
                del self._counts[pack.key]
                self.nbytes -= self._lengths.pop(pack.key)
