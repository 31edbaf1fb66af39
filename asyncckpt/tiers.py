"""Tiers: the stores beside the root that a user names, checked before anything is started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from asyncckpt.storage import opened
from asyncckpt.storage.base import Storage


def stores(
    root: str | os.PathLike[str] | Storage,
    mirror: str | os.PathLike[str] | Storage | None,
    options: Mapping[str, Any] | None,
) -> tuple[Storage, Storage | None]:
    """The storages that a user means by `root` and by `mirror`, which gets the `options` too if it is of the same kind.

    Raises `ValueError` where the two lie in each other, and `StorageError` for what cannot be a root.
    """
    home = opened(root, options)
    if mirror is None:
        return home, None
    copies = mirror
    if isinstance(copies, str | os.PathLike):
        copies = opened(copies, options if _scheme(os.fspath(copies)) == _scheme(home.url) else None)
    ours, theirs = home.url.rstrip("/") + "/", copies.url.rstrip("/") + "/"
    if ours.startswith(theirs) or theirs.startswith(ours):
        raise ValueError(f"mirror={copies.url!r} and root={home.url!r} lie in each other: give it a place of its own")
    return home, copies


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower() if "://" in url else ""
