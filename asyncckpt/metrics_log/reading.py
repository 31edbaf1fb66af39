"""Reading: the files of a journal, whoever has written them."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from asyncckpt.errors import StorageError
from asyncckpt.storage import LocalStorage, opened
from asyncckpt.storage.base import Storage
from asyncckpt.storage.reasons import translate


def contents(
    folder: str | os.PathLike[str] | Storage, stem: str, storage_options: Mapping[str, Any] | None
) -> list[tuple[str, bytes]]:
    """Every file of the journal `stem`, by name, and what is in it. Raises `StorageError`; an absent folder has none.

    Blocks, and may be called where an event loop runs.
    """
    if isinstance(folder, LocalStorage):
        folder = folder.url
    if isinstance(folder, str | os.PathLike):
        storage = opened(folder, storage_options)
        if isinstance(storage, LocalStorage):
            return _local(Path(storage.url), stem)
    else:
        storage = opened(folder, storage_options)
    with ThreadPoolExecutor(1, thread_name_prefix="asyncckpt-rows") as thread:
        is_ours = storage is not folder
        return thread.submit(asyncio.run, _stored(storage, stem, is_ours=is_ours)).result()


def _local(folder: Path, stem: str) -> list[tuple[str, bytes]]:
    try:
        names = sorted(os.listdir(folder))
        return [(str(folder / name), (folder / name).read_bytes()) for name in names if is_of(stem, name)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise translate(error, str(folder)) from error


async def _stored(storage: Storage, stem: str, *, is_ours: bool) -> list[tuple[str, bytes]]:
    try:
        names = [found.key async for found in storage.list(stem) if is_of(stem, found.key)]
        files = await storage.get_each(names)
    finally:
        if is_ours:
            await storage.aclose()
    for file in files:
        if isinstance(file, StorageError):
            raise file
    return [(name, bytes(file)) for name, file in zip(names, files, strict=True) if isinstance(file, memoryview)]


def is_of(stem: str, name: str) -> bool:
    """Whether the file of that name is one of the journal `stem`."""
    return re.fullmatch(rf"{re.escape(stem)}(-[^/]+)?\.jsonl", name) is not None
