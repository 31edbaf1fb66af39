"""Sizes: bytes for people."""

from __future__ import annotations


def size(nbytes: float) -> str:
    """In powers of 1024, with one digit after the point."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} TiB"
