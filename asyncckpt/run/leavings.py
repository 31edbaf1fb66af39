"""Leavings: pictures and TensorBoard files of a run that another one replaces, in whatever folder of its root.

Beside those of the new run they would be taken for its own: TensorBoard draws all event files of a folder as one curve.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from asyncckpt.format import names
from asyncckpt.run import identity
from asyncckpt.run.files import blocking
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.base import Storage
from asyncckpt.storage.bounded import unbounded
from asyncckpt.storage.reasons import translated

_NAME = re.compile(
    r"(training|model|optimizer|checkpoints|comparison)[a-z0-9._-]*_step_\d{9,}_\d{8}_\d{6}\.png"
    r"|events\.out\.tfevents\.[^/]+"
)
"""What `asyncckpt.plots.Plotter` and TensorBoard call their files."""
_CHECKPOINTS = (names.DATA, names.COMMITS, "user/", "pins/")
_OF_A_RUN = (identity.KEY, names.RUN)


async def remove(storage: Storage) -> None:
    """Remove them all; those of another run whose root lies in this one stay. Raises `StorageError`."""
    if isinstance(unbounded(storage), LocalStorage):  # where a name may be one that is no key: a host's is in it
        for path in await blocking(storage, "look for what a run has left", lambda: [*_local(Path(storage.url))]):
            await blocking(storage, f"delete {path.name}", partial(_remove, path))
        return
    keys = [info.key async for info in storage.list() if not info.key.startswith(_CHECKPOINTS)]
    await storage.delete(list(_ours(keys)))


def _remove(path: Path) -> None:
    with translated(str(path)):
        path.unlink(missing_ok=True)


def _local(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        if Path(folder) == root:
            folders[:] = [name for name in folders if f"{name}/" not in _CHECKPOINTS]
        elif any(name in files for name in _OF_A_RUN):
            folders.clear()
            continue
        yield from (Path(folder, name) for name in files if _NAME.fullmatch(name))


def _ours(keys: Collection[str]) -> Iterator[str]:
    parted = [key.rpartition("/") for key in keys]
    others = tuple(f"{folder}/" for folder, _, name in parted if folder and name in _OF_A_RUN)
    yield from (key for key in keys if _NAME.fullmatch(key.rpartition("/")[2]) and not key.startswith(others))
