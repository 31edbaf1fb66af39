"""Commands beside a training whose retention removes what they read."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
from torch import nn

from asyncckpt import AsyncCheckpointer, RetentionPolicy
from asyncckpt.checkpoints.catalog import ATTEMPTS, Catalog
from asyncckpt.cli import show
from asyncckpt.cli.select import Target
from asyncckpt.cli.verdict import Verdict, judge
from asyncckpt.cli.verify import Check
from asyncckpt.errors import CheckpointNotFoundError, RunContended
from asyncckpt.inspection.following import follow
from asyncckpt.storage import LocalStorage

from .conftest import Run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncckpt.format.record import Checkpoint

T = TypeVar("T")


class Training:
    """One that keeps a single checkpoint, so that saving removes those before, bytes and all."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._ckpt = AsyncCheckpointer(root, model=nn.Linear(2, 2), keep=RetentionPolicy(last=1))
        self.step = 0

    def __enter__(self) -> Training:
        self.save()
        return self

    def __exit__(self, *error: object) -> None:
        self._ckpt.close()

    def save(self) -> None:
        """Return once the next step is listed."""
        self.step += 1
        self._ckpt.save(self.step).wait()

    async def overtake(self) -> None:
        """Save until nothing is left of what is the latest now."""
        (manifest,) = self._root.glob(f"data/{self.step:08d}-*/manifest.json")
        # The first drops it, the second deletes it in the background, the third waits for that, and the fourth for
        # the third.
        for _ in range(4):
            await asyncio.to_thread(self.save)
        assert not manifest.exists()


def with_catalog(root: Path, act: Callable[[Catalog], Awaitable[T]]) -> T:
    """What `act` finds in the catalog of `root`."""

    async def run() -> T:
        storage = LocalStorage(root)
        try:
            return await act(Catalog(storage))
        finally:
            await storage.aclose()

    return asyncio.run(run())


@pytest.mark.parametrize("full", [True, False])
def test_one_that_retention_removed_meanwhile_is_not_damaged(tmp_path: Path, full: bool) -> None:
    async def act(catalog: Catalog) -> Verdict:
        before = (await catalog.listing()).find("latest")
        await training.overtake()
        return await judge(catalog, before, full=full)

    with Training(tmp_path) as training, pytest.raises(CheckpointNotFoundError, match="step 1 was removed by reten"):
        with_catalog(tmp_path, act)


def test_among_all_that_are_checked_a_removed_one_is_told_and_no_damage(tmp_path: Path) -> None:
    async def act(catalog: Catalog) -> list[Verdict]:
        listing = await catalog.listing()
        await training.overtake()
        return [
            found async for found in Check(Target(str(tmp_path), None), full=True, notes=False).listed(catalog, listing)
        ]

    with Training(tmp_path) as training:
        (found,) = with_catalog(tmp_path, act)
    assert (found.id, found.state) == ("00000001", "removed")
    assert "removed by retention" in found.line


def test_showing_one_that_was_removed_meanwhile_is_not_damage(tmp_path: Path) -> None:
    async def act(catalog: Catalog) -> show.Found:
        listing = await catalog.listing()
        await training.overtake()
        return await show.read(catalog, listing, listing.find("latest"))

    with Training(tmp_path) as training, pytest.raises(CheckpointNotFoundError, match="removed by retention"):
        with_catalog(tmp_path, act)


@pytest.mark.parametrize("times", [1, ATTEMPTS - 1, ATTEMPTS])
def test_what_is_called_latest_is_followed_while_it_moves_on(tmp_path: Path, times: int) -> None:
    looks = []

    async def look(catalog: Catalog, checkpoint: Checkpoint) -> Verdict:
        looks.append(checkpoint.step)
        if len(looks) <= times:
            await training.overtake()
        return await judge(catalog, checkpoint, full=True)

    with Training(tmp_path) as training:
        follows = partial(with_catalog, tmp_path, lambda c: follow(c, "latest", lambda _, named: look(c, named)))
        if times == ATTEMPTS:
            with pytest.raises(RunContended, match="try again"):
                follows()
        else:
            assert follows() == Verdict(f"{training.step:08d}", training.step, "ok")
    assert len(looks) == min(times + 1, ATTEMPTS)


def test_a_step_that_is_removed_meanwhile_is_absent(tmp_path: Path) -> None:
    async def look(catalog: Catalog, checkpoint: Checkpoint) -> Verdict:
        await training.overtake()
        return await judge(catalog, checkpoint, full=True)

    with Training(tmp_path) as training, pytest.raises(CheckpointNotFoundError, match="no checkpoint 1: "):
        with_catalog(tmp_path, lambda c: follow(c, 1, lambda _, named: look(c, named)))


def test_commands_read_what_a_training_is_changing(run: Run, tmp_path: Path) -> None:
    with Training(tmp_path) as training, ThreadPoolExecutor(1) as thread:
        stop = threading.Event()
        saving = thread.submit(lambda: [training.save() for _ in iter(stop.is_set, True)])
        results = []
        try:
            while training.step < 25:
                results += [run(command, tmp_path) for command in ("ls", "show", "verify")]
        finally:
            stop.set()
        saving.result()
    # Overtaken ten times in a row by a training that does nothing but save is the one excuse.
    assert {r.exit_code for r in results} <= {0, 3, 4}, [r.output for r in results if r.exit_code == 1]
    assert not any("damaged" in r.output for r in results)
