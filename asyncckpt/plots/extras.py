"""Extras: matplotlib and numpy, imported when something is drawn."""

from __future__ import annotations

from typing import Any

from asyncckpt.errors import AsyncCkptError
from asyncckpt.extras import imported


class PlotsUnavailable(AsyncCkptError):
    """Nothing can be drawn here; the message says what is missing and how to get it."""


def needed(module: str) -> Any:
    """The module; raises `PlotsUnavailable` that names the extra which brings it, where it is not installed."""
    return imported(module, "plots", f"plots need {module.partition('.')[0]}", PlotsUnavailable)
