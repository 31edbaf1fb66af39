"""Gathering: everything that a run's root says of it, read once. What is damaged is said, and the rest is read."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.listing import Listing
from asyncckpt.configuration.plain import masked
from asyncckpt.errors import (
    AsyncCkptError,
    CheckpointCorruptError,
    CheckpointNotFoundError,
    HeadDamaged,
    ObjectNotFound,
    RunRefused,
)
from asyncckpt.format.coded_file import unpacked
from asyncckpt.format.findings import Damage, Finding
from asyncckpt.format.runfile import RunFile
from asyncckpt.metrics_log.history import History, history_of
from asyncckpt.metrics_log.rows import Row, iso
from asyncckpt.report.journal import LOGS, Journal
from asyncckpt.storage import opened
from asyncckpt.storage.base import Storage
from asyncckpt.storage.bounded import bounded_reading
from asyncckpt.storage.stopped import unheld

_CONFIG = re.compile(r"config(?:-(\d+))?\.json(?:\.zst)?(?:\.enc)?")
_FILES = ("identity.json", "hyperparameters.json", "results.json", "wandb_info.json")
_BROKEN = (CheckpointCorruptError, HeadDamaged, RunRefused)


@dataclass(frozen=True)
class Gathered:
    """What is known of the run in `url`; what its root does not say is empty.

    `config` is its newest configuration with what is said beside it, secrets masked; `identity`, `hyperparameters`,
    `results` and `wandb` are its files of these names. `listing` are its checkpoints, and `damage` what of them was
    found damaged, by sequence number. `logs` are the logs of the console, and `problems` are the parts that
    could not be read, in words.
    """

    url: str
    identity: Mapping[str, Any]
    config: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    results: Mapping[str, Any]
    wandb: Mapping[str, Any]
    listing: Listing
    damage: Mapping[int, Damage]
    history: History
    is_of_checkpoints: bool
    """Whether there was no metrics log, and `history` is what checkpoints carry."""
    events: tuple[Row, ...]
    """The checkpoint log: what became of every save."""
    logs: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is called: its id, or the last part of its root."""
        return str(self.identity.get("id") or self.url.rstrip("/").rpartition("/")[2] or self.url)

    @property
    def starts(self) -> Sequence[Mapping[str, Any]]:
        """Every start, oldest first."""
        said = self.identity.get("starts")
        return [start for start in said if isinstance(start, Mapping)] if isinstance(said, list) else []

    @property
    def status(self) -> str:
        """``finished`` where its results are written, ``resumed`` where it was started since then, else ``unfinished``.

        Whether an unfinished one is still running nobody can tell from its root.
        """
        if not self.results:
            return "unfinished"
        last, written = (
            _moment(self.starts[-1].get("time") if self.starts else None),
            _moment(self.results.get("timestamp")),
        )
        return "resumed" if last is not None and written is not None and last > written else "finished"

    @property
    def latest_step(self) -> int:
        """The last step that its log or its catalog knows."""
        return max([self.history.latest_step, *(checkpoint.step for checkpoint in self.listing.checkpoints)])


def _moment(said: Any) -> float | None:
    try:
        return datetime.fromisoformat(said).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def gather(root: str | os.PathLike[str] | Storage, *, storage_options: Mapping[str, Any] | None = None) -> Gathered:
    """Read all that the run in `root`, a path, a URL or an open storage, says. Blocks; for any thread.

    Raises `CheckpointNotFoundError` where there is no run, and `StorageError` where that cannot be found out.
    """
    given = opened(root, storage_options)

    async def once() -> Gathered:
        storage = bounded_reading(given)  # nobody waits for a disk that hangs
        try:
            return await Gathering(storage).look()
        finally:
            if given is not root:
                await storage.aclose()

    return unheld(once(), "asyncckpt-report")


