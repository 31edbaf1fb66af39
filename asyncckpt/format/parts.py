"""Parts: what people name of a state: ``"model"``, ``"extra.ema"``."""

from __future__ import annotations

from collections.abc import Collection

from asyncckpt.format.contents import Path


def plain(path: Path) -> Path:
    """`path` without the rank in front of what belongs to one rank: people name parts alike on every rank."""
    return path[1:] if path and path[0].startswith("rank-") else path


def below(path: Path, parts: Collection[str]) -> bool:
    """Whether `path` is one of `parts` or stands below one."""
    name = ".".join(path)
    return any(name == part or name.startswith(part + ".") for part in parts)


def around(path: Path, parts: Collection[str]) -> bool:
    """Whether one of `parts` stands below `path`."""
    return any(below(tuple(part.split(".")), [".".join(path)]) for part in parts)
