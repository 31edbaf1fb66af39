"""How the tests of several ranks look at a root, and at what became of a save."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from asyncckpt import AsyncCheckpointer, SaveHandle
from asyncckpt.catalog import Catalog
from asyncckpt.errors import AsyncCkptError, SaveError
from asyncckpt.listing import Listing
from asyncckpt.reading import verify
from asyncckpt.storage import from_url


def listing_of(root: Path) -> Listing:
    """What the newest record lists."""

    async def read() -> Listing:
        storage = from_url(root)
        try:
            return await Catalog(storage).listing()
        finally:
            await storage.aclose()

    return asyncio.run(read())


def steps_of(root: Path) -> list[int]:
    """The steps of the listed checkpoints, oldest first, each of them verified to the last byte."""

    async def check() -> list[int]:
        storage = from_url(root)
        catalog = Catalog(storage)
        listed = (await catalog.listing()).checkpoints
        for checkpoint in listed:
            await verify(catalog, checkpoint)
        await storage.aclose()
        return [checkpoint.step for checkpoint in listed]

    return asyncio.run(check())


def unlisted(root: Path) -> list[str]:
    """The folders under ``data/`` that no listed checkpoint lies in."""
    listed = {Path(checkpoint.manifest.key).parts[1] for checkpoint in listing_of(root).checkpoints}
    return sorted(folder.name for folder in (root / "data").iterdir() if folder.name not in listed)


def failure_of(handle: SaveHandle | None) -> SaveError:
    """What waiting for a save raises: none of these tests lasts as long as the deadlines it does not shorten."""
    assert handle is not None
    try:
        info = handle.wait(60)
    except SaveError as error:
        return error
    raise AssertionError(f"the save of step {handle.step} became {info}")


def error_of(call: Callable[[], object]) -> str:
    """What a call raises, by kind and in words."""
    try:
        call()
    except AsyncCkptError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def shorten_deadline(checkpointer: AsyncCheckpointer, seconds: float) -> None:
    """From now on this rank waits only so long for the others."""
    checkpointer._ranks.deadline = seconds


def is_leader() -> bool:
    """Whether this is rank 0."""
    return dist.get_rank() == 0
