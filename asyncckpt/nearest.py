"""Nearest: a checkpoint is read from the nearest tier that has a sound copy of it.

A local tier comes first, then home, then a mirror. A tier that is not home holds it under the same names with the same
manifest, or it holds another checkpoint, which is not taken for this one. Damage may also show late, once objects are
being filled: then the same checkpoint is read again, and not from there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TypeAlias

from asyncckpt.catalog import Catalog
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.errors import AsyncCkptError, CheckpointCorruptError
from asyncckpt.events import HOME, Damaged, Listeners
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.record import Checkpoint
from asyncckpt.marking import damage_of
from asyncckpt.progress import Progress
from asyncckpt.restoring import Live, Loaded, read

logger = logging.getLogger("asyncckpt")


Found: TypeAlias = Callable[[str, Finding, Damage], None]
"""Told in which tier what was found damaged, and how."""


class Nearest:
    """Reads from home, and from tiers by their names: the `nearer` ones before home, the `others` after it.

    What it finds damaged, and passes over, `found` is told of.
    """

    def __init__(
        self,
        others: Mapping[str, Catalog],
        listeners: Listeners,
        found: Found,
        *,
        nearer: Mapping[str, Catalog] | None = None,
    ) -> None:
        self._nearer = nearer or {}
        self._others = {**self._nearer, **others}
        self._tiers = (*self._nearer, HOME, *others)
        self._listeners = listeners
        self._found = found
        self._unsound: dict[tuple[str, int], CheckpointCorruptError] = {}
        """What was found in which tier, by sequence number, since `begin`."""
        self._told: set[tuple[str, int]] = set()

    @property
    def tries(self) -> int:
        """How often a checkpoint may show damage while there may be a tier left that it could be read from."""
        return 1 + len(self._others) if self._others else 0

    def begin(self) -> None:
        """Before a restore: what was damaged then may have been repaired."""
        self._unsound.clear()
        self._told.clear()

    def shun(self, loaded: Loaded, error: CheckpointCorruptError) -> None:
        """What was `loaded` turned out to be damaged after all."""
        self._unsound[loaded.tier, loaded.checkpoint.seq] = error

    def is_unsound(self, checkpoint: Checkpoint, tier: str) -> bool:
        """Whether that tier's was found damaged since `begin`."""
        return (tier, checkpoint.seq) in self._unsound

    def settled(self, loaded: Loaded) -> None:
        """What was `loaded` is in its place, and sound: now it is told where it is not."""
        for tier in self._tiers:
            if tier != loaded.tier:
                self._tell(loaded.checkpoint, tier)

    async def read(
        self,
        home: Catalog,
        checkpoint: Checkpoint,
        scopes: Collection[str],
        *,
        only: Collection[str] | None,
        exclude: Collection[str],
        live: Live,
        ahead: bool,
        progress: Progress,
    ) -> Loaded:
        """As `asyncckpt.restoring.read` does at home, and raises; damage of home is raised where no copy is sound."""
        seq = checkpoint.seq
        for tier in self._tiers:
            catalog = self._others.get(tier, home)
            if (tier, seq) in self._unsound or not (tier == HOME or await self._has(tier, catalog, checkpoint)):
                continue
            try:
                loaded = await read(
                    catalog,
                    checkpoint,
                    scopes,
                    only=only,
                    exclude=exclude,
                    live=live,
                    ahead=ahead,
                    progress=progress,
                )
            except CheckpointCorruptError as error:
                self._unsound[tier, seq] = error
            except AsyncCkptError as error:
                if tier == HOME:
                    raise
                logger.warning("step %d cannot be read from the %s: %s", checkpoint.step, tier, error)
            else:
                if tier != HOME:
                    level = logging.INFO if tier in self._nearer else logging.WARNING
                    logger.log(level, "step %d is read from the %s", checkpoint.step, tier)
                return replace(loaded, tier=tier)
        for tier in self._others:
            self._tell(checkpoint, tier)
        raise self._unsound[HOME, seq]

    async def _has(self, tier: str, catalog: Catalog, checkpoint: Checkpoint) -> bool:
        try:
            listed = (await catalog.listing()).checkpoints
        except AsyncCkptError as error:
            logger.warning("whether the %s has step %d cannot be told: %s", tier, checkpoint.step, error)
            return False
        return any(found.manifest == checkpoint.manifest for found in listed)

    def _tell(self, checkpoint: Checkpoint, tier: str) -> None:
        error = self._unsound.get((tier, checkpoint.seq))
        if error is not None and (tier, checkpoint.seq) not in self._told:
            self._told.add((tier, checkpoint.seq))
            self._found(tier, Finding.of(checkpoint), damage_of(error, SYSTEM_CLOCK))
            self._listeners.emit(Damaged(checkpoint.step, checkpoint.seq, str(error), error.kind, tier))
