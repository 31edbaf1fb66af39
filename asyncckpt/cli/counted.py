"""Counted: how many there are of something, in words."""

from __future__ import annotations


def counted(number: int, one: str, many: str = "") -> str:
    """``1 object``, ``2 objects``; `many` is needed where it is not `one` with an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"
