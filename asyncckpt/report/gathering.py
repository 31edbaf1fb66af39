"""Gathering: everything that a run's root says of it, read once. What is damaged is said, and the rest is read."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from asyncckpt.catalog import Catalog
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
from asyncckpt.listing import Listing
from asyncckpt.metrics_log.history import History, history_of, rows_of
from asyncckpt.metrics_log.rows import Row, iso
from asyncckpt.storage import LocalStorage, opened
from asyncckpt.storage.base import Storage

LOGS = "logs"
_CONFIG = re.compile(r"config(?:-(\d+))?\.json(?:\.zst)?(?:\.enc)?")
_FILES = ("identity.json", "hyperparameters.json", "results.json", "wandb_info.json")
_OF_EVENTS = ("seq", "by_step", "bytes", "written", "seconds", "created")
"""What an event says in numbers."""
_LARGEST = 2**53
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
    storage = opened(root, storage_options)
    with ThreadPoolExecutor(1, thread_name_prefix="asyncckpt-report") as thread:
        return thread.submit(asyncio.run, _gathered(storage, is_ours=storage is not root)).result()


async def _gathered(storage: Storage, *, is_ours: bool) -> Gathered:
    try:
        problems: list[str] = []
        identity, hyperparameters, results, wandb = [await _json(storage, key, problems) for key in _FILES]
        config = await _config(storage, problems)
        listing = await _listing(storage, problems)
        rows, events = await _rows(storage, "metrics", problems), await _rows(storage, "checkpoints", problems)
        if not (identity or listing.records or listing.lost or listing.head or rows or problems):
            raise CheckpointNotFoundError(f"{storage.url} holds no run: no identity.json, no checkpoints, no metrics")
        logs = [info.key async for info in storage.list(f"{LOGS}/training_")]
        damage = await _damage(storage, listing)
    finally:
        if is_ours:
            await storage.aclose()
    carried = [Row(c.step, iso(c.created / 1e6), c.metrics) for c in listing.checkpoints if c.metrics]
    return Gathered(
        url=storage.url,
        identity=identity,
        config=config,
        hyperparameters=hyperparameters,
        results=results,
        wandb=wandb,
        listing=listing,
        damage=damage,
        history=history_of(rows or carried),
        is_of_checkpoints=not rows,
        events=tuple(events),
        logs=tuple(logs),
        problems=tuple(problems),
    )


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
        # Half of a character, which JSON can say, and no page.
        found = json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
    except AsyncCkptError as error:  # its key is not here, or its library
        problems.append(f"{key} cannot be read: {error}")
        return {}
    except (ValueError, RecursionError) as error:
        problems.append(f"{key} is damaged: {error}")
        return {}
    if not isinstance(found, dict):
        problems.append(f"{key} is damaged: it is no JSON object")
        return {}
    # Written by hand, or by an earlier version: no secret leaves the root by a report.
    said: dict[str, Any] = masked(found)
    return said


async def _listing(storage: Storage, problems: list[str]) -> Listing:
    try:
        return await Catalog(storage).listing()
    except _BROKEN as error:
        problems.append(f"which checkpoints there are is not known: {error}")
        return Listing(None)


async def _damage(storage: Storage, listing: Listing) -> dict[int, Damage]:
    catalog = Catalog(storage)
    noted = {c.seq: Finding.of(c) for c in listing.checkpoints if Finding.of(c) in listing.findings}
    found = {seq: await catalog.damage(finding) for seq, finding in noted.items()}
    return {seq: damage for seq, damage in found.items() if damage is not None}


async def _rows(storage: Storage, stem: str, problems: list[str]) -> list[Row]:
    """The rows of that journal in the root and in its ``logs/``, by their time."""
    places: list[tuple[Any, str]] = [(storage, stem), (storage, f"{LOGS}/{stem}")]
    if isinstance(storage, LocalStorage):
        places = [(folder, stem) for folder in (Path(storage.url), Path(storage.url, LOGS)) if folder.is_dir()]
    found: list[Row] = []
    for folder, name in places:
        rows, bad = await asyncio.to_thread(rows_of, folder, name, None)
        sound = [row for row in rows if _is_sound(row)]
        found += sound
        bad += len(rows) - len(sound)
        if bad:
            problems.append(f"{bad} lines of {name}.jsonl are no rows, and are left out")
    return sorted(found, key=lambda row: row.timestamp)


def _is_sound(row: Row) -> bool:
    """Whether an event says in numbers what it has to; rows of metrics hold what anybody logs."""
    if row.event is None:
        return True
    said = [row.metrics[name] for name in _OF_EVENTS if row.metrics.get(name) is not None]
    return all(type(value) in (int, float) and -1 < value < _LARGEST for value in said)
