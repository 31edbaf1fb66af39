"""Admission: whether what a training's saves will need is there, asked before the first of them, and of a larger state.

Each answer is a sentence that a person can act on, in an event, and told again only when it is another one. No save is
refused here: what is short now may be there by then, and what is not fails the save with its own reason.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from asyncckpt import allowance
from asyncckpt.allowance import Allowance
from asyncckpt.errors import AsyncCkptError
from asyncckpt.events import Listeners, Shortage
from asyncckpt.storage.base import Storage
from asyncckpt.storage.bounded import unbounded
from asyncckpt.storage.local import LocalStorage


class Admission:
    """Asks on behalf of one checkpointer, whose checkpoints go to `storage` and to the tiers `beside` it, by name."""

    def __init__(self, storage: Storage, listeners: Listeners, beside: Mapping[str, Storage] | None = None) -> None:
        self._storage = storage
        self._disks = {"take another root": storage} | {
            f"give {name}= another folder": tier for name, tier in (beside or {}).items()
        }
        self._listeners = listeners
        self._said: dict[str, Shortage] = {}

    def check(self, size: int, arenas: int, kinds: Collection[str], allowed: Allowance | None) -> None:
        """For snapshots of `size` bytes, in so many `arenas`, of tensors on devices of these `kinds`.

        `allowed` is the memory that may be taken for them; None where the system does not say.
        """
        locks = _of_locks(size * arenas, kinds)
        for shortage in (*_of_memory(size, allowed), *locks):
            self._tell(shortage.resource, shortage)
        for instead, storage in self._disks.items():
            for shortage in _of_disk(size, storage, instead):
                self._tell(instead, shortage)

    def unreachable(self, error: AsyncCkptError) -> None:
        """The store did not answer when it was asked what it holds."""
        self._tell(
            "store",
            Shortage(
                "store",
                f"{self._storage.url} cannot be read ({error}): saves will fail until that is mended; see that it is "
                "there and can be reached from this machine, and that the credentials of this process may read it "
                f"(asyncckpt ls {self._storage.url} asks the same), or take another root",
            ),
        )

    def _tell(self, of: str, shortage: Shortage) -> None:
        if self._said.get(of) == shortage:
            return
        self._said[of] = shortage
        self._listeners.emit(shortage)


def _of_memory(size: int, allowed: Allowance | None) -> Iterator[Shortage]:
    if allowed is not None and size > allowed.free:
        yield Shortage(
            "memory",
            f"a snapshot takes {size:,} bytes of host memory, and {allowed.left}: raise its limit by "
            f"{allowed.short_of(size):,}, or save less",
        )


def _of_locks(size: int, kinds: Collection[str]) -> Iterator[Shortage]:
    limit = allowance.lockable()
    if kinds and limit is not None and size > limit:
        yield Shortage(
            "memlock",
            f"{size:,} bytes of staging memory are to be page-locked for {', '.join(sorted(kinds))}, and "
            f"RLIMIT_MEMLOCK is {limit:,}: some drivers refuse more, and copies are slow then; ulimit -l unlimited "
            "(docker run --ulimit memlock=-1) lifts it",
        )


def _of_disk(size: int, storage: Storage, instead: str) -> Iterator[Shortage]:
    storage = unbounded(storage)
    if not isinstance(storage, LocalStorage):
        return
    with suppress(OSError):  # the save itself will meet it: a mount that is gone, a folder that may not be entered
        folder = next(folder for folder in [Path(storage.url), *Path(storage.url).parents] if folder.exists())
        if not os.access(folder, os.W_OK):
            yield Shortage("disk", f"{folder} may not be written by this user: change its mode, or {instead}")
        elif (free := shutil.disk_usage(folder).free) < size:
            yield Shortage(
                "disk",
                f"a checkpoint takes up to {size:,} bytes, and the disk of {folder} has {free:,} free: make room for "
                f"{size - free:,}, or {instead}",
            )
