"""Each safety line taken away in turn: the explorations of this folder notice every one of them.

The line is replaced in the library's own source, so that a test here fails when the line is gone or has moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import pytest

from asyncckpt.checkpoints import catalog
from asyncckpt.errors import TransientError
from asyncckpt.storage import local
from asyncckpt.testing.crash import crash_states
from asyncckpt.worker import attempt, describing, root
from asyncckpt.worker.commitlog import commit, sweep, writer
from tests.worker.crashing import Crashes
from tests.worker.drive import drive
from tests.worker.exploring import Story, explore, faults, late, openers, zombies
from tests.worker.mutants import mutate
from tests.worker.racing import Race

Look: TypeAlias = Callable[[Path], list[str]]
"""An exploration, on a disk where it needs one: its violations."""


def network(stories: Callable[[], Iterable[Story]]) -> Look:
    return lambda disk: explore(stories(), first=True).violations


def power(disk: Path) -> list[str]:
    async def act() -> Crashes:
        crashes = Crashes(disk)
        return await crashes.explore(crash_states(await crashes.record((4, 5))), first=True)

    return drive(act()).violations


def race(disk: Path) -> list[str]:
    race = Race(disk, "claimed")
    record = "0000000007.json"
    return race.both_stopped(record, record, steps=(11,), others=(), until_wrong=True).violations


zombie, opener = network(zombies), network(openers)
refused = network(partial(faults, lambda faulty, number: faulty.refuse(number, TransientError)))
repeated = network(
    partial(late, lambda faulty, number, after: faulty.repeat(number, after=after), only="create commits")
)

MUTANTS: dict[str, tuple[ModuleType, str, str, Look]] = {
    "no look after open": (writer, "if await catalog.slots(above=record.slot):", "if False:", opener),
    "no look after the record": (
        commit,
        "if stands and not await catalog.slots(above=record.slot):",
        "if stands:",
        zombie,
    ),
    "fenced takes the next slot": (
        commit,
        "    raise error\n",
        "    await commit(catalog, __import__('dataclasses').replace(record, slot=record.slot + 1))\n",
        zombie,
    ),
    "every fenced save is told durable": (
        commit,
        "error.adopted = stands and record.slot in head.live",
        "error.adopted = True",
        zombie,
    ),
    "the catalog is what is present": (
        catalog,
        "listing = await self._with_said(await self.listing_of(head, known))",
        "listing = await self.listing_of(record.replace(head, live=frozenset(await self.slots())))",
        zombie,
    ),
    "the sweep deletes of the own and newer incarnations": (
        sweep,
        "elif owner.inc < view.inc and not",
        "elif not",
        zombie,
    ),
    "the sweep deletes what newer checkpoints share": (
        sweep,
        "(found.key in packs or _described(found.key, folders))",
        "_described(found.key, folders)",
        opener,
    ),
    "pruning deletes what newer checkpoints share": (
        sweep,
        "keys += [pack.key for pack in checkpoint.packs if pack.key not in named]",
        "keys += [pack.key for pack in checkpoint.packs]",
        zombie,
    ),
    "dropped data goes before the record": (
        root,
        "await writer.commit(checkpoint, verdict.removed, verdict.acknowledged, brought)",
        "await self.ownership.pruner._delete("
        "writer, [c for c in writer.checkpoints if c.seq in {r.seq for r in verdict.removed}], (), ())"
        " or await writer.commit(checkpoint, verdict.removed)",
        zombie,
    ),
    "an attempt that may be recorded is discarded": (
        attempt,
        "return isinstance(error, Fenced) or (self.recording and isinstance(error, OutcomeUnknown))",
        "return False",
        refused,
    ),
    "a record is created without asking what stands there": (
        commit,
        'await storage.put(key, [data], mode="create")',
        "await storage.put(key, [data])",
        zombie,
    ),
    "a refused create counts as a success": (
        commit,
        "return bytes(await storage.get(key)) == data",
        "return True",
        zombie,
    ),
    "the record before the manifest": (
        describing,
        "await storage.put(directory.manifest, [data], length=len(data))",
        'setattr(storage, "late", asyncio.create_task(storage.put(directory.manifest, [data], length=len(data))))',
        zombie,
    ),
    "stale records stay": (writer, "listing, tuple(present))", "listing, ())", repeated),
    "files are not synced": (
        local,
        "self._files.sync(draft.descriptor)",
        "pass",
        power,
    ),
    "folders are not synced": (local, "            self._folders.sync(folder)\n", "            pass\n", power),
    "who goes past a claim lets it be": (
        writer,
        "await bury(catalog.storage, map(names.record_key, passed))",
        "pass",
        race,
    ),
    "who goes past a claim does not look again": (
        writer,
        "if passed and await catalog.newest(present, run) != head:",
        "if False:",
        race,
    ),
}


@pytest.mark.parametrize(("module", "old", "new", "look"), MUTANTS.values(), ids=MUTANTS)
def test_a_missing_line_is_noticed(
    disk: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, old: str, new: str, look: Look
) -> None:
    mutate(monkeypatch, module, old, new)
    violations = look(disk)
    print(*violations[:3], sep="\n")
    assert violations
