"""Available: whether a worker process can be had here."""

from __future__ import annotations

import os
import sys

from asyncckpt.storage.base import Storage
from asyncckpt.storage.recipe import recipe_of


def why_not(*storages: Storage) -> str | None:
    """Why there can be no worker process that saves into `storages`, or None."""
    if sys.platform == "linux":
        for storage in storages:
            if recipe_of(storage) is None:
                return f"no other process can have the storage at {storage.url}"
        if not sys.executable:
            return "this Python does not know its own interpreter (sys.executable)"
        try:
            os.close(os.pidfd_open(os.getpid()))
        except OSError as error:
            return f"a process cannot be watched here ({error})"
        return None
    else:
        return "a worker process needs Linux"
