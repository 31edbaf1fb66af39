"""Folders: made where they are missing, many at once, with an error that says which one cannot be."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from asyncckpt.tallies import TALLIES


def ensure_directories_exist(*folders: str | os.PathLike[str]) -> None:
    """Make each of `folders`, and those above it; one that is there is left as it is.

    Modes are what the umask leaves. Raises `NotADirectoryError` where a file is in the way and `PermissionError` where
    this user may not, naming what; folders before that one are made.
    """
    for folder in map(Path, folders):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            TALLIES.error(error)
            blocking = next(place for place in (folder, *folder.parents) if place.exists() or place.is_symlink())
            raise NotADirectoryError(
                error.errno, f"{folder} cannot be made: {blocking} is no folder; move it away, or take another path"
            ) from error
        except PermissionError as error:
            TALLIES.error(error)
            above = next((place for place in folder.parents if place.exists()), folder)
            raise PermissionError(
                error.errno, f"{folder} cannot be made: this user may not write in {above}; take another path"
            ) from error


async def ensure_directories_exist_async(*folders: str | os.PathLike[str]) -> None:
    """`ensure_directories_exist` of `folders`, on an event loop that goes on meanwhile."""
    await asyncio.to_thread(ensure_directories_exist, *folders)
