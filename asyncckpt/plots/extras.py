"""Extras: matplotlib and numpy, imported when something is drawn."""

from __future__ import annotations

import importlib
from typing import Any

from asyncckpt.errors import AsyncCkptError


class PlotsUnavailable(AsyncCkptError):
    """Nothing can be drawn here; the message says what is missing and how to get it."""


def needed(module: str) -> Any:
    """The module; raises `PlotsUnavailable` that names the extra which brings it, where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise PlotsUnavailable(f"plots need {package} ({error}): pip install 'asyncckpt[plots]'") from error
