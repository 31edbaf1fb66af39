"""Extras: libraries that only some roots need, imported when one is opened."""

from __future__ import annotations

import importlib
from typing import Any

from asyncckpt.errors import StorageError


def needed(module: str, extra: str, url: str) -> Any:
    """The module; raises `StorageError` that names the extra which brings it, where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise StorageError(f"{url} needs {module} ({error}): pip install 'asyncckpt[{extra}]'") from error
