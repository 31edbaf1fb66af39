"""Two writers of one root, one paused before every call to the file system while the other does all its work.

Whichever it is: everything listed loads, no checkpoint of the fenced writer is visible once it was fenced, and
the next start leaves nothing over.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from asyncckpt.errors import Fenced, ObjectNotFound, RunContended, StorageError
from asyncckpt.storage.files import Files
from asyncckpt.storage.local import LocalStorage
from asyncckpt.testing.stepping import count_calls, interleave
from asyncckpt.worker.job import Committed
from tests.crashes.test_crash_enumeration import recovered
from tests.worker.drive import Session, checked

STOPPED = (Fenced, RunContended, ObjectNotFound, StorageError)


async def _session(root: Path, files: Files | None, steps: list[int]) -> list[int]:
    """Save `steps` as far as the run is ours; returns the durable ones."""
    durable: list[int] = []
    session = Session(LocalStorage(root, files=files), keep=2)
    try:
        await session.resume()
        for step in steps:
            answer = await session.save(step)
            if isinstance(answer, Committed):
                durable.append(step)
            else:
                assert isinstance(answer.error, STOPPED), answer
    except (Fenced, RunContended):
        durable = []
    await session.close()
    return durable


def _run(root: Path, files: Files | None, steps: list[int]) -> list[int]:
    return asyncio.run(_session(root, files, steps))


def _calls(tmp_path: Path) -> int:
    _run(tmp_path / "counted", None, [1])
    return count_calls(lambda files: _run(tmp_path / "counted", files, [10, 11, 12]))


async def _listed(root: Path) -> list[int]:
    storage = LocalStorage(root)
    listing = await checked(storage)
    await storage.aclose()
    return [c.step for c in listing.checkpoints]


@pytest.mark.parametrize("part", range(4))
def test_one_paused_before_every_call_never_commits_behind_the_other(tmp_path: Path, part: int) -> None:
    total = _calls(tmp_path)
    assert total > 60
    for stop in range(1 + part, total + 1, 4):
        root = tmp_path / str(stop)
        _run(root, None, [1])
        slow, quick = interleave(
            lambda files, root=root: _run(root, files, [10, 11, 12]),
            lambda root=root: _run(root, None, [20, 21]),
            stop_before=stop,
        )
        listed = asyncio.run(_listed(root))
        assert quick == [20, 21], f"stopped before call {stop}: the one that ran through was disturbed"
        if slow != [10, 11, 12]:  # fenced: whatever it committed after that must not be seen
            assert listed[-2:] == [20, 21], f"stopped before call {stop}: {listed}, {slow} durable"
        else:
            assert set(listed) <= {11, 12, 20, 21}, f"stopped before call {stop}: {listed}"
        assert asyncio.run(recovered(root)) == [], f"stopped before call {stop}"
