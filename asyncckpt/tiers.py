"""Tiers: the stores beside the root that a user names, checked before anything is started."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from typing import Any, TypeAlias

from asyncckpt.storage import opened
from asyncckpt.storage.base import Storage
from asyncckpt.storage.choosing import import_ahead

Place: TypeAlias = str | os.PathLike[str] | Storage


def stores(
    root: Place, options: Mapping[str, Any] | None, *, local: Place | None, mirror: Place | None
) -> tuple[Storage, Storage | None, Storage | None]:
    """The storages that a user means by `root`, by `local` and by `mirror`.

    The `options` are the root's, and the mirror's too if it is of the same kind. Raises `ValueError` where two of them
    lie in each other, and `StorageError` for what cannot be a root.
    """
    home = opened(root, options)
    nearer = None if local is None else opened(local, None)
    copies = mirror
    if isinstance(copies, str | os.PathLike):
        copies = opened(copies, options if scheme(os.fspath(copies)) == scheme(home.url) else None)
    found = {"root": home, "local": nearer, "mirror": copies}
    named = [(name, storage.url) for name, storage in found.items() if storage is not None]
    for (former, one), (latter, other) in itertools.combinations(named, 2):
        if _lie_in_each_other(one, other):
            raise ValueError(f"{latter}={other!r} and {former}={one!r} lie in each other: give it a place of its own")
    for _, url in named:
        import_ahead(url)
    return home, nearer, copies


def _lie_in_each_other(one: str, other: str) -> bool:
    ours, theirs = one.rstrip("/") + "/", other.rstrip("/") + "/"
    return ours.startswith(theirs) or theirs.startswith(ours)


def scheme(url: str) -> str:
    """Of a URL; empty for a path."""
    return url.partition("://")[0].lower() if "://" in url else ""
