"""Printable text: names in a checkpoint come from outside, and must not steer a terminal or break a line."""

from __future__ import annotations


def printable(text: str) -> str:
    """`text`, written with escapes if a character of it is not printable."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
