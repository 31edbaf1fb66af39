"""Extras: libraries that not everybody needs, imported when somebody does."""

from __future__ import annotations

import importlib
from typing import Any

from asyncckpt.errors import AsyncCkptError


def imported(module: str, extra: str, need: str, error: type[AsyncCkptError]) -> Any:
    """The module; where it is not installed raises `error` with the `need`, a clause, and the extra which brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as missing:
        raise error(f"{need} ({missing}): pip install 'asyncckpt[{extra}]'") from missing
