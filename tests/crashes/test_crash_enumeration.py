"""Every state that a crash can leave of an open, saves, deletions, a sweep and a close: old or new, never neither.

States include every loss of what was not synced (see ``asyncckpt.testing.crash``). In each one, what is listed
loads bit for bit, nothing reported durable is missing, and the next start works and leaves nothing over.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from asyncckpt.events import Durable, Event
from asyncckpt.storage.files import Files
from asyncckpt.storage.local import LocalStorage
from asyncckpt.testing.crash import CrashState, RecordingFiles, crash_states, materialise
from asyncckpt.testing.files import WithoutLinks, WithoutNoReplace, WithoutTmpfile
from tests.worker.drive import Session, checked, leftovers


class Linking(WithoutTmpfile, RecordingFiles):
    """Records through temporary and link."""


class Renaming(WithoutLinks, RecordingFiles):
    """Records through an exclusive rename."""


class Claiming(WithoutLinks, WithoutNoReplace, RecordingFiles):
    """Records by writing at the final name, where a crash may tear them."""


RUNGS = [RecordingFiles, Linking, Renaming, Claiming]


class Marking:
    """Marks in the recording which steps were reported durable."""

    def __init__(self, files: RecordingFiles) -> None:
        self._files = files

    def on_event(self, event: Event) -> None:
        if isinstance(event, Durable):
            self._files.mark(str(event.step))


async def train(root: Path, files: Files | None, steps: Iterable[int], keep: int, *, close: bool) -> None:
    """One session: take the run, sweep, save, and leave in order or not at all."""
    session = Session(LocalStorage(root, files=files), keep=keep)
    if isinstance(files, RecordingFiles):
        session.service._listeners._listeners += (Marking(files),)
    await session.resume()
    for step in steps:
        await session.saved(step)
    if close:
        await session.close()
    else:
        session._running.cancel()
        await session.service.storage.aclose()


async def recovered(root: Path) -> list[str]:
    """What is wrong after the next start on `root`: nothing, if the protocol keeps its promise."""
    storage = LocalStorage(root)
    await checked(storage)
    async with Session(storage, keep=2) as session:
        await session.resume()
        await session.saved(99)
    after = LocalStorage(root)
    listing = await checked(after)
    wrong = [] if listing.checkpoints[-1].step == 99 else ["the new checkpoint is not the newest"]
    wrong += await leftovers(after)
    await after.aclose()
    return wrong


def _newest(root: Path) -> int:
    async def act() -> int:
        storage = LocalStorage(root)
        listing = await checked(storage)
        await storage.aclose()
        return max((c.step for c in listing.checkpoints), default=0)

    return asyncio.run(act())


def violations(states: Iterable[CrashState], scratch: Path, first: int) -> tuple[int, list[str]]:
    """How many states there are, and what is wrong in which of them; `first` is the newest step before."""
    found = []
    count = 0
    for count, state in enumerate(states, 1):
        disk = scratch / str(count)
        materialise(state, disk)
        durable = max([first, *map(int, state.reached)])
        try:
            newest = _newest(disk / "run")
            if newest not in (durable, durable + 1):
                found.append(f"step {newest} is the newest where {durable} was durable: {state.story}")
            if wrong := asyncio.run(recovered(disk / "run")):
                found.append(f"{wrong}: {state.story}")
        except Exception as error:
            found.append(f"{error!r}: {state.story}")
        shutil.rmtree(disk)
    return count, found


@pytest.mark.parametrize("kind", RUNGS, ids=[kind.__name__ for kind in RUNGS])
def test_the_first_open_and_save_of_an_empty_root(tmp_path: Path, kind: type[RecordingFiles]) -> None:
    (tmp_path / "disk").mkdir()
    files = kind(tmp_path / "disk")
    asyncio.run(train(tmp_path / "disk/run", files, [1], 2, close=False))
    count, found = violations(crash_states(files, few=4), tmp_path / "states", 0)
    assert found == []
    assert count > 40


@pytest.mark.parametrize("kind", RUNGS, ids=[kind.__name__ for kind in RUNGS])
def test_a_restart_its_sweep_saves_deletions_and_close(tmp_path: Path, kind: type[RecordingFiles]) -> None:
    root = tmp_path / "disk/run"
    (tmp_path / "disk").mkdir()
    asyncio.run(train(root, kind(tmp_path / "disk"), [1, 2, 3], 2, close=False))
    garbage = root / "data/00000009-step-9-i1-00000000"
    garbage.mkdir()
    (garbage / "rank-00000-of-00001.p0.safetensors").write_bytes(b"left by a killed trainer")
    files = kind(tmp_path / "disk")
    asyncio.run(train(root, files, [4, 5], 2, close=True))
    count, found = violations(crash_states(files, few=1), tmp_path / "states", 3)
    assert found == []
    assert count > 100


def _mutant(*names: str) -> type[RecordingFiles]:
    def nothing(self: RecordingFiles, *arguments: object) -> None:
        """Syncs nothing."""

    return type("Mutant", (RecordingFiles,), dict.fromkeys(names, nothing))


@pytest.mark.parametrize("name", ["sync", "sync_folder"])
def test_without_one_of_the_syncs_the_enumeration_finds_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "disk").mkdir()
    files = _mutant(name)(tmp_path / "disk")
    asyncio.run(train(tmp_path / "disk/run", files, [1, 2], 2, close=False))
    _, found = violations(itertools.islice(crash_states(files, few=1), 250), tmp_path / "states", 0)
    assert found != []
