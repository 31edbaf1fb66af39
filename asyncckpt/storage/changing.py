"""Changing: a bounded disk for whoever changes something there by hand, and has to know whether that was done."""

from __future__ import annotations

from asyncckpt.storage.base import Storage
from asyncckpt.storage.bounded import Bounded, BoundedReading, Disk

_CHANGES = ("put", "delete", "abort", "link")


class BoundedChanging(BoundedReading):
    """One that says what is not known of a change that was left behind."""

    def way_out_of(self, what: str) -> str:
        """See `Bounded.way_out_of`."""
        if what.partition(" ")[0] in _CHANGES:
            return (
                "; whether that was done, or will be, is not known: mend that (umount -f, or its server), look at what "
                "is there (asyncckpt ls), and ask again for what is not"
            )
        return "; mend that (umount -f, or its server), and ask again"


def bounded_changing(storage: Storage) -> Storage:
    """`storage`, bounded where it is a disk: others have deadlines of their own."""
    if isinstance(storage, Bounded):
        return storage
    return BoundedChanging(storage, storage) if isinstance(storage, Disk) else storage
