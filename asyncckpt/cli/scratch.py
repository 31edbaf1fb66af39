"""Scratch: a place below a root for what is measured there, of which nothing is left."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import click

from asyncckpt.cli.exits import reason
from asyncckpt.cli.printable import printable
from asyncckpt.errors import AsyncCkptError
from asyncckpt.format import names
from asyncckpt.format.marks import USER
from asyncckpt.storage import from_url
from asyncckpt.storage.base import Storage
from asyncckpt.storage.local import LocalStorage


@asynccontextmanager
async def scratch(storage: Storage) -> AsyncIterator[str]:
    """The URL of a root below that of `storage`, which nobody else has, and which goes with all that is in it.

    Where this process is killed, the next training that starts there removes it.
    """
    url = f"{storage.url.rstrip('/')}/{names.probe()}"
    async with tidied(storage):
        try:
            yield url
        finally:
            try:
                await _removed(url)
            except AsyncCkptError as error:
                click.echo(f"{printable(url)} is left to the next start: {printable(reason(error))}", err=True)


@asynccontextmanager
async def tidied(storage: Storage) -> AsyncIterator[None]:
    """Leave no folder behind that was not there."""
    missing: list[Path] = []
    if isinstance(storage, LocalStorage):
        root = Path(storage.url)
        missing = [place for place in (root / USER, root, *root.parents) if not place.exists()]
    try:
        yield
    finally:
        for place in missing:
            with suppress(OSError):
                place.rmdir()


async def _removed(url: str) -> None:
    storage = from_url(url)
    try:
        if isinstance(storage, LocalStorage):  # links and folders too, which are no objects
            await asyncio.to_thread(shutil.rmtree, storage.url, ignore_errors=True)
            return
        async for upload in storage.uploads():
            await storage.abort(upload)
        await storage.delete([found.key async for found in storage.list()])
    finally:
        await storage.aclose()
