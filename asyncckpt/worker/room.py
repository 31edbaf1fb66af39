"""Room: how much a store can take still, where it has an end that it can tell."""

from __future__ import annotations

import shutil
from pathlib import Path

from asyncckpt.storage.base import Storage
from asyncckpt.storage.bounded import unbounded
from asyncckpt.storage.local import LocalStorage


def free(storage: Storage) -> int | None:
    """Bytes that are free on the disk of `storage`; None where that is no disk, or nobody can tell."""
    storage = unbounded(storage)
    if not isinstance(storage, LocalStorage):
        return None
    folder = Path(storage.url)
    try:
        return shutil.disk_usage(next(there for there in (folder, *folder.parents) if there.exists())).free
    except OSError:
        return None
