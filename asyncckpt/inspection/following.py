"""Following: reading checkpoints that retention may be removing, so that removed is never taken for damaged."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from asyncckpt.checkpoints.catalog import ATTEMPTS, Catalog
from asyncckpt.checkpoints.listing import Listing, Which, find
from asyncckpt.errors import CheckpointCorruptError, CheckpointNotFoundError, RunContended
from asyncckpt.format.record import Checkpoint

_T = TypeVar("_T")


@asynccontextmanager
async def unless_removed(catalog: Catalog, checkpoint: Checkpoint) -> AsyncIterator[None]:
    """Turn damage found inside into `CheckpointNotFoundError` if the checkpoint is not listed any more."""
    try:
        yield
    except CheckpointCorruptError:
        if await catalog.is_listed(checkpoint):
            raise
        raise CheckpointNotFoundError(
            f"the checkpoint of step {checkpoint.step} was removed by retention while it was read"
        ) from None


async def follow(catalog: Catalog, which: Which, look: Callable[[Listing, Checkpoint], Awaitable[_T]]) -> _T:
    """What `look` says of the checkpoint that `which` names; if that is removed meanwhile, of what it names then.

    `look` tells removal by raising `CheckpointNotFoundError`. Raises `RunContended` if that goes on.
    """
    for _ in range(ATTEMPTS):
        listing = await catalog.listing_for(which)
        checkpoint = find(listing, which, catalog.storage.url)
        with suppress(CheckpointNotFoundError):
            return await look(listing, checkpoint)
    raise RunContended(f"{catalog.storage.url}: retention was faster {ATTEMPTS} times: try again, or keep more")
