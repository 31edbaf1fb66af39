"""Runs: which there are in a folder that is none itself. Reads only."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from asyncckpt.errors import CheckpointNotFoundError
from asyncckpt.format import names
from asyncckpt.storage import from_url
from asyncckpt.storage.base import Storage
from asyncckpt.storage.bounded import Bounded, bounded_reading
from asyncckpt.storage.stopped import unheld

_OF_A_RUN = ("identity.json", names.RUN)
_BEHIND = "0"
"""What comes right after ``/``: behind everything in a folder."""


def runs_in(root: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> list[str]:
    """`root` itself if it is a run, else the runs right below it, by name.

    Raises `CheckpointNotFoundError` where there is none, and `StorageError`.
    """
    return unheld(runs_below(os.fspath(root), storage_options), "asyncckpt-report")


async def runs_below(root: str, options: Mapping[str, Any] | None = None) -> list[str]:
    """The same, for whoever is on an event loop."""
    storage = bounded_reading(from_url(root, options))  # nobody waits for a disk that hangs
    try:
        if await _is_run(storage, ""):
            return [root]
        if isinstance(storage, Bounded):
            found = await storage.blocking("a look at it", partial(_local, storage.url))
        else:
            found = [name async for name in _below(storage)]
    finally:
        await storage.aclose()
    if not found:
        raise CheckpointNotFoundError(f"{root} holds no run, nor does anything right below it")
    return [f"{root.rstrip('/')}/{name}" for name in sorted(found)]


async def _is_run(storage: Storage, folder: str) -> bool:
    for name in _OF_A_RUN:
        if await storage.head(folder + name) is not None:
            return True
    return False


def _local(folder: str) -> list[str]:
    """On disks a run may be called what no key can be, with capital letters for one."""
    root = Path(folder)
    try:
        return [path.name for path in root.iterdir() if any((path / name).is_file() for name in _OF_A_RUN)]
    except FileNotFoundError:
        return []


async def _below(storage: Storage) -> AsyncIterator[str]:
    """One request for each folder, however much lies in it."""
    after: str | None = None
    while (key := await _next(storage, after)) is not None:
        name, slash, _ = key.partition("/")
        if slash and await _is_run(storage, f"{name}/"):
            yield name
        after = name + _BEHIND if slash else key


async def _next(storage: Storage, after: str | None) -> str | None:
    async for info in storage.list("", after):
        return info.key
    return None
