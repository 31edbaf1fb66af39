"""Watching: what has changed in a run between two looks at it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.cli.counted import counted
from asyncckpt.cli.printable import printable
from asyncckpt.errors import AsyncCkptError
from asyncckpt.format.record import Record
from asyncckpt.inspection.summary import Summary, summaries
from asyncckpt.sizes import size
from asyncckpt.storage.base import Dated

MOST = 20
"""How many of the newest checkpoints are asked when they were committed, at first."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that has changed."""

    event: str
    line: str
    """For people."""
    fields: dict[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """What has happened, and to what, on one line."""
        return f"{self.event}  {printable(self.line)}"

    def json(self) -> dict[str, Any]:
        """As one JSON object."""
        return {"event": self.event, **self.fields}


class Watched:
    """A run, as far as it was seen."""

    def __init__(self, catalog: Catalog) -> None:
        self.listing: Listing | None = None
        self.took: dict[int, float] = {}
        """By sequence number, the seconds from the save call to the commit, by the clocks of training and store."""
        self.error: str | None = None
        """Why the last look failed."""
        self._catalog = catalog
        self._shown: dict[int, Summary] = {}

    @property
    def summaries(self) -> list[Summary]:
        """What is listed, oldest first."""
        return list(self._shown.values())

    async def look(self) -> list[Change]:
        """What has changed since the last look; raises as `Catalog.listing` does, and forgets nothing then."""
        before, shown = self.listing, self._shown
        self.listing = await self._catalog.listing(before)
        self._shown = {summary.info.seq: summary for summary in summaries(self.listing)}
        await self._ask_when(self.listing, shown)
        changes = list(self._reached())
        if before is None:
            return [*changes, self._first(self.listing), *_lost(self.listing)]
        return [*changes, *_of_writer(before.head, self.listing.head), *self._changed(before, self.listing, shown)]

    def failed(self, why: str) -> list[Change]:
        """The store could not be asked; told when that begins."""
        is_new, self.error = self.error is None, why
        return [Change("unreachable", f"cannot be read: {why}", {"reason": why})] if is_new else []

    def _reached(self) -> Iterator[Change]:
        if self.error is not None:
            self.error = None
            yield Change("reachable", "can be read again")

    async def _ask_when(self, listing: Listing, shown: dict[int, Summary]) -> None:
        """Find out how long those took that are new; what cannot be found out is left out."""
        storage = self._catalog.storage
        new = [r for r in listing.records if r.kind == "checkpoint" and r.checkpoint and r.checkpoint.seq not in shown]
        for record in new[-MOST:]:
            if isinstance(storage, Dated) and record.checkpoint is not None:
                with suppress(AsyncCkptError):
                    (key,) = await self._catalog.commits.keys([record.slot])
                    stored = await storage.stored_at(key)
                    if stored is not None:
                        self.took[record.checkpoint.seq] = max(0.0, stored - record.checkpoint.created / 1e6)

    def _first(self, listing: Listing) -> Change:
        head, latest = listing.head, next((s for s in self._shown.values() if s.latest), None)
        number = len(self._shown)
        what = f", the latest {latest.info.id} of step {latest.info.step}" if latest else ""
        return Change(
            "watching",
            f"{counted(number, 'checkpoint')}{what}; {state_of(head)}",
            {
                "url": self._catalog.storage.url,
                "checkpoints": number,
                "latest": None if latest is None else latest.json(),
                **_writer_json(head),
            },
        )

    def _changed(self, before: Listing, after: Listing, shown: dict[int, Summary]) -> Iterator[Change]:
        told_by = [*after.records, after.head] if after.head else ()  # several saves may lie between two looks
        reasons = {removal.seq: removal.reason for record in told_by for removal in record.removed}
        for seq, former in shown.items():
            if seq not in self._shown:
                why = reasons.get(seq)
                told = {"id": former.info.id, "step": former.info.step, "reason": why}
                yield Change("removed", f"{former.info.id} of step {former.info.step}{f': {why}' if why else ''}", told)
        for seq, summary in self._shown.items():
            info = summary.info
            if seq not in shown:
                seconds = self.took.get(seq)
                line = f"{info.id} of step {info.step}, {size(info.size)}"
                line += "" if seconds is None else f", took {seconds:.1f} s"
                yield Change("saved", line, {"checkpoint": summary.json(), "seconds": seconds})
            elif _told(summary) != _told(shown[seq]):
                line = f"{info.id} of step {info.step}: {summary.marks or 'no marks'}"
                yield Change("changed", line, {"checkpoint": summary.json()})
        yield from _lost(after, before.lost)


def state_of(head: Record | None) -> str:
    """Who has the run, for people."""
    if head is None:
        return "no run was begun"
    whose = f"incarnation {head.inc} ({head.writer.shown})"
    return f"closed by {whose}" if head.kind == "close" else f"held by {whose}"


def _lost(listing: Listing, known: Collection[int] = ()) -> Iterator[Change]:
    for slot, error in listing.lost.items():
        if slot not in known:
            yield Change("lost", f"the record in slot {slot}: {error}", {"slot": slot, "reason": str(error)})


def _told(summary: Summary) -> dict[str, Any]:
    # The latest is another with each save, which is told already.
    return {name: value for name, value in summary.json().items() if name != "latest"}


def _writer_json(head: Record | None) -> dict[str, Any]:
    if head is None:
        return {"incarnation": None, "closed": None, "writer": None}
    writer = {"host": head.writer.host, "pid": head.writer.pid}
    return {"incarnation": head.inc, "closed": head.kind == "close", "writer": writer}


def _of_writer(before: Record | None, after: Record | None) -> Iterator[Change]:
    """What the writers have done that is not about one checkpoint."""
    if after is None or (before is not None and before.digest == after.digest):
        return
    if before is None or before.inc != after.inc:
        yield Change("opened", state_of(after), _writer_json(after))
    if after.kind == "rollback" and after.latest is not None:
        yield Change("rolled_back", f"to {after.latest:08d}", {"latest": f"{after.latest:08d}"})
    if after.kind == "close":
        yield Change("closed", state_of(after), _writer_json(after))
