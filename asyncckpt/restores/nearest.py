"""Nearest: a checkpoint is read from the nearest tier that has a sound copy of it.

A local tier comes first, then home, then a mirror. What is named is looked up at home, and in a nearer tier where that
has what is newer, which home gets at the next resume. A tier that is not home holds a checkpoint under the same names
with the same manifest, or it holds another one, which is not taken for this one. Damage may also show late, once
objects are being filled: then the same checkpoint is read again, and not from there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing, Which
from asyncckpt.checkpoints.marking import damage_of
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.errors import (
    AsyncCkptError,
    CheckpointCorruptError,
    CheckpointNotFoundError,
    StorageError,
    TransientError,
)
from asyncckpt.events import HOME, Damaged, Fallback, Listeners
from asyncckpt.fetching.progress import Progress
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.record import Checkpoint
from asyncckpt.restores.restoring import Live, Loaded, read
from asyncckpt.worker.commitlog.home import above
from asyncckpt.worker.tier import LOOK

logger = logging.getLogger("asyncckpt")
_T = TypeVar("_T")


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
        self._passed: set[tuple[str, int]] = set()
        """What could not be read in which tier before home, by sequence number, since `begin`."""

    @property
    def tries(self) -> int:
        """How often a checkpoint may show damage while there may be a tier left that it could be read from."""
        return 1 + len(self._others) if self._others else 0

    def begin(self) -> None:
        """Before a restore: what was damaged then may have been repaired."""
        for found in (self._unsound, self._told, self._passed):
            found.clear()

    def shun(self, loaded: Loaded, error: CheckpointCorruptError) -> None:
        """What was `loaded` turned out to be damaged after all."""
        self._unsound[loaded.tier, loaded.checkpoint.seq] = error

    def pass_over(self, loaded: Loaded, error: StorageError) -> bool:
        """What was `loaded` cannot be read any more; returns whether there is a tier after that one."""
        if loaded.tier not in self._nearer:
            return False
        self._unread(loaded.tier, loaded.checkpoint, "cannot be read from", error)
        return True

    def _unread(self, tier: str, checkpoint: Checkpoint, what: str, error: AsyncCkptError) -> None:
        self._passed.add((tier, checkpoint.seq))
        if tier in self._nearer:
            reason = f"step {checkpoint.step} {what} the {tier} tier, and is read from the root: {error}"
            self._listeners.emit(Fallback(tier, reason))
        else:
            logger.warning("step %d %s the %s: %s", checkpoint.step, what, tier, error)

    def is_unsound(self, checkpoint: Checkpoint, tier: str) -> bool:
        """Whether that tier's was found damaged since `begin`."""
        return (tier, checkpoint.seq) in self._unsound

    def settled(self, loaded: Loaded) -> None:
        """What was `loaded` is in its place, and sound: now it is told where it is not."""
        for tier in self._tiers:
            if tier != loaded.tier:
                self._tell(loaded.checkpoint, tier)

    @property
    def is_layered(self) -> bool:
        """Whether there is a tier before home."""
        return bool(self._nearer)

    def damage(self, checkpoint: Checkpoint) -> CheckpointCorruptError | None:
        """What was found of it in a tier before home since `begin`, where it was damaged."""
        return next((e for tier in self._nearer if (e := self._unsound.get((tier, checkpoint.seq)))), None)

    async def named(self, home: Catalog, which: Which) -> Checkpoint:
        """The checkpoint that `which` names: one that home has, or one that it has not got yet, and will.

        Where home does not answer now, what a nearer tier lists counts; one that refuses raises, as all else does.
        """
        try:
            found, _ = await home.named(which)
        except TransientError as error:
            return await self._instead(which, error)
        except CheckpointNotFoundError:
            if (newer := await self._newer(home, which)) is None:
                raise
            return newer
        return (await self._newer(home, which) if which == "latest" else None) or found

    async def _instead(self, which: Which, error: TransientError) -> Checkpoint:
        for tier, catalog in self._nearer.items():
            try:
                found, _ = await _answered(catalog.named(which))
            except AsyncCkptError as other:
                logger.warning("nor does the %s have it: %s", tier, other)
            else:
                reason = f"the root does not answer ({error}): {which!r} is that of the {tier}, step {found.step}"
                self._listeners.emit(Fallback("root", reason))
                return found
        raise error

    async def _newer(self, home: Catalog, which: Which) -> Checkpoint | None:
        """What `which` names of what only a nearer tier has, and home will get at the next resume."""
        for tier, catalog in self._nearer.items():
            try:
                listing = await self._ahead(tier, home, catalog)
            except AsyncCkptError as error:
                logger.warning("whether the %s has something newer cannot be told: %s", tier, error)
                continue
            if (found := listing.get(which)) is not None:
                return found
        return None

    async def _ahead(self, tier: str, home: Catalog, catalog: Catalog) -> Listing:
        ours, theirs, head = await home.run(), await _answered(catalog.run()), await home.head()
        if ours is None or theirs is None or ours.id != theirs.id or head is None:
            return Listing(None)
        there = await _answered(catalog.listing())
        if not above(head, (), there.checkpoints):  # mostly: then nobody has to know all that home lists
            return Listing(None)
        newer = {c.seq for c in above(head, (await home.listing()).checkpoints, there.checkpoints)}
        for checkpoint in there.checkpoints:
            if (tier, checkpoint.seq) in self._unsound:
                self._tell(checkpoint, tier)
                newer.discard(checkpoint.seq)
        records = (r for r in there.records if r.checkpoint is not None and r.checkpoint.seq in newer)
        return replace(there, records=tuple(records))

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
        """As `restoring.read` does at home, and raises; damage of home is raised where no copy is sound."""
        seq = checkpoint.seq
        for tier in self._tiers:
            catalog = self._others.get(tier, home)
            if not await self._is_worth_reading(tier, catalog, checkpoint):
                continue
            progress.anew()
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
                self._unread(tier, checkpoint, "cannot be read from", error)
            else:
                if tier != HOME:
                    level = logging.INFO if tier in self._nearer else logging.WARNING
                    logger.log(level, "step %d is read from the %s", checkpoint.step, tier)
                return replace(loaded, tier=tier)
        for tier in self._others:
            self._tell(checkpoint, tier)
        raise self._unsound[HOME, seq]

    async def _is_worth_reading(self, tier: str, catalog: Catalog, checkpoint: Checkpoint) -> bool:
        place = tier, checkpoint.seq
        if place in self._unsound or place in self._passed:
            return False
        return tier == HOME or await self._has(tier, catalog, checkpoint)

    async def _has(self, tier: str, catalog: Catalog, checkpoint: Checkpoint) -> bool:
        try:
            asked = catalog.listing()
            listed = (await (_answered(asked) if tier in self._nearer else asked)).checkpoints
        except AsyncCkptError as error:
            self._unread(tier, checkpoint, "cannot be looked for in", error)
            return False
        return any(found.manifest == checkpoint.manifest for found in listed)

    def _tell(self, checkpoint: Checkpoint, tier: str) -> None:
        error = self._unsound.get((tier, checkpoint.seq))
        if error is not None and (tier, checkpoint.seq) not in self._told:
            self._told.add((tier, checkpoint.seq))
            self._found(tier, Finding.of(checkpoint), damage_of(error, SYSTEM_CLOCK))
            self._listeners.emit(Damaged(checkpoint.step, checkpoint.seq, str(error), error.kind, tier))


async def _answered(asked: Coroutine[Any, Any, _T]) -> _T:
    """What a tier before home says, for which nobody waits long: home has it too, or will."""
    try:
        async with asyncio.timeout(LOOK):
            return await asked
    except TimeoutError:
        raise TransientError(f"no answer within {LOOK:g} s") from None
