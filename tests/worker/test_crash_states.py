"""A power loss at any moment of a training: the old checkpoints or the new ones, and a start that goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncckpt.format.codec import wanted
from asyncckpt.testing.crash import crash_states
from asyncckpt.testing.recording import DataEffect, RecordingFiles
from tests.worker.crashing import RUNGS, Crashes
from tests.worker.drive import FROZEN, drive


@pytest.mark.long
@pytest.mark.parametrize("rung", RUNGS)
def test_d8_a_crash_during_a_resumed_training_leaves_the_old_set_or_the_new(disk: Path, rung: str) -> None:
    """Open, sweep, saves that drop and delete older ones, one that replaces a step, and the close."""

    async def act() -> Crashes:
        crashes = Crashes(disk, rung)
        return await crashes.explore(crash_states(await crashes.record((4, 5))))

    seen = drive(act())
    assert seen.violations == []
    assert seen.states > 140


@pytest.mark.parametrize("word", ["zstd", "zstd+aes256gcm"])
def test_a19_a20_a_crash_of_a_training_whose_packs_are_in_frames_is_the_same(
    disk: Path, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does any disk that a crash may leave hold what is encrypted in plain bytes."""
    monkeypatch.setenv("ASYNCCKPT_KEY", "00" * 32)

    async def act() -> tuple[Crashes, RecordingFiles]:
        crashes = Crashes(disk, codec=wanted(word))
        files = await crashes.record((4, 5))
        return await crashes.explore(crash_states(files)), files

    seen, files = drive(act())
    assert seen.violations == []
    assert seen.states > 140
    if "aes256gcm" in word:
        assert not [text for text in (FROZEN, b"frozen", b"model") if text in written(files)]


def written(files: RecordingFiles) -> bytes:
    """Everything that any file held at any time, temporary ones too."""
    parts = [effect.data or b"" for effect in files.effects if isinstance(effect, DataEffect)]
    return b"|".join([*files.contents.values(), *parts])


def test_without_a_codec_the_same_search_finds_it(disk: Path) -> None:
    files = drive(Crashes(disk).record((4, 5)))
    assert FROZEN in written(files)
    assert b"model" in written(files)


@pytest.mark.long
@pytest.mark.parametrize("rung", RUNGS)
def test_a_crash_during_the_first_training_leaves_an_empty_run_or_what_was_saved(disk: Path, rung: str) -> None:
    async def act() -> Crashes:
        crashes = Crashes(disk, rung, base=())
        return await crashes.explore(crash_states(await crashes.record((1, 2))))

    seen = drive(act())
    assert seen.violations == []
    assert seen.states > 140
