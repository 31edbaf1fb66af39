"""A power loss at any moment of a training: the old checkpoints or the new ones, and a start that goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncckpt.testing.crash import crash_states
from tests.worker.crashing import RUNGS, Crashes
from tests.worker.drive import drive


@pytest.mark.parametrize("rung", RUNGS)
def test_a_crash_during_a_resumed_training_leaves_the_old_set_or_the_new(disk: Path, rung: str) -> None:
    """Open, sweep, saves that drop and delete older ones, one that replaces a step, and the close."""

    async def act() -> Crashes:
        crashes = Crashes(disk, rung)
        return await crashes.explore(crash_states(await crashes.record((4, 5))))

    seen = drive(act())
    assert seen.violations == []
    assert seen.states > 140


@pytest.mark.parametrize("rung", RUNGS)
def test_a_crash_during_the_first_training_leaves_an_empty_run_or_what_was_saved(disk: Path, rung: str) -> None:
    async def act() -> Crashes:
        crashes = Crashes(disk, rung, base=())
        return await crashes.explore(crash_states(await crashes.record((1, 2))))

    seen = drive(act())
    assert seen.violations == []
    assert seen.states > 140
