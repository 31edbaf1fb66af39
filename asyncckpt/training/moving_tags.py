"""Moving tags: tags that go with the best or with the latest checkpoint, so that it has a name outside of its run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.checkpoints.marking import mark
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.format.marks import Mark, check_tag
from asyncckpt.format.record import Checkpoint
from asyncckpt.retention import Monitor
from asyncckpt.storage.base import Storage
from asyncckpt.training.following import Following


class _MovingTag(Following):
    def __init__(
        self,
        root: str | os.PathLike[str] | Storage,
        tag: str,
        *,
        monitor: Monitor | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.tag = check_tag(tag)
        super().__init__(root, f"the tag {tag!r}", self._move, monitor, storage_options)

    async def _move(self, catalog: Catalog) -> bool:
        listing = await catalog.listing()
        chosen = self._chosen(listing)
        on = [seq for seq, marks in listing.marks.items() if Mark(seq, self.tag) in marks]
        if chosen is None or on == [chosen.seq]:
            return False
        await mark(catalog, f"{chosen.seq:08d}", self.tag, SYSTEM_CLOCK)
        return True

    def _chosen(self, listing: Listing) -> Checkpoint | None:
        raise NotImplementedError


class BestTag(_MovingTag):
    """A listener that moves the tag `tag` to the best checkpoint of `root`, whenever that is another one.

    ``ROOT@TAG`` names it, retention spares it, and what it is said to be are its metrics and its message. The one that
    was best before loses the tag, and with the next save is retention's again.
    """

    def _chosen(self, listing: Listing) -> Checkpoint | None:
        return listing.best


class LatestTag(_MovingTag):
    """A listener that moves the tag `tag`, an experiment's name, to each new checkpoint of `root`.

    ``ROOT@TAG`` names it. The one before it is spared until the tag has moved, and so stays for one save longer than
    retention says.
    """

    def _chosen(self, listing: Listing) -> Checkpoint | None:
        return next(iter(listing.candidates()), None)