class Gathering:
    """The run in `storage`, looked at again and again: of journals and records only what is new is read."""

    def __init__(self, storage: Storage) -> None:
        self.catalog = Catalog(storage)
        self._storage = storage
        self._known: Gathered | None = None
        self._run: RunFile | None = None
        self._metrics, self._events = Journal(storage, "metrics"), Journal(storage, "checkpoints")
        self._history: tuple[Sequence[Row], History] = (), History()

    async def look(self) -> Gathered:
        """What it is now: the same object as before where nothing has changed. Raises as `gather` does."""
        storage, problems = self._storage, list[str]()
        identity, hyperparameters, results, wandb = [await _json(storage, key, problems) for key in _FILES]
        config = await _config(storage, problems)
        listing = await self._listing(problems)
        rows, events = await self._metrics.look(), await self._events.look()
        problems += [*self._metrics.problems, *self._events.problems]
        if not (identity or listing.records or listing.lost or listing.head or rows or problems):
            raise CheckpointNotFoundError(f"{storage.url} holds no run: no identity.json, no checkpoints, no metrics")
        found = Gathered(
            url=storage.url,
            identity=identity,
            config=config,
            hyperparameters=hyperparameters,
            results=results,
            wandb=wandb,
            listing=listing,
            damage=await self._damage(listing),
            history=await asyncio.to_thread(self._of_rows, rows or self._carried(listing)),
            is_of_checkpoints=not rows,
            events=tuple(events),
            logs=tuple([info.key async for info in storage.list(f"{LOGS}/training_")]),
            problems=tuple(problems),
        )
        if self._known is None or self._known != found:
            self._known = found
        return self._known

    async def _listing(self, problems: list[str]) -> Listing:
        before = None if self._known is None else self._known.listing
        try:
            run = await self.catalog.run()
            if run != self._run:  # begun anew in the same place: its records have the same slots
                self._run, before = run, None
            found = await self.catalog.listing(before)
        except _BROKEN as error:
            problems.append(f"which checkpoints there are is not known: {error}")
            return Listing(None)
        return before if before is not None and _is_same(found, before) else found

    async def _damage(self, listing: Listing) -> dict[int, Damage]:
        noted = {c.seq: Finding.of(c) for c in listing.checkpoints if listing.is_damaged(c)}
        found = {seq: await self.catalog.damage(finding) for seq, finding in noted.items()}
        return {seq: damage for seq, damage in found.items() if damage is not None}

    def _carried(self, listing: Listing) -> Sequence[Row]:
        if self._known is not None and self._known.listing is listing and self._known.is_of_checkpoints:
            return self._history[0]
        return [Row(c.step, iso(c.created / 1e6), c.metrics) for c in listing.checkpoints if c.metrics]

    def _of_rows(self, rows: Sequence[Row]) -> History:
        if rows is not self._history[0]:
            self._history = rows, history_of(rows)
        return self._history[1]


def _is_same(found: Listing, before: Listing) -> bool:
    if found.head is None or before.head is None or found.head.digest != before.head.digest:
        return False
    said = found.marks == before.marks and found.findings == before.findings
    return said and found.lost.keys() == before.lost.keys() and len(found.records) == len(before.records)


async def _config(storage: Storage, problems: list[str]) -> Mapping[str, Any]:
    """What the newest says; what only the first does, the model and the data, is of all starts."""
    found = {
        int(match[1] or 1): info.key async for info in storage.list("config") if (match := _CONFIG.fullmatch(info.key))
    }
    said: dict[str, Any] = {}
    for number in sorted({min(found), max(found)} if found else ()):
        said |= await _json(storage, found[number], problems)
    return said


async def _json(storage: Storage, key: str, problems: list[str]) -> Mapping[str, Any]:
    try:
        data = bytes(await storage.get(key))
    except ObjectNotFound:
        return {}
    try:
        found = json.loads(unpacked(data, key))
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
        # Written by hand, or by an earlier version: no secret leaves the root by a report.
        return masked(found)
    except AsyncCkptError as error:  # its key is not here, or its library
        problems.append(f"{key} cannot be read: {error}")
        return {}
    except (ValueError, RecursionError) as error:
        problems.append(f"{key} is damaged: {error}")
        return {}
