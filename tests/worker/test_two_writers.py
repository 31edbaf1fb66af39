"""Two writers on one local folder, one stopped before every file system call it makes while the other takes over."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from asyncckpt.errors import AsyncCkptError
from asyncckpt.format.record import decode
from asyncckpt.storage import LocalStorage
from asyncckpt.storage.files import Files
from asyncckpt.testing.crash import crash_states
from tests.worker.crashing import Crashes, plain, recorder, save
from tests.worker.drive import Session, drive
from tests.worker.racing import Race, Stopped, Through, train
from tests.worker.watching import KEEP, Watch


@pytest.mark.parametrize("rung", ["unnamed", "claimed"])
@pytest.mark.parametrize(("base", "steps", "others"), [((1, 2, 3), (11, 12), (21, 22)), ((), (11,), (21,))])
def test_a_writer_stopped_at_any_call_and_resumed_after_another_took_over(
    disk: Path, rung: str, base: Sequence[int], steps: Sequence[int], others: Sequence[int]
) -> None:
    race = Race(disk, rung, base)
    calls = race.calls_of(steps)
    race.one_stopped(range(len(calls)), steps, others)
    assert race.violations == []
    assert race.stories == len(calls) > 90
    by_chance = {"truncate"}  # bytes that happen to lie on a page boundary go out directly, and are cut to length
    assert race.calls | by_chance == {call.split()[0] for call in calls} | by_chance


@pytest.mark.parametrize(("rung", "least"), [("linked", 100), ("claimed", 250)])
def test_an_opener_stopped_at_any_call_while_a_record_is_published_between(disk: Path, rung: str, least: int) -> None:
    """The writer of the record stops at any call about it, too, and reports it durable before the opener goes on."""
    race = Race(disk, rung).both_stopped("0000000007.json", "/commits", steps=(11,), others=())
    assert race.violations == []
    assert race.stories > least


@pytest.mark.parametrize("rung", ["unnamed", "claimed"])
def test_rule_L4_what_another_writer_had_not_synced_yet_is_durable_once_it_was_relied_on(disk: Path, rung: str) -> None:
    """A record is seen before its folder is synced; a power loss must not take it back from who went on from it."""
    explored, relied = 0, set()
    for number in count():
        crashes = Crashes(disk / str(number), rung)
        root = disk / str(number) / "disk" / "run"
        drive(save(root, (1, 2, 3), plain(rung)))
        recording = recorder(rung)(root.parent)
        first = Stopped(files := Through(recording, number, "/commits"), partial(drive, _save(root, files, 11)))
        if not first.is_stopped:
            break
        listed = drive(_save(root, recording, 21, partial(recording.mark, "durable")))
        first.finish()
        if 11 in listed[0]:
            relied.add(first.before.split()[0])
            crashes.sets = [[], *listed]
            explored += drive(crashes.explore(s for s in crash_states(recording) if s.reached)).states
            assert crashes.violations == []
    assert relied >= {"sync_folder", "scan"}
    assert explored > 70


@pytest.mark.parametrize(
    "about", ["run.json", "commits/", "0000000006.json", ".safetensors", "manifest.json", "0000000007.json", "latest"]
)
def test_a_real_process_stopped_and_resumed_after_another_took_over(disk: Path, about: str) -> None:
    drive(save(disk / "run", (1, 2, 3), Files()))
    command = [sys.executable, "-m", "tests.worker.stopping_process", str(disk / "run"), about, "11", "12"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        stopped = process.stdout.readline()
        assert about in stopped
        sessions: list[Session] = []
        drive(train(disk / "run", Files(), (21, 22), sessions))
        told, _ = process.communicate("go on\n")
    assert process.returncode == 0
    watch = Watch(LocalStorage(disk / "run"), always=False)
    drive(watch.conclude(sessions, [decode(line.encode(), "a line") for line in told.splitlines()]))
    assert watch.violations == []


async def _save(root: Path, files: Files, step: int, reached: Callable[[], None] = lambda: None) -> list[list[int]]:
    """Resume, save, and be killed; returns what was listed after either, having called `reached`."""
    session, listed = Session(LocalStorage(root, files=files), keep=KEEP), []
    for act in (session.resume(), session.save(step)):
        with suppress(AsyncCkptError):
            await act
        if session.service.ownership.writer:
            listed.append([checkpoint.step for checkpoint in session.service.ownership.writer.checkpoints])
            reached()
    await session.abandon()
    return listed
