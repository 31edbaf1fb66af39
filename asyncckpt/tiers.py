"""Tiers: the stores beside the root that a user names, checked before anything is started."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Mapping
from typing import Any, TypeAlias

from asyncckpt.storage import mounts, opened
from asyncckpt.storage.base import Storage
from asyncckpt.storage.bounded import Bounded, bounded, bounded_disk
from asyncckpt.worker.sharing import here

Place: TypeAlias = str | os.PathLike[str] | Storage


def stores(
    root: Place, options: Mapping[str, Any] | None, *, local: Place | None, mirror: Place | None
) -> tuple[Storage, Bounded | None, Storage | None]:
    """The storages that a user means by `root`, by `local` and by `mirror`.

    Nobody waits for the local one once it hangs, nor for a mirror on a disk that does. The `options` are the root's,
    and the mirror's too if it is of the same kind. Raises `ValueError` where two of them lie in each other, and
    `StorageError` for what cannot be a root.
    """
    home = opened(root, options)
    nearer = None if local is None else bounded(opened(local, None))
    copies = mirror
    if isinstance(copies, str | os.PathLike):
        copies = opened(copies, options if scheme(os.fspath(copies)) == scheme(home.url) else None)
    copies = None if copies is None else bounded_disk(copies)
    found = {"root": home, "local": nearer, "mirror": copies}
    named = [(name, storage.url) for name, storage in found.items() if storage is not None]
    for (former, one), (latter, other) in itertools.combinations(named, 2):
        if _lie_in_each_other(one, other):
            raise ValueError(f"{latter}={other!r} and {former}={one!r} lie in each other: give it a place of its own")
    return home, nearer, copies


def check_shared(local: Storage, rank: int, world: int, environment: Mapping[str, str]) -> None:
    """Refuse a local tier that not all of `world` ranks can have: a disk of one of several machines, or memory.

    Raises `NotImplementedError`.
    """
    if world == 1:
        return
    if scheme(local.url) == "memory":
        raise NotImplementedError(f"local={local.url!r} is the memory of one process: its {world} ranks share none")
    if (count := len(here(rank, world, environment))) < world and _is_of_this_machine(local):
        raise NotImplementedError(
            f"local={local.url!r} is on a disk of this machine, with ranks on several machines ({count} of {world} are "
            "here): a checkpoint is listed there with every rank's part or not at all, so all ranks need the same "
            "folder; give one on a file system that every machine mounts (NFS, Lustre, ...), or leave local= out, and "
            "every rank saves in the root"
        )


def seen_at(local: Storage) -> str:
    """What and where it is, in words that are the same on all ranks that have the same."""
    if scheme(local.url):
        return local.url
    return f"{local.url} on {mounts.network(local.url) or socket.gethostname()}"


def _is_of_this_machine(local: Storage) -> bool:
    return not scheme(local.url) and mounts.network(local.url) is None


def _lie_in_each_other(one: str, other: str) -> bool:
    ours, theirs = ((url if scheme(url) else mounts.real(url)).rstrip("/") + "/" for url in (one, other))
    return ours.startswith(theirs) or theirs.startswith(ours)


def scheme(url: str) -> str:
    """Of a URL; empty for a path."""
    return url.partition("://")[0].lower() if "://" in url else ""
