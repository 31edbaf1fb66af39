"""A power loss at any moment of what people ask of a run: a removal, a tag that moves, a pin, a request taken up."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

import pytest

from asyncckpt.checkpoints import marking
from asyncckpt.checkpoints.catalog import Catalog
from asyncckpt.checkpoints.marking import mark
from asyncckpt.clock import SYSTEM_CLOCK
from asyncckpt.events import Listeners
from asyncckpt.format.findings import finding_of
from asyncckpt.format.marks import is_drop, mark_of
from asyncckpt.storage import LocalStorage
from asyncckpt.testing.crash import RecordingFiles, crash_states, materialise
from asyncckpt.worker import root
from asyncckpt.worker.commitlog import keeping, offline, ownership
from asyncckpt.worker.commitlog.offline import ask, drop
from tests.worker.crashing import RUNGS, plain, recorder, save
from tests.worker.drive import Session, checked, drive, keys, leftovers
from tests.worker.mutants import mutate

Act: TypeAlias = Callable[[LocalStorage, RecordingFiles], Awaitable[None]]
Check: TypeAlias = Callable[[LocalStorage, Collection[str]], Awaitable[None]]
"""Looks at what a crash left, given the marks that were reached before it, and starts again on it."""


async def explore(disk: Path, rung: str, act: Act, check: Check) -> tuple[int, list[str]]:
    """Every crash of `act` on a closed run with the steps 1, 2, 3: how many states there are, and what was wrong."""
    before = disk / "disk"
    before.mkdir()
    await save(before / "run", (1,), plain(rung))
    async with Session(LocalStorage(before / "run", files=plain(rung))) as session:
        await session.resume()
        for step in (2, 3):
            await session.saved(step)
    files = recorder(rung)(before)
    await act(LocalStorage(before / "run", files=files), files)
    count, violations = 0, []
    for state in crash_states(files):
        count += 1
        after = disk / "after"
        materialise(state, after)
        try:
            await check(LocalStorage(after / "run", files=plain(rung)), state.reached)
        except Exception as error:
            violations.append(f"{state.story}: {error!r}")
        shutil.rmtree(after)
    return count, violations


async def restarted(storage: LocalStorage, keep: int | None = None) -> list[int]:
    """What is listed once a training has resumed, saved step 99 and closed; nothing else is left behind."""
    async with Session(storage, keep=keep) as session:
        await session.resume()
        await session.saved(99)
    again = LocalStorage(storage.url)
    found = [c.step for c in (await checked(again)).checkpoints]
    left = await leftovers(again)
    assert not [key for key in left if mark_of(key) is None and finding_of(key) is None], left
    await again.aclose()
    return found


async def pruned(storage: LocalStorage, files: RecordingFiles) -> None:
    await drop(storage, {1: "x", 2: "x"}, Listeners(()), SYSTEM_CLOCK)
    files.mark("done")


async def all_or_less(storage: LocalStorage, reached: Collection[str]) -> None:
    found = [c.step for c in (await checked(storage)).checkpoints]
    assert found in ([[3]] if reached else [[1, 2, 3], [3]])
    assert await restarted(storage) == [*found, 99]


async def tagged(storage: LocalStorage, files: RecordingFiles) -> None:
    for step in (1, 2):
        await mark(Catalog(storage), step, "paper", SYSTEM_CLOCK)
        files.mark(f"on {step}")


async def on_one_at_least(storage: LocalStorage, reached: Collection[str]) -> None:
    infos = (await Catalog(storage).listing()).infos()
    found = [info.step for info in infos if info.tags == ("paper",)]
    allowed: list[list[int]] = [[[], [1]], [[1], [1, 2], [2]], [[2]]][len(reached)]
    assert found in allowed
    assert await restarted(storage, keep=1) == [*found, 99]


async def requested(storage: LocalStorage, files: RecordingFiles) -> None:
    await mark(Catalog(storage), 2, None, SYSTEM_CLOCK)
    await ask(storage, [1, 2], "me", SYSTEM_CLOCK)
    files.mark("asked")
    async with Session(storage) as session:
        await session.resume()
        await session.saved(4)
        files.mark("durable")
        await session.saved(5)


async def carried_out_sooner_or_later(storage: LocalStorage, reached: Collection[str]) -> None:
    found = [c.step for c in (await checked(storage)).checkpoints]
    allowed = [[1, 2, 3]] if "asked" not in reached else [[1, 2, 3], [2, 3, 4]]
    assert found in (allowed if "durable" not in reached else [[2, 3, 4], [2, 3, 4, 5]])
    known = any(map(is_drop, await keys(storage, "user/")))
    assert known or "asked" not in reached or 1 not in found, "what was asked for is forgotten"
    left = [step for step in found if step != 1] if known else found
    assert await restarted(storage) == [*left, 99]


async def noted(storage: LocalStorage, files: RecordingFiles) -> None:
    async with Session(storage) as session:
        await session.resume()
        await session.found_damaged(2)
        files.mark("noted")
        await session.saved(4)


async def remembered(storage: LocalStorage, reached: Collection[str]) -> None:
    """What was said is there or not, and no more goes for it: it was said falsely, and all of it still loads."""
    listing = await checked(storage)
    told = [info.step for info in listing.infos() if info.damaged]
    assert told in ([[2]] if reached else [[], [2]])
    newest = listing.checkpoints[-1].step
    assert await restarted(storage, keep=2) == [*told, newest, 99]


STORIES: dict[str, tuple[Act, Check, int]] = {
    "a removal": (pruned, all_or_less, 40),
    "a tag that moves": (tagged, on_one_at_least, 10),
    "a request": (requested, carried_out_sooner_or_later, 100),
    "a finding": (noted, remembered, 40),
}


@pytest.mark.long
@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize(("act", "check", "least"), STORIES.values(), ids=STORIES)
def test_a_crash_at_any_moment_leaves_what_was_or_what_was_asked_for(
    disk: Path, rung: str, act: Act, check: Check, least: int
) -> None:
    states, violations = drive(explore(disk, rung, act, check))
    assert violations == []
    assert states >= least


DROP = "await writer.drop(part.removed, part.acknowledged)"
PUT = "await catalog.storage.put(new.key, [encode(author(), int(clock.time() * 1e6))])"
JUDGE = "verdict = await self._judge(writer, checkpoint)"
MUTANTS: dict[str, tuple[str, ModuleType, str, str]] = {
    "the data goes before the record": (
        "a removal",
        offline,
        DROP,
        f"await ownership.pruner._delete(writer, writer.checkpoints[:2], (), ()) or {DROP}",
    ),
    "the old tag goes before the new one is there": (
        "a tag that moves",
        marking,
        PUT,
        f"await catalog.storage.delete([m.key for m in _tagged(await catalog.listing(), tag)]) or {PUT}",
    ),
    "a request is answered before the record": (
        "a request",
        root,
        JUDGE,
        f"{JUDGE}; await self.keeping.answer(verdict)",
    ),
    "a finding is kept to oneself": (
        "a finding",
        ownership,
        "if keeping.found and self.writer is not None and not self.is_lost:",
        "if False:",
    ),
    "a request is never answered": ("a request", keeping, "if not verdict.requests:", "if True:"),
}


@pytest.mark.parametrize(("story", "module", "old", "new"), MUTANTS.values(), ids=MUTANTS)
def test_a_missing_line_is_noticed(
    disk: Path, monkeypatch: pytest.MonkeyPatch, story: str, module: ModuleType, old: str, new: str
) -> None:
    mutate(monkeypatch, module, old, new)
    act, check, _ = STORIES[story]
    _, violations = drive(explore(disk, "unnamed", act, check))
    print(*violations[:3], sep="\n")
    assert violations
