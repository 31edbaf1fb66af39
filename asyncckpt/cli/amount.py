"""Amount: bytes as a person types them."""

from __future__ import annotations

import math
import re

import click

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {"ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40}


def amount(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    """The number of bytes in ``5GB`` or ``512MiB``, for an option; at least 1. Raises `click.BadParameter`."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kmgt]?i?)b?", text.strip().lower())
    nbytes = math.floor(float(found[1]) * _UNITS[found[2]]) if found and found[2] in _UNITS else 0
    if nbytes < 1:
        raise click.BadParameter(f"{text!r}: give bytes, as 5GB or 512MiB")
    return nbytes
