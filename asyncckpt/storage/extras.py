"""Extras: libraries that only some roots need, imported when one is opened."""

from __future__ import annotations

from typing import Any

from asyncckpt.errors import StorageError
from asyncckpt.extras import imported


def needed(module: str, extra: str, url: str) -> Any:
    """The module; raises `StorageError` that names the extra which brings it, where it is not installed."""
    return imported(module, extra, f"{url} needs {module}", StorageError)
