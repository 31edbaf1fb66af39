"""Prune: what it costs does not depend on how many checkpoints are kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from asyncckpt.events import Deleted
from asyncckpt.storage import LocalStorage
from asyncckpt.testing.files import Call, WatchedFiles
from tests.worker.drive import Session, drive

FEW, MANY = 5, 205


class Tally(WatchedFiles):
    """Counts the calls, and what was found in folders that were looked through."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Counter[str]()

    def around(self, call: Call) -> Any:
        found = super().around(call)
        self.seen[call.name] += 1
        if call.name == "scan":
            self.seen["found by scan"] += len(found)
        return found


async def cost(root: Path, kept: int) -> Counter[str]:
    """What a save that drops one of `kept` costs the disk, with the deletion of what the save before dropped."""
    files = Tally()
    async with Session(LocalStorage(root, files=files), keep=kept) as session:
        for step in range(kept + 1):
            await session.saved(step)
        for step in (kept + 1, kept + 2):
            files.seen.clear()
            session.log.events.clear()
            await session.saved(step)
            await session.service.settled()
        assert [event.objects for event in session.log.of(Deleted)] == [3]  # pack, manifest, record
        return Counter(files.seen)


def test_a_save_that_prunes_one_asks_the_disk_for_as_much_however_many_are_kept(disk: Path) -> None:
    few, many = (drive(cost(disk / str(kept), kept)) for kept in (FEW, MANY))
    assert few["unlink"] >= 3
    assert many == few
