"""Nothing: what a person is told of a root in which there is nothing, and where it may be instead."""

from __future__ import annotations

from pathlib import Path

from asyncckpt.cli.printable import printable
from asyncckpt.errors import AsyncCkptError

_SHOWN = 3
"""Runs in a folder that are named."""


def nothing_in(root: str, what: str = "checkpoints") -> str:
    """That `root` holds none; of a folder also that it is not there, or that it is the runs in it that may.

    A bucket is not asked again: a script that starts a training meets this each first time.
    """
    return printable(f"{root} holds no {what}{_why(root)}")


def is_elsewhere(root: str) -> bool:
    """Whether `root` is a folder that is not there, or that is no run and has some in it."""
    return bool(_why(root))


def _why(root: str) -> str:
    if "://" in root:
        return ""
    if not Path(root).expanduser().exists():
        return ": there is no such folder"
    from asyncckpt.report import runs_in

    try:
        below = runs_in(root)
    except AsyncCkptError:
        return ""
    if below == [root]:
        return ""
    more = ", ..." if len(below) > _SHOWN else ""
    return f", but the runs in it may: name one, as {', '.join(below[:_SHOWN])}{more}"
