"""Lost: commit records that cannot be read any more, in words."""

from __future__ import annotations

from collections.abc import Sized


def lost_records(lost: Sized) -> str:
    """How many of them there are."""
    return "a commit record is lost" if len(lost) == 1 else f"{len(lost)} commit records are lost"
