"""Admission: whether what a training's saves will need is there, asked before the first of them, and of a larger state.

Each answer is a sentence that a person can act on, in an event, and told again only when it is another one. No save is
refused here: what is short now may be there by then, and what is not fails the save with its own reason. Nobody waits
for a disk to say how much room it has: one that hangs never does, and it is training that would stand still.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path

from asyncckpt import allowance
from asyncckpt.allowance import Allowance
from asyncckpt.errors import AsyncCkptError
from asyncckpt.events import Listeners, Shortage
from asyncckpt.storage.base import Storage
from asyncckpt.storage.bounded import unbounded
from asyncckpt.storage.daemons import Daemons
from asyncckpt.storage.local import LocalStorage

LOOK = 5.0
"""Seconds after which a disk that has not said how much room it has is said to hang."""


class Admission:
    """Asks on behalf of one checkpointer, whose checkpoints go to `storage` and to the tiers `beside` it, by name."""

    def __init__(self, storage: Storage, listeners: Listeners, beside: Mapping[str, Storage] | None = None) -> None:
        self._storage = storage
        stores = {"take another root": storage} | {
            f"give {name}= another folder": tier for name, tier in (beside or {}).items()
        }
        disks = {instead: unbounded(store) for instead, store in stores.items()}
        self._disks = {instead: Path(disk.url) for instead, disk in disks.items() if isinstance(disk, LocalStorage)}
        self._listeners = listeners
        self._said: dict[str, Shortage] = {}
        self._asked: dict[str, Future[list[Shortage]]] = {}
        self._hearing: dict[str, Future[None]] = {}

    def check(self, size: int, arenas: int, kinds: Collection[str], allowed: Allowance | None) -> None:
        """For snapshots of `size` bytes, in so many `arenas`, of tensors on devices of these `kinds`.

        `allowed` is the memory that may be taken for them; None where the system does not say.
        """
        locks = _of_locks(size * arenas, kinds)
        for shortage in (*_of_memory(size, allowed), *locks):
            self._tell(shortage.resource, shortage)
        for instead, folder in self._disks.items():
            with suppress(OSError):  # no thread to be had: the save will meet what it needs one for
                self._ask(size, folder, instead)

    def wait(self) -> None:
        """Return once every disk that was asked has answered, or was found to hang."""
        wait(self._hearing.values())

    def _ask(self, size: int, folder: Path, instead: str) -> None:
        hearing, asked = self._hearing.get(instead), self._asked.get(instead)
        if asked is not None and not asked.done() and hearing is not None and hearing.done():
            return  # it was said to hang, and does
        threads = Daemons(2, "asyncckpt-room")
        try:
            self._asked[instead] = asked = threads.submit(_of_disk, size, folder, instead)
            self._hearing[instead] = threads.submit(self._hear, asked, folder, instead)
        finally:
            threads.shutdown(wait=False)

    def _hear(self, asked: Future[list[Shortage]], folder: Path, instead: str) -> None:
        wait([asked], LOOK)
        for shortage in asked.result() if asked.done() else [_silent(folder, instead)]:
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


def _of_disk(size: int, folder: Path, instead: str) -> list[Shortage]:
    with suppress(OSError):  # the save itself will meet it: a mount that is gone, a folder that may not be entered
        there = next(above for above in (folder, *folder.parents) if above.exists())
        if not os.access(there, os.W_OK):
            said = f"{there} may not be written by this user: change its mode, or {instead}"
            return [Shortage("disk", said)]
        if (free := shutil.disk_usage(there).free) < size:
            said = (
                f"a checkpoint takes up to {size:,} bytes, and the disk of {there} has {free:,} free: make room for "
                f"{size - free:,}, or {instead}"
            )
            return [Shortage("disk", said)]
    return []


def _silent(folder: Path, instead: str) -> Shortage:
    return Shortage(
        "disk",
        f"the disk of {folder} has not said within {LOOK:g} s how much room it has: it hangs, or its server does; "
        f"mend that, or {instead}",
    )
