"""Commits: where the records of a run lie, and which of them count.

In mode "exclusive" a record counts because it is there: it was created where nothing was. In mode "fenced", on a store
that cannot do that, every writer has names of its own; what counts is a record that was confirmed after a look at who
else claims the run. A slot holds incarnation and number then, so that slots rise as the log does in either mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from asyncckpt.format import names
from asyncckpt.format.names import FencedName
from asyncckpt.storage.base import Storage


class Commits(Protocol):
    """The commit log of one run, as objects."""

    async def slots(self, above: int = 0) -> list[int]:
        """The slots above `above` that hold a record which counts now, in rising order."""
        ...

    async def keys(self, slots: Sequence[int]) -> list[str]:
        """Where the records in `slots` lie, one key for each."""
        ...

    async def removable(self, slots: Iterable[int]) -> list[str]:
        """Everything that stands in `slots`, in the order in which it may be deleted."""
        ...


class Exclusive:
    """Mode "exclusive": ``commits/0000000042.json``."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def slots(self, above: int = 0) -> list[int]:
        """See `Commits.slots`."""
        after = names.record_key(above) if above else None
        found = [names.slot_of(o.key) async for o in self._storage.list(names.COMMITS, after)]
        return sorted(slot for slot in found if slot is not None and slot > above)

    async def keys(self, slots: Sequence[int]) -> list[str]:
        """See `Commits.keys`."""
        return [names.record_key(slot) for slot in slots]

    async def removable(self, slots: Iterable[int]) -> list[str]:
        """See `Commits.removable`."""
        return [names.record_key(slot) for slot in slots]


class Fenced:
    """Mode "fenced": ``commits/0000000003-0000000042-<writer>.json``, its ``.ok``, and a ``.claim`` before the first.

    A slot with number 0 holds the claims of an incarnation.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._known: dict[int, set[FencedName]] = {}

    async def slots(self, above: int = 0) -> list[int]:
        """See `Commits.slots`: those that were confirmed."""
        found = await self.names(above)
        return sorted({name.slot for name, kind in found if kind == "ok" and name.slot > above})

    async def names(self, above: int = 0) -> list[tuple[FencedName, str]]:
        """Every record (``json``), confirmation (``ok``) and ``claim`` that is there now, of slots above `above`."""
        after = names.before_fenced(above + 1) if above else None
        found = []
        async for entry in self._storage.list(names.COMMITS, after):
            named = names.fenced_of(entry.key)
            if named is not None:
                found.append(named)
                self._known.setdefault(named[0].slot, set()).add(named[0])
        return found

    async def keys(self, slots: Sequence[int]) -> list[str]:
        """See `Commits.keys`; for a slot that holds nothing, where nothing is."""
        if not self._known.keys() >= set(slots):
            await self.names()
        return [min(self._known.get(slot) or {names.fenced_name(slot, "0" * 32)}, key=_writer).record for slot in slots]

    async def removable(self, slots: Iterable[int]) -> list[str]:
        """See `Commits.removable`: no confirmation is left of a record that is gone."""
        known = [name for slot in slots for name in self._known.get(slot, ())]
        claims = [name.claim for name in known if name.number == 0]
        records = [name for name in known if name.number > 0]
        return claims + [name.confirmation for name in records] + [name.record for name in records]


def _writer(name: FencedName) -> str:
    return name.writer
